"""Products, tables and choices for a few rows, each in one call; None where torch has to do it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .library import load
from .stack import FEW, wanted
from .weights import Keeper, TableStruct, Unsupported


class Prepared(Keeper):
    """Structures of a module's weights, good while the weights lie where they did."""

    def __init__(self, build: Callable[[Keeper], Any], sources: Sequence[Tensor]):
        super().__init__()
        self.places = [tensor.data_ptr() for tensor in sources]
        try:
            self.value = build(self)
        except Unsupported:
            self.value = None


def prepared(module: nn.Module, sources: Sequence[Tensor], build: Callable[[Keeper], Any]) -> Any:
    """What ``build`` made of ``module``, made anew when one of ``sources`` has moved; None where it can't be made."""
    kept = module.__dict__.get("_prepared")
    if kept is None or kept.places != [tensor.data_ptr() for tensor in sources]:
        kept = module.__dict__["_prepared"] = Prepared(build, sources)
    return kept.value


def few_rows(module: nn.Linear, x: Tensor) -> Tensor | None:
    """``module(x)`` for x (rows, in)."""
    library = load() if wanted() and x.device.type == "cpu" and x.shape[0] <= FEW else None
    if library is None:
        return None
    weight = getattr(module, "weight", None)
    struct = prepared(module, () if weight is None else (weight,), lambda keeper: keeper.linear(module))
    if struct is None:
        return None
    wide = x.float().contiguous()
    out = torch.empty(x.shape[0], struct.out_features)
    library.linear(
        ctypes.addressof(struct),
        wide.data_ptr(),
        struct.in_features,
        out.data_ptr(),
        struct.out_features,
        x.shape[0],
        torch.get_num_threads(),
    )
    return out.to(x.dtype)


def sum_of_entries(owner: nn.Module, tables: Sequence[nn.Module], ids: Tensor) -> Tensor | None:
    """Sum over tables of each one's entry, ids (rows, tables) with -1 for none -> (rows, dim)."""
    library = load() if wanted() and ids.device.type == "cpu" and ids.shape[0] <= FEW else None
    if library is None:
        return None

    def build(keeper: Keeper) -> Any:
        return keeper.array(TableStruct, [keeper.table(table) for table in tables])

    weights = [table.weight for table in tables]
    array = prepared(owner, weights, build)
    if array is None:
        return None
    ids = ids.contiguous()
    dim = weights[0].shape[1]
    out = torch.empty(ids.shape[0], dim)
    library.embed(ctypes.addressof(array), len(tables), dim, ids.data_ptr(), out.data_ptr(), ids.shape[0])
    return out.to(weights[0].dtype)


def choose(logits: Tensor, settings: Sequence[Tensor], codebook: int) -> Tensor | None:
    """A token (rows,) for each row of logits (rows, n); settings: temperature, top_k, top_p, seed, frame."""
    library = load() if wanted() and logits.device.type == "cpu" and logits.dtype == torch.float32 else None
    if library is None or not all(part.is_contiguous() for part in (logits, *settings)):
        return None
    rows, size = logits.shape
    ids = torch.empty(rows, dtype=torch.long)
    pointers = [part.data_ptr() for part in settings]
    library.choose(logits.data_ptr(), size, *pointers, codebook, ids.data_ptr(), rows)
    return ids


def shape_text(
    logits: Tensor, padding: int, quiet: Tensor, settings: Sequence[Tensor], history: Tensor
) -> Tensor | None:
    """Text logits (rows, n) with bonus and penalty; settings: padding_bonus, repetition_penalty and _context."""
    library = load() if wanted() and logits.device.type == "cpu" and logits.dtype == torch.float32 else None
    if library is None:
        return None
    out = logits.clone(memory_format=torch.contiguous_format)
    rows, size = out.shape
    pointers = [part.data_ptr() for part in (*settings, history)]
    library.shape_text(
        out.data_ptr(), size, rows, padding, quiet.data_ptr(), len(quiet), *pointers, history.shape[1]
    )
    return out
