"""What a run trains on, as it is written down: `path[:weight],path2[:weight2]`.

Apart from what lies there: whoever reads token shards needs no library for sound.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from aizuchi.errors import AizuchiError


@dataclass(frozen=True, slots=True)
class Source:
    """One part of `train_data`: where it lies and how often it is drawn, relative to the others."""

    path: Path
    weight: float = 1.0


def parse_sources(text: str) -> list[Source]:
    """Read `path[:weight],path2[:weight2]`.

    Raises:
        AizuchiError: nothing in it, a weight that is not a positive number, or a path that does not exist.
    """
    sources = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        path, colon, weight = part.rpartition(":")
        if not colon or os.path.exists(part):  # no weight, or a path that has a colon in it
            path, weight = part, "1"
        try:
            value = float(weight)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            raise AizuchiError(f"train data {part!r}: the weight after the colon must be a number above 0")
        if not os.path.exists(path):
            raise AizuchiError(f"train data {path!r} does not exist")
        sources.append(Source(Path(path), value))
    if not sources:
        raise AizuchiError("train data is empty: give path[:weight],path2[:weight2],...")
    return sources
