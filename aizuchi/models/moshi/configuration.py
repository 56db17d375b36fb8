"""Configurations of the temporal model and of the depth decoder.

The documented fields and defaults are transformers' (documentation of v4.46.2). The fields under "families"
are ours: they express every published relative of Moshi (Hibiki, STT, TTS, PersonaPlex) without a fork.
"""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig
from transformers.activations import ACT2FN

from ..layers import NORM_KINDS
from ..mimi.configuration import MimiConfig

SIZES = (
    "vocab_size hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim audio_vocab_size "
    "ffn_dim num_codebooks sliding_window"
).split()


def _check_common(config: Any) -> None:
    name = type(config).__name__
    for field in SIZES:
        if getattr(config, field) < 1:
            raise ValueError(f"`{field}={getattr(config, field)}` of {name} must be at least 1.")
    if config.hidden_act not in ACT2FN:
        raise ValueError(
            f"`hidden_act={config.hidden_act!r}` of {name} is no activation that transformers knows."
        )
    if config.ffn_dim % 2:
        raise ValueError(f"`ffn_dim={config.ffn_dim}` must be even.")
    if config.num_attention_heads % config.num_key_value_heads:
        raise ValueError(
            f"`num_attention_heads={config.num_attention_heads}` of {name} must be a multiple of "
            f"`num_key_value_heads={config.num_key_value_heads}`."
        )
    if config.norm_type not in NORM_KINDS:
        raise ValueError(
            f"`norm_type={config.norm_type!r}` of {name} must be one of {', '.join(NORM_KINDS)}."
        )


class MoshiDepthConfig(PreTrainedConfig):
    """Configuration of [`MoshiDepthDecoder`], the transformer along the codebooks of one frame.

    Args:
        vocab_size: text vocabulary; the text embedding has one row more, for the initial token.
        hidden_size: width. input_size: width of the temporal model's hidden state.
        num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim: as usual; None is derived.
        audio_vocab_size: entries of a codebook; each audio embedding has one row more, for the initial token.
        max_position_embeddings, sliding_window: kept for compatibility and raised to ``num_codebooks`` where they
            are less; a depth decoder sees all of its frame.
        hidden_act, ffn_dim: the gated feed-forward; ``fc1`` is ``ffn_dim`` wide, ``fc2`` reads half of it.
        initializer_range, rms_norm_eps, attention_dropout, use_cache, tie_word_embeddings: as usual.
        num_codebooks: codebook steps of a frame.
        norm_type: norm inside the layers, by the original's name.
        output_norm: norm before each codebook's head (the original's ``depformer_norm``), None for none.
        weights_per_step_schedule: weight index of each step; None gives each step its own weights.
        low_rank_embeddings: width of the embedding tables when they are low-rank, else None.
        demux_second_text_stream: text ids carry two tokens (see `TokenEmbedding`).

    Raises:
        ValueError: fields that contradict each other; the message names them.
    """

    model_type = "moshi_depth"
    base_config_key = "depth_decoder_config"
    keys_to_ignore_at_inference = ["past_key_values"]

    vocab_size: int = 32000
    hidden_size: int = 1024
    input_size: int = 4096
    num_hidden_layers: int = 6
    num_attention_heads: int = 16
    num_key_value_heads: int | None = None
    audio_vocab_size: int = 2048
    max_position_embeddings: int = 9
    hidden_act: str = "silu"
    head_dim: int | None = None
    initializer_range: float = 0.02
    use_cache: bool = True
    sliding_window: int = 8
    attention_dropout: float | int = 0.0
    ffn_dim: int = 5632
    rms_norm_eps: float = 1e-8
    num_codebooks: int = 8
    tie_word_embeddings: bool = False
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    # families
    norm_type: str = "rms_norm_f32"
    output_norm: str | None = None
    weights_per_step_schedule: list[int] | None = None
    low_rank_embeddings: int | None = None
    demux_second_text_stream: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        kwargs.pop("audio_encoder_config", None)  # the documentation lists it, nothing reads it
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        self.head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        # A frame is never shorter than these: transformers' caches would drop its first keys.
        self.sliding_window = max(self.sliding_window, self.num_codebooks)
        self.max_position_embeddings = max(self.max_position_embeddings, self.num_codebooks + 1)
        super().__post_init__(**kwargs)
        _check_common(self)
        schedule = self.weights_per_step_schedule
        if schedule is not None and (len(schedule) != self.num_codebooks or min(schedule) < 0):
            raise ValueError(
                f"`weights_per_step_schedule` must hold {self.num_codebooks} weight indices, one a codebook; "
                f"got {schedule}."
            )

    @property
    def num_step_weights(self) -> int:
        """How many sets of weights the layers hold."""
        if self.weights_per_step_schedule is None:
            return self.num_codebooks
        return max(self.weights_per_step_schedule) + 1


class MoshiConfig(PreTrainedConfig):
    """Configuration of [`MoshiForConditionalGeneration`] and its parts; the defaults give Moshiko (7B).

    Args:
        vocab_size: text vocabulary V; the embedding has V + 1 rows, row V being the initial token.
        hidden_size, num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim, hidden_act,
        initializer_range, use_cache, attention_dropout, rms_norm_eps, tie_word_embeddings: as usual.
        audio_vocab_size: entries A of a codebook, None takes the audio encoder's; embeddings have A + 1 rows.
        max_position_embeddings: documentation only; positions have no end.
        rope_parameters: {"rope_theta": ...}; ``rope_theta`` alone is read too.
        sliding_window: frames that attention sees, the present one included.
        ffn_dim: width of ``fc1``; ``fc2`` reads half of it. Even.
        num_codebooks: codebooks K of one audio stream.
        audio_encoder_config, depth_decoder_config: configurations or dicts; None gives defaults tied to this one.
        num_generated_codebooks: codebooks the depth decoder writes each frame; None = K. 0: no depth decoder
            (speech recognition); 2K: it writes the user's stream too (PersonaPlex).
        num_input_codebooks: audio codebooks the temporal model reads each frame; None = 2K (model, then user).
        delays: frames by which text and each input codebook lag, ``1 + num_input_codebooks`` values; None:
            no delay for text and for the first codebook of a stream, one frame for the others.
        text_output_size: text logits, None = vocab_size.
        norm_type: norm of the temporal layers, by the original's name.
        text_padding_token_id, text_end_padding_token_id: ids of the text stream's padding, and of its end.
        demux_second_text_stream: text ids carry two tokens.
        cross_attention: layers attend to a condition.
        conditioners, fuser: conditions of the model, as the original's config.json describes them.
        extra_heads_num_heads, extra_heads_dim: additional classifiers on the hidden state.
        rope_interleaved: the layout that the original's checkpoint of this model uses, needed to write one.
        text_padding_weight: weight of padding targets in the text loss (the paper: 0.5).
        codebook_weights: weight of each written codebook in the audio loss (the paper: 100, then 1), None = 1.

    Raises:
        ValueError: fields that contradict each other; the message names them.
    """

    model_type = "moshi"
    keys_to_ignore_at_inference = ["past_key_values"]
    sub_configs: ClassVar[dict[str, Any]] = {
        "audio_encoder_config": AutoConfig,
        "depth_decoder_config": MoshiDepthConfig,
    }

    vocab_size: int = 32000
    hidden_size: int = 4096
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    audio_vocab_size: int | None = None
    max_position_embeddings: int = 3000
    rope_parameters: dict | None = None
    hidden_act: str = "silu"
    head_dim: int | None = None
    initializer_range: float = 0.02
    use_cache: bool = True
    sliding_window: int = 3000
    attention_dropout: float | int = 0.0
    ffn_dim: int = 22528
    rms_norm_eps: float = 1e-8
    num_codebooks: int = 8
    tie_word_embeddings: bool = False
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    audio_encoder_config: Any = None
    depth_decoder_config: Any = None
    # families
    num_generated_codebooks: int | None = None
    num_input_codebooks: int | None = None
    delays: list[int] | None = None
    text_output_size: int | None = None
    norm_type: str = "rms_norm_f32"
    text_padding_token_id: int = 3
    text_end_padding_token_id: int = 0
    demux_second_text_stream: bool = False
    cross_attention: bool = False
    conditioners: dict | None = None
    fuser: dict | None = None
    extra_heads_num_heads: int = 0
    extra_heads_dim: int = 6
    rope_interleaved: bool = True
    text_padding_weight: float = 1.0
    codebook_weights: list[float] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        theta = kwargs.pop("rope_theta", None)
        rope = dict(self.rope_parameters or {})
        rope.setdefault("rope_type", "default")
        rope.setdefault("rope_theta", 10000.0 if theta is None else theta)
        if theta is not None:
            rope["rope_theta"] = theta
        if rope["rope_type"] != "default":
            raise ValueError(
                f"`rope_parameters`: only rope_type 'default' is known, got {rope['rope_type']!r}."
            )
        self.rope_parameters = rope
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        self.head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        self.audio_encoder_config = _audio_encoder_config(self.audio_encoder_config)
        if self.audio_vocab_size is None:
            self.audio_vocab_size = self.audio_encoder_config.codebook_size
        if self.num_generated_codebooks is None:
            self.num_generated_codebooks = self.num_codebooks
        if self.num_input_codebooks is None:
            self.num_input_codebooks = 2 * self.num_codebooks
        if self.delays is None:
            stream = [0] + [1] * (self.num_codebooks - 1)
            streams = -(-self.num_input_codebooks // self.num_codebooks)
            self.delays = [0] + (stream * streams)[: self.num_input_codebooks]
        if self.text_output_size is None:
            self.text_output_size = self.vocab_size
        self.depth_decoder_config = self._tied_depth_config(self.depth_decoder_config)
        super().__post_init__(**kwargs)
        self._check()

    def _tied_depth_config(self, config: Any) -> MoshiDepthConfig | None:
        """The depth configuration with what the parent decides; the caller's dict is left as it was."""
        if self.num_generated_codebooks == 0:
            return None
        fields = config.to_dict() if isinstance(config, PreTrainedConfig) else dict(config or {})
        fields.pop("model_type", None)
        fields |= {
            "vocab_size": self.vocab_size,
            "audio_vocab_size": self.audio_vocab_size,
            "input_size": self.hidden_size,
            "num_codebooks": self.num_generated_codebooks,
            "demux_second_text_stream": self.demux_second_text_stream,
        }
        return MoshiDepthConfig(**fields)

    def _check(self) -> None:
        _check_common(self)
        if self.head_dim % 2:
            raise ValueError(f"`head_dim={self.head_dim}` must be even for the rotary embedding.")
        if self.num_codebooks > self.audio_encoder_config.num_codebooks:
            raise ValueError(
                f"`num_codebooks={self.num_codebooks}` is more than the audio encoder's "
                f"{self.audio_encoder_config.num_codebooks}; lower it or raise the encoder's `num_quantizers`."
            )
        if self.audio_vocab_size != self.audio_encoder_config.codebook_size:
            raise ValueError(
                f"`audio_vocab_size={self.audio_vocab_size}` differs from the audio encoder's "
                f"`codebook_size={self.audio_encoder_config.codebook_size}`."
            )
        if len(self.delays) != 1 + self.num_input_codebooks or min(self.delays) < 0:
            raise ValueError(
                f"`delays` must hold {1 + self.num_input_codebooks} non-negative values (text, then each of "
                f"`num_input_codebooks={self.num_input_codebooks}`), got {self.delays}."
            )
        if self.num_generated_codebooks > self.num_input_codebooks:
            raise ValueError(
                f"`num_generated_codebooks={self.num_generated_codebooks}` is more than "
                f"`num_input_codebooks={self.num_input_codebooks}`: what is written is read back."
            )
        if self.codebook_weights is not None and len(self.codebook_weights) != self.num_generated_codebooks:
            raise ValueError(
                f"`codebook_weights` must hold {self.num_generated_codebooks} values, got {self.codebook_weights}."
            )
        if self.cross_attention and not (self.fuser or {}).get("cross"):
            raise ValueError("`cross_attention=True` needs a `fuser` whose 'cross' names a conditioner.")

    @property
    def sampling_rate(self) -> int:
        """Samples per second of the audio encoder."""
        return self.audio_encoder_config.sampling_rate

    @property
    def rope_theta(self) -> float:
        """Longest period base of the rotary embedding."""
        return self.rope_parameters["rope_theta"]

    @rope_theta.setter
    def rope_theta(self, value: float) -> None:
        self.rope_parameters = {**(self.rope_parameters or {"rope_type": "default"}), "rope_theta": value}

    @property
    def num_model_codebooks(self) -> int:
        """Input codebooks of the model's own voice: K, or 0 without a depth decoder."""
        return min(self.num_codebooks, self.num_generated_codebooks)

    @property
    def num_user_codebooks(self) -> int:
        """Input codebooks of the user's voice (some families have none)."""
        return self.num_input_codebooks - self.num_model_codebooks

    @property
    def max_delay(self) -> int:
        """Frames between the first and the last stream of a column."""
        return max(self.delays)

    @classmethod
    def from_audio_encoder_config(cls, audio_encoder_config: PreTrainedConfig, **kwargs: Any) -> MoshiConfig:
        """A configuration around an audio encoder's."""
        return cls(audio_encoder_config=audio_encoder_config.to_dict(), **kwargs)


def _audio_encoder_config(config: Any) -> PreTrainedConfig:
    if config is None:
        return MimiConfig()
    if isinstance(config, dict):
        fields = dict(config)
        model_type = fields.pop("model_type", "mimi")
        return MimiConfig(**fields) if model_type == "mimi" else AutoConfig.for_model(model_type, **fields)
    if (
        isinstance(config, PreTrainedConfig)
        and config.model_type == "mimi"
        and not isinstance(config, MimiConfig)
    ):
        return MimiConfig(**{k: v for k, v in config.to_dict().items() if k != "model_type"})
    return config
