"""The codec's tensors of a file in the original's layout, and whether they are all that a codec has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models.mimi import MimiConfig, MimiModel
from . import mimi_layout
from .tensors import CheckpointError, open_tensors


def read_mimi(path: Path, config: MimiConfig) -> dict[str, Tensor]:
    """The codec's tensors of a file in the original's layout, under our names.

    Raises:
        CheckpointError: the file doesn't hold a Mimi codec of this configuration; names the key and the shape.
    """
    source = open_tensors(path)
    if not mimi_layout.is_kyutai(source.infos):
        first = next(iter(source.infos), None)
        raise CheckpointError(
            f"{path} is no Mimi codec in the original's layout; it holds {first or 'nothing'}"
        )
    try:
        return mimi_layout.kyutai_to_hf(
            {name: source.read(name) for name in source.infos},
            config.num_attention_heads,
            config.num_key_value_heads,
        )
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def check_mimi(label: Any, tensors: Mapping[str, Any], config: MimiConfig) -> None:
    """Refuse tensors (or shapes) that are not exactly a codec's, with the first key and shape that is wrong."""
    found = {name: tuple(getattr(value, "shape", value)) for name, value in tensors.items()}
    with torch.device("meta"):
        model = MimiModel(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name, shape in expected.items():
        if name in found and found[name] != shape:
            raise CheckpointError(
                f"{label}: {name!r} has shape {found[name]}, the configuration expects {shape}"
            )
    for name, shape in expected.items():
        if name not in found:
            count = len(expected.keys() - found.keys())
            raise CheckpointError(
                f"{label} lacks {name!r} of shape {shape} ({count} of {len(expected)} are missing)"
            )
    if more := sorted(found.keys() - expected.keys()):
        raise CheckpointError(
            f"{label} holds {more[0]!r} of shape {found[more[0]]}, which the model has no place for"
        )
