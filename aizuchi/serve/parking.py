"""Dropped conversations, kept for a while so that their callers can come back."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from .seats import Conversation


@dataclass
class Parked:
    """A conversation, its row's snapshot, and when it was dropped (monotonic seconds)."""

    conversation: Conversation
    tensors: dict[str, Tensor]
    since: float

    @property
    def nbytes(self) -> int:
        """Bytes of the snapshot."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())


class Parking:
    """At most ``places`` parked conversations of ``size`` bytes in all, each for ``seconds``."""

    def __init__(self, places: int, size: int, seconds: float):
        self.places, self.size, self.seconds = places, size, seconds
        self._parked: OrderedDict[str, Parked] = OrderedDict()

    def __len__(self) -> int:
        return len(self._parked)

    def put(self, token: str, parked: Parked) -> list[Parked]:
        """Park; returns those that had to make room."""
        self._parked[token] = parked
        gone = []
        while len(self._parked) > self.places or sum(p.nbytes for p in self._parked.values()) > self.size:
            gone.append(self._parked.popitem(last=False)[1])
        return gone

    def get(self, token: str) -> Parked | None:
        """Look without taking."""
        return self._parked.get(token)

    def take(self, token: str) -> Parked:
        """Take a conversation out."""
        return self._parked.pop(token)

    def expire(self, now: float) -> list[Parked]:
        """Give up what was parked too long ago."""
        old = [token for token, parked in self._parked.items() if now - parked.since > self.seconds]
        return [self._parked.pop(token) for token in old]

    def clear(self) -> list[Parked]:
        """Give up all."""
        gone = list(self._parked.values())
        self._parked.clear()
        return gone
