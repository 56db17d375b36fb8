"""Recordings to measure with, and what is said in them where that is known."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from aizuchi.errors import AizuchiError

SUFFIXES = frozenset(".wav .flac .ogg .opus .mp3 .aiff .aif .au".split())


@dataclass(frozen=True)
class Clip:
    """A sound file; `text` is what is said in it, None if unknown."""

    path: Path
    text: str | None = None

    @property
    def name(self) -> str:
        return self.path.stem


def find_clips(places: list[str] | list[Path], limit: int | None = None) -> list[Clip]:
    """Sound files, and those of folders (not of their sub-folders), in order of their names.

    What is said in a file is read from a text file of the same name beside it (`a.wav`, `a.txt`), or from
    the folder's `metadata.csv` in LJSpeech's form: id|text or id|text|normalised text.

    Args:
        places: files and folders.
        limit: take at most so many, evenly spread.

    Raises:
        AizuchiError: a place does not exist, or there is no sound file.
    """
    found: list[Clip] = []
    for place in map(Path, places):
        if place.is_file():
            found.append(Clip(place, _text(place, _metadata(place.parent))))
        elif place.is_dir():
            known = _metadata(place)
            files = sorted(path for path in place.iterdir() if path.suffix.lower() in SUFFIXES)
            found += [Clip(path, _text(path, known)) for path in files]
        else:
            raise AizuchiError(f"{place} does not exist")
    if not found:
        raise AizuchiError(f"no sound file in {', '.join(map(str, places))}")
    if limit is not None:
        if limit < 1:
            raise AizuchiError(f"limit is {limit}: it must be at least 1")
        count = min(limit, len(found))
        found = [found[i * len(found) // count] for i in range(count)]
    return found


def _text(path: Path, known: dict[str, str]) -> str | None:
    beside = path.with_suffix(".txt")
    if beside.is_file():
        return beside.read_text(encoding="utf-8").strip() or None
    return known.get(path.stem)


def _metadata(folder: Path) -> dict[str, str]:
    path = folder / "metadata.csv"
    if not path.is_file():
        return {}
    with open(path, encoding="utf-8", newline="") as source:
        rows = list(csv.reader(source, delimiter="|", quoting=csv.QUOTE_NONE))
    return {row[0]: row[-1] or row[1] for row in rows if len(row) >= 2}
