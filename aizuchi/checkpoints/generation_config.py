"""Sampling defaults: the original's ``lm_gen_config`` as transformers' generation_config.json, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from ..models.moshi.configuration import MoshiConfig

# LMGen's own (moshi/models/lm.py).
_TEXT = {"temperature": 0.7, "top_k": 25}
_AUDIO = {"temperature": 0.8, "top_k": 250}
# The published speech synthesis configuration writes "text_temp", which LMGen doesn't know; it is read as meant.
_TEXT_NAMES = {"temp_text": "temperature", "text_temp": "temperature", "top_k_text": "top_k"}
_AUDIO_NAMES = {"temp": "temperature", "top_k": "top_k"}


def kyutai_option(config: Any, name: str) -> Any:
    """An option of the original's config.json that is no part of the model ("stt_config", "model_type"), or None."""
    return ((getattr(config, "kyutai", None) or {}).get("config") or {}).get(name)


def generation_config(config: MoshiConfig) -> GenerationConfig:
    """The sampling that the original would use for this model."""
    given = kyutai_option(config, "lm_gen_config") or {}
    sampled = given.get("use_sampling", True)
    text = _TEXT | {ours: given[theirs] for theirs, ours in _TEXT_NAMES.items() if theirs in given}
    audio = _AUDIO | {ours: given[theirs] for theirs, ours in _AUDIO_NAMES.items() if theirs in given}
    fields = _sampling(text, sampled) | {"pad_token_id": config.vocab_size, "bos_token_id": config.vocab_size}
    steps = config.num_generated_codebooks
    if steps:
        # The text token and the codes, as the published configuration counts them.
        lengths = {"min_length": steps + 1, "max_length": steps + 1}
        fields["depth_decoder_config"] = _sampling(audio, sampled) | lengths
    return GenerationConfig(**fields)


def _sampling(settings: dict[str, Any], sampled: bool) -> dict[str, Any]:
    if not sampled or settings["temperature"] <= 0:
        return {"do_sample": False}
    top_k = settings["top_k"]
    return {"do_sample": True, "temperature": settings["temperature"], "top_k": top_k}


def read_lm_gen_config(folder: Path) -> dict[str, Any] | None:
    """`lm_gen_config` of a folder's generation_config.json, None where there is none.

    Not by GenerationConfig: it drops the depth decoder's part of files that were derived from a model's configuration.
    """
    path = folder / "generation_config.json"
    return lm_gen_config(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def lm_gen_config(generation: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `generation_config`, of its dictionary: what differs from LMGen's own defaults."""
    out: dict[str, Any] = {}
    for settings, names, defaults in (
        (generation, ("temp_text", "top_k_text"), _TEXT),
        (generation.get("depth_decoder_config") or {}, ("temp", "top_k"), _AUDIO),
    ):
        # "temp" is what the published conversion writes by mistake.
        temperature = settings.get("temperature", settings.get("temp"))
        if settings.get("do_sample") is False:
            temperature = 0.0
        for name, value, default in (
            (names[0], temperature, defaults["temperature"]),
            (names[1], settings.get("top_k"), defaults["top_k"]),
        ):
            if value is not None and value != default:
                out[name] = value
    return out
