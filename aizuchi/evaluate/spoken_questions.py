"""Ask a system spoken questions, and judge what is heard of its answers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from aizuchi.audio import SAMPLE_RATE, read_audio, write_audio
from aizuchi.errors import AizuchiError
from aizuchi.evaluate.questions import Judge, Question, judge
from aizuchi.evaluate.recognize import Recognizer
from aizuchi.evaluate.results import Cache, Measure, Section, content_key, proportion, run_items
from aizuchi.evaluate.scenarios import LEVEL
from aizuchi.evaluate.synthesize import Speech, Synthesizer, load_factory
from aizuchi.evaluate.systems import System, ask, identity
from aizuchi.evaluate.text import WordErrors, word_errors
from aizuchi.evaluate.turn_samples import read_chunks, write_chunks
from aizuchi.files import write_text
from aizuchi.transcript import Word

VERSION = 1
LEAD_SECONDS = 0.8
CONTEXT_SECONDS = 6.0  # for the answer to a question that comes before
INTERRUPT_SECONDS = 2.2  # after which an interruption comes
ANSWER_SECONDS = 7.0
# of an answer that counts: each of its numbers, and what comes before the first and behind the last
NUMBER_SECONDS, AROUND_SECONDS = 1.0, 3.0
EARLY_SECONDS = 0.2  # an answer may begin this long before the question's end

Voices = Callable[[Question], Synthesizer]


@dataclass(frozen=True)
class Asked:
    """A question as it is heard: (samples,) at 24 kHz, and when its last word ends."""

    question: Question
    wave: np.ndarray
    end: float


def one_voice(synthesizer: Synthesizer) -> Voices:
    """Every question in one voice."""
    return lambda question: synthesizer


def named_voices(spec: str) -> Voices:
    """Each question in the voice that it names, by a factory "package.module:name" of voice -> synthesizer.

    What the factory gives may be a `Synthesizer`, or have `speak(text, speed)` with `audio` and `words` in
    what that returns. A factory with an argument `held_out` is told True: evaluation may hear any voice.
    """
    factory = load_factory(spec, "voices")
    options = {"held_out": True} if "held_out" in inspect.signature(factory).parameters else {}

    def voice_of(question: Question) -> Synthesizer:
        if question.voice is None:
            raise AizuchiError(f"question {question.id} names no voice")
        made = factory(question.voice, **options)
        return _Speaker(made, question) if hasattr(made, "speak") else made

    return voice_of


class _Speaker:
    """Something with `speak`, as a synthesizer."""

    def __init__(self, engine: Any, question: Question) -> None:
        self.name = str(question.voice)
        self._engine, self._speed = engine, question.speed

    def __call__(self, text: str, seed: int = 0) -> Speech:
        spoken = self._engine.speak(text, self._speed)
        return Speech(np.asarray(spoken.audio, np.float32), [Word(*word) for word in spoken.words])


def answer_seconds(question: Question) -> float:
    """How long an answer is waited for; who counts to ten is not cut off at eight."""
    numbers = question.rule.get("numbers") if question.rule.get("type") == "sequence" else None
    counted = len(numbers) if isinstance(numbers, list) else 0  # what is malformed is told by the judge
    return max(ANSWER_SECONDS, AROUND_SECONDS + NUMBER_SECONDS * counted)


def speak_question(
    question: Question, voices: Voices, seed: int = 0, noise_snr: float | None = None
) -> Asked:
    """Say a question, what comes before it, and leave time for the answer.

    Args:
        question: to be asked.
        voices: of the user.
        seed: of the speech and the noise.
        noise_snr: dB of speech over pink noise through the whole recording; None adds none.
    """
    voice = voices(question)
    pieces = [np.zeros(round(LEAD_SECONDS * SAMPLE_RATE), np.float32)]
    for i, text in enumerate(question.context):
        pieces.append(_level(voice(text, seed=seed + i)))
        waits = question.interrupts and i + 1 == len(question.context)
        pause = INTERRUPT_SECONDS if waits else CONTEXT_SECONDS
        pieces.append(np.zeros(round(pause * SAMPLE_RATE), np.float32))
    pieces.append(_level(voice(question.text, seed=seed + len(question.context))))
    end = sum(map(len, pieces)) / SAMPLE_RATE
    pieces.append(np.zeros(round(answer_seconds(question) * SAMPLE_RATE), np.float32))
    wave = np.concatenate(pieces)
    if noise_snr is not None:
        from aizuchi.evaluate.scenarios import coloured_noise

        noise = coloured_noise(len(wave), np.random.default_rng([seed, len(wave)]))
        wave = wave + (noise * LEVEL * 10 ** (-noise_snr / 20)).astype(np.float32)
    return Asked(question, np.clip(wave, -1, 1).astype(np.float32), end)


def ask_questions(
    questions: Sequence[Question],
    system: System,
    voices: Voices,
    recognizer: Recognizer,
    folder: str | Path,
    section: Section,
    *,
    seed: int = 0,
    noise_snr: float | None = None,
    judged_by: Judge = judge,
    cache: Cache | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Ask every question and judge what is heard of the answers.

    The recordings lie in the folder, one folder a question (`input.wav`, `output.wav`, `monologue.json`);
    one that was made by the same system from the same sound is kept.

    Returns:
        An item a question: its verdict, what was heard, and what the monologue says.
    """
    root = Path(folder)
    asked: list[Asked] = []
    for question in tqdm(questions, desc="asking", unit="", disable=None if progress else True):
        try:
            asked.append(speak_question(question, voices, seed, noise_snr))
        except (AizuchiError, OSError) as error:
            section.broken.append({"path": question.id, "reason": str(error)})
    keys = [content_key(identity(system), a.wave) for a in asked]
    todo = [i for i, a in enumerate(asked) if not _recorded(root / a.question.id, keys[i])]
    replies = ask(system, [asked[i].wave for i in todo])
    for k, (wave, words) in tqdm(
        replies, total=len(todo), desc="listening", unit="", disable=None if progress else True
    ):
        one = asked[todo[k]]
        place = root / one.question.id
        place.mkdir(parents=True, exist_ok=True)
        (place / "output.key").unlink(missing_ok=True)
        write_audio(place / "input.wav", one.wave)
        write_audio(place / "output.wav", wave)
        write_chunks(place / "monologue.json", " ".join(w.text for w in words), words)
        write_text(place / "output.key", keys[todo[k]])

    def work(one: Asked) -> dict[str, Any]:
        place = root / one.question.id
        answer = read_audio(place / "output.wav")[0]
        start = max(0.0, one.end - EARLY_SECONDS)
        heard = recognizer(answer[round(start * SAMPLE_RATE) :], SAMPLE_RATE)
        monologue = " ".join(c.text for c in read_chunks(place / "monologue.json") if c.start >= start)
        errors = word_errors(monologue, heard.text)
        return {
            "id": one.question.id,
            "kind": one.question.kind,
            "apart": one.question.apart,
            "asked": one.question.text,
            "heard": heard.text,
            "monologue": monologue,
            "errors": [errors.words, errors.substitutions, errors.deletions, errors.insertions],
            "end": round(one.end, 3),
            "files": [str(place / "input.wav"), str(place / "output.wav")],
        }

    def key(one: Asked) -> str:
        place = root / one.question.id
        files = [place / "output.wav", place / "monologue.json"]
        return content_key("answers", VERSION, recognizer.name, one.question.id, one.end, str(place), *files)

    items = run_items(
        asked,
        work,
        section,
        name=lambda one: one.question.id,
        key=key,
        cache=cache,
        label="answers",
        progress=progress,
    )
    known = {question.id: question for question in questions}
    for item in items:  # judged anew each time: rules change more often than recordings
        verdict = judged_by(known[item["id"]], item["heard"])
        item["right"], item["reason"] = bool(verdict.right), str(verdict.reason)
    return items


def answer_tables(items: Sequence[dict[str, Any]], heading: str) -> dict[str, dict[str, dict[str, Measure]]]:
    """Accuracy over all (but those scored apart), and by kind; and how far monologue and sound agree."""
    main = [item for item in items if not item["apart"]]
    apart = [item for item in items if item["apart"]]
    rows: dict[str, dict[str, Measure]] = {"all": {"right": proportion([item["right"] for item in main])}}
    if apart:
        rows["scored apart"] = {"right": proportion([item["right"] for item in apart])}
    for kind in dict.fromkeys(item["kind"] for item in items):
        rows[kind] = {"right": proportion([item["right"] for item in items if item["kind"] == kind])}
    tables = {heading: rows}
    errors = sum((WordErrors(*item["errors"]) for item in items), WordErrors())
    if errors.words:
        value = Measure(100 * (errors.rate or 0.0), len(items), "%", "lower", note="of the monologue's words")
        tables["Monologue against what is heard"] = {heading: {"WER": value}}
    return tables


def _recorded(place: Path, key: str) -> bool:
    stamp = place / "output.key"
    return (place / "output.wav").is_file() and stamp.is_file() and stamp.read_text() == key


def _level(speech: Speech) -> np.ndarray:
    loudness = float(np.sqrt(np.mean(speech.wave.astype(np.float64) ** 2)))
    return (speech.wave * (LEVEL / max(loudness, 1e-6))).astype(np.float32)
