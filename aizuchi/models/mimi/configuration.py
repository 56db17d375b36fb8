"""Configuration of the Mimi codec, under the field names that transformers documents."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

_AT_LEAST_ONE = (
    "sampling_rate audio_channels hidden_size num_filters compress kernel_size last_kernel_size "
    "residual_kernel_size dilation_growth_rate num_attention_heads num_key_value_heads head_dim "
    "intermediate_size sliding_window vector_quantization_hidden_dimension codebook_dim codebook_size num_quantizers "
    "num_semantic_quantizers upsample_groups"
).split()
_AT_LEAST_ZERO = ("num_residual_layers", "num_hidden_layers")


class MimiConfig(PreTrainedConfig):
    """Sizes of a Mimi codec; the defaults are Kyutai's 24 kHz model (arXiv 2410.00037, section 3.3).

    Args:
        sampling_rate: samples per second.
        frame_rate: frames of codes per second. With the default ratios 12.5. None means half of
            `encodec_frame_rate`, as in transformers 5.
        audio_channels: channels of the waveform.
        hidden_size: width of the latents and of both transformers.
        num_filters: channels after the first convolution; they double with every ratio.
        num_residual_layers: residual blocks per ratio.
        upsampling_ratios: strides of the decoder, in its order (the encoder takes them reversed).
            Default `[8, 6, 5, 4]`.
        kernel_size, last_kernel_size, residual_kernel_size: kernels of the first and last convolutions and
            of the residual blocks.
        dilation_growth_rate: dilation of residual block j is this to the power j.
        use_causal_conv: must be True: streaming is exact only for causal convolutions.
        pad_mode: what stands to the left of the signal, `"constant"` (zeros) or `"replicate"`.
        compress: by how much a residual block narrows its channels.
        trim_right_ratio: must be 1.0 (all trimming at the right), which is what causality needs.
        codebook_size: entries of each codebook.
        codebook_dim: width of an entry; None, or the same as `vector_quantization_hidden_dimension`.
        num_quantizers: codebooks in all (`num_codebooks` is another name of it).
        use_conv_shortcut: a convolution instead of the identity beside residual blocks.
        vector_quantization_hidden_dimension: width that latents are projected to for quantization. When it
            equals `hidden_size` there are no projections.
        num_semantic_quantizers: codebooks of the semantic branch: at least 1, fewer than `num_quantizers`.
        upsample_groups: groups of the transposed convolution from `frame_rate` to `encodec_frame_rate`.
        num_hidden_layers, intermediate_size, num_attention_heads, num_key_value_heads, head_dim, hidden_act,
        norm_eps, attention_dropout, attention_bias, layer_scale_initial_scale: both transformers.
        decoder_channels: channels of the decoder's convolutions, before the first ratio and after each; None = as
            the encoder's, halved with every ratio down to `num_filters`.
        num_decoder_residual_layers: residual blocks per ratio of the decoder; None = `num_residual_layers`.
            transformers knows neither.
        num_encoder_hidden_layers: layers of the encoder's transformer where it has others than the decoder's; None =
            `num_hidden_layers`, as in every published codec. transformers does not know it.
        max_position_embeddings: kept for the format; positions are unbounded.
        initializer_range: standard deviation of linear layers at initialisation.
        use_streaming: whether `encode` and `decode` stream by default, handing out their state.
        use_cache: kept for the format.
        rope_theta, rope_parameters: base of the rotary embedding, in the old and the new spelling.
        sliding_window: positions (at `encodec_frame_rate`) that attention sees, itself included.

    Raises:
        ValueError: parts that disagree; the message names the field.
    """

    model_type = "mimi"

    sampling_rate: int = 24_000
    # What is None here is derived from the other fields, and never None afterwards.
    frame_rate: float = None  # type: ignore[assignment]
    audio_channels: int = 1
    hidden_size: int = 512
    num_filters: int = 64
    num_residual_layers: int = 1
    upsampling_ratios: list[int] = None  # type: ignore[assignment]
    kernel_size: int = 7
    last_kernel_size: int = 3
    residual_kernel_size: int = 3
    dilation_growth_rate: int = 2
    use_causal_conv: bool = True
    pad_mode: str = "constant"
    compress: int = 2
    trim_right_ratio: float | int = 1.0
    codebook_size: int = 2048
    codebook_dim: int = 256
    num_quantizers: int = 32
    use_conv_shortcut: bool = False
    vector_quantization_hidden_dimension: int = 256
    num_semantic_quantizers: int = 1
    upsample_groups: int = 512
    num_hidden_layers: int = 8
    num_encoder_hidden_layers: int | None = None
    num_decoder_residual_layers: int | None = None
    decoder_channels: list[int] | None = None
    intermediate_size: int = 2048
    num_attention_heads: int = 8
    num_key_value_heads: int = 8
    head_dim: int = None  # type: ignore[assignment]
    hidden_act: str = "gelu"
    max_position_embeddings: int = 8000
    initializer_range: float = 0.02
    norm_eps: float = 1e-5
    use_cache: bool | None = False
    use_streaming: bool = False
    rope_parameters: dict[str, Any] = None  # type: ignore[assignment]
    sliding_window: int = 250
    attention_dropout: float | int = 0.0
    layer_scale_initial_scale: float = 0.01
    attention_bias: bool = False
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        if "num_codebooks" in kwargs:  # another name of it
            self.num_quantizers = kwargs.pop("num_codebooks")
        self.upsampling_ratios = list(self.upsampling_ratios or [8, 6, 5, 4])
        if self.codebook_dim is None:
            self.codebook_dim = self.vector_quantization_hidden_dimension
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None:
            self._check_integers(["hidden_size", "num_attention_heads"])
            self.head_dim = self.hidden_size // self.num_attention_heads
        self._check_integers(_AT_LEAST_ONE)
        self._check_integers(_AT_LEAST_ZERO, least=0)
        for name in ("num_encoder_hidden_layers", "num_decoder_residual_layers"):
            if getattr(self, name) is not None:
                self._check_integers([name], least=0)
        if any(not isinstance(ratio, int) or ratio < 1 for ratio in self.upsampling_ratios):
            raise ValueError(
                f"`upsampling_ratios` must be integers of at least 1, but is {self.upsampling_ratios}."
            )
        # transformers 5 saves the frame rate under a private name
        private_frame_rate = kwargs.pop("_frame_rate", None)
        if self.frame_rate is None:
            self.frame_rate = private_frame_rate
        if self.frame_rate is None:
            self.frame_rate = self.sampling_rate / (2 * self.hop_length)
        # derived values that a saved dictionary may carry
        for derived in ("encodec_frame_rate", "frame_size", "latent_stride", "hop_length"):
            kwargs.pop(derived, None)
        super().__post_init__(**kwargs)
        self._check_convolutions()
        self._check_transformers()
        self._check_quantizer()
        self._check_frame_rate()

    def _check_integers(self, names: Iterable[str], least: int = 1) -> None:
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"`{name}` must be an integer of at least {least}, but is {value!r}.")

    def _check_convolutions(self) -> None:
        if not self.use_causal_conv:
            raise ValueError("`use_causal_conv` must be True: Mimi streams, which needs causal convolutions.")
        if self.trim_right_ratio != 1:
            raise ValueError(
                f"`trim_right_ratio` must be 1.0 for causal convolutions, but is {self.trim_right_ratio}."
            )
        if self.pad_mode not in ("constant", "replicate"):
            raise ValueError(f'`pad_mode` must be "constant" or "replicate", but is {self.pad_mode!r}.')
        if self.num_filters % self.compress:
            raise ValueError(
                f"`num_filters` ({self.num_filters}) must be divisible by `compress` ({self.compress})."
            )

        channels = self.decoder_channels
        if channels is None:
            return
        if len(channels) != len(self.upsampling_ratios) + 1 or any(
            not isinstance(count, int) or count < 1 or count % self.compress for count in channels
        ):
            raise ValueError(
                f"`decoder_channels` must be {len(self.upsampling_ratios) + 1} integers, one more than there are "
                f"ratios, that `compress` ({self.compress}) divides, but is {channels}."
            )

    def _check_transformers(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"`num_attention_heads` ({self.num_attention_heads}) must be divisible by "
                f"`num_key_value_heads` ({self.num_key_value_heads})."
            )
        if self.head_dim % 2:
            raise ValueError(f"`head_dim` must be even for rotary embeddings, but is {self.head_dim}.")
        if self.hidden_act not in ACT2FN:
            raise ValueError(
                f"`hidden_act` is {self.hidden_act!r}, which is no activation that transformers knows."
            )
        if self.rope_parameters.get("rope_type", "default") != "default":
            raise ValueError(
                f"`rope_parameters` must have rope_type 'default', but is {self.rope_parameters}."
            )
        theta = self.rope_theta
        if not isinstance(theta, (int, float)) or not theta > 0:
            raise ValueError(f"`rope_theta` must be a positive number, but is {theta!r}.")

    def _check_quantizer(self) -> None:
        if self.num_semantic_quantizers >= self.num_quantizers:
            raise ValueError(
                f"`num_semantic_quantizers` ({self.num_semantic_quantizers}) must be lower than "
                f"`num_quantizers` ({self.num_quantizers})."
            )
        if self.codebook_size & (self.codebook_size - 1):
            raise ValueError(f"`codebook_size` must be a power of 2, but is {self.codebook_size}.")
        if self.codebook_dim != self.vector_quantization_hidden_dimension:
            raise ValueError(
                f"`codebook_dim` ({self.codebook_dim}) must equal `vector_quantization_hidden_dimension` "
                f"({self.vector_quantization_hidden_dimension})."
            )

    def _check_frame_rate(self) -> None:
        if not isinstance(self.frame_rate, (int, float)) or not self.frame_rate > 0:
            raise ValueError(f"`frame_rate` must be a positive number, but is {self.frame_rate!r}.")
        stride = self.encodec_frame_rate / self.frame_rate
        if round(stride) < 1 or abs(stride - round(stride)) > 1e-6:
            raise ValueError(
                f"`frame_rate` ({self.frame_rate}) must go a whole number of times into the encoder's rate, "
                f"which is `sampling_rate` / product of `upsampling_ratios` = {self.encodec_frame_rate}."
            )
        if self.latent_stride > 1 and self.hidden_size % self.upsample_groups:
            raise ValueError(
                f"`upsample_groups` ({self.upsample_groups}) must divide `hidden_size` ({self.hidden_size})."
            )

    @property
    def rope_theta(self) -> float:
        """Base of the rotary embedding (`rope_parameters["rope_theta"]`)."""
        parameters = self.__dict__.get("rope_parameters") or {}
        if "rope_theta" not in parameters:
            raise AttributeError("rope_theta")  # so that getattr with a default works during construction
        return parameters["rope_theta"]

    @rope_theta.setter
    def rope_theta(self, value: float) -> None:
        self.rope_parameters = {**(self.__dict__.get("rope_parameters") or {}), "rope_theta": value}

    @property
    def num_codebooks(self) -> int:
        """Another name of `num_quantizers`."""
        return self.num_quantizers

    @property
    def hop_length(self) -> int:
        """Samples per position of the convolutional encoder."""
        return math.prod(self.upsampling_ratios)

    @property
    def encodec_frame_rate(self) -> float | int:
        """Positions per second between the convolutional stacks and the codes (25 by default)."""
        rate = self.sampling_rate / self.hop_length
        return int(rate) if rate == int(rate) else rate

    @property
    def latent_stride(self) -> int:
        """Positions at `encodec_frame_rate` per frame of codes (2 by default; 1 = no resampling)."""
        return round(self.encodec_frame_rate / self.frame_rate)

    @property
    def frame_size(self) -> int:
        """Samples per frame of codes (1920 by default)."""
        return self.hop_length * self.latent_stride


__all__ = ["MimiConfig"]
