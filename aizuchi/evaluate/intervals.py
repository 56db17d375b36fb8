"""Arithmetic on time intervals: lists of (start, end) in seconds, sorted and apart unless said otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from aizuchi.errors import AizuchiError

Interval = tuple[float, float]


def merge(intervals: Iterable[Sequence[float]], gap: float = 0.0) -> list[Interval]:
    """Sort intervals and join those that overlap, touch, or lie at most `gap` seconds apart.

    Raises:
        AizuchiError: an interval ends before it starts.
    """
    merged: list[Interval] = []
    for start, end in sorted((float(i[0]), float(i[1])) for i in intervals):
        if end < start:
            raise AizuchiError(f"an interval ends before it starts: {start} to {end}")
        if merged and start - merged[-1][1] <= gap:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def intersect(first: Sequence[Interval], second: Sequence[Interval]) -> list[Interval]:
    """The parts that lie in both lists; parts of no length are left out."""
    out: list[Interval] = []
    i = j = 0
    while i < len(first) and j < len(second):
        start, end = max(first[i][0], second[j][0]), min(first[i][1], second[j][1])
        if end > start:
            out.append((start, end))
        if first[i][1] < second[j][1]:
            i += 1
        else:
            j += 1
    return out


def complement(intervals: Sequence[Interval], start: float, end: float) -> list[Interval]:
    """What of (start, end) no interval covers."""
    out: list[Interval] = []
    at = start
    for left, right in intervals:
        if left > at:
            out.append((at, min(left, end)))
        at = max(at, right)
        if at >= end:
            break
    if at < end:
        out.append((at, end))
    return [(a, b) for a, b in out if b > a]


def total(intervals: Iterable[Interval]) -> float:
    """Seconds covered by intervals that do not overlap."""
    return sum(end - start for start, end in intervals)


def clip(intervals: Iterable[Interval], start: float, end: float) -> list[Interval]:
    """The parts of intervals that lie within (start, end)."""
    return [(max(a, start), min(b, end)) for a, b in intervals if min(b, end) > max(a, start)]
