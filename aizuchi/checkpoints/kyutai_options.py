"""The options of the original's config.json: which there are, their defaults, and which can't be expressed here.

Facts: the signatures of `LMModel` and `StreamingTransformer` and the loader of Kyutai's moshi package 0.2.13, and
the published configurations.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from transformers.activations import ACT2FN

from .tensors import CheckpointError

DEFAULT_NAMES = {
    "moshi_name": "model.safetensors",
    "mimi_name": "tokenizer-e351c8d8-checkpoint125.safetensors",
    "tokenizer_name": "tokenizer_spm_32k_3.model",
}
MOSHIKO: dict[str, Any] = {
    "dim": 4096,
    "text_card": 32000,
    "existing_text_padding_id": 3,
    "n_q": 16,
    "dep_q": 8,
    "card": 2048,
    "num_heads": 32,
    "num_layers": 32,
    "hidden_scale": 4.125,
    "causal": True,
    "layer_scale": None,
    "context": 3000,
    "max_period": 10000,
    "gating": "silu",
    "norm": "rms_norm_f32",
    "positional_embedding": "rope",
    "depformer_dim": 1024,
    "depformer_dim_feedforward": 4224,
    "depformer_num_heads": 16,
    "depformer_num_layers": 6,
    "depformer_layer_scale": None,
    "depformer_multi_linear": True,
    "depformer_context": 8,
    "depformer_max_period": 10000,
    "depformer_gating": "silu",
    "depformer_pos_emb": "none",
    "depformer_weights_per_step": True,
    "delays": [0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1],
}
# What LMModel and its transformer take a missing option for.
DEFAULTS: dict[str, Any] = {
    "delays": [0],
    "n_q": 8,
    "dep_q": 8,
    "card": 1024,
    "text_card": 32000,
    "text_card_out": None,
    "dim": 128,
    "num_heads": 8,
    "hidden_scale": 4,
    "norm": "layer_norm",
    "kv_repeat": 1,
    "gating": "none",
    "positional_embedding": "sin",
    "max_period": 10000,
    "context": None,
    "cross_attention": False,
    "depformer_dim": 256,
    "depformer_dim_feedforward": None,
    "depformer_multi_linear": False,
    "depformer_weights_per_step": False,
    "depformer_weights_per_step_schedule": None,
    "depformer_low_rank_embeddings": None,
    "depformer_pos_emb": "sin",
    "depformer_norm": None,
    "existing_text_padding_id": 3,
    "existing_text_end_padding_id": 0,
    "extra_heads_num_heads": 0,
    "extra_heads_dim": 6,
    "demux_second_text_stream": False,
    "conditioners": None,
    "fuser": None,
}
_INHERITED = {
    "depformer_gating",
    "depformer_kv_repeat",
    "depformer_num_layers",
    "depformer_num_heads",
    "num_layers",
}
# Options that only have one value here; anything else would be another model.
_FIXED: dict[str, tuple[Any, ...]] = {
    "causal": (True,),
    "layer_scale": (None,),
    "depformer_layer_scale": (None,),
    "norm_emb": (False,),
    "bias_proj": (False,),
    "skip_self_attn": (False,),
    "depformer_skip_self_attn": (False,),
    "depformer_cross_attention": (False,),
}
# No part of the model: names of files, defaults of generation, hints for training, options nothing reads any more.
CARRIED = {
    "moshi_name",
    "mimi_name",
    "mimi_config_name",
    "tokenizer_name",
    "lora_name",
    "model_type",
    "version",
    "lm_gen_config",
    "tts_config",
    "stt_config",
    "model_id",
    "lora",
    "lora_rank",
    "lora_scaling",
    "quantize",
    "gradient_checkpointing",
    "betas",
    "positional_scale",
    "depformer_causal",
    "depformer_context",
    "depformer_max_period",
    "depformer_betas",
    "depformer_positional_scale",
}
EPS = {"rms_norm_f32": 1e-8, "layer_norm_f32": 1e-8, "rms_norm": 1e-5, "layer_norm": 1e-5}


def looks_like_kyutai(config: dict[str, Any]) -> bool:
    """Whether a config.json is the original's (its LM options, or a PersonaPlex stub) and not transformers'."""
    if "hidden_size" in config or "architectures" in config:
        return False
    marks = {"dim", "n_q", "moshi_name", "mimi_name"}
    return bool(config.keys() & marks) or config.get("model_type") == "personaplex"


def lm_options(raw: dict[str, Any] | None, depth_steps: int | None = None) -> dict[str, Any]:
    """The options of the language model: those of ``raw``, or of Moshiko 7B where it gives none.

    Args:
        raw: config.json, None where there is none.
        depth_steps: codebooks that the weights have depth steps for; tells PersonaPlex from Moshiko when the
            configuration doesn't.
    """
    options = copy.deepcopy(raw or {})
    if not options.keys() & {
        "dim",
        "n_q",
        "dep_q",
    }:  # no language model options: PersonaPlex, or no file at all
        options = MOSHIKO | options
        if options.get("model_type") == "personaplex" or depth_steps == 16:
            options["dep_q"] = 16
    if "demux_second_stream" in options:
        options["demux_second_text_stream"] = options.pop("demux_second_stream")
    return options


def needed(options: dict[str, Any], name: str) -> Any:
    if options.get(name) is None:
        raise CheckpointError(f"config.json lacks `{name}`, which has no default")
    return options[name]


def refuse_unknown(options: dict[str, Any]) -> None:
    known = DEFAULTS.keys() | _INHERITED | _FIXED.keys() | CARRIED
    if unknown := sorted(options.keys() - known):
        raise CheckpointError(
            f"config.json: the option `{unknown[0]}={options[unknown[0]]!r}` is not known, and leaving it out could "
            f"give another model ({len(unknown)} such options: {', '.join(unknown)})"
        )
    for name, allowed in _FIXED.items():
        if name in options and options[name] not in allowed:
            raise CheckpointError(
                f"config.json: `{name}={options[name]!r}` is not supported, only {allowed[0]!r} is"
            )
    get: Callable[[str], Any] = (DEFAULTS | options).get
    if get("positional_embedding") not in ("rope", "rope_concat"):
        _refuse("positional_embedding", get("positional_embedding"), "'rope' or 'rope_concat'")
    if get("context") is None:
        _refuse("context", None, "a number of frames")
    gatings = [("gating", get("gating"))]
    if get("dep_q"):
        gatings.append(("depformer_gating", options.get("depformer_gating", get("gating"))))
        if get("depformer_pos_emb") != "none":
            _refuse("depformer_pos_emb", get("depformer_pos_emb"), "'none'")
        for name in ("depformer_multi_linear", "depformer_weights_per_step"):
            if not get(name):
                _refuse(name, get(name), "true")
    for name, value in gatings:
        if value == "none" or value not in ACT2FN:
            _refuse(name, value, "an activation such as 'silu'")
    if get("cross_attention") and get("kv_repeat") != 1:
        _refuse("kv_repeat", get("kv_repeat"), "1, when `cross_attention` is set,")
    for condition, entry in (get("conditioners") or {}).items():
        _check_conditioner(condition, entry)


def _refuse(name: str, value: Any, allowed: str) -> None:
    raise CheckpointError(f"config.json: `{name}={value!r}` is not supported, {allowed} is")


def _check_conditioner(name: str, entry: dict[str, Any]) -> None:
    kind: Any = entry.get("type")
    if kind not in ("lut", "tensor"):
        _refuse(f"conditioners.{name}.type", kind, "'lut' or 'tensor'")
    known = {"dim", "learn_padding", "force_linear", "pad_empty", "output_bias", "init_scale"}
    if kind == "lut":
        known |= {"n_bins", "tokenizer", "possible_values"}
    options = entry.get(kind) or {}
    if unknown := sorted(options.keys() - known):
        _refuse(f"conditioners.{name}.{unknown[0]}", options[unknown[0]], "none")
    if not options.get("force_linear", True):
        _refuse(f"conditioners.{name}.force_linear", False, "true")
    if options.get("output_bias"):
        _refuse(f"conditioners.{name}.output_bias", True, "false")


def codebooks_of_a_stream(options: dict[str, Any]) -> int:
    """K: how many codebooks one speaker has, by the original's rule for its codec, and by delays in two halves."""
    get: Callable[[str], Any] = (DEFAULTS | options).get
    inputs, written = get("n_q"), get("dep_q")
    count = max(written, inputs - written)
    if (options.get("tts_config") or {}).get("multistream"):
        return count // 2
    audio_delays = list(get("delays"))[1:]
    half = inputs // 2
    if (
        written == inputs
        and not inputs % 2
        and any(audio_delays)
        and audio_delays[:half] == audio_delays[half:]
    ):
        return half  # both speakers are written: PersonaPlex
    return count


def hidden_width(dim: int, feedforward: int) -> int:
    """Width inside a gated feed-forward, by the rule of moshi/modules/gating.py."""
    return 21 * dim // 8 if feedforward == 4 * dim else 2 * feedforward // 3
