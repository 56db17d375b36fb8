"""Time for a run: parts work through their material in pieces until their share is used up, and say what they left."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import TypeVar

from tqdm import tqdm

from aizuchi.evaluate.results import Section

T = TypeVar("T")


class Budget:
    """So many minutes, counted from now.

    Args:
        minutes: of the whole run; None has no end.
        clock: seconds.
    """

    def __init__(self, minutes: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._begin = clock, clock()
        self._seconds = None if minutes is None else 60 * minutes

    @property
    def spent(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._begin

    def work(
        self,
        items: Sequence[T],
        do: Callable[[Sequence[T]], object],
        until: float,
        section: Section,
        label: str,
        size: int = 8,
        progress: bool = True,
    ) -> list[T]:
        """Do items in pieces, at least one, as long as another piece is likely to end in time.

        Args:
            items: in the order of their importance; what is left out at the end is counted in the section.
            do: works on a piece; what it has done it must not do again when asked.
            until: share of the budget at which this part has to end, 0 to 1.
            section: is told what was left out. label: what the items are called. size: of a piece.
            progress: show a bar.

        Returns:
            The items that were done.
        """
        done: list[T] = []
        slowest = 0.0
        with tqdm(total=len(items), desc=label, unit="", disable=None if progress else True) as bar:
            while len(done) < len(items):
                if done and self._seconds is not None and self.spent + slowest > until * self._seconds:
                    break
                piece = items[len(done) : len(done) + size]
                began = self._clock()
                do(piece)
                slowest = max(slowest, self._clock() - began)
                done += piece
                bar.update(len(piece))
        left = len(items) - len(done)
        if left:
            reason = f"no time was left for {'it' if left == 1 else 'them'}: --minutes gives more"
            section.skipped.append(
                {"what": f"{label}: {left} of {len(items)}", "reason": reason, "count": left}
            )
        return done


def alternate(groups: Sequence[Sequence[T]]) -> list[T]:
    """One of each group, then the next of each: any beginning of the list is balanced."""
    missing = object()
    rows = zip_longest(*groups, fillvalue=missing)
    return [item for row in rows for item in row if item is not missing]  # type: ignore[misc]
