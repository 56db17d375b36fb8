"""In which order a run sees its data: a function of the seed and a counter, so that resuming is exact.

Nothing is drawn from a shared generator: what step n sees is the same in an unbroken run, in a resumed one, and
on any number of processes.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    return keyed_generator(seed, "order", epoch).permutation(size)


def item_at(position: int, size: int, seed: int) -> int:
    """Which of ``size`` items comes at a position: every epoch is a shuffle of its own of all of them."""
    epoch, place = divmod(position, size)
    return int(_permutation(seed, epoch, size)[place])


def keyed_generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """A generator of its own for one purpose at one place."""
    words = [seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF, *purpose.encode(), *counters]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))
