"""How a codec uses its codebooks: entries used, entropy and perplexity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aizuchi.errors import AizuchiError


@dataclass(frozen=True)
class Usage:
    """One codebook over a set of codes.

    Attributes:
        used: share of its entries that occur.
        entropy: bits a code.
        perplexity: 2 to the entropy: how many equally likely entries would carry as much.
        codes: how many codes were counted; `used` can't exceed codes / size.
    """

    used: float
    entropy: float
    perplexity: float
    codes: int


def codebook_usage(codes: list[np.ndarray], size: int) -> list[Usage]:
    """Usage of each codebook.

    Args:
        codes: of each recording, (codebooks, frames), values 0 to size - 1.
        size: entries of a codebook.

    Raises:
        AizuchiError: there are no codes, their numbers of codebooks differ, or a code is out of range.
    """
    if not codes or not sum(c.size for c in codes):
        raise AizuchiError("no codes to count")
    if len({c.shape[0] for c in codes}) != 1:
        raise AizuchiError("the recordings' numbers of codebooks differ")
    joined = np.concatenate(codes, axis=1)  # (codebooks, frames)
    if joined.min() < 0 or joined.max() >= size:
        raise AizuchiError(f"a code lies outside 0..{size - 1}: {joined.min()} to {joined.max()}")
    found = []
    for row in joined:
        share = np.bincount(row, minlength=size) / len(row)
        some = share[share > 0]
        entropy = float(-(some * np.log2(some)).sum())
        found.append(Usage(float((share > 0).mean()), entropy, 2.0**entropy, len(row)))
    return found
