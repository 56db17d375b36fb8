"""The JSON file beside a dialogue's audio: who says which word when, and conditions on the text.

    {"alignments": [["hello", [0.12, 0.48], "SPEAKER_MAIN"], ...], "text_conditions": {"style": "calm"}}

`text_conditions` and the speaker of a word (the main one by default) may be left out. This is the format of
the published fine-tuning kit.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aizuchi.data.frames import FRAME_RATE, MAIN_SPEAKER, SpokenWord
from aizuchi.errors import AizuchiError
from aizuchi.files import write_text
from aizuchi.transcript import Word

# Words of one speaker may overlap by a frame: recognisers round, and frames can't tell.
OVERLAP_SECONDS = 1 / FRAME_RATE
END_SECONDS = 0.1  # how far times may lie beyond the audio before they count as wrong

TextConditions = dict[str, str | None]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in a file.

    Attributes:
        where: `file` or `file:line`.
        message: what is wrong and what to do.
        fatal: False if training can still use the file.
    """

    where: str
    message: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


class DataError(AizuchiError):
    """Training data is wrong. `problems` lists everything that was found, the message the first few."""

    def __init__(self, problems: list[Problem], shown: int = 5):
        self.problems, self._shown = problems, shown
        lines = [str(problem) for problem in problems[:shown]]
        if len(problems) > shown:
            lines.append(f"... and {len(problems) - shown} more (aizuchi data check lists them all)")
        super().__init__("; ".join(lines))

    def __reduce__(self) -> tuple:  # it crosses from worker processes
        return type(self), (self.problems, self._shown)


@dataclass(frozen=True)
class Alignment:
    """What the JSON file says.

    Attributes:
        words: in the order of the file; each speaker's are sorted by their start.
        text_conditions: named conditions for the model; empty if there are none.
    """

    words: list[SpokenWord]
    text_conditions: TextConditions = field(default_factory=dict)


def alignment_path(audio: str | os.PathLike[str]) -> Path:
    """Where the alignment of an audio file lies: beside it, with the suffix .json."""
    return Path(audio).with_suffix(".json")


def read_alignment(path: str | os.PathLike[str], duration: float | None = None) -> Alignment:
    """Read and validate an alignment.

    Args:
        path: the JSON file.
        duration: length of the audio in seconds; words beyond it are then errors.

    Raises:
        DataError: the file is missing or wrong; file and line are named.
    """
    alignment, problems = check_alignment(path, duration)
    fatal = [problem for problem in problems if problem.fatal]
    if fatal:
        raise DataError(fatal)
    assert alignment is not None
    return alignment


def check_alignment(
    path: str | os.PathLike[str], duration: float | None = None
) -> tuple[Alignment | None, list[Problem]]:
    """Read an alignment and list everything that is wrong with it; None if nothing could be read."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return None, [Problem(str(path), "the alignment is missing; aizuchi data align makes it")]
    except (OSError, UnicodeDecodeError) as error:
        return None, [Problem(str(path), f"the alignment can't be read ({error})")]
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        message = f"malformed JSON ({error.msg} at column {error.colno})"
        return None, [Problem(f"{path}:{error.lineno}", message)]
    if not isinstance(content, dict) or not isinstance(content.get("alignments"), list):
        return None, [Problem(f"{path}:1", 'expected {"alignments": [[word, [start, end], speaker], ...]}')]

    words, faults = _check_words(content["alignments"], duration)
    conditions, more = _check_conditions(content.get("text_conditions"))
    lines = _item_lines(text) if faults else []
    problems = []
    for index, message, fatal in faults:
        line = f":{lines[index]}" if index < len(lines) else ""
        problems.append(Problem(f"{path}{line}", f"alignments[{index}] {message}", fatal))
    problems += [Problem(str(path), message) for message in more]
    return Alignment(words, conditions), problems


def write_alignment(
    path: str | os.PathLike[str], words: Iterable[Word], text_conditions: TextConditions | None = None
) -> None:
    """Write an alignment, atomically, times to the millisecond; a plain `Word` is the main speaker's."""
    rows = [
        [word.text, [round(word.start, 3), round(word.end, 3)], getattr(word, "speaker", MAIN_SPEAKER)]
        for word in words
    ]
    # One word a line: an error can then be found by its line, and a diff is readable.
    body = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in rows)
    text = '{"alignments": [' + (f"\n{body}\n" if rows else "") + "]"
    if text_conditions:
        text += ', "text_conditions": ' + json.dumps(text_conditions, ensure_ascii=False)
    write_text(path, text + "}\n")


def _check_words(
    items: list[Any], duration: float | None
) -> tuple[list[SpokenWord], list[tuple[int, str, bool]]]:
    """The words that make sense, and (index, message, fatal) of what does not."""
    words: list[SpokenWord] = []
    faults: list[tuple[int, str, bool]] = []
    last: dict[str, SpokenWord] = {}
    for i, item in enumerate(items):
        parsed = _parse_word(item)
        if parsed is None:
            faults.append((i, f"should be [word, [start, end], speaker], not {json.dumps(item)[:80]}", True))
            continue
        text, start, end, speaker = parsed
        name = f"({text!r})"
        if start < 0:
            faults.append((i, f"{name} starts at {start:g} s; times can't be negative", True))
        elif end < start:
            faults.append((i, f"{name} ends at {end:g} s, before its start at {start:g} s", True))
        elif duration is not None and end > duration + END_SECONDS:
            faults.append(
                (i, f"{name} ends at {end:g} s, after the end of the audio at {duration:g} s", True)
            )
        elif text.strip():
            word = SpokenWord(text, start, end, speaker)
            before = last.get(speaker)
            if before is not None and start < before.start:
                other = f"{before.text!r} at {before.start:g} s"
                what = f"{name} starts at {start:g} s, before {other}; sort the words by their start"
                faults.append((i, what, True))
                continue
            if before is not None and start < before.end - OVERLAP_SECONDS:
                what = f"{name} starts at {start:g} s, while {before.text!r} lasts until {before.end:g} s"
                faults.append((i, what, False))
            last[speaker] = word
            words.append(word)
    return words, faults


def _parse_word(item: Any) -> tuple[str, float, float, str] | None:
    if not isinstance(item, list) or len(item) not in (2, 3) or not isinstance(item[0], str):
        return None
    times, speaker = item[1], item[2] if len(item) == 3 and item[2] is not None else MAIN_SPEAKER
    if not isinstance(times, list) or len(times) != 2 or not isinstance(speaker, str):
        return None
    if not all(isinstance(t, (int, float)) and not isinstance(t, bool) and math.isfinite(t) for t in times):
        return None
    return item[0], float(times[0]), float(times[1]), speaker


def _check_conditions(conditions: Any) -> tuple[TextConditions, list[str]]:
    if conditions is None:
        return {}, []
    if not isinstance(conditions, dict):
        return {}, [f'"text_conditions" should be an object of strings, not {type(conditions).__name__}']
    bad = [name for name, value in conditions.items() if value is not None and not isinstance(value, str)]
    good = {name: value for name, value in conditions.items() if name not in bad}
    return good, [f'"text_conditions" {name!r} should be a string or null' for name in bad]


def _item_lines(text: str) -> list[int]:
    """The line on which each item of "alignments" begins, as far as a plain scan finds them."""
    found = re.search(r'"alignments"\s*:\s*\[', text)
    lines: list[int] = []
    if not found:
        return lines
    decoder, position = json.JSONDecoder(), found.end()
    line, counted = 1 + text.count("\n", 0, position), position
    while True:
        while position < len(text) and text[position] in " \t\r\n,":
            position += 1
        if position >= len(text) or text[position] == "]":
            return lines
        line, counted = line + text.count("\n", counted, position), position
        lines.append(line)
        try:
            _, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError:
            return lines
