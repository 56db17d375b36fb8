"""Stream state as explicit objects.

A streaming module makes its state (``module.init_state(rows, ...)``), receives it as an argument, updates it
in place and keeps nothing on itself. Every tensor of a state has a *row* axis in front: a row is one
conversation, with its own position, reset and snapshot, whatever the other rows do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor


def row_tensor(reset: float = 0) -> Any:
    """A dataclass field for a tensor that is filled with ``reset`` when its row starts anew."""
    return dataclasses.field(metadata={"reset": reset})


@dataclasses.dataclass
class State:
    """Base of all stream states: a tree of tensors whose first axis is the row.

    Fields may be tensors, other states, lists or dicts of these, ``None``, or plain values (sizes, flags) that
    no step changes. Tensors keep their storage for the life of the state, so that a step over them can be
    captured as a CUDA graph.
    """

    def leaves(self, prefix: str = "") -> Iterator[tuple[str, Tensor, float]]:
        """All tensors of the tree as (dotted name, tensor, value it takes on reset)."""
        for field in dataclasses.fields(self):
            yield from _leaves(getattr(self, field.name), prefix + field.name, field.metadata.get("reset", 0))

    @property
    def rows(self) -> int:
        """Number of rows."""
        return next(self.leaves())[1].shape[0]

    def reset(self, rows: Tensor | Sequence[int] | None = None) -> None:
        """Start rows anew, in place.

        Args:
            rows: a boolean mask (rows,) (no host synchronisation), a list of row indices, or None for all.
        """
        for _, tensor, value in self.leaves():
            if rows is None:
                tensor.fill_(value)
            elif isinstance(rows, Tensor):
                tensor.masked_fill_(rows.view(-1, *[1] * (tensor.dim() - 1)), value)
            else:
                for row in rows:
                    tensor[row].fill_(value)

    def export_row(self, row: int) -> dict[str, Tensor]:
        """A copy of everything row ``row`` holds, by dotted name."""
        return {name: tensor[row].detach().clone() for name, tensor, _ in self.leaves()}

    def import_row(self, row: int, tensors: dict[str, Tensor]) -> None:
        """Put what :meth:`export_row` gave into row ``row``, in place.

        Raises:
            ValueError: names, shapes or dtypes differ from this state's. Nothing is written then.
        """
        own = {name: tensor for name, tensor, _ in self.leaves()}
        if missing := sorted(own.keys() - tensors.keys()):
            raise ValueError(f"`tensors` lacks {missing[0]!r} ({len(missing)} missing): from another model?")
        if foreign := sorted(tensors.keys() - own.keys()):
            raise ValueError(f"`tensors` holds an unknown {foreign[0]!r} ({len(foreign)} in all).")
        for name, tensor in own.items():
            given = tensors[name]
            if given.shape != tensor.shape[1:] or given.dtype != tensor.dtype:
                raise ValueError(
                    f"`tensors[{name!r}]` is {given.dtype} {tuple(given.shape)}, "
                    f"this state holds {tensor.dtype} {tuple(tensor.shape[1:])}."
                )
        for name, tensor in own.items():
            tensor[row].copy_(tensors[name])

    def clone(self) -> State:
        """An independent copy of the whole state."""
        return _clone(self)

    def nbytes(self) -> int:
        """Bytes held by all tensors."""
        return sum(tensor.numel() * tensor.element_size() for _, tensor, _ in self.leaves())


def _leaves(value: Any, name: str, reset: float) -> Iterator[tuple[str, Tensor, float]]:
    if isinstance(value, Tensor):
        yield name, value, reset
    elif isinstance(value, State):
        yield from value.leaves(name + ".")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{name}.{key}", reset)
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _leaves(item, f"{name}.{i}", reset)


def _clone(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, State):
        return type(value)(**{f.name: _clone(getattr(value, f.name)) for f in dataclasses.fields(value)})
    if isinstance(value, dict):
        return {key: _clone(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_clone(item) for item in value)
    return value


def keep_inactive(new: Tensor, old: Tensor, active: Tensor | None) -> Tensor:
    """``new`` where a row is active, ``old`` elsewhere. ``active`` is (rows,) bool, or None for all rows."""
    if active is None:
        return new
    return torch.where(active.view(-1, *[1] * (new.dim() - 1)), new, old)
