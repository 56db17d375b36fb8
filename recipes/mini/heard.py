"""Classes of the words that users say, for the head that tells them while the model is trained.

Class 0 is no word, 1 a word that is not in the list, then the list. A word stands on the frame that it ends in.
Words that sound the same are one class ("two", "to"): which it was, what is said around it tells to who answers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from aizuchi.data.frames import PAD, frame_at
from aizuchi.files import write_text

OTHER = 1
_FIRST = 2  # class of the first word of the list
BEFORE = 6  # frames before a word's end in which he who says it is not through
DELAY = 3  # frames after it that it is written, as `heard_text.delay` of configs/moshi.yaml
HOMOPHONES = Path(__file__).parent / "homophones.txt"
UNKNOWN = -1  # text that is no target, and is not seen either


def plain(word: str) -> str:
    """A word as it sounds: small letters, no marks."""
    return re.sub(r"[^a-z']", "", word.lower().replace("-", ""))


def frequent_words(texts: Iterable[str], least: int = 5) -> list[str]:
    """Words that come at least so often, by their number."""
    counts = Counter(plain(word) for text in texts for word in text.split())
    return [word for word, count in counts.most_common() if word and count >= least]


def read_classes(path: Path) -> list[list[str]]:
    """Words of each line that has any."""
    return [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def write_classes(path: Path, classes: Iterable[Sequence[str]]) -> None:
    """A class a line, whole or not at all."""
    write_text(path, "\n".join(map(" ".join, classes)) + "\n")


def merged(words: Sequence[str], alike: Iterable[Sequence[str]] | None = None) -> list[list[str]]:
    """Words as classes: those that sound the same stand together, where the first of them stood.

    Args:
        alike: words that do; None = those of homophones.txt.
    """
    groups = list(read_classes(HOMOPHONES) if alike is None else alike)
    group_of = {word: i for i, group in enumerate(groups) for word in group}
    classes: dict[int | str, list[str]] = {}
    for word in words:
        at = group_of.get(word)
        classes.setdefault(word if at is None else at, [word] if at is None else list(groups[at]))
    return list(classes.values())


def continued(classes: Sequence[Sequence[str]], words: Iterable[str]) -> list[list[str]]:
    """A list of classes with words behind it that it lacks: what knows the classes by their numbers stays true."""
    known = {word for alike in classes for word in alike}
    return [
        *map(list, classes),
        *merged([word for word in dict.fromkeys(words) if word and word not in known]),
    ]


class HeardWords:
    """The list of words, read from a file that holds a class a line: a word, or several that sound the same, the
    first of which names it.
    """

    def __init__(self, path: Path):
        self.classes = read_classes(path)
        self.words = [words[0] for words in self.classes]
        self._classes = {word: i for i, words in enumerate(self.classes, _FIRST) for word in words}

    def __len__(self) -> int:
        """How many classes there are."""
        return _FIRST + len(self.words)

    def class_of(self, word: str) -> int:
        """The class of a word as it is written."""
        return self._classes.get(plain(word), OTHER)

    def on_frames(self, spoken: Sequence[tuple[str, float, float]] | None, frames: int) -> np.ndarray:
        """Words with their times in seconds -> (frames,) int32 classes; None (nobody knows) -> -1 everywhere."""
        if spoken is None:
            return np.full(frames, -1, np.int32)
        classes = np.zeros(frames, np.int32)
        for word, _, end in spoken:
            at = frame_at(end)
            if plain(word) and at < frames:
                classes[at] = self.class_of(word)
        return classes


def listening_text(heard: np.ndarray) -> np.ndarray:
    """(F,) the text of a model to which a user only speaks, from the user's words (F,).

    Padding while a word is said and right behind it; unknown elsewhere: that nothing is said to the user there would
    teach to say nothing to anybody.
    """
    text = np.full(len(heard), UNKNOWN, np.int32)
    for end in np.flatnonzero(heard > 0):
        text[max(0, end - BEFORE) : end + DELAY + 1] = PAD
    return text
