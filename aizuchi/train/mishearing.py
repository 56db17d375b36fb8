"""What a listener makes of words: an error model for the user's words in a text (`heard_text.mishearing`).

Words that are left out or swapped at random are not what a model meets: it hears "two" for "to", "think" and "favorite"
for "figure", and the word before twice. So a real listener's writing of known speech is kept, word for word, and what
a text says is replaced by what became of it there.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from aizuchi.errors import AizuchiError
from aizuchi.files import write_text

VERSION = 1


class Mishearing:
    """Draws what a listener writes for a word.

    Args:
        heard: for each class of words, what was written for it: classes in their order (none, one, or more), with how
            often. classes: how many classes there are, 0 being none.
    """

    def __init__(self, heard: dict[int, list[tuple[tuple[int, ...], int]]], classes: int):
        self.heard, self.classes = heard, classes
        self._right: dict[int, tuple[list[tuple[int, ...]], np.ndarray]] = {}
        self._wrong: dict[int, tuple[list[tuple[int, ...]], np.ndarray]] = {}
        self.rates: dict[int, float] = {}  # share of a word's times that it was not written
        missed = total = 0
        for word, written in heard.items():
            wrong = sum(count for found, count in written if word not in found)
            every = sum(count for _, count in written)
            missed, total = missed + wrong, total + every
            # a word that was met a few times is neither always nor never heard right
            self.rates[word] = (wrong + 1) / (every + 4)
            for table, rows in (
                (self._right, [row for row in written if word in row[0]]),
                (self._wrong, [row for row in written if word not in row[0]]),
            ):
                if rows:
                    counts = np.array([count for _, count in rows], np.float64)
                    table[word] = [found for found, _ in rows], counts.cumsum() / counts.sum()
        self.rate = missed / max(1, total)

    def draw(self, word: int, scale: float, rng: np.random.Generator) -> tuple[int, ...]:
        """What is written for a word: classes in their order, or nothing.

        Args:
            scale: 1 for the listener as it was, more for one who hears worse: a word is right with the probability
                that it had, to this power.
        """
        wrong = rng.random() > (1 - self.rates.get(word, self.rate)) ** scale
        table = self._wrong if wrong else self._right
        if word not in table:
            return () if wrong else (word,)
        found, upto = table[word]
        return found[min(int(np.searchsorted(upto, rng.random())), len(found) - 1)]

    def save(self, path: Path) -> None:
        """Write a JSON file."""
        rows = {str(word): [[list(found), n] for found, n in rows] for word, rows in self.heard.items()}
        write_text(path, json.dumps({"version": VERSION, "classes": self.classes, "heard": rows}))

    @classmethod
    def load(cls, path: str | Path, classes: int) -> Mishearing:
        """Read a JSON file.

        Raises:
            AizuchiError: it is not there, not such a file, or about other classes.
        """
        try:
            read: Any = json.loads(Path(path).read_text(encoding="utf-8"))
            if read["version"] != VERSION:
                raise AizuchiError(f"{path} has version {read['version']}, this program knows {VERSION}")
            heard = {
                int(word): [(tuple(map(int, found)), int(n)) for found, n in rows]
                for word, rows in read["heard"].items()
            }
            known = int(read["classes"])
        except OSError as error:
            raise AizuchiError(f"heard_text.mishearing: {path} can't be read ({error.strerror})") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise AizuchiError(f"{path} is not a file of what a listener wrote ({error!r})") from error
        used = {c for word, rows in heard.items() for found, _ in rows for c in (word, *found)}
        if known != classes or not all(0 < c < classes for c in used):
            raise AizuchiError(f"{path} is about {known} classes of words, the data has {classes}")
        return cls(heard, classes)


def aligned(
    said: Iterable[tuple[int, int]], written: Iterable[tuple[int, int]], reach: int = 6
) -> list[tuple[int, tuple[int, ...]]]:
    """Each word that was said, with what was written for it: every class that was written goes to the word whose
    place is nearest, one that is the same word before others that are as near or one frame nearer.

    Args:
        said, written: (class, frame), in their order. reach: frames; what is farther from all words belongs to none.
    """
    said = list(said)
    places = np.array([frame for _, frame in said])
    found: dict[int, list[int]] = defaultdict(list)
    for word, frame in written:
        far = np.abs(places - frame) + np.array([0.0 if word == other else 1.5 for other, _ in said])
        best = int(far.argmin()) if len(far) else -1
        if best >= 0 and abs(places[best] - frame) <= reach:
            found[best].append(word)
    return [(word, tuple(found[i])) for i, (word, _) in enumerate(said)]
