"""Scenario sets: recordings of a user, made from text, that know exactly what happens when.

A set is a folder with one folder a kind and one a scenario, in Full-Duplex-Bench's layout (`input.wav` and
the kind's annotation), so that its own programs can score it too, plus `scenario.json` with every event.
The same text, seed and synthesizer give the same samples.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from aizuchi.audio import write_audio
from aizuchi.errors import AizuchiError
from aizuchi.evaluate.scenario_texts import BUILT_IN
from aizuchi.evaluate.synthesize import RATE, Speech, Synthesizer, sound_span
from aizuchi.evaluate.turns import WINDOW_SECONDS
from aizuchi.files import write_text
from aizuchi.transcript import Word

FORMAT = 1
KINDS = tuple(BUILT_IN)
ANSWER_SECONDS = 6.0  # of silence in which the model may answer
PAUSE_RANGE = (0.4, 1.0)
INTERRUPT_AFTER = (1.6, 2.6)  # seconds from the end of the question to the interruption
OPPORTUNITY_SECONDS = 0.8  # a listener's "mm-hm" is expected this long after a sentence's end
NOISE_SECONDS = 20.0
LEVEL = 0.1  # root mean square of the user's speech


@dataclass
class Scenario:
    """One recording of the user and what happens in it.

    Attributes:
        id, kind: its folder's name, and its parent's.
        wave: (samples,) at 24 kHz.
        speech: (start, end, text) of each stretch of the user's speech, in seconds.
        words: the user's words with their times.
        events: kind of event -> (start, end): "pause", "interruption", "turn_end" (start = end),
            "opportunity" (a place for a backchannel), "noise".
        context: what else a scorer may want, such as the texts of an interruption.
    """

    id: str
    kind: str
    wave: np.ndarray
    speech: list[tuple[float, float, str]] = field(default_factory=list)
    words: list[Word] = field(default_factory=list)
    events: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    context: dict[str, Any] = field(default_factory=dict)

    @property
    def duration(self) -> float:
        return len(self.wave) / RATE


class _Tape:
    """Sounds put one after the other, with a note of what lies where."""

    def __init__(self) -> None:
        self.pieces: list[np.ndarray] = []
        self.samples = 0
        self.speech: list[tuple[float, float, str]] = []
        self.words: list[Word] = []

    @property
    def now(self) -> float:
        return self.samples / RATE

    def silence(self, seconds: float) -> tuple[float, float]:
        start = self.now
        self._add(np.zeros(round(seconds * RATE), np.float32))
        return start, self.now

    def say(self, speech: Speech, text: str) -> tuple[float, float]:
        start = self.now
        self._add(speech.wave)
        self.words += [Word(w.text, w.start + start, w.end + start) for w in speech.words]
        self.speech.append((start, self.now, text))
        return start, self.now

    def _add(self, piece: np.ndarray) -> None:
        self.pieces.append(piece)
        self.samples += len(piece)

    def scenario(self, name: str, kind: str, **rest: Any) -> Scenario:
        wave = np.concatenate(self.pieces)
        return Scenario(name, kind, wave, self.speech, self.words, **rest)


def make_scenario(kind: str, text: Any, name: str, seed: int, synthesizer: Synthesizer) -> Scenario:
    """Make one scenario.

    Args:
        kind: one of KINDS.
        text: as in `scenario_texts`: a sentence, one with "|", a list of sentences, a dict with "context"
            and "interrupt", or None.
        name: its id.
        seed: of every choice in it.
        synthesizer: speaks.

    Raises:
        AizuchiError: the kind is unknown, or the text is not of its form.
    """
    if kind not in _MAKERS:
        raise AizuchiError(f"unknown kind of scenario {kind!r}: choose from {', '.join(KINDS)}")
    rng = np.random.default_rng([seed, zlib.crc32(f"{kind}/{name}".encode())])
    return _MAKERS[kind](text, name, rng, synthesizer)


def _speak(synthesizer: Synthesizer, text: str, rng: np.random.Generator) -> Speech:
    speech = synthesizer(text, seed=int(rng.integers(1 << 31)))
    loudness = float(np.sqrt(np.mean(speech.wave.astype(np.float64) ** 2)))
    return Speech((speech.wave * (LEVEL / max(loudness, 1e-6))).astype(np.float32), speech.words)


def _make_turn(text: Any, name: str, rng: np.random.Generator, synthesizer: Synthesizer) -> Scenario:
    if not isinstance(text, str) or not text.strip():
        raise AizuchiError(f"smooth_turn_taking wants a sentence, not {text!r}")
    tape = _Tape()
    tape.silence(rng.uniform(0.5, 1.5))
    _, end = tape.say(_speak(synthesizer, text, rng), text)
    tape.silence(ANSWER_SECONDS)
    return tape.scenario(name, "smooth_turn_taking", events={"turn_end": [(end, end)]})


def _make_pause(text: Any, name: str, rng: np.random.Generator, synthesizer: Synthesizer) -> Scenario:
    """One utterance cut at a word's edge, so that its melody tells that more will come."""
    parts = [part.strip() for part in text.split("|")] if isinstance(text, str) else []
    if len(parts) < 2 or not all(parts):
        raise AizuchiError(f"pause_handling wants a sentence with | where the speaker pauses, not {text!r}")
    whole = " ".join(parts)
    speech = _speak(synthesizer, whole, rng)
    if len(speech.words) != len(whole.split()):
        raise AizuchiError(f"the synthesizer gave {len(speech.words)} words for {whole!r}")
    tape = _Tape()
    tape.silence(rng.uniform(0.5, 1.5))
    pauses = []
    start_word = start_sample = 0
    for k, part in enumerate(parts):
        end_word = start_word + len(part.split())
        last = k == len(parts) - 1
        cut = (
            len(speech.wave)
            if last
            else _quietest(speech.wave, speech.words[end_word - 1].end, speech.words[end_word].start)
        )
        # The pause begins where the sound ends, so the silence on both sides of the cut is dropped.
        first, stop = sound_span(speech.wave[start_sample:cut])
        first, stop = start_sample + first, start_sample + stop
        offset, length = first / RATE, (stop - first) / RATE
        words = [
            Word(w.text, min(max(0.0, w.start - offset), length), min(max(0.0, w.end - offset), length))
            for w in speech.words[start_word:end_word]
        ]
        piece = _fade(speech.wave[first:stop], begin=k > 0, end=not last)
        tape.say(Speech(piece, words), part)
        if not last:
            pauses.append(tape.silence(rng.uniform(*PAUSE_RANGE)))
        start_word, start_sample = end_word, cut
    # As in the benchmark the recording ends with the speech: whatever the model says is said too early.
    end = tape.now
    return tape.scenario(name, "pause_handling", events={"pause": pauses, "turn_end": [(end, end)]})


def _make_backchannel(text: Any, name: str, rng: np.random.Generator, synthesizer: Synthesizer) -> Scenario:
    if not isinstance(text, Sequence) or isinstance(text, str) or not all(isinstance(t, str) for t in text):
        raise AizuchiError(f"backchannel wants a list of sentences, not {text!r}")
    tape = _Tape()
    tape.silence(0.5)
    chances = []
    for i, sentence in enumerate(text):
        _, end = tape.say(_speak(synthesizer, sentence, rng), sentence)
        if i + 1 < len(text):
            chances.append((end, end + OPPORTUNITY_SECONDS))
            tape.silence(rng.uniform(0.35, 0.75))
    end = tape.now
    return tape.scenario(name, "backchannel", events={"opportunity": chances, "turn_end": [(end, end)]})


def _make_interruption(text: Any, name: str, rng: np.random.Generator, synthesizer: Synthesizer) -> Scenario:
    if not isinstance(text, Mapping) or not {"context", "interrupt"} <= set(text):
        raise AizuchiError(f"user_interruption wants an object with context and interrupt, not {text!r}")
    tape = _Tape()
    tape.silence(rng.uniform(0.5, 1.5))
    _, question_end = tape.say(_speak(synthesizer, text["context"], rng), text["context"])
    tape.silence(rng.uniform(*INTERRUPT_AFTER))
    start, end = tape.say(_speak(synthesizer, text["interrupt"], rng), text["interrupt"])
    tape.silence(ANSWER_SECONDS)
    events = {"turn_end": [(question_end, question_end), (end, end)], "interruption": [(start, end)]}
    return tape.scenario(name, "user_interruption", events=events, context=dict(text))


def _make_noise(text: Any, name: str, rng: np.random.Generator, synthesizer: Synthesizer) -> Scenario:
    """No words at all: near silence, or room noise with thumps and hisses. Nobody should answer."""
    size = round(NOISE_SECONDS * RATE)
    level = float(rng.choice([1e-4, 3e-3, 1e-2, 2e-2]))
    wave = coloured_noise(size, rng) * level
    bursts = []
    for _ in range(int(rng.integers(0, 5)) if level > 1e-3 else 0):
        start = rng.uniform(1.0, NOISE_SECONDS - 1.5)
        length = int(rng.uniform(0.05, 0.4) * RATE)
        at = round(start * RATE)
        shape = np.exp(-np.linspace(0, 5, length))
        wave[at : at + length] += (
            coloured_noise(length, rng, slope=rng.uniform(0, 1.5)) * shape * rng.uniform(0.05, 0.2)
        )
        bursts.append((start, start + length / RATE))
    return Scenario(name, "silence_and_noise", wave.astype(np.float32), events={"noise": sorted(bursts)})


_MAKERS = {
    "smooth_turn_taking": _make_turn,
    "pause_handling": _make_pause,
    "backchannel": _make_backchannel,
    "user_interruption": _make_interruption,
    "silence_and_noise": _make_noise,
}


def opportunity_histogram(scenario: Scenario) -> list[float]:
    """How much of each 0.2 s window a backchannel is expected in, summing to 1."""
    histogram = np.zeros(int(scenario.duration / WINDOW_SECONDS) + 1)
    for start, end in scenario.events.get("opportunity", []):
        for window in range(int(start / WINDOW_SECONDS), min(len(histogram), int(end / WINDOW_SECONDS) + 1)):
            left = window * WINDOW_SECONDS
            histogram[window] += max(0.0, min(end, left + WINDOW_SECONDS) - max(start, left))
    if not histogram.sum() > 0:
        raise AizuchiError(f"the scenario {scenario.id} has no place for a backchannel")
    return [round(float(share), 6) for share in histogram / histogram.sum()]


def save_scenario(scenario: Scenario, folder: Path) -> None:
    """Write `input.wav`, `scenario.json` and Full-Duplex-Bench's annotation into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_audio(folder / "input.wav", scenario.wave, RATE)
    events = {kind: [_rounded(span) for span in spans] for kind, spans in scenario.events.items()}
    record = {
        "format": FORMAT,
        "id": scenario.id,
        "kind": scenario.kind,
        "duration": round(scenario.duration, 6),
        "speech": [
            {"start": round(a, 6), "end": round(b, 6), "text": text} for a, b, text in scenario.speech
        ],
        "words": [
            {k: v if k == "text" else round(v, 3) for k, v in asdict(word).items()} for word in scenario.words
        ],
        "events": events,
        "context": scenario.context,
    }
    write_json(folder / "scenario.json", record)
    transcription = [
        {"text": word.text, "timestamp": _rounded((word.start, word.end))} for word in scenario.words
    ]
    text = " ".join(text for _, _, text in scenario.speech)
    write_json(folder / "transcription.json", {"text": text, "chunks": transcription})
    if scenario.kind == "smooth_turn_taking":
        end = events["turn_end"][0][0]
        write_json(folder / "turn_taking.json", [{"text": "[TURN-TAKING]", "timestamp": [end, end]}])
    elif scenario.kind == "pause_handling":
        write_json(
            folder / "pause.json", [{"text": "[PAUSE]", "timestamp": span} for span in events["pause"]]
        )
    elif scenario.kind == "user_interruption":
        write_json(folder / "interrupt.json", [{**scenario.context, "timestamp": events["interruption"][0]}])


def _quietest(wave: np.ndarray, end: float, start: float) -> int:
    """The sample between two words, give or take 40 ms, around which 10 ms are the quietest."""
    low, high = sorted((end, start))
    first = max(0, round((low - 0.04) * RATE))
    last = min(len(wave), round((high + 0.04) * RATE))
    half = RATE // 200
    power = np.concatenate([[0.0], np.cumsum(wave.astype(np.float64) ** 2)])
    at = np.arange(first, max(first + 1, last))
    energy = power[np.minimum(at + half, len(wave))] - power[np.maximum(at - half, 0)]
    return int(at[energy.argmin()])


def _fade(wave: np.ndarray, begin: bool, end: bool) -> np.ndarray:
    """Fade the cut sides over 5 ms, so that they do not click."""
    wave = wave.copy()
    size = min(RATE // 200, len(wave))
    if begin:
        wave[:size] *= np.linspace(0, 1, size, dtype=np.float32)
    if end:
        wave[len(wave) - size :] *= np.linspace(1, 0, size, dtype=np.float32)
    return wave


def coloured_noise(size: int, rng: np.random.Generator, slope: float = 1.0) -> np.ndarray:
    """Noise with a spectrum that falls with frequency, of root mean square 1."""
    spectrum = np.fft.rfft(rng.normal(size=size))
    frequency = np.maximum(np.fft.rfftfreq(size, 1 / RATE), 50.0)
    wave = np.fft.irfft(spectrum * frequency ** (-slope / 2), size)
    return wave / np.sqrt(np.mean(wave**2))


def _rounded(span: tuple[float, float]) -> list[float]:
    return [round(span[0], 6), round(span[1], 6)]


def write_json(path: Path, data: Any) -> None:
    """Write JSON that a person can read, atomically."""
    write_text(path, json.dumps(data, ensure_ascii=False, indent=1) + "\n")
