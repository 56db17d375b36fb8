"""Products, tables and choices for a few rows, each in one call; None where torch has to do it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .library import load
from .stack import FEW, wanted
from .weights import Keeper, Prepared, TableStruct


def prepared(
    module: nn.Module, key: Any, build: Callable[[], Any], sources: Iterable[Tensor], written: bool = True
) -> Prepared:
    """What ``build`` makes of ``module``, kept with it; see `Prepared`."""
    kept = module.__dict__.setdefault("_prepared", {})
    sources = list(sources)
    found = kept.get(key)
    if found is None or [*map(id, found.sources)] != [*map(id, sources)]:
        found = kept[key] = Prepared(build, sources, written)
    return found


class _Linear(Keeper):
    def __init__(self, module: nn.Module):
        super().__init__()
        self.struct = self.linear(module)


class _Tables(Keeper):
    def __init__(self, tables: Sequence[nn.Module]):
        super().__init__()
        self.struct = self.array(TableStruct, [self.table(table) for table in tables])


def few_rows(module: nn.Linear, x: Tensor) -> Tensor | None:
    """``module(x)`` for x (rows, in)."""
    library = load() if wanted() and x.device.type == "cpu" and x.shape[0] <= FEW else None
    if library is None:
        return None
    sources = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    made = prepared(module, "few", lambda: _Linear(module), sources).get()
    if made is None:
        return None
    struct = made.struct
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

    weights = [table.weight for table in tables]
    made = prepared(owner, "tables", lambda: _Tables(tables), weights, written=False).get()
    if made is None:
        return None
    array = made.struct
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
