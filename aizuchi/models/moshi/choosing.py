"""Choosing tokens in `generate`: transformers' logits processors for text, its warpers for the codebooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

# Of a published generation config's depth part; a frame has as many codes as it has.
FIXED = {
    "min_length",
    "max_length",
    "min_new_tokens",
    "max_new_tokens",
    "cache_implementation",
    "transformers_version",
    "use_cache",
}
SETTINGS: dict[str, Any] = {
    "do_sample": False,
    "temperature": 1.0,
    "top_k": None,
    "top_p": None,
    "min_p": None,
    "typical_p": None,
    "logits_processor": None,
}


def split_depth_kwargs(kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(arguments of the depth decoder without their prefix, the others)."""
    depth, others = {}, {}
    for name, value in kwargs.items():
        for prefix in ("depth_decoder_", "depth_"):
            if name.startswith(prefix):
                depth[name.removeprefix(prefix)] = value
                break
        else:
            others[name] = value
    return depth, others


def depth_settings(model: Any, generation_config: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Sampling of the codebooks: what is given, else the generation config's ``depth_decoder_config``, else
    the depth decoder's own generation config.

    Raises:
        ValueError: an argument that writing a frame has no use for.
    """
    settings = dict(SETTINGS)
    if model.depth_decoder is not None:
        own = model.depth_decoder.generation_config
        settings |= {
            name: getattr(own, name, None) for name in SETTINGS if getattr(own, name, None) is not None
        }
        if not own.do_sample:
            settings["top_k"] = None
    stored = getattr(generation_config, "depth_decoder_config", None) or {}
    if "temp" in stored and "temperature" not in stored:
        stored = stored | {"temperature": stored["temp"]}
    settings |= {name: value for name, value in stored.items() if name in SETTINGS}
    if "generation_config" in given:
        own = given.pop("generation_config")
        settings |= {name: getattr(own, name) for name in SETTINGS if getattr(own, name, None) is not None}
    if (given.get("num_beams") or 1) > 1:
        raise ValueError("`depth_num_beams` above 1 is not possible: codes are written once.")
    unknown = sorted(set(given) - set(SETTINGS) - FIXED - {"num_beams"})
    if unknown:
        raise ValueError(
            f"`depth_{unknown[0]}` means nothing here; the codebooks take {', '.join('depth_' + s for s in SETTINGS)}."
        )
    return settings | {name: value for name, value in given.items() if name in SETTINGS}


def draw(scores: Tensor, sample: bool) -> Tensor:
    """One id a row from (rows, classes) scores: the best, or drawn from torch's generator."""
    if not sample:
        return scores.argmax(-1)
    return torch.multinomial(scores.softmax(-1), 1)[:, 0]


def text_chooser(processors: Any, sample: bool) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(sequences (rows, L), logits (rows, V)) -> processed scores, ids (rows,)."""

    def choose(sequences: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        scores = processors(sequences, logits.clone())
        return scores, draw(scores, sample)

    return choose


def audio_chooser(settings: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    """logits (rows, A) -> ids (rows,), by `depth_settings`."""
    warpers = LogitsProcessorList(settings["logits_processor"] or [])
    if settings["do_sample"]:
        if settings["temperature"] not in (None, 1.0):
            warpers.append(TemperatureLogitsWarper(settings["temperature"]))
        if settings["top_k"]:
            warpers.append(TopKLogitsWarper(settings["top_k"]))
        if settings["top_p"] not in (None, 1.0):
            warpers.append(TopPLogitsWarper(settings["top_p"]))
        if settings["min_p"]:
            warpers.append(MinPLogitsWarper(settings["min_p"]))
        if settings["typical_p"] not in (None, 1.0):
            warpers.append(TypicalLogitsWarper(settings["typical_p"]))
    # Processors that count earlier ids have nothing to count inside a frame.
    return lambda logits: draw(
        warpers(torch.empty(logits.shape[0], 0, dtype=torch.long), logits), settings["do_sample"]
    )
