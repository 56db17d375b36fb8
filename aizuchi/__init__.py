"""Full-duplex speech-text models of the Moshi family: run, serve and train them.

The public names are imported when they are first used, so that ``import aizuchi`` stays fast.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0.dev0"

_MOSHI = (
    "AudioStreamer MoshiCausalLMOutputWithPast MoshiConditionalGenerationGenerateOutput "
    "MoshiConditionalGenerationOutputWithPast MoshiConfig MoshiDepthConfig MoshiDepthDecoder MoshiForCausalLM "
    "MoshiForConditionalGeneration MoshiModel MoshiTrainingInputs MoshiUnconditionalInput"
).split()
_MIMI = "MimiConfig MimiDecoderOutput MimiEncoderOutput MimiModel MimiOutput".split()

_HOMES = {
    **dict.fromkeys(_MOSHI, "aizuchi.models.moshi"),
    **dict.fromkeys(_MIMI, "aizuchi.models.mimi"),
    "load": "aizuchi.checkpoints",
    "register": "aizuchi.models.register",
    "DuplexEngine": "aizuchi.engine",
}

__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'aizuchi' has no attribute {name!r}")
    importlib.import_module(
        "aizuchi.checkpoints"
    )  # teaches the models' `from_pretrained` the original's layout
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
