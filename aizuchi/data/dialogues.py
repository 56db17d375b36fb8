"""Dialogues on disk: a jsonl list of stereo files (left the model, right the user) and their alignments.

    {"path": "calls/0001.wav", "duration": 24.52}

Paths are relative to the list. Beside each sound file lies its alignment (see `alignments`).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
import soxr

from aizuchi.audio import SAMPLE_RATE, FloatArray, read_audio, write_audio
from aizuchi.data.alignments import (
    Alignment,
    DataError,
    Problem,
    TextConditions,
    alignment_path,
    check_alignment,
    read_alignment,
    write_alignment,
)
from aizuchi.data.frames import SpokenWord
from aizuchi.errors import AizuchiError
from aizuchi.files import write_text
from aizuchi.transcript import Word

DURATION_SECONDS = 0.1  # how far a list may be off a file's real length
_MARGIN_SECONDS = 0.1  # read around a segment, so that resampling has its context

Side = Literal["model", "user"]


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One line of a list; nothing is read yet but that line.

    Attributes:
        audio: the sound file.
        name: its path as the line has it.
        duration: seconds, as the line says, or as the file's header does if the line has none.
        where: `list.jsonl:line`, for messages.
    """

    audio: Path
    name: str
    duration: float
    where: str

    def alignment(self) -> Alignment:
        """Read the words and conditions; raises DataError."""
        return read_alignment(alignment_path(self.audio), self.duration)

    def waves(self, mono: Side | None = None) -> FloatArray:
        """Read the sound: (2, samples) at 24 kHz, row 0 the model and row 1 the user; raises DataError.

        Args:
            mono: which side a file with one channel is; the other side is then silent. None refuses it.
        """
        try:
            return _two_sides(read_audio(self.audio, mono=False), mono, self)
        except DataError:
            raise
        except AizuchiError as error:
            raise DataError([Problem(self.where, str(error))]) from error


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a dialogue, in seconds; it may reach beyond the end, which is then silence."""

    dialogue: Dialogue
    start: float
    duration: float

    def waves(self, mono: Side | None = None) -> FloatArray:
        """(2, round(duration * 24000)) at 24 kHz, zeros after the end of the dialogue."""
        out = np.zeros((2, round(self.duration * SAMPLE_RATE)), np.float32)
        part = _two_sides(_read_part(self.dialogue, self.start, self.duration), mono, self.dialogue)
        out[:, : part.shape[1]] = part[:, : out.shape[1]]
        return out

    def words(self) -> list[SpokenWord]:
        """The words that start within, with times relative to the segment."""
        stop = self.start + self.duration
        return [
            SpokenWord(w.text, w.start - self.start, w.end - self.start, w.speaker)
            for w in self.dialogue.alignment().words
            if self.start <= w.start < stop
        ]


def read_dialogues(path: str | os.PathLike[str]) -> list[Dialogue]:
    """Read a jsonl list, or all the lists in a folder (and below), in the order of their names.

    Raises:
        DataError: a list or a line of it is wrong, or there is none; file and line are named.
    """
    dialogues, problems = check_lists(path)
    if problems:
        raise DataError(problems)
    return dialogues


def check_lists(path: str | os.PathLike[str]) -> tuple[list[Dialogue], list[Problem]]:
    """Read lists as `read_dialogues` does, and list everything that is wrong instead of raising."""
    path = Path(path)
    if not path.exists():
        return [], [Problem(str(path), "does not exist")]
    lists = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
    if not lists:
        return [], [Problem(str(path), "holds no .jsonl list; aizuchi data align can write one")]
    dialogues: list[Dialogue] = []
    problems: list[Problem] = []
    for file in lists:
        count = len(dialogues) + len(problems)
        for number, line in _lines(file, problems):
            found = _parse_line(line, file, f"{file}:{number}")
            dialogues.append(found) if isinstance(found, Dialogue) else problems.append(found)
        if len(dialogues) + len(problems) == count:
            problems.append(Problem(str(file), "the list is empty"))
    return dialogues, problems


def check_dialogue(
    dialogue: Dialogue, mono: Side | None = None, need_words: bool = True, decode: bool = False
) -> list[Problem]:
    """Everything that is wrong with one dialogue: its sound file, its duration, its words.

    Args:
        dialogue: what to check.
        mono: allow one channel, as this side.
        need_words: a missing alignment is a problem.
        decode: decode the whole sound file, which finds damage in it, and not only its header.
    """
    problems = []
    length: float | None = None
    try:
        info = soundfile.info(str(dialogue.audio))
        length = info.frames / info.samplerate
        if info.channels != 2 and not (info.channels == 1 and mono):
            problems.append(Problem(dialogue.where, _channel_message(dialogue.audio, info.channels)))
        if abs(length - dialogue.duration) > DURATION_SECONDS:
            what = f"duration is {dialogue.duration:g} s, but {dialogue.audio} lasts {length:.3f} s"
            problems.append(Problem(dialogue.where, what))
        if decode:
            read_audio(dialogue.audio, mono=False)
    except AizuchiError as error:
        problems.append(Problem(dialogue.where, str(error)))
    except (soundfile.LibsndfileError, TypeError):
        try:
            read_audio(dialogue.audio)  # says what is wrong in better words
            problems.append(Problem(dialogue.where, f"{dialogue.audio} can't be read"))
        except AizuchiError as error:
            problems.append(Problem(dialogue.where, str(error)))
    words = alignment_path(dialogue.audio)
    if need_words or words.exists():
        limit = dialogue.duration if length is None else length
        problems += [
            Problem(p.where, f"{p.message} (from {dialogue.where})", p.fatal)
            for p in check_alignment(words, limit)[1]
        ]
    return problems


def cut(dialogues: Iterable[Dialogue], seconds: float) -> list[Segment]:
    """Cut dialogues into segments of one length, the last of each reaching beyond its end.

    Raises:
        AizuchiError: seconds is not above 0.
    """
    if not seconds > 0:
        raise AizuchiError(f"the duration of a segment is {seconds:g} s; it must be above 0")
    return [
        Segment(dialogue, i * seconds, seconds)
        for dialogue in dialogues
        for i in range(max(1, math.ceil(dialogue.duration / seconds - 1e-6)))
    ]


def write_dialogue(
    path: str | os.PathLike[str],
    model: FloatArray,
    user: FloatArray,
    words: Iterable[Word],
    text_conditions: TextConditions | None = None,
    rate: int = SAMPLE_RATE,
) -> None:
    """Write one dialogue: the stereo file, and its alignment beside it.

    Args:
        path: .wav or .flac (16 bit) or .ogg.
        model, user: (samples,) each; the shorter one is filled up with silence.
        words: with times in seconds; `SpokenWord` says whose they are.
        text_conditions: named conditions, if any.
        rate: samples per second.
    """
    stereo = np.zeros((2, max(len(model), len(user))), np.float32)
    stereo[0, : len(model)] = model
    stereo[1, : len(user)] = user
    # The alignment last: where it stands, the sound beside it is whole.
    write_audio(path, stereo, rate)
    write_alignment(alignment_path(path), words, text_conditions)


def write_list(path: str | os.PathLike[str], audio: Sequence[str | os.PathLike[str]]) -> None:
    """Write the jsonl list of some sound files, with their durations, paths relative to it."""
    folder = os.path.dirname(os.path.abspath(path))
    rows = []
    for file in audio:
        info = soundfile.info(str(file))
        row = {"path": os.path.relpath(file, folder), "duration": round(info.frames / info.samplerate, 6)}
        rows.append(json.dumps(row, ensure_ascii=False))
    write_text(path, "".join(row + "\n" for row in rows))


def _lines(file: Path, problems: list[Problem]) -> Iterator[tuple[int, str]]:
    try:
        with open(file, encoding="utf-8-sig") as handle:
            for number, line in enumerate(handle, 1):
                if line.strip():
                    yield number, line
    except (OSError, UnicodeDecodeError) as error:
        problems.append(Problem(str(file), f"the list can't be read ({error})"))


def _parse_line(line: str, file: Path, where: str) -> Dialogue | Problem:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return Problem(where, f"malformed JSON ({error.msg} at column {error.colno})")
    if not isinstance(row, dict) or not isinstance(row.get("path"), str) or not row["path"]:
        return Problem(where, 'expected {"path": "file.wav", "duration": seconds}')
    audio = file.parent / row["path"]
    if not audio.is_file():
        return Problem(where, f"{audio} does not exist (paths are relative to the list)")
    duration = row.get("duration")
    if duration is None:
        try:
            info = soundfile.info(str(audio))
        except (soundfile.LibsndfileError, TypeError) as error:
            return Problem(where, f"{audio} can't be read ({error})")
        duration = info.frames / info.samplerate
    elif isinstance(duration, bool) or not isinstance(duration, (int, float)):
        return Problem(where, f"duration should be a number of seconds, not {json.dumps(duration)[:40]}")
    if not (math.isfinite(duration) and duration > 0):
        return Problem(where, f"duration is {duration:g}; it must be above 0")
    return Dialogue(audio, row["path"], float(duration), where)


def _channel_message(audio: Path, channels: int) -> str:
    hint = "; --mono model or --mono user takes it as one side" if channels == 1 else ""
    count = f"{channels} channel{'s' * (channels != 1)}"
    return f"{audio} has {count}; expected 2, left the model and right the user{hint}"


def _two_sides(waves: FloatArray, mono: Side | None, dialogue: Dialogue) -> FloatArray:
    """(channels, samples) -> (2, samples), row 0 the model."""
    if len(waves) == 2:
        return waves
    if len(waves) != 1 or mono is None:
        raise DataError([Problem(dialogue.where, _channel_message(dialogue.audio, len(waves)))])
    out = np.zeros((2, waves.shape[1]), np.float32)
    out[0 if mono == "model" else 1] = waves[0]
    return out


def _read_part(dialogue: Dialogue, start: float, duration: float) -> FloatArray:
    """(channels, samples) at 24 kHz of [start, start + duration), shorter where the file ends."""
    try:
        with soundfile.SoundFile(str(dialogue.audio)) as file:
            rate = file.samplerate
            # Both rates have a sample at every multiple of `step`: begin on one of them.
            step = rate // math.gcd(rate, SAMPLE_RATE)
            begin = max(0, math.floor((start - _MARGIN_SECONDS) * rate / step)) * step
            end = min(file.frames, math.ceil((start + duration + _MARGIN_SECONDS) * rate))
            if begin >= end:
                return np.zeros((file.channels, 0), np.float32)
            file.seek(begin)
            part = file.read(end - begin, dtype="float32", always_2d=True)  # (samples, channels)
    except (soundfile.LibsndfileError, TypeError) as error:
        raise DataError([Problem(dialogue.where, f"{dialogue.audio} can't be read ({error})")]) from error
    if rate != SAMPLE_RATE:
        part = soxr.resample(part, rate, SAMPLE_RATE)
    first = round(start * SAMPLE_RATE) - begin * SAMPLE_RATE // rate
    return np.ascontiguousarray(part[first : first + round(duration * SAMPLE_RATE)].T)
