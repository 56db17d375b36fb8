"""From a configuration file to a trainer: what `aizuchi train mimi` does before the first step."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from aizuchi.errors import AizuchiError

from .mimi import MimiTrainer
from .mimi_config import MimiTraining
from .moshi_config import check_fields
from .waves import FileWaves, find_files, load_object, phone_inventory

SPEECH_RMS = 0.05  # -26 dBFS


def make_codec(config: MimiTraining) -> Any:
    """The codec that a run starts from."""
    from aizuchi.models.mimi import MimiConfig, MimiModel

    torch.manual_seed(config.seed)
    if config.checkpoint is not None:
        from .start import pretrained

        return pretrained(MimiModel, config.checkpoint, "checkpoint")
    fields = dict(config.model or {})
    check_fields(MimiConfig, fields, {"rope_theta", "num_codebooks"})
    # the defaults of these are the published model's numbers: let them follow the size that was given
    for name, source in (("num_key_value_heads", "num_attention_heads"), ("upsample_groups", "hidden_size")):
        if source in fields:
            fields.setdefault(name, fields[source])
    try:
        codec = MimiModel(MimiConfig(**fields))
    except (ValueError, TypeError) as error:
        raise AizuchiError(f"model: {error}") from error
    scale_to_speech(codec)
    return codec


def scale_to_speech(codec: Any) -> None:
    """Let a fresh codec work on activations of about 1, though speech has an RMS of about `SPEECH_RMS`.

    On samples as small as they are ELU is all but linear: for its first thousand steps an encoder could not tell a
    spectrum from another.
    """
    with torch.no_grad():
        codec.encoder.layers[0].conv.weight /= SPEECH_RMS
        codec.decoder.layers[-1].conv.weight *= SPEECH_RMS


def make_trainer(config: MimiTraining) -> MimiTrainer:
    """A trainer for a run of the command line."""
    data = config.data
    if not data.train:
        raise AizuchiError(
            "data.train must be given: a folder or list of sound files, or python:module:function"
        )
    phones = None
    if config.semantic.teacher == "labels" and not data.train.startswith("python:"):
        phones = phone_inventory(find_files(data.train))
        config.semantic.classes = len(phones) + 1
    sources: list[Any] = []
    for text in (data.train, data.valid):
        if text and text.startswith("python:"):
            sources.append(_made_source(text.removeprefix("python:"), data.options))
        elif text:
            files = find_files(text)
            sources.append(FileWaves(files, data.seconds, config.seed, data.cache_hours, phones, data.speed))
        else:
            sources.append(None)
    return MimiTrainer(config, make_codec(config), sources[0], sources[1])


def _made_source(name: str, options: dict[str, Any]) -> Any:
    """What ``package.module:function`` makes of the options."""
    make = load_object(name, "data")
    if not callable(make):
        raise AizuchiError(f"data: {name} is not a function")
    known = inspect.signature(make)
    try:
        known.bind(**options)
    except TypeError as error:
        raise AizuchiError(
            f"data.options, for {name}: {error}; it takes {', '.join(known.parameters)}"
        ) from error
    return make(**options)
