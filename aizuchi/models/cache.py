"""Keys and values of the past: the per-row ring, and its twin for whole sequences and transformers' caches.

A transformer asks one small interface, once a forward and once a layer:

    plan = cache.begin(length)            # positions of the new tokens and the attention mask
    keys, values = plan.append(layer, k, v)   # everything the new tokens may look at

`RingCache` keeps a window for each row; `SequenceCache` sees the whole sequence in one call, and passes keys
and values through a transformers `Cache` when there is one.

A ring may keep sinks: the first positions of a row, which stay visible when the window has passed them (StreamingLLM,
arXiv 2309.17453). As there, positions are those within what is seen: sinks stand right before the window, so that no
distance is ever larger than the ones the window has anyway. A query at position q sees sink s at the distance
min(q - s, sinks + window - 1 - s): its true one until the window has left the sinks behind. With their original
positions instead, distances would grow without bound, to ones that no training has shown to the model.

A ring may hold its keys and values in 8 bits, with a scale for each head and position. A number is rounded once, when
it comes in; what any query reads is the rounded one, the newest position's too, however the stream is cut.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import AizuchiError
from ..kernels.stack import FEW, FusedStack, Past, try_fused, wanted
from ..kernels.weights import Prepared
from .layers import rotary_angles, rotate
from .quantized import to_int8
from .state import State, keep_inactive, row_tensor

KV_KINDS = ("int8",)


def check_kv(kind: str | None) -> str | None:
    """``kind``, or an AizuchiError that names the known ones."""
    if kind is not None and kind not in KV_KINDS:
        raise AizuchiError(f"`kv` must be None or {', '.join(map(repr, KV_KINDS))}, not {kind!r}")
    return kind


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

    The ring holds ``window + chunk - 1`` positions behind the ``sinks`` first ones, so that each of up to
    ``chunk`` new tokens still sees its full window (a ring of ``window`` would lose the oldest key of the first
    token to the last one: the trap of the original's Mimi after 10 s). Longer chunks are exact too: they see the
    ring and themselves, side by side, and leave their last positions in the ring.
    """

    keys: list[Tensor]  # per layer (rows, kv_heads, capacity, head_dim)
    values: list[Tensor]
    key_positions: Tensor = row_tensor(reset=-1)  # (rows, capacity) int64, -1 = empty
    offset: Tensor = row_tensor()  # (rows,) int64, tokens seen so far
    # (rows, kv_heads, capacity) bfloat16, one a layer, where keys and values are int8; none where they are not
    key_scales: list[Tensor] = field(default_factory=list)
    value_scales: list[Tensor] = field(default_factory=list)
    dtype: torch.dtype = torch.float32  # in which keys and values are read
    window: int = 0
    chunk: int = 1
    sinks: int = 0  # first positions that stay, in the first slots
    rope_theta: float = 0.0  # longest period of the rotary embedding, which sinks are turned by
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
        sinks: int = 0,
        rope_theta: float = 0.0,
        kv: str | None = None,
    ) -> RingCache:
        """An empty ring.

        Args:
            capacity: overrides ``sinks + window + chunk - 1`` (to reproduce a reference's shorter ring).
            sinks: first positions of a row that stay visible. rope_theta: what keys are turned by; needed for them.
            kv: "int8" to hold keys and values in 8 bits, else they are held in ``dtype``.
        """
        if sinks < 0:
            raise ValueError(f"`sinks` must not be negative, got {sinks}.")
        capacity = sinks + window + chunk - 1 if capacity is None else capacity
        shape = (rows, kv_heads, capacity, head_dim)
        dtype = dtype or torch.get_default_dtype()

        def make(shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
            return [torch.zeros(shape, device=device, dtype=dtype) for _ in range(layers)]

        narrow = check_kv(kv) is not None
        return cls(
            keys=make(shape, torch.int8 if narrow else dtype),
            values=make(shape, torch.int8 if narrow else dtype),
            key_positions=torch.full((rows, capacity), -1, device=device, dtype=torch.long),
            offset=torch.zeros(rows, device=device, dtype=torch.long),
            key_scales=make(shape[:3], torch.bfloat16) if narrow else [],
            value_scales=make(shape[:3], torch.bfloat16) if narrow else [],
            dtype=dtype,
            window=window,
            chunk=chunk,
            sinks=sinks,
            rope_theta=rope_theta,
        )

    @property
    def capacity(self) -> int:
        return self.key_positions.shape[1]

    @property
    def kv_bytes(self) -> int:
        """Bytes of all keys and values, and of their scales."""
        tensors = (*self.keys, *self.values, *self.key_scales, *self.value_scales)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    @property
    def turning(self) -> int:
        """Slots that are used in turn: all but those of the sinks."""
        return self.capacity - self.sinks

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
            guarded = self.turning < self.window + self.chunk - 1  # the original's ring: left to torch
            ring = (self.keys, self.values, self.key_positions, self.offset, self.window, self.sinks)
            self._view = None if guarded else try_fused(Past, *ring)
        return self._view

    def plan(self, length: int, active: Tensor | None = None) -> RingPlan:
        """Make room for ``length`` new tokens in every active row, and say what they may look at.

        Rows that are not active are computed with the others but keep their position: what is written for
        them lands in the slot that their next token overwrites.
        """
        steps = torch.arange(length, device=self.offset.device)
        positions = self.offset[:, None] + steps  # (rows, T)
        beside = length > self.chunk
        slots = self._slots(positions)[:, -self.turning :]
        updated = self.key_positions.scatter(1, slots, positions[:, -self.turning :])
        first = None
        if self.sinks and beside:  # the last tokens are not all that stays
            places, new = positions[:, : self.sinks] % self.sinks, positions[:, : self.sinks]
            first = SinkWrite(places, new < self.sinks)
            updated.scatter_(1, places, torch.where(first.allowed, new, updated.gather(1, places)))
        # A write into slots that the row's next token still reads must leave out the rows that are not active.
        guarded = active if self.turning < self.window + length - 1 else None
        plan = RingPlan(self, positions, slots, beside, guarded, first)
        seen = torch.cat([self.key_positions, positions], dim=1) if beside else updated
        plan.mask = plan.sink_mask(seen, updated) if self.sinks else window_mask(positions, seen, self.window)
        self.key_positions.copy_(keep_inactive(updated, self.key_positions, active))
        self.offset.add_(length if active is None else active.long() * length)
        return plan

    def _slots(self, positions: Tensor) -> Tensor:
        """Where positions are kept."""
        if not self.sinks:
            return positions % self.capacity
        return torch.where(
            positions < self.sinks, positions, self.sinks + (positions - self.sinks) % self.turning
        )

    def held(self, layer: int, keys: Tensor, values: Tensor) -> Held:
        """New keys and values (rows, kv_heads, T, head_dim) as this ring holds them."""
        if not self.key_scales:
            return [(self.keys[layer], keys)], [(self.values[layer], values)]
        pairs = []
        for new, buffer, scales in (
            (keys, self.keys[layer], self.key_scales[layer]),
            (values, self.values[layer], self.value_scales[layer]),
        ):
            levels, scale = to_int8(new)  # scales are bfloat16 numbers
            pairs.append([(buffer, levels), (scales, scale.to(scales.dtype))])
        return pairs[0], pairs[1]

    def widen(self, parts: list[Tensor]) -> Tensor:
        """What is held, as numbers: a tensor itself, or levels and scales."""
        if len(parts) == 1:
            return parts[0]
        levels, scale = parts
        return levels.to(self.dtype) * scale.to(self.dtype)[..., None]


# Keys, and values: buffers of a layer, each with what is new for it.
Held = tuple[list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]]


@dataclass
class SinkWrite:
    """Sinks among the first tokens of a long chunk: slots (rows, n), and which of them are (rows, n)."""

    slots: Tensor
    allowed: Tensor


@dataclass
class RingPlan:
    """One forward's view of a ring."""

    ring: RingCache
    positions: Tensor
    slots: Tensor  # (rows, T), or the last `turning` of them
    beside: bool
    guarded: Tensor | None  # rows that may be written, None = all
    first: SinkWrite | None = None
    mask: Any = None
    turns: tuple[Tensor, Tensor] | None = (
        None  # by which each query (rows, 1, T, head_dim / 2) finds sinks turned
    )

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        ring = self.ring
        both = ring.held(layer, keys, values)
        seen = []
        for held in both:
            if self.first is not None:
                for buffer, new in held:
                    _write(buffer, self.first.slots, new[:, :, : ring.sinks], self.first.allowed)
            if self.beside:
                seen.append(ring.widen([torch.cat([buffer, new], dim=2) for buffer, new in held]))
            for buffer, new in held:
                _write(buffer, self.slots, new[:, :, -self.slots.shape[1] :], self.guarded)
            if not self.beside:
                seen.append(ring.widen([buffer for buffer, _ in held]))
        return self._with_sinks(*seen) if ring.sinks else (seen[0], seen[1])

    def sink_mask(self, seen: Tensor, updated: Tensor) -> Tensor:
        """The mask where there are sinks, for keys in the order of `_with_sinks`; makes ``turns`` too.

        Args:
            seen: (rows, S) positions of all keys. updated: (rows, capacity) of the slots after this forward.
        """
        ring, length = self.ring, self.positions.shape[1]
        sinks = updated[:, None, : ring.sinks]  # (rows, 1, sinks)
        own = torch.eye(length, dtype=torch.bool, device=seen.device)[:, :, None]  # each query has its own
        visible = (sinks >= 0) & (sinks <= self.positions[:, :, None])  # (rows, T, sinks)
        rest = seen[:, ring.sinks :]
        rest = torch.where(rest < ring.sinks, -1, rest)  # sinks beside the ring are seen as sinks
        excess = (self.positions - (ring.sinks + ring.window - 1)).clamp(min=0)
        self.turns = rotary_angles(excess, ring.keys[0].shape[3], ring.rope_theta)
        return torch.cat(
            [(visible[:, :, None] & own).flatten(2)[:, None], window_mask(self.positions, rest, ring.window)],
            dim=3,
        )

    def _with_sinks(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values with the sinks in front once for each query, their keys turned to where it sees them."""
        count, length = self.ring.sinks, self.positions.shape[1]
        assert self.turns is not None
        cos, sin = (turn[:, :, :, None] for turn in self.turns)  # (rows, 1, T, 1, head_dim / 2)
        turned = rotate(keys[:, :, None, :count], cos, sin).flatten(
            2, 3
        )  # (rows, kv_heads, T * sinks, head_dim)
        if length > 1:
            values = torch.cat([values[:, :, :count].repeat(1, 1, length, 1), values[:, :, count:]], dim=2)
        return torch.cat([turned, keys[:, :, count:]], dim=2), values


def _write(buffer: Tensor, slots: Tensor, new: Tensor, allowed: Tensor | None) -> None:
    """Put ``new`` (rows, kv_heads, n, ...) into slots (rows, n), where ``allowed`` (rows,) or (rows, n) says so."""
    rows = torch.arange(buffer.shape[0], device=buffer.device)[:, None]  # (rows, 1)
    new = new.transpose(1, 2)  # (rows, n, kv_heads, ...)
    if allowed is not None:
        old = buffer[rows, :, slots]
        allowed = allowed.view(*allowed.shape, *[1] * (new.dim() - allowed.dim()))
        new = torch.where(allowed, new, old)
    buffer[rows, :, slots] = new


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
