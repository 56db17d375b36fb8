"""Keys and values of the past: the per-row ring, and its twin for whole sequences and transformers' caches.

A transformer asks one small interface, once a forward and once a layer:

    plan = cache.begin(length)            # positions of the new tokens and the attention mask
    keys, values = plan.append(layer, k, v)   # everything the new tokens may look at

`RingCache` keeps a window for each row; `SequenceCache` sees the whole sequence in one call, and passes keys
and values through a transformers `Cache` when there is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..kernels.stack import FEW, FusedStack, Past, try_fused, wanted
from ..kernels.weights import Prepared
from .state import State, keep_inactive, row_tensor


class Plan(Protocol):
    """What one forward over new tokens needs from the past."""

    positions: Tensor  # (rows or 1, T) int64, position of each new token in its row
    mask: Any  # (rows or 1, 1, T, S) bool, True = may look; None = plainly causal

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new keys and values (rows, kv_heads, T, head_dim); return all (rows, kv_heads, S, head_dim)."""
        ...


def window_mask(query_positions: Tensor, key_positions: Tensor, window: int | None) -> Tensor:
    """True where a query may look at a key: not in the future, not empty (-1), within the window.

    Args:
        query_positions: (rows, T); key_positions: (rows, S), -1 for an empty slot.
        window: how many positions a query sees, itself included; None for all.
    Returns:
        (rows, 1, T, S) bool
    """
    distance = query_positions[:, :, None] - key_positions[:, None, :]  # (rows, T, S)
    mask = (distance >= 0) & (key_positions[:, None, :] >= 0)
    if window is not None:
        mask &= distance < window
    return mask[:, None]


@dataclass
class RingCache(State):
    """Keys and values of the last positions of every row, in rings that are written in place.

    The ring holds ``window + chunk - 1`` positions, so that each of up to ``chunk`` new tokens still sees its
    full window (a ring of ``window`` would lose the oldest key of the first token to the last one: the trap
    of the original's Mimi after 10 s). Longer chunks are exact too: they see the ring and themselves, side by
    side, and leave their last positions in the ring.
    """

    keys: list[Tensor]  # per layer (rows, kv_heads, capacity, head_dim)
    values: list[Tensor]
    key_positions: Tensor = row_tensor(reset=-1)  # (rows, capacity) int64, -1 = empty
    offset: Tensor = row_tensor()  # (rows,) int64, tokens seen so far
    window: int = 0
    chunk: int = 1
    fused: Prepared | None = (
        None  # gives a `FusedStack`, the layers over this ring, where the library has them
    )

    @classmethod
    def create(
        cls,
        rows: int,
        layers: int,
        kv_heads: int,
        head_dim: int,
        window: int,
        chunk: int = 1,
        capacity: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> RingCache:
        """An empty ring. ``capacity`` overrides ``window + chunk - 1`` (to reproduce a reference's shorter ring)."""
        capacity = window + chunk - 1 if capacity is None else capacity
        shape = (rows, kv_heads, capacity, head_dim)
        return cls(
            keys=[torch.zeros(shape, device=device, dtype=dtype) for _ in range(layers)],
            values=[torch.zeros(shape, device=device, dtype=dtype) for _ in range(layers)],
            key_positions=torch.full((rows, capacity), -1, device=device, dtype=torch.long),
            offset=torch.zeros(rows, device=device, dtype=torch.long),
            window=window,
            chunk=chunk,
        )

    @property
    def capacity(self) -> int:
        return self.key_positions.shape[1]

    def begin(self, length: int, active: Tensor | None = None) -> RingPlan | FusedPlan:
        """What one forward over ``length`` new tokens of every active row needs; see `RingPlan` and `FusedPlan`."""
        few = length <= self.chunk and length * self.rows <= FEW
        if self.fused is not None and few and wanted():
            fused, past = self.fused.get(), self._past()
            if fused is not None and past is not None:
                return FusedPlan(self, fused, past, length, active)
        return self.plan(length, active)

    def _past(self) -> Past | None:
        """The library's view of this ring, made once."""
        if not hasattr(self, "_view"):
            guarded = self.capacity < self.window + self.chunk - 1  # the original's ring: left to torch
            ring = (self.keys, self.values, self.key_positions, self.offset, self.window)
            self._view = None if guarded else try_fused(Past, *ring)
        return self._view

    def plan(self, length: int, active: Tensor | None = None) -> RingPlan:
        """Make room for ``length`` new tokens in every active row, and say what they may look at.

        Rows that are not active are computed with the others but keep their position: what is written for
        them lands in the slot that their next token overwrites.
        """
        steps = torch.arange(length, device=self.offset.device)
        positions = self.offset[:, None] + steps  # (rows, T)
        slots = positions % self.capacity
        beside = length > self.chunk
        slots = slots[:, -self.capacity :]
        updated = self.key_positions.scatter(1, slots, positions[:, -self.capacity :])
        seen = torch.cat([self.key_positions, positions], dim=1) if beside else updated
        mask = window_mask(positions, seen, self.window)
        self.key_positions.copy_(keep_inactive(updated, self.key_positions, active))
        self.offset.add_(length if active is None else active.long() * length)
        # A write into slots that the row's next token still reads must leave out the rows that are not active.
        guarded = active if self.capacity < self.window + length - 1 else None
        return RingPlan(self, positions, mask, slots, beside, guarded)


@dataclass
class RingPlan:
    """One forward's view of a ring."""

    ring: RingCache
    positions: Tensor
    mask: Tensor
    slots: Tensor  # (rows, T), or the last `capacity` of them
    beside: bool
    guarded: Tensor | None  # rows that may be written, None = all

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        ring_keys, ring_values = self.ring.keys[layer], self.ring.values[layer]
        seen = ring_keys, ring_values
        if self.beside:
            seen = torch.cat([ring_keys, keys], dim=2), torch.cat([ring_values, values], dim=2)
        rows = torch.arange(ring_keys.shape[0], device=ring_keys.device)[:, None]  # (rows, 1)
        for buffer, new in ((ring_keys, keys), (ring_values, values)):
            new = new[:, :, -self.slots.shape[1] :].transpose(1, 2)  # (rows, T, kv_heads, head_dim)
            if self.guarded is not None:
                new = keep_inactive(new, buffer[rows, :, self.slots], self.guarded)
            buffer[rows, :, self.slots] = new
        return seen


@dataclass
class FusedPlan:
    """One forward of all layers by the library, which makes room in the ring itself."""

    ring: RingCache
    fused: FusedStack
    past: Past
    length: int
    active: Tensor | None

    def run(self, x: Tensor) -> Tensor:
        """Embeddings (rows, length, dim) -> the last layer's output."""
        return self.fused.run(x, self.past, self.active)

    def unfused(self) -> RingPlan:
        """The same forward layer by layer, for what the library does not give."""
        return self.ring.plan(self.length, self.active)


class SequenceCache:
    """A whole sequence in one call, or in calls that go through a transformers ``Cache``.

    Args:
        positions: (rows or 1, T) positions of the new tokens, for the rotary embedding.
        mask: the attention mask over past and new tokens, or None for plainly causal.
        past: a transformers ``Cache``, or None to keep nothing.
    """

    def __init__(self, positions: Tensor, mask: Any = None, past: Any = None):
        self.positions = positions
        self.mask = mask
        self.past = past

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        if self.past is None:
            return keys, values
        return self.past.update(keys, values, layer)
