"""The original's config.json as a `MoshiConfig`, and back.

The original hands its config.json to `LMModel` as keyword arguments, after taking out the keys that name files or
belong to other parts; a missing file means Moshiko 7B. What `MoshiConfig` has no field for is carried along in
``config.kyutai`` and written back; what would change the model and can't be expressed is refused by name.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

from ..models.mimi.configuration import MimiConfig
from ..models.moshi.configuration import MoshiConfig
from .kyutai_options import (
    CARRIED,
    DEFAULTS,
    EPS,
    codebooks_of_a_stream,
    hidden_width,
    lm_options,
    needed,
    refuse_unknown,
)
from .tensors import CheckpointError


def moshi_config(
    raw: dict[str, Any] | None,
    audio_encoder: MimiConfig | None = None,
    depth_steps: int | None = None,
    extra_heads: tuple[int, int] | None = None,
) -> MoshiConfig:
    """The original's options as our configuration.

    Args:
        raw: config.json, None for a folder without one.
        audio_encoder: configuration of Mimi, None for the published one.
        depth_steps: see `lm_options`.
        extra_heads: (number, width) of heads that the weights hold where the configuration names none.
    Raises:
        CheckpointError: an option that can't be expressed, or options that contradict each other, by name.
    """
    options = lm_options(raw, depth_steps)
    refuse_unknown(options)
    get: Callable[[str], Any] = (DEFAULTS | options).get
    heads, dim, depth_q = get("num_heads"), get("dim"), get("dep_q")
    schedule = get("depformer_weights_per_step_schedule")
    streams = codebooks_of_a_stream(options)
    number, width = get("extra_heads_num_heads"), get("extra_heads_dim")
    if not number and extra_heads is not None:
        number, width = extra_heads
    fields: dict[str, Any] = {
        "vocab_size": get("text_card"),
        "hidden_size": dim,
        "num_hidden_layers": needed(options, "num_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": heads // get("kv_repeat"),
        "audio_vocab_size": get("card"),
        "max_position_embeddings": get("context"),
        "rope_theta": float(get("max_period")),
        "hidden_act": get("gating"),
        "sliding_window": get("context"),
        "ffn_dim": 2 * hidden_width(dim, int(get("hidden_scale") * dim)),
        "norm_type": get("norm"),
        "rms_norm_eps": EPS.get(get("norm"), 1e-5),
        "num_codebooks": streams,
        "num_generated_codebooks": depth_q,
        "num_input_codebooks": get("n_q"),
        "delays": list(get("delays")),
        "text_output_size": get("text_card_out") or get("text_card"),
        "text_padding_token_id": get("existing_text_padding_id"),
        "text_end_padding_token_id": get("existing_text_end_padding_id"),
        "demux_second_text_stream": bool(get("demux_second_text_stream")),
        "cross_attention": bool(get("cross_attention")),
        "conditioners": get("conditioners") or None,
        "fuser": get("fuser") or None,
        "extra_heads_num_heads": number,
        "extra_heads_dim": width,
        "rope_interleaved": get("positional_embedding") == "rope",
        "audio_encoder_config": audio_encoder or MimiConfig(),
        # Not None: the copy that is written back, and the options of no part of the model.
        "kyutai": {"config": copy.deepcopy(raw)},
    }
    if depth_q:
        fields["depth_decoder_config"] = _depth_fields(options, get, schedule)
    try:
        return MoshiConfig(**fields)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"config.json of the original's layout: {error}") from error


def _depth_fields(options: dict[str, Any], get: Any, schedule: list[int] | None) -> dict[str, Any]:
    dim, steps = get("depformer_dim"), get("dep_q")
    heads = needed(options, "depformer_num_heads")
    hidden = get("depformer_dim_feedforward")
    if hidden is None:
        hidden = int(get("hidden_scale") * dim)
    if isinstance(hidden, list):
        if len(set(hidden)) != 1:
            raise CheckpointError(
                f"config.json: `depformer_dim_feedforward={hidden}`: steps of different widths are not supported"
            )
        hidden = hidden[0]
    return {
        "hidden_size": dim,
        "num_hidden_layers": options.get("depformer_num_layers", options.get("num_layers")),
        "num_attention_heads": heads,
        "num_key_value_heads": heads // options.get("depformer_kv_repeat", get("kv_repeat")),
        "max_position_embeddings": steps + 1,
        "sliding_window": steps,
        "hidden_act": options.get("depformer_gating", get("gating")),
        "ffn_dim": 2 * hidden_width(dim, hidden),
        "norm_type": get("norm"),
        "rms_norm_eps": EPS.get(get("norm"), 1e-5),
        "output_norm": get("depformer_norm"),
        "weights_per_step_schedule": schedule,
        "low_rank_embeddings": get("depformer_low_rank_embeddings"),
    }


def _feedforward(dim: int, hidden: int, field: str) -> int:
    """The smallest ``dim_feedforward`` whose `hidden_width` is ``hidden``."""
    least = math.ceil(3 * hidden / 2)
    for candidate in (least, least + 1, 4 * dim):
        if hidden_width(dim, candidate) == hidden:
            return candidate
    raise CheckpointError(f"`{field}={2 * hidden}` can't be expressed in the original's configuration")


def kyutai_config(config: MoshiConfig) -> dict[str, Any] | None:
    """The inverse of `moshi_config`.

    What was read from a config.json is given back as it was, as long as it still says what the configuration says;
    None where there was no file.

    Raises:
        CheckpointError: a field that the original's options can't express, by name.
    """
    kept = getattr(config, "kyutai", None) or {}
    if "config" in kept:
        raw = kept["config"]
        options = lm_options(raw, config.num_generated_codebooks)
        heads = (config.extra_heads_num_heads, config.extra_heads_dim)
        # A head that only the weights told of needs no mention.
        try:
            same = moshi_config(raw, config.audio_encoder_config, config.num_generated_codebooks, heads)
        except CheckpointError:  # the codec was changed since
            same = None
        if same is not None and _expressed(same) == _expressed(config):
            return copy.deepcopy(raw)
        carried = {name: value for name, value in options.items() if name in CARRIED}
    else:
        carried = {}
    options = carried | _options(config)
    if "tts_config" in carried and "tts_config" in options:
        options["tts_config"] = carried["tts_config"] | options["tts_config"]
    return options


def _expressed(config: MoshiConfig) -> dict[str, Any]:
    fields = _options(config) | {"num_codebooks": config.num_codebooks}
    return fields | {"hidden_scale": int(fields["hidden_scale"] * config.hidden_size)}


def _options(config: Any) -> dict[str, Any]:
    depth = config.depth_decoder_config
    for part, name in ((config, "the temporal decoder"), (depth, "the depth decoder")):
        if part is None:
            continue
        if part.head_dim * part.num_attention_heads != part.hidden_size:
            raise CheckpointError(
                f"`head_dim={part.head_dim}` of {name} can't be expressed in the original's configuration: there it "
                f"is always `hidden_size` / `num_attention_heads`"
            )
        if part.rms_norm_eps != EPS[part.norm_type]:
            raise CheckpointError(
                f"`rms_norm_eps={part.rms_norm_eps}` of {name} can't be expressed in the original's configuration: "
                f"{part.norm_type} has {EPS[part.norm_type]}"
            )
    width = config.hidden_size
    feedforward = _feedforward(width, config.ffn_dim // 2, "ffn_dim")
    scale = feedforward / width
    if int(scale * width) != feedforward:
        scale = (feedforward + 0.5) / width
    options: dict[str, Any] = {
        "dim": width,
        "text_card": config.vocab_size,
        "existing_text_padding_id": config.text_padding_token_id,
        "existing_text_end_padding_id": config.text_end_padding_token_id,
        "n_q": config.num_input_codebooks,
        "dep_q": config.num_generated_codebooks,
        "card": config.audio_vocab_size,
        "num_heads": config.num_attention_heads,
        "num_layers": config.num_hidden_layers,
        "hidden_scale": scale,
        "causal": True,
        "layer_scale": None,
        "context": config.sliding_window,
        "max_period": config.rope_theta,
        "gating": config.hidden_act,
        "norm": config.norm_type,
        "positional_embedding": "rope" if config.rope_interleaved else "rope_concat",
        "delays": list(config.delays),
    }
    optional = {
        "kv_repeat": (config.num_attention_heads // config.num_key_value_heads, 1),
        "text_card_out": (config.text_output_size, config.vocab_size),
        "demux_second_stream": (config.demux_second_text_stream, False),
        "cross_attention": (config.cross_attention, False),
        "conditioners": (config.conditioners, None),
        "fuser": (config.fuser, None),
        "extra_heads_num_heads": (config.extra_heads_num_heads, 0),
        "extra_heads_dim": (config.extra_heads_dim, 6),
    }
    options |= {name: value for name, (value, default) in optional.items() if value != default}
    if depth is not None:
        options |= _depth_options(config, depth)
    if config.num_codebooks != codebooks_of_a_stream(options):
        if 2 * config.num_codebooks != codebooks_of_a_stream(options):
            raise CheckpointError(
                f"`num_codebooks={config.num_codebooks}` with `num_input_codebooks={config.num_input_codebooks}` and "
                f"`num_generated_codebooks={config.num_generated_codebooks}` can't be expressed in the original's "
                "configuration"
            )
        options["tts_config"] = {"multistream": True}
    return options


def _depth_options(config: Any, depth: Any) -> dict[str, Any]:
    if depth.norm_type != config.norm_type:
        raise CheckpointError(
            f"`norm_type={depth.norm_type!r}` of the depth decoder differs from the temporal decoder's, which can't "
            "be expressed in the original's configuration"
        )
    options: dict[str, Any] = {
        "depformer_dim": depth.hidden_size,
        "depformer_dim_feedforward": _feedforward(depth.hidden_size, depth.ffn_dim // 2, "ffn_dim"),
        "depformer_num_heads": depth.num_attention_heads,
        "depformer_num_layers": depth.num_hidden_layers,
        "depformer_layer_scale": None,
        "depformer_multi_linear": True,
        "depformer_context": depth.num_codebooks,
        "depformer_max_period": 10000,
        "depformer_gating": depth.hidden_act,
        "depformer_pos_emb": "none",
        "depformer_weights_per_step": True,
    }
    repeat = depth.num_attention_heads // depth.num_key_value_heads
    if repeat != config.num_attention_heads // config.num_key_value_heads:
        options["depformer_kv_repeat"] = repeat
    for name, value in (
        ("depformer_weights_per_step_schedule", depth.weights_per_step_schedule),
        ("depformer_low_rank_embeddings", depth.low_rank_embeddings),
        ("depformer_norm", depth.output_norm),
    ):
        if value is not None:
            options[name] = value
    return options
