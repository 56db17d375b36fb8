"""The model that is served, and what people should be told about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..checkpoints.load import default_model, load
from ..checkpoints.tensors import CheckpointError
from ..engine.memory import check_checkpoint, check_preset
from ..models.quantized import quantize_model
from .words import Babble

RANDOM = "random"


@dataclass
class Served:
    """A model ready for the scheduler: with its tokenizer, its name, what it is, and whether it only babbles."""

    model: Any
    tokenizer: Any
    name: str
    description: str
    random: bool = False


def load_served(
    name: str | None,
    dtype: Any = None,
    device: str = "cpu",
    quantize: str | None = None,
    rows: int = 1,
    engine: dict[str, Any] | None = None,
) -> Served:
    """A model by name: a folder, a hub repository, "random", or None for the embedded one (random without it).

    Raises:
        AizuchiError: there is none, or it and ``rows`` rows (an engine's of these options) do not fit into memory;
            nothing is loaded then.
    """
    if name is None:
        try:
            name = str(default_model())
        except CheckpointError:
            name = RANDOM
    if name == RANDOM:
        from ..models.presets import random_model

        check_preset("mini", rows, dtype, quantize, device, **(engine or {}))
        model = random_model("mini", dtype=dtype).to(device)
        if quantize is not None:
            quantize_model(model, quantize)
        note = "a model with random weights: it babbles"
        return Served(model, Babble(), "random", note, random=True)
    if dtype is None and device.startswith("cpu"):
        import torch

        dtype = torch.float32
    check_checkpoint(name, rows, dtype, quantize, device, engine)
    loaded = load(name, dtype=dtype, device=device, quantize=quantize)
    short = name.rstrip("/").split("/")[-1]
    return Served(loaded.model, loaded.tokenizer, short, loaded.description)
