"""Timed words, and what people do with them: plain text, JSON, and subtitles."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from aizuchi.errors import AizuchiError

LINE_CHARACTERS = 42  # what subtitle guides give as the longest comfortable line
CUE_LINES = 2
CUE_SECONDS = 6.0
PAUSE_SECONDS = 0.8  # a silence this long starts a new subtitle
SHORTEST_CUE_SECONDS = 0.5

_SENTENCE_ENDS = (".", "?", "!", "…", "。", "？", "！")
_CLOSERS = "\"'”’)]»"


@dataclass(frozen=True, slots=True)
class Word:
    """A word and when it is said.

    Attributes:
        text: the word with its punctuation; white space around it is dropped.
        start: seconds from the start of the audio.
        end: seconds, not before start.
    """

    text: str
    start: float
    end: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", " ".join(self.text.split()))
        if not self.text:
            raise AizuchiError("text of a word is empty")
        if not (math.isfinite(self.start) and math.isfinite(self.end) and 0 <= self.start <= self.end):
            raise AizuchiError(f"the word {self.text!r} has no valid times: {self.start} to {self.end}")


def to_text(words: Iterable[Word]) -> str:
    """The words as one paragraph, separated by single spaces."""
    return " ".join(word.text for word in words)


def to_json(words: Sequence[Word]) -> str:
    """The text and the words with their times in seconds (to the millisecond), as indented JSON."""
    rows = [{**asdict(word), "start": round(word.start, 3), "end": round(word.end, 3)} for word in words]
    return json.dumps({"text": to_text(words), "words": rows}, ensure_ascii=False, indent=2) + "\n"


def from_json(text: str) -> list[Word]:
    """Read what `to_json` wrote.

    Raises:
        AizuchiError: it is not JSON, or not a transcript.
    """
    try:
        return [
            Word(str(row["text"]), float(row["start"]), float(row["end"]))
            for row in json.loads(text)["words"]
        ]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise AizuchiError(f"not a transcript ({type(error).__name__}: {error})") from error


def to_srt(words: Sequence[Word]) -> str:
    """The words as SubRip subtitles.

    A subtitle stays for at least half a second where the next one leaves room, and never into the next.

    Raises:
        AizuchiError: the words are not in the order of their start times.
    """
    groups = group_words(words)
    cues = []
    for i, group in enumerate(groups):
        start = _milliseconds(group[0].start)
        end = max(_milliseconds(max(word.end for word in group)), start + round(SHORTEST_CUE_SECONDS * 1000))
        if i + 1 < len(groups):
            end = max(start, min(end, _milliseconds(groups[i + 1][0].start)))
        text = "\n".join(wrap_words([word.text for word in group]))
        cues.append(f"{i + 1}\n{_timestamp(start)} --> {_timestamp(end)}\n{text}\n")
    return "\n".join(cues)


def group_words(words: Sequence[Word]) -> list[list[Word]]:
    """Cut a transcript into subtitles, keeping every word once and in order.

    A new one starts after a pause, after the end of a sentence, and where the present one would last too
    long or need a third line.

    Raises:
        AizuchiError: the words are not in the order of their start times.
    """
    groups: list[list[Word]] = []
    for word in words:
        if groups and word.start < groups[-1][-1].start:
            last = groups[-1][-1]
            raise AizuchiError(
                "words are out of order: "
                f"{word.text!r} at {word.start} s comes after {last.text!r} at {last.start} s"
            )
        if groups and _fits(groups[-1], word):
            groups[-1].append(word)
        else:
            groups.append([word])
    return groups


def wrap_words(words: Sequence[str], width: int = LINE_CHARACTERS) -> list[str]:
    """Break words into as few lines as fit the width, of lengths as even as they can be.

    A word longer than the width gets a line of its own.
    """
    lines = _fill(words, width)
    if len(lines) < 2:
        return lines
    # The narrowest width that needs no more lines evens them out.
    for narrow in range(max(map(len, words)), width):
        even = _fill(words, narrow)
        if len(even) == len(lines):
            return even
    return lines


def _fits(group: list[Word], word: Word) -> bool:
    last = group[-1]
    if word.start - last.end >= PAUSE_SECONDS or last.text.rstrip(_CLOSERS).endswith(_SENTENCE_ENDS):
        return False
    if word.end - group[0].start > CUE_SECONDS:
        return False
    return len(_fill([w.text for w in group] + [word.text], LINE_CHARACTERS)) <= CUE_LINES


def _fill(words: Sequence[str], width: int) -> list[str]:
    """Greedy line filling, which uses the fewest lines."""
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += " " + word
        else:
            lines.append(word)
    return lines


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _timestamp(milliseconds: int) -> str:
    seconds, milliseconds = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02},{milliseconds:03}"
