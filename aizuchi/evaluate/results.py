"""Results: measures with their counts, items done once and kept, and what had to be left out.

Every evaluation gives a `Section`. Items are kept by the hash of everything their result depends on, so
that a run that was stopped goes on where it was, and one changed file is done anew alone.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from aizuchi.errors import AizuchiError, MissingDependencyError
from aizuchi.files import write_text

SECTION_FORMAT = 1
T = TypeVar("T")


@dataclass(frozen=True)
class Measure:
    """One figure.

    Attributes:
        value: None where nothing could be measured.
        n: how many items it is over.
        unit: "s", "%", "1/min", "MOS", ... or "" for a plain number.
        better: "higher", "lower", or "" where neither is.
        low, high: of a 95 % interval, where there is one.
        note: what a reader has to know.
    """

    value: float | None
    n: int
    unit: str = ""
    better: str = ""
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclass
class Section:
    """One part of a report.

    Attributes:
        name: "turns", "codec", "speech", "dialogue" or "latency".
        about: what was measured on what: name -> text.
        tables: title -> row -> column -> measure.
        items: each item's own results.
        skipped: what was left out of single items or everywhere, with the reason and a count.
        broken: files that could not be used: path and reason.
    """

    name: str
    about: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, dict[str, dict[str, Measure]]] = field(default_factory=dict)
    items: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    broken: list[dict[str, str]] = field(default_factory=list)

    def skip(self, what: str, reason: str) -> None:
        """Count something left out; the same thing for the same reason is one row."""
        for row in self.skipped:
            if row["what"] == what and row["reason"] == reason:
                row["count"] += 1
                return
        self.skipped.append({"what": what, "reason": reason, "count": 1})

    def to_json(self) -> dict[str, Any]:
        return {"format": SECTION_FORMAT, **asdict(self)}


def section_from_json(data: Any, source: str = "the section") -> Section:
    """Read what `Section.to_json` gave.

    Raises:
        AizuchiError: it is not one, or of a newer format.
    """
    try:
        if data["format"] != SECTION_FORMAT:
            raise AizuchiError(f"{source} has format {data['format']}; this version reads {SECTION_FORMAT}")
        tables = {
            title: {
                row: {column: Measure(**cell) for column, cell in columns.items()}
                for row, columns in rows.items()
            }
            for title, rows in data["tables"].items()
        }
        return Section(data["name"], data["about"], tables, data["items"], data["skipped"], data["broken"])
    except (KeyError, TypeError, AttributeError) as error:
        raise AizuchiError(f"{source} is not a section of results: {type(error).__name__} {error}") from error


def proportion(flags: Sequence[bool], better: str = "higher", note: str = "") -> Measure:
    """A share in per cent, with Wilson's 95 % interval."""
    n = len(flags)
    if n == 0:
        return Measure(None, 0, "%", better, note=note)
    p, z = sum(map(bool, flags)) / n, 1.959964
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low = 0.0 if p == 0 else 100 * (middle - half)
    high = 100.0 if p == 1 else 100 * (middle + half)
    return Measure(100 * p, n, "%", better, low, high, note)


def average(
    values: Iterable[float | None], unit: str = "", better: str = "", median: bool = False, note: str = ""
) -> Measure:
    """The mean (or median) of what was measured, with a 95 % interval from a seeded bootstrap."""
    some = np.asarray([v for v in values if v is not None and math.isfinite(v)], dtype=np.float64)
    if some.size == 0:
        return Measure(None, 0, unit, better, note=note)
    statistic = np.median if median else np.mean
    value = float(statistic(some))
    if some.size < 3:
        return Measure(value, int(some.size), unit, better, note=note)
    draws = np.random.default_rng(0).integers(0, some.size, (1000, some.size))
    low, high = np.percentile(statistic(some[draws], axis=1), [2.5, 97.5])
    return Measure(value, int(some.size), unit, better, float(low), float(high), note)


class Cache:
    """Results of items by the hash of what they depend on: one small JSON file each.

    Args:
        folder: where they are kept; None keeps nothing.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self._folder = None if folder is None else Path(folder)

    def get(self, key: str) -> Any | None:
        if self._folder is None:
            return None
        try:
            return json.loads(self._path(key).read_text(encoding="utf-8"))["result"]
        except (OSError, ValueError, KeyError, TypeError):
            return None  # absent or damaged: done anew

    def put(self, key: str, result: Any) -> None:
        if self._folder is None:
            return
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"result": result}) + "\n")

    def _path(self, key: str) -> Path:
        assert self._folder is not None
        return self._folder / key[:2] / f"{key[2:]}.json"


def content_key(*parts: Any) -> str:
    """A hash of settings (JSON values), arrays, and files (a `Path`; an absent one counts too)."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            digest.update(b"file:")
            digest.update(hashlib.sha256(part.read_bytes()).digest() if part.is_file() else b"absent")
        elif isinstance(part, np.ndarray):
            digest.update(f"array:{part.dtype}{part.shape}:".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        else:
            digest.update(b"json:" + json.dumps(part, sort_keys=True, default=str).encode())
        digest.update(b"\0")
    return digest.hexdigest()


def run_items(
    items: Sequence[T],
    work: Callable[[T], dict[str, Any]],
    section: Section,
    *,
    name: Callable[[T], str],
    key: Callable[[T], str] | None = None,
    cache: Cache | None = None,
    label: str = "",
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Do each item once; what can't be used goes to `section.broken`, and the rest goes on.

    Args:
        items: in order.
        work: gives an item's result, as JSON values; raises AizuchiError or OSError for one that is broken.
        section: receives the broken ones.
        name: how an item is called.
        key: hash of what its result depends on; None does it always.
        cache: of results.
        label: of the progress bar.
        progress: show one.

    Returns:
        The results of those that worked, in order.

    Raises:
        MissingDependencyError: a package without which nothing works.
    """
    results = []
    bar = tqdm(items, desc=label or section.name, unit="", disable=None if progress else True)
    for item in bar:
        try:
            hashed = key(item) if key is not None and cache is not None else None
            result = cache.get(hashed) if cache is not None and hashed is not None else None
            if result is None:
                result = work(item)
                if cache is not None and hashed is not None:
                    cache.put(hashed, result)
            results.append(result)
        except MissingDependencyError:
            raise
        except (AizuchiError, OSError) as error:
            section.broken.append({"path": name(item), "reason": str(error)})
    return results
