"""Word errors of speech: what a system speaks, what it transcribes, and what its monologue says it spoke."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aizuchi.audio import SAMPLE_RATE, read_audio, write_audio
from aizuchi.errors import AizuchiError
from aizuchi.evaluate.clips import Clip
from aizuchi.evaluate.recognize import Recognizer
from aizuchi.evaluate.results import Cache, Measure, Section, content_key, run_items
from aizuchi.evaluate.text import WordErrors, normalize, word_errors
from aizuchi.evaluate.turn_samples import Sample, read_chunks

VERSION = 1
Speak = Callable[[str], np.ndarray]  # text -> (samples,) at 24 kHz


def recognition(
    clips: Sequence[Clip],
    recognizer: Recognizer,
    section: Section,
    title: str = "Transcription",
    cache: Cache | None = None,
    progress: bool = True,
) -> None:
    """WER of a recogniser on recordings whose text is known: of `transcribe`, of Whisper, or of speech.

    The same figure reads either way: with a system's recogniser on people's speech it judges the
    recogniser; with a trusted one on a system's speech it judges the speech.
    """
    known_as = str(
        getattr(recognizer, "identity", recognizer.name)
    )  # of its weights, where a name is not enough
    known = [clip for clip in clips if clip.text is not None]
    for _ in range(len(clips) - len(known)):
        section.skip(title, "the recording's text is not known")

    def work(clip: Clip) -> dict[str, Any]:
        heard = recognizer(read_audio(clip.path)[0], SAMPLE_RATE).text
        return _compared(clip.name, clip.text or "", heard, title) | {"files": [str(clip.path)]}

    items = run_items(
        known,
        work,
        section,
        name=lambda clip: str(clip.path),
        key=lambda clip: content_key("recognition", VERSION, known_as, title, clip.text, clip.path),
        cache=cache,
        label=title,
        progress=progress,
    )
    section.items += items
    if items:
        section.tables.setdefault("Word errors", {})[title] = error_row(items)


def synthesis(
    texts: Sequence[str],
    speak: Speak,
    recognizer: Recognizer,
    section: Section,
    folder: str | Path,
    name: str = "speak",
    cache: Cache | None = None,
    progress: bool = True,
    identity: str | None = None,
) -> None:
    """WER of a system that speaks texts, as a recogniser hears it; the recordings are kept in the folder.

    `identity` (None: `name`) stands for the system in what is kept: give another one to another checkpoint.
    """
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    known = [text for text in texts if normalize(text)]
    paths = {text: root / f"{i:04}.wav" for i, text in enumerate(known)}

    def work(text: str) -> dict[str, Any]:
        wave = np.asarray(speak(text), np.float32)
        if wave.ndim != 1 or not wave.size:
            raise AizuchiError(f"{name} gave {wave.shape} for {text!r}: it must be (samples,)")
        write_audio(paths[text], wave)
        item = _compared(paths[text].stem, text, recognizer(wave, SAMPLE_RATE).text, name)
        return item | {"files": [str(paths[text])]}

    items = run_items(
        known,
        work,
        section,
        name=lambda text: text,
        key=lambda text: content_key(
            "synthesis", VERSION, identity or name, recognizer.name, text, paths[text].name
        ),
        cache=cache,
        label=name,
        progress=progress,
    )
    section.items += items
    if items:
        section.tables.setdefault("Word errors", {})[name] = error_row(items)


def agreement(
    samples: Sequence[Sample],
    recognizer: Recognizer,
    section: Section,
    cache: Cache | None = None,
    progress: bool = True,
) -> None:
    """WER of what is heard against the monologue, over recordings that have one (`monologue.json`)."""
    title = "monologue against what is heard"
    told = [sample for sample in samples if (sample.output / "monologue.json").is_file()]

    def work(sample: Sample) -> dict[str, Any]:
        said = " ".join(chunk.text for chunk in read_chunks(sample.output / "monologue.json"))
        heard = recognizer(read_audio(sample.output / "output.wav")[0], SAMPLE_RATE).text
        return _compared(sample.name, said, heard, title)

    items = run_items(
        told,
        work,
        section,
        name=lambda sample: sample.name,
        key=lambda sample: content_key(
            "agreement",
            VERSION,
            recognizer.name,
            sample.name,
            sample.output / "monologue.json",
            sample.output / "output.wav",
        ),
        cache=cache,
        label=title,
        progress=progress,
    )
    section.items += items
    if any(item["errors"][0] for item in items):
        section.tables.setdefault("Word errors", {})[title] = error_row(items)


def error_row(items: Sequence[dict[str, Any]]) -> dict[str, Measure]:
    """WER and its parts over compared items, in per cent of the reference's words."""
    total = sum((WordErrors(*item["errors"]) for item in items), WordErrors())

    def share(count: int, better: str = "") -> Measure:
        return Measure(100 * count / total.words if total.words else None, len(items), "%", better)

    return {
        "WER": share(total.errors, "lower"),
        "substitutions": share(total.substitutions),
        "deletions": share(total.deletions),
        "insertions": share(total.insertions),
        "words": Measure(float(total.words), len(items)),
    }


def _compared(name: str, wanted: str, heard: str, title: str) -> dict[str, Any]:
    found = word_errors(wanted, heard)
    return {
        "id": name,
        "test": title,
        "wanted": wanted,
        "heard": heard,
        "errors": [found.words, found.substitutions, found.deletions, found.insertions],
    }
