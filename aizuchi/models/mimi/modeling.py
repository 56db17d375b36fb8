"""The Mimi codec: waveforms to codes and back, for whole signals and for streams.

- One arithmetic: a whole signal is padded with zeros to whole frames and runs through the layers that a
  stream runs through, chunk by chunk, with a state.
- A state is an object of the caller (`init_encoder_state`, `init_decoder_state`), with a row per stream.
- `encode_step` and `decode_step` take whole frames, have fixed shapes, work in place and never wait for the
  device. `encode` and `decode` accept anything sensible and check it.
- Module names are the names of the published checkpoint.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration import MimiConfig
from .conv import MimiConv1d, MimiConvTranspose1d
from .padding import Spans
from .quantization import MimiEuclideanCodebook, MimiSplitResidualVectorQuantizer, QuantizerOutput
from .seanet import MimiDecoder, MimiEncoder
from .streams import MimiDecoderState, MimiEncoderState, check_ring, check_state, signature
from .transformer import MimiLayerScale, MimiTransformer

# Longer signals run as a stream of blocks (when no gradient is asked for), so that memory doesn't grow with them.
BLOCK_FRAMES = 512


@dataclass
class MimiOutput(ModelOutput):
    """Codes and their reconstruction.

    Attributes:
        audio_codes: (B, K, F) int64.
        audio_values: (B, channels, S).
        encoder_past_key_values, decoder_past_key_values: the stream states, where one was passed.
    """

    audio_codes: Tensor | None = None
    audio_values: Tensor | None = None
    encoder_past_key_values: MimiEncoderState | None = None
    decoder_past_key_values: MimiDecoderState | None = None


@dataclass
class MimiEncoderOutput(ModelOutput):
    """Codes of a signal.

    Attributes:
        audio_codes: (B, K, F) int64.
        encoder_past_key_values, padding_cache: when streaming, the state to pass to the next call (one object
            under both of transformers' names).
    """

    audio_codes: Tensor | None = None
    encoder_past_key_values: MimiEncoderState | None = None
    padding_cache: MimiEncoderState | None = None


@dataclass
class MimiDecoderOutput(ModelOutput):
    """A signal decoded from codes.

    Attributes:
        audio_values: (B, channels, S).
        decoder_past_key_values: when streaming, the state to pass to the next call.
    """

    audio_values: Tensor | None = None
    decoder_past_key_values: MimiDecoderState | None = None


class MimiPreTrainedModel(PreTrainedModel):
    """Initialisation and loading, as transformers wants them."""

    config_class = MimiConfig
    config: MimiConfig
    base_model_prefix = "mimi"
    main_input_name = "input_values"
    input_modalities = "audio"
    supports_gradient_checkpointing = True
    _no_split_modules = ["MimiTransformerLayer", "MimiSplitResidualVectorQuantizer"]
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=self.config.initializer_range)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)):
            # Each output of a transposed convolution sums over kernel / stride taps only, and over a group's inputs.
            fan_in = module.in_channels // module.groups * module.kernel_size[0]
            if isinstance(module, nn.ConvTranspose1d):
                fan_in //= module.stride[0]
            init.normal_(module.weight, std=fan_in**-0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, MimiLayerScale):
            init.constant_(module.scale, self.config.layer_scale_initial_scale)
        elif isinstance(module, MimiEuclideanCodebook):
            # Entries are drawn, not zero: a model with zero codebooks gives code 0 for everything.
            init.ones_(module.initialized)
            init.ones_(module.cluster_usage)
            init.normal_(module.embed_sum, std=self.config.codebook_dim**-0.5)


class MimiModel(MimiPreTrainedModel):
    """The Mimi neural audio codec (arXiv 2410.00037, section 3.3)."""

    def __init__(self, config: MimiConfig):
        super().__init__(config)
        stride, hidden = config.latent_stride, config.hidden_size
        self.encoder = MimiEncoder(config)
        self.encoder_transformer = MimiTransformer(config)
        self.downsample: MimiConv1d | None = None
        self.upsample: MimiConvTranspose1d | None = None
        if stride > 1:
            self.downsample = MimiConv1d(hidden, hidden, 2 * stride, stride=stride, bias=False, pad_mode="replicate")
            self.upsample = MimiConvTranspose1d(
                hidden, hidden, 2 * stride, stride=stride, groups=config.upsample_groups, bias=False
            )
        self.decoder_transformer = MimiTransformer(config)
        self.decoder = MimiDecoder(config)
        self.quantizer = MimiSplitResidualVectorQuantizer(config)
        self.bits_per_codebook = int(math.log2(config.codebook_size))
        self._signature = signature(config)
        self.post_init()

    # ------------------------------------------------------------------ streams

    def init_encoder_state(
        self, rows: int, device: Any = None, dtype: torch.dtype | None = None, ring: str = "exact"
    ) -> MimiEncoderState:
        """State of ``rows`` streams of which nothing has been encoded yet.

        Args:
            device, dtype: default to the model's.
            ring: "exact" gives every position its full attention window, so that a stream equals the whole
                signal; "original" reproduces the original server, where after 10 s the first of a frame's two
                positions sees one key less.
        """
        device, dtype = self._placement(rows, device, dtype)
        original, config = check_ring(ring), self.config
        return MimiEncoderState(
            pending=torch.zeros(rows, config.audio_channels, config.frame_size, device=device, dtype=dtype),
            pending_length=torch.zeros(rows, device=device, dtype=torch.long),
            seanet=self.encoder.init_state(rows, device, dtype),
            transformer=self.encoder_transformer.init_state(rows, device, dtype, original),
            downsample=None if self.downsample is None else self.downsample.init_state(rows, device, dtype),
            ring=ring,
            signature=self._signature,
        )

    def init_decoder_state(
        self, rows: int, device: Any = None, dtype: torch.dtype | None = None, ring: str = "exact"
    ) -> MimiDecoderState:
        """State of ``rows`` streams of which nothing has been decoded yet; see `init_encoder_state`."""
        device, dtype = self._placement(rows, device, dtype)
        original = check_ring(ring)
        return MimiDecoderState(
            seanet=self.decoder.init_state(rows, device, dtype),
            transformer=self.decoder_transformer.init_state(rows, device, dtype, original),
            upsample=None if self.upsample is None else self.upsample.init_state(rows, device, dtype),
            ring=ring,
            signature=self._signature,
        )

    @torch.no_grad()
    def encode_step(
        self, pcm: Tensor, state: MimiEncoderState, active: Tensor | None = None, num_quantizers: int | None = None
    ) -> Tensor:
        """Encode the next whole frames of every row.

        Fixed shapes, state updated in place, no waiting for the device: fit for CUDA graphs and
        ``torch.compile(fullgraph=True)``. Samples are not checked, and what `encode` holds back of a stream
        (``state.pending``) is left alone: feed a stream by one of the two only.

        Args:
            pcm: (rows, channels, n * frame_size) samples.
            active: (rows,) bool, rows that take part; the others keep their state and their codes mean nothing.
            num_quantizers: codebooks to compute, default all.
        Returns:
            (rows, K, n) int64 codes
        """
        config = self.config
        if pcm.dim() != 3 or pcm.shape[1] != config.audio_channels or not pcm.shape[2]:
            raise ValueError(
                f"`pcm` has shape {tuple(pcm.shape)}; expected (rows, {config.audio_channels}, n * {config.frame_size})."
            )
        if pcm.shape[-1] % config.frame_size:
            raise ValueError(
                f"`pcm` holds {pcm.shape[-1]} samples, not a multiple of the frame of {config.frame_size}: "
                "`encode(..., state=state)` takes chunks of any size."
            )
        check_state(state, MimiEncoderState, self._signature, pcm.shape[0], self._dtype, "state")
        latents = self._encode_latent(pcm.to(self._dtype), state, _check_active(active, pcm.shape[0]))
        return self.quantizer.encode(latents, num_quantizers)

    @torch.no_grad()
    def decode_step(self, codes: Tensor, state: MimiDecoderState, active: Tensor | None = None) -> Tensor:
        """Decode the next frames of every row; the counterpart of `encode_step`.

        Args:
            codes: (rows, K, n) of the first K codebooks, not checked to be in range.
            active: (rows,) bool, rows that take part; the others keep their state and their samples mean nothing.
        Returns:
            (rows, channels, n * frame_size) samples
        """
        if codes.dim() != 3 or not codes.shape[2]:
            raise ValueError(f"`codes` has shape {tuple(codes.shape)}; expected (rows, codebooks, frames).")
        self.quantizer.check(codes.shape[1], "codes")
        check_state(state, MimiDecoderState, self._signature, codes.shape[0], self._dtype, "state")
        active = _check_active(active, codes.shape[0])
        if active is not None:  # what stands in an idle row may not even be a code
            codes = codes.masked_fill(~active[:, None, None], 0)
        return self._decode_latent(self.quantizer.decode(codes), state, active)

    # ---------------------------------------------------- parts, for codec training

    def encode_latent(self, input_values: Tensor) -> Tensor:
        """Whole waveforms (B, channels, S) -> unquantized latents (B, hidden_size, ceil(S / frame_size)).

        Differentiable. The end is padded with zeros to a whole frame.
        """
        return self._encode_latent(self._pad(input_values))

    def quantize(self, latents: Tensor, num_quantizers: int | None = None) -> QuantizerOutput:
        """Quantize latents with straight-through gradients, and all that training the codebooks needs."""
        return self.quantizer(latents, num_quantizers)

    def dequantize(self, audio_codes: Tensor) -> Tensor:
        """Codes (B, K, F) -> quantized latents (B, hidden_size, F)."""
        return self.quantizer.decode(audio_codes)

    def decode_latent(self, latents: Tensor) -> Tensor:
        """Latents (B, hidden_size, F) -> waveforms (B, channels, F * frame_size). Differentiable."""
        return self._decode_latent(latents)

    # ------------------------------------------------------------ the documented API

    @torch.no_grad()
    def encode(
        self,
        input_values: Tensor,
        padding_mask: Tensor | None = None,
        num_quantizers: int | None = None,
        encoder_past_key_values: MimiEncoderState | None = None,
        return_dict: bool | None = None,
        padding_cache: MimiEncoderState | None = None,
        use_streaming: bool | None = None,
        *,
        state: MimiEncoderState | None = None,
        final: bool = False,
        sampling_rate: int | None = None,
    ) -> MimiEncoderOutput | tuple:
        """Encode waveforms: whole ones, or with a state the next chunk of streams.

        A whole waveform is padded with zeros to a multiple of ``frame_size``. A chunk may have any length: what
        doesn't fill a frame waits in the state for the next call, or for ``final=True``.

        Args:
            input_values: (B, channels, S) float samples.
            padding_mask: (B, S), 1 for samples and 0 for padding at the left or right. Each row then gets the
                codes it has alone; `get_audio_codes_mask` says where they are.
            num_quantizers: codebooks to compute, default all.
            state: streams from `init_encoder_state`. ``encoder_past_key_values`` and ``padding_cache`` are
                transformers' names for the same object.
            use_streaming: without a state, start streams; the state comes back as ``padding_cache``.
            final: the signals end here: pad what is left with zeros and encode it.
            sampling_rate: refuse a rate that is not the model's, when given.
        Returns:
            `MimiEncoderOutput` with codes (B, K, ceil(S / frame_size)), or (codes, ...) with ``return_dict=False``.
        Raises:
            ValueError: the message names the argument and what is wrong with it.
        """
        if sampling_rate is not None and sampling_rate != self.config.sampling_rate:
            raise ValueError(
                f"`sampling_rate` is {sampling_rate}, the model works at {self.config.sampling_rate}: resample first."
            )
        state = _one_state(state=state, padding_cache=padding_cache, encoder_past_key_values=encoder_past_key_values)
        if state is None and (self.config.use_streaming if use_streaming is None else use_streaming):
            self._check_values(input_values, allow_empty=True)
            state = self.init_encoder_state(input_values.shape[0])
        self._check_values(input_values, allow_empty=state is not None)
        num_quantizers = self.quantizer.check(num_quantizers)
        x = input_values.to(self._dtype)
        spans = Spans.read(padding_mask, x.shape[0], x.shape[-1], self.config.frame_size)
        if state is not None:
            check_state(state, MimiEncoderState, self._signature, x.shape[0], self._dtype, "state")
            if spans is not None:
                raise ValueError("`padding_mask` has padding: a stream's chunks must be all samples.")
            codes = self._encode_chunk(x, state, final, num_quantizers)
        elif spans is not None:
            codes = spans.shift_frames(self._encode_whole(spans.align_samples(x), num_quantizers))
        else:
            codes = self._encode_whole(x, num_quantizers)
        out = MimiEncoderOutput(audio_codes=codes, encoder_past_key_values=state, padding_cache=state)
        return out if self._return_dict(return_dict) else out.to_tuple()

    def decode(
        self,
        audio_codes: Tensor,
        padding_mask: Tensor | None = None,
        decoder_past_key_values: MimiDecoderState | None = None,
        return_dict: bool | None = None,
        use_streaming: bool | None = None,
        *,
        state: MimiDecoderState | None = None,
    ) -> MimiDecoderOutput | tuple:
        """Decode codes: of whole signals, or with a state the next frames of streams.

        Args:
            audio_codes: (B, K, F) integers, of the first K codebooks.
            padding_mask: (B, S) the mask that the signals were encoded with: trims the end, and puts each row's
                samples where they were, with zeros in the padding.
            state: streams from `init_decoder_state`; ``decoder_past_key_values`` is transformers' name for it.
            use_streaming: without a state, start streams; the state comes back as ``decoder_past_key_values``.
        Returns:
            `MimiDecoderOutput` with samples (B, channels, F * frame_size), or a tuple with ``return_dict=False``.
        Raises:
            ValueError: the message names the argument and what is wrong with it.
        """
        state = _one_state(state=state, decoder_past_key_values=decoder_past_key_values)
        self._check_codes(audio_codes, allow_empty=state is not None)
        if state is None and (self.config.use_streaming if use_streaming is None else use_streaming):
            state = self.init_decoder_state(audio_codes.shape[0])
        if state is not None:
            check_state(state, MimiDecoderState, self._signature, audio_codes.shape[0], self._dtype, "state")
            audio_values = self._decode_chunk(audio_codes, state)
        else:
            spans = None
            if padding_mask is not None:
                spans = Spans.read(
                    padding_mask, audio_codes.shape[0], padding_mask.shape[-1], self.config.frame_size
                )
            if spans is not None:
                self._check_mask_frames(padding_mask, audio_codes)
                audio_codes = spans.shift_frames(audio_codes, back=True)
            audio_values = self._decode_whole(audio_codes)
            if spans is not None:
                audio_values = spans.place_samples(audio_values)
            elif padding_mask is not None:
                audio_values = audio_values[..., : padding_mask.shape[-1]]
        out = MimiDecoderOutput(audio_values=audio_values, decoder_past_key_values=state)
        return out if self._return_dict(return_dict) else out.to_tuple()

    def forward(
        self,
        input_values: Tensor | None = None,
        padding_mask: Tensor | None = None,
        num_quantizers: int | None = None,
        audio_codes: Tensor | None = None,
        encoder_past_key_values: MimiEncoderState | None = None,
        decoder_past_key_values: MimiDecoderState | None = None,
        return_dict: bool | None = None,
    ) -> MimiOutput | tuple:
        """Encode and decode again: what the codec makes of waveforms (B, channels, S), or of given codes.

        Args:
            audio_codes: used instead of encoding ``input_values``.
            Others as in `encode` and `decode`.
        Returns:
            `MimiOutput`, its ``audio_values`` as long as the input; a tuple with ``return_dict=False``.
        """
        if audio_codes is None:
            if input_values is None:
                raise ValueError("Give `input_values` or `audio_codes`.")
            encoded = self.encode(
                input_values, padding_mask, num_quantizers, encoder_past_key_values, return_dict=True
            )
            audio_codes, encoder_past_key_values = encoded.audio_codes, encoded.encoder_past_key_values
        if padding_mask is None and input_values is not None and encoder_past_key_values is None:
            padding_mask = torch.ones_like(input_values[:, 0], dtype=torch.bool)
        decoded = self.decode(
            audio_codes,
            None if decoder_past_key_values is not None else padding_mask,
            decoder_past_key_values,
            return_dict=True,
        )
        out = MimiOutput(
            audio_codes=audio_codes,
            audio_values=decoded.audio_values,
            encoder_past_key_values=encoder_past_key_values,
            decoder_past_key_values=decoded.decoder_past_key_values,
        )
        return out if self._return_dict(return_dict) else out.to_tuple()

    def get_encoded_length(self, input_length: Any) -> Any:
        """Frames that a signal of ``input_length`` samples (an integer or a tensor of them) is encoded to."""
        return -(-input_length // self.config.frame_size)

    def get_audio_codes_mask(self, padding_mask: Tensor, padding_side: str = "right") -> Tensor:
        """Which frames of a padded batch are a row's own.

        Args:
            padding_mask: (B, S) or (B, channels, S), 1 for samples.
            padding_side: "right" or "left".
        Returns:
            (B, frames of the longest row) bool
        """
        if padding_side not in ("right", "left"):
            raise ValueError(f'`padding_side` must be "right" or "left", but is {padding_side!r}.')
        if padding_mask.dim() == 3:
            padding_mask = padding_mask[:, 0]
        frames = self.get_encoded_length(padding_mask.long().sum(-1))
        mask = torch.arange(int(frames.max()), device=frames.device) < frames[:, None]
        return mask if padding_side == "right" else mask.flip(-1)

    # --------------------------------------------------------------------- inside

    def _encode_latent(
        self, x: Tensor, state: MimiEncoderState | None = None, active: Tensor | None = None
    ) -> Tensor:
        """Whole frames (rows, channels, n * frame_size) -> latents (rows, hidden_size, n)."""
        if state is None:
            x = self.encoder_transformer(self.encoder(x))
            return x if self.downsample is None else self.downsample(x)
        size = self.config.frame_size
        if state.ring == "original" and x.shape[-1] > size:  # its window depends on the chunk: it has one frame
            return torch.cat([self._encode_latent(chunk, state, active) for chunk in x.split(size, -1)], -1)
        if active is not None:  # what stands in an idle row must at least be finite
            x = x.masked_fill(~active[:, None, None], 0)
        x = self.encoder_transformer(self.encoder(x, state.seanet, active), state.transformer, active)
        return x if self.downsample is None else self.downsample(x, state.downsample, active)

    def _decode_latent(
        self, latents: Tensor, state: MimiDecoderState | None = None, active: Tensor | None = None
    ) -> Tensor:
        """Latents (rows, hidden_size, n) -> samples (rows, channels, n * frame_size)."""
        x = latents
        if state is None:
            x = x if self.upsample is None else self.upsample(x)
            return self.decoder(self.decoder_transformer(x))
        if state.ring == "original" and x.shape[-1] > 1:
            return torch.cat([self._decode_latent(frame, state, active) for frame in x.split(1, -1)], -1)
        x = x if self.upsample is None else self.upsample(x, state.upsample, active)
        return self.decoder(self.decoder_transformer(x, state.transformer, active), state.seanet, active)

    def _pad(self, x: Tensor) -> Tensor:
        """Zeros at the right, up to a whole frame."""
        return F.pad(x, (0, -x.shape[-1] % self.config.frame_size))

    def _encode_whole(self, x: Tensor, num_quantizers: int) -> Tensor:
        x = self._pad(x)
        block = BLOCK_FRAMES * self.config.frame_size
        if x.shape[-1] <= block:
            return self.quantizer.encode(self._encode_latent(x), num_quantizers)
        state = self.init_encoder_state(x.shape[0], device=x.device)
        return torch.cat(
            [self.quantizer.encode(self._encode_latent(chunk, state), num_quantizers) for chunk in x.split(block, -1)],
            dim=-1,
        )

    def _encode_chunk(self, x: Tensor, state: MimiEncoderState, final: bool, num_quantizers: int) -> Tensor:
        """What a stream's next samples complete, the rest being kept in the state."""
        size = self.config.frame_size
        held = state.pending_length.tolist()
        if len(set(held)) > 1:
            raise ValueError(
                f"`state` holds back a different number of samples for each row ({held}), as after resetting some of "
                "its rows in the middle of a frame: reset rows between whole frames, or give each stream its own state."
            )
        if held[0]:
            x = torch.cat([state.pending[..., : held[0]], x], dim=-1)
        if final:
            x = self._pad(x)
        rest = x.shape[-1] % size
        whole, left = x.split([x.shape[-1] - rest, rest], dim=-1)
        state.pending.zero_()
        state.pending[..., :rest].copy_(left)
        state.pending_length.fill_(rest)
        codes = [
            self.quantizer.encode(self._encode_latent(chunk, state), num_quantizers)
            for chunk in whole.split(BLOCK_FRAMES * size, -1)
            if chunk.shape[-1]
        ]
        if not codes:
            return torch.zeros(x.shape[0], num_quantizers, 0, device=x.device, dtype=torch.long)
        return torch.cat(codes, dim=-1)

    def _decode_whole(self, codes: Tensor) -> Tensor:
        if codes.shape[-1] <= BLOCK_FRAMES or torch.is_grad_enabled():
            return self._decode_latent(self.quantizer.decode(codes))
        return self._decode_chunk(codes, self.init_decoder_state(codes.shape[0]))

    @torch.no_grad()
    def _decode_chunk(self, codes: Tensor, state: MimiDecoderState) -> Tensor:
        chunks = [
            self._decode_latent(self.quantizer.decode(chunk), state)
            for chunk in codes.split(BLOCK_FRAMES, -1)
            if chunk.shape[-1]
        ]
        if not chunks:
            return torch.zeros(codes.shape[0], self.config.audio_channels, 0, device=codes.device, dtype=self._dtype)
        return torch.cat(chunks, dim=-1)

    @property
    def _dtype(self) -> torch.dtype:
        return self.encoder.layers[0].conv.weight.dtype

    def _placement(self, rows: int, device: Any, dtype: torch.dtype | None) -> tuple[Any, torch.dtype]:
        if rows < 1:
            raise ValueError(f"`rows` must be at least 1, but is {rows}.")
        device = self.encoder.layers[0].conv.weight.device if device is None else device
        return device, self._dtype if dtype is None else dtype

    def _return_dict(self, return_dict: bool | None) -> bool:
        return self.config.return_dict if return_dict is None else return_dict

    def _check_values(self, x: Any, allow_empty: bool) -> None:
        channels = self.config.audio_channels
        if not isinstance(x, Tensor):
            raise ValueError(f"`input_values` must be a tensor (B, {channels}, samples), but is a {type(x).__name__}.")
        if x.dim() != 3 or x.shape[1] != channels or not x.shape[0]:
            raise ValueError(
                f"`input_values` has shape {tuple(x.shape)}; expected (B, {channels}, samples), {channels} being the "
                "number of channels."
            )
        if not x.is_floating_point():
            raise ValueError(f"`input_values` is {x.dtype}; expected floating point samples between -1 and 1.")
        if not x.shape[-1] and not allow_empty:
            raise ValueError("`input_values` is empty: it holds no sample.")
        if not x.isfinite().all():
            raise ValueError("`input_values` contains NaN or infinite samples.")

    def _check_codes(self, codes: Any, allow_empty: bool) -> None:
        if not isinstance(codes, Tensor) or codes.dim() != 3 or not codes.shape[0]:
            shape = tuple(codes.shape) if isinstance(codes, Tensor) else type(codes).__name__
            raise ValueError(f"`audio_codes` must be a tensor (B, codebooks, frames), but is {shape}.")
        if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
            raise ValueError(f"`audio_codes` is {codes.dtype}; codes are integers.")
        self.quantizer.check(codes.shape[1], "audio_codes")
        if not codes.shape[-1]:
            if allow_empty:
                return
            raise ValueError("`audio_codes` is empty: it holds no frame.")
        low, high = (int(v) for v in codes.aminmax())
        if low < 0 or high >= self.config.codebook_size:
            raise ValueError(
                f"`audio_codes` holds {low if low < 0 else high}; codes are 0 to {self.config.codebook_size - 1}."
            )

    def _check_mask_frames(self, padding_mask: Tensor, codes: Tensor) -> None:
        frames = self.get_encoded_length(padding_mask.shape[-1])
        if frames != codes.shape[-1]:
            raise ValueError(
                f"`padding_mask` covers {padding_mask.shape[-1]} samples = {frames} frames, "
                f"`audio_codes` has {codes.shape[-1]}."
            )


def _check_active(active: Tensor | None, rows: int) -> Tensor | None:
    if active is not None and (active.shape != (rows,) or active.dtype != torch.bool):
        raise ValueError(f"`active` must be a bool tensor ({rows},), but is {active.dtype} {tuple(active.shape)}.")
    return active


def _one_state(**named: Any) -> Any:
    """The one state given under any of its names; ValueError for different ones."""
    given = {name: value for name, value in named.items() if value is not None}
    if len({id(value) for value in given.values()}) > 1:
        raise ValueError(f"{' and '.join(f'`{name}`' for name in given)} are different states: pass one.")
    return next(iter(given.values()), None)


__all__ = ["MimiDecoderOutput", "MimiEncoderOutput", "MimiModel", "MimiOutput", "MimiPreTrainedModel"]
