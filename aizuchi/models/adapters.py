"""LoRA adapters (arXiv 2106.09685) in the temporal transformer and the depth decoder.

The depth decoder's layers are stacked, one matrix a codebook, which no library of adapters knows; so one small module
serves both kinds: beside a frozen layer stand two thin ones of its own kind, and the output is
``layer(x) + scale * B(A(x))``. Merging adds ``scale * B @ A`` to the layer's weight and takes the adapter out; what is
left is a plain model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aizuchi.errors import AizuchiError

from .layers import PerCodebookLinear

PARTS = ("decoder.model.layers.", "depth_decoder.layers.", "depth_decoder.input_projections")


class LoraLayer(nn.Module):
    """A frozen linear layer (plain, or one for each codebook) and its low-rank addition, which begins as zero."""

    def __init__(self, base: Any, rank: int, scale: float, dropout: float = 0.0):
        super().__init__()
        self.base, self.scale, self.dropout = base, scale, dropout
        inside, outside = base.in_features, base.out_features
        rank = min(rank, inside, outside)

        def thin(i: int, o: int) -> Any:
            if isinstance(base, PerCodebookLinear):
                layer: Any = PerCodebookLinear(i, o, base.weight.shape[0], base.schedule)
            else:
                layer = nn.Linear(i, o, bias=False)
            return layer.to(base.weight.device)

        self.lora_A, self.lora_B = thin(inside, rank), thin(rank, outside)
        nn.init.uniform_(self.lora_A.weight, -1 / math.sqrt(inside), 1 / math.sqrt(inside))
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor, **step: int) -> Tensor:
        inner = F.dropout(x, self.dropout, self.training).to(self.lora_A.weight.dtype)
        return self.base(x, **step) + self.scale * self.lora_B(self.lora_A(inner, **step), **step).to(x.dtype)

    @torch.no_grad()
    def merged(self) -> Any:
        """The base layer with the addition in its weight."""
        addition = self.scale * (self.lora_B.weight.double() @ self.lora_A.weight.double())
        self.base.weight.copy_(self.base.weight.double() + addition)
        return self.base


def adapted(model: nn.Module) -> dict[str, LoraLayer]:
    """The adapters in a model, by the names of the layers that they stand beside."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def add_adapters(
    model: Any, rank: int = 64, scale: float = 2.0, dropout: float = 0.0, embeddings: bool = False
) -> None:
    """Freeze a model and put adapters in, which do nothing yet.

    Args:
        rank: at most; a smaller matrix gets its own size. scale: of the addition (moshi-finetune: 2).
        embeddings: train the embeddings (text and codes), too.
    """
    if adapted(model):
        raise AizuchiError("the model has adapters already: merge them first")
    model.requires_grad_(False)
    layers = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | PerCodebookLinear) and name.startswith(PARTS)
    ]
    for name, layer in layers:
        _replace(model, name, LoraLayer(layer, rank, scale, dropout))
    if embeddings:
        for name, parameter in model.named_parameters():
            if "embed_tokens" in name:
                parameter.requires_grad_(True)
    model.lora_settings = {"rank": rank, "scale": scale, "dropout": dropout, "embeddings": embeddings}


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def trained(model: Any) -> list[tuple[str, Tensor]]:
    """What is trained: ``LAYER.lora_A.weight``, ``LAYER.lora_B.weight``, and embeddings if they are."""
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


@torch.no_grad()
def load_trained(
    model: Any, state: dict[str, Tensor], fit: Callable[[Tensor, Tensor], Tensor] = lambda value, own: value
) -> None:
    """Copy tensors by the names that `trained` gives into a model with adapters of the same shapes.

    Args:
        fit: (value, own) -> value, brings a value into the form of the model's own.
    """
    own = dict(trained(model))
    if own.keys() != state.keys():
        odd = sorted(own.keys() ^ state.keys())
        raise AizuchiError(
            f"the adapters do not fit this model: {odd[0]!r} is on one side only ({len(odd)} such)"
        )
    for name, value in state.items():
        if own[name].shape != value.shape:
            raise AizuchiError(
                f"the adapters do not fit this model: {name} is {tuple(value.shape)}, "
                f"expected {tuple(own[name].shape)}"
            )
        own[name].copy_(fit(value, own[name]))


def merge_adapters(model: Any) -> Any:
    """Add the adapters to the layers they stand beside and take them out; returns the model, plain again."""
    for name, adapter in adapted(model).items():
        _replace(model, name, adapter.merged())
    model.requires_grad_(True)
    return model
