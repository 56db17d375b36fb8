"""Words and their times from plain sound: a recogniser hears each channel, and the alignment is written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soxr

from aizuchi.audio import SAMPLE_RATE, FloatArray, read_audio
from aizuchi.data.alignments import DataError, Problem, alignment_path, check_alignment, write_alignment
from aizuchi.data.frames import MAIN_SPEAKER, USER_SPEAKER, SpokenWord
from aizuchi.data.stats import sounding
from aizuchi.data.workers import in_processes
from aizuchi.errors import AizuchiError, require
from aizuchi.transcript import Word

Sides = Literal["both", "model", "user"]
Transcriber = Callable[[FloatArray], list[Word]]  # of a wave (samples,) at 24 kHz

SOUND_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aiff", ".aif")

_WHISPER_RATE = 16_000
_STEP_SECONDS = 0.01  # levels are measured this often to find where a word begins
_LEAST_SECONDS = 0.02  # of a word


@dataclass(frozen=True)
class AlignOptions:
    """What is aligned.

    Attributes:
        sides: of stereo files, which channels are heard (left is the model, right the user).
        mono: which side a file with one channel is.
        overwrite: align again where an alignment stands; its text conditions are kept.
    """

    sides: Sides = "both"
    mono: Literal["model", "user"] = "model"
    overwrite: bool = False


class WhisperTranscriber:
    """Whisper through faster-whisper, with word times.

    Args:
        model: folder of a model in CTranslate2's format (model.bin, config.json, ...).
        language: such as "en"; None lets the model find out, for each file.
        device: "cpu" or "cuda".
        threads: of the CPU.
        beam: width of the search.

    Raises:
        MissingDependencyError: faster-whisper is not installed.
        AizuchiError: the folder holds no such model.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        language: str | None = None,
        device: str = "cpu",
        threads: int = 1,
        beam: int = 5,
    ):
        whisper = require("faster_whisper", extra="data")
        if not (Path(model) / "model.bin").is_file():
            raise AizuchiError(
                f"{model} holds no Whisper model in CTranslate2's format: model.bin is missing"
            )
        kind = "int8" if device == "cpu" else "float16"
        try:
            self._model = whisper.WhisperModel(
                str(model), device=device, compute_type=kind, cpu_threads=threads
            )
        except (RuntimeError, ValueError, OSError) as error:
            raise AizuchiError(f"the Whisper model {model} can't be loaded: {error}") from error
        self._language, self._beam = language, beam

    def __call__(self, wave: FloatArray) -> list[Word]:
        """The words of a wave (samples,) at 24 kHz, with times in seconds as the recogniser gives them."""
        if not np.any(np.abs(wave) > 1e-4):
            return []
        segments, _ = self._model.transcribe(
            soxr.resample(wave, SAMPLE_RATE, _WHISPER_RATE),
            language=self._language,
            beam_size=self._beam,
            word_timestamps=True,
            vad_filter=True,  # nothing is heard into silence, of which a dialogue's channel is full
            condition_on_previous_text=False,  # one mishearing does not lead to the next
        )
        words = []
        for segment in segments:
            for word in segment.words or []:
                if word.word.strip():
                    words.append(Word(word.word, max(0.0, float(word.start)), max(0.0, float(word.end))))
        return words


def align_audio(
    file: str | os.PathLike[str], transcribe: Transcriber, options: AlignOptions | None = None
) -> list[SpokenWord]:
    """Hear a file's channels.

    Returns:
        The words of all channels that were asked for, sorted by their start; of one speaker they neither
        overlap nor leave the audio.

    Raises:
        AizuchiError: the file can't be read, or has more than two channels.
    """
    options = options or AlignOptions()
    waves = read_audio(file, mono=False)  # (channels, samples)
    if len(waves) > 2:
        raise AizuchiError(f"{file} has {len(waves)} channels; expected 2, left the model and right the user")
    sides = ("model", "user") if len(waves) == 2 else (options.mono,)
    words: list[SpokenWord] = []
    for side, wave in zip(sides, waves):
        if len(waves) == 2 and options.sides not in ("both", side):
            continue
        speaker = MAIN_SPEAKER if side == "model" else USER_SPEAKER
        words += [SpokenWord(w.text, w.start, w.end, speaker) for w in tidy(transcribe(wave), wave)]
    return sorted(words, key=lambda word: word.start)


def tidy(words: Sequence[Word], wave: FloatArray) -> list[Word]:
    """Bring a recogniser's words into order and onto the sound.

    Recognisers let the first word of a phrase begin in the silence before it: such a start is moved to where
    the sound begins, as long as that lies within the word. Then every word is cut where the next begins.

    Args:
        words: of one channel.
        wave: that channel, (samples,) at 24 kHz.
    """
    seconds = len(wave) / SAMPLE_RATE
    loud = sounding(wave, round(_STEP_SECONDS * SAMPLE_RATE))
    out: list[Word] = []
    for word in sorted(words, key=lambda w: (w.start, w.end)):
        start, end = min(word.start, seconds), min(word.end, seconds)
        heard = np.flatnonzero(loud[int(start / _STEP_SECONDS) : int(end / _STEP_SECONDS) + 1])
        if heard.size:
            start = max(start, min(start + heard[0] * _STEP_SECONDS, end - _LEAST_SECONDS))
        if out and start < out[-1].end:
            before = out.pop()
            start = max(start, before.start)
            out.append(Word(before.text, before.start, start))
        out.append(Word(word.text, round(start, 3), round(max(start, end), 3)))
    return out


def find_sounds(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The sound files that paths stand for: themselves, all in a folder, or those of a .jsonl list.

    Raises:
        AizuchiError: a path does not exist, or a folder or list holds none.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.suffix == ".jsonl" and path.is_file():
            from aizuchi.data.dialogues import read_dialogues

            inside = [dialogue.audio for dialogue in read_dialogues(path)]
        elif path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SOUND_SUFFIXES)
        elif path.exists():
            inside = [path]
        else:
            raise AizuchiError(f"{path} does not exist")
        if not inside:
            raise AizuchiError(f"{path} holds no sound files ({', '.join(SOUND_SUFFIXES)})")
        found += inside
    return list(dict.fromkeys(found))


def align_files(
    files: Sequence[Path],
    make_transcriber: Callable[[], Transcriber],
    options: AlignOptions | None = None,
    jobs: int = 1,
    report: Callable[[Path], None] = lambda file: None,
) -> int:
    """Write the alignment of every file that has none: a run that was interrupted goes on where it was.

    Args:
        files: sound files.
        make_transcriber: gives the recogniser; called once in every process, so it must pickle if jobs > 1.
        options: what is aligned.
        jobs: processes.
        report: is told of every file that is done.

    Returns:
        How many were aligned now.

    Raises:
        AizuchiError: two files would share one alignment.
        DataError: files can't be read; the alignments of all others are written before it is raised.
    """
    options = options or AlignOptions()
    _check_names(files)
    todo = []
    for file in files:
        if options.overwrite or not _is_aligned(file):
            todo.append(file)
        else:
            report(file)
    problems: list[Problem] = []
    work = [(file, options) for file in todo]
    for i, problem in _made(work, make_transcriber, min(jobs, len(work))):
        if problem:
            problems.append(problem)
        report(todo[i])
    if problems:
        raise DataError(problems)
    return len(todo)


def _made(
    work: list[tuple[Path, AlignOptions]], make_transcriber: Callable[[], Transcriber], jobs: int
) -> Iterator[tuple[int, Problem | None]]:
    if jobs > 1:
        yield from in_processes(_align_one, work, make_transcriber, jobs)
    elif work:
        transcribe = make_transcriber()
        for i, one in enumerate(work):
            yield i, _align_one(one, transcribe)


def _align_one(work: tuple[Path, AlignOptions], transcribe: Transcriber) -> Problem | None:
    file, options = work
    target = alignment_path(file)
    try:
        words = align_audio(file, transcribe, options)
    except AizuchiError as error:
        return Problem(str(file), str(error))
    before = check_alignment(target)[0] if target.exists() else None
    write_alignment(target, words, before.text_conditions if before else None)
    return None


def _is_aligned(file: Path) -> bool:
    """Whether an alignment stands beside a file. One that is not ours to read is left for `check` to name."""
    target = alignment_path(file)
    try:
        return "alignments" in json.loads(target.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, TypeError):
        return False


def _check_names(files: Sequence[Path]) -> None:
    seen: dict[Path, Any] = {}
    for file in files:
        other = seen.setdefault(alignment_path(file), file)
        if other != file:
            raise AizuchiError(f"{other} and {file} would share the alignment {alignment_path(file)}")
