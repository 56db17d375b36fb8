"""The original's description of a Mimi codec (the file that ``mimi_config_name`` names) as a `MimiConfig`, and back.

The published Mimi needs no such file: its sizes are the defaults.
"""

from __future__ import annotations

from typing import Any

from ..models.mimi.configuration import MimiConfig
from .tensors import CheckpointError

# (section, the original's option, ours)
_SIZES = [
    ("seanet", "channels", "audio_channels"),
    ("seanet", "dimension", "hidden_size"),
    ("seanet", "n_filters", "num_filters"),
    ("seanet", "n_residual_layers", "num_residual_layers"),
    ("seanet", "compress", "compress"),
    ("seanet", "dilation_base", "dilation_growth_rate"),
    ("seanet", "kernel_size", "kernel_size"),
    ("seanet", "residual_kernel_size", "residual_kernel_size"),
    ("seanet", "last_kernel_size", "last_kernel_size"),
    ("seanet", "pad_mode", "pad_mode"),
    ("seanet", "ratios", "upsampling_ratios"),
    ("quantizer", "dimension", "vector_quantization_hidden_dimension"),
    ("quantizer", "n_q", "num_quantizers"),
    ("quantizer", "bins", "codebook_size"),
    ("transformer", "num_heads", "num_attention_heads"),
    ("transformer", "num_layers", "num_hidden_layers"),
    ("transformer", "layer_scale", "layer_scale_initial_scale"),
    ("transformer", "context", "sliding_window"),
    ("transformer", "max_period", "rope_theta"),
    ("transformer", "dim_feedforward", "intermediate_size"),
]
# Options with one value here. The published file spells them all out.
_FIXED: dict[str, dict[str, Any]] = {
    "seanet": {
        "causal": True,
        "activation": "ELU",
        "disable_norm_outer_blocks": 0,
        "norm": "none",
        "true_skip": True,
    },
    "quantizer": {},
    "transformer": {
        "causal": True,
        "conv_layout": True,
        "gating": "none",
        "norm": "layer_norm",
        "positional_embedding": "rope",
    },
}


def mimi_config(raw: dict[str, Any] | None, **changes: Any) -> MimiConfig:
    """The original's options as our configuration, with ``changes`` of ours; None gives the published Mimi.

    Raises:
        CheckpointError: an option that is missing, unknown or not supported, by name.
    """
    if raw is None:
        return MimiConfig(**changes)
    fields: dict[str, Any] = {}
    for section, theirs, ours in _SIZES:
        if theirs in raw.get(section, {}):
            fields[ours] = raw[section][theirs]
        elif theirs in ("dimension", "n_q", "bins", "ratios", "num_heads", "num_layers"):
            raise CheckpointError(f"the configuration of Mimi lacks `{section}.{theirs}`")
    width = fields["hidden_size"]
    fields["audio_channels"] = raw.get("channels", fields.get("audio_channels", 1))
    fields |= {
        "sampling_rate": raw.get("sample_rate", 24000),
        "frame_rate": raw.get("frame_rate", 12.5),
        "codebook_dim": fields["vector_quantization_hidden_dimension"],
        "num_key_value_heads": fields["num_attention_heads"],
        "upsample_groups": width,
    }
    widths = _widths(width)
    for section in ("seanet", "quantizer", "transformer"):
        sizes = {theirs for part, theirs, _ in _SIZES if part == section}
        for name, value in raw.get(section, {}).items():
            fixed = _FIXED[section] | widths[section]
            if name in sizes:
                continue
            if name not in fixed:
                raise CheckpointError(
                    f"the configuration of Mimi has `{section}.{name}={value!r}`, which is not known"
                )
            if value != fixed[name]:
                raise CheckpointError(
                    f"the configuration of Mimi has `{section}.{name}={value!r}`, only {fixed[name]!r} is supported"
                )
    try:
        return MimiConfig(**(fields | changes))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"the configuration of Mimi: {error}") from error


def kyutai_mimi_config(config: MimiConfig) -> dict[str, Any] | None:
    """The inverse of `mimi_config`: None for a Mimi of the published sizes.

    Raises:
        CheckpointError: a field that the original's options can't express, by name.
    """
    default = {
        "num_semantic_quantizers": 1,
        "use_conv_shortcut": False,
        "hidden_act": "gelu",
        "norm_eps": 1e-5,
        "attention_bias": False,
        "num_key_value_heads": config.num_attention_heads,
        "head_dim": config.hidden_size // config.num_attention_heads,
        "upsample_groups": config.hidden_size,
    }
    if config.num_encoder_hidden_layers is not None:
        default["num_encoder_hidden_layers"] = config.num_hidden_layers
    if config.num_decoder_residual_layers is not None:
        default["num_decoder_residual_layers"] = config.num_residual_layers
    if config.decoder_channels is not None:
        count = len(config.upsampling_ratios)
        default["decoder_channels"] = [config.num_filters * 2**i for i in range(count, -1, -1)]
    for name, value in default.items():
        if getattr(config, name) != value:
            raise CheckpointError(
                f"`{name}={getattr(config, name)!r}` of the audio encoder can't be expressed in the original's layout"
            )
    raw = _described(config)
    return None if raw == _described(MimiConfig()) else raw


def _described(config: MimiConfig) -> dict[str, Any]:
    widths = _widths(config.hidden_size)
    raw: dict[str, Any] = {
        "sample_rate": config.sampling_rate,
        "channels": config.audio_channels,
        "frame_rate": config.frame_rate,
    }
    for section in ("seanet", "quantizer", "transformer"):
        sizes = {theirs: getattr(config, ours) for part, theirs, ours in _SIZES if part == section}
        raw[section] = sizes | _FIXED[section] | widths[section]
    return raw


def _widths(width: int) -> dict[str, dict[str, Any]]:
    """Widths that all have to be that of the latents."""
    return {
        "seanet": {},
        "quantizer": {"input_dimension": width, "output_dimension": width},
        "transformer": {"d_model": width, "input_dimension": width, "output_dimensions": [width]},
    }
