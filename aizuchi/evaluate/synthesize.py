"""Speech from text, for scenario sets: a synthesizer protocol, and hibari-tts with its own voice."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple, Protocol

import numpy as np
import soxr

from aizuchi.errors import AizuchiError, require
from aizuchi.evaluate.text import normalize
from aizuchi.transcript import Word

RATE = 24_000
_UNIT = 600  # samples of one duration unit of hibari's acoustic model
_LAG = 0.05  # its durations run this much behind the sound


class Speech(NamedTuple):
    """An utterance at 24 kHz, (samples,), trimmed to its sound, and its words' times."""

    wave: np.ndarray
    words: list[Word]


class Synthesizer(Protocol):
    """Speaks a text; the same arguments give the same samples."""

    name: str

    def __call__(self, text: str, seed: int = 0) -> Speech:
        """Say a text, trimmed to its sound."""
        ...


class HibariSynthesizer:
    """hibari-tts with its word times, optionally as another speaker.

    Args:
        shift: play back this many times faster, which moves pitch and formants: 0.75 to 1.15 sound like
            other speakers. 1 is the voice itself.
        speed: speaking rate, 1 is the voice's own.

    Raises:
        MissingDependencyError: hibari-tts or onnx is not installed.
        AizuchiError: shift or speed is out of range.
    """

    def __init__(self, shift: float = 1.0, speed: float = 1.0) -> None:
        for name, value in (("shift", shift), ("speed", speed)):
            if not 0.5 <= value <= 2.0:
                raise AizuchiError(f"{name} is {value}: it must lie between 0.5 and 2")
        hibari = require("hibari", extra="eval")
        self.name = f"hibari-tts shift {shift:g} speed {speed:g}"
        self._shift, self._speed = shift, speed
        self._voice = hibari.Hibari(threads=1)
        self._durations = _open_durations(self._voice.model_path)

    def __call__(self, text: str, seed: int = 0) -> Speech:
        rng = np.random.default_rng(seed)
        pieces, words, at = [], [], 0.0
        for phonemes in self._voice.phonemize(text):
            ids = self._voice.ids(phonemes)
            wave = self._voice.from_ids(ids, self._speed, rng)
            spans = self._word_spans(phonemes, ids)
            words += [(at + start, at + end) for start, end in spans]
            pieces.append(wave)
            at += len(wave) / RATE
        if not pieces:
            raise AizuchiError(f"nothing can be said for the text {text!r}")
        wave = np.concatenate(pieces)
        if self._shift != 1.0:
            wave = soxr.resample(wave, RATE * self._shift, RATE)
            words = [(start / self._shift, end / self._shift) for start, end in words]
        first, last = sound_span(wave)
        begin, end = first / RATE, last / RATE
        texts, words = _match(text.split(), words)
        length = end - begin
        timed = [
            Word(t, min(max(0.0, a - begin), length), min(max(0.0, b - begin), length))
            for t, (a, b) in zip(texts, words)
        ]
        return Speech(np.ascontiguousarray(wave[first:last], dtype=np.float32), timed)

    def _word_spans(self, phonemes: str, ids: list[int]) -> list[tuple[float, float]]:
        """Start and end of each word of one sentence: groups of phonemes between spaces, in seconds."""
        feed = {"ids": np.asarray([ids], np.int64), "speed": np.asarray([self._speed], np.float32)}
        units = np.round(np.asarray(self._durations.run(["/Clip_output_0"], feed)[0])).reshape(-1)
        edges = np.concatenate([[0.0], np.cumsum(units)]) * _UNIT / RATE - _LAG  # (phonemes + 2 pads + 1,)
        known = [symbol for symbol in phonemes if symbol in self._voice.vocab]
        spans: list[tuple[float, float]] = []
        inside = False
        for i, symbol in enumerate(known, 1):
            if symbol == " ":
                inside = False
            elif symbol.isalpha() or symbol in "ˈˌ":
                start = spans.pop()[0] if inside else edges[i]
                spans.append((max(0.0, float(start)), max(0.0, float(edges[i + 1]))))
                inside = True
        return spans


def _match(texts: list[str], spans: list[tuple[float, float]]) -> tuple[list[str], list[tuple[float, float]]]:
    """Give each written word its span, where a number may have been said as several words."""
    sizes = [max(1, len(normalize(text, fillers=True))) for text in texts]
    if sum(sizes) != len(spans):  # an abbreviation that is spoken otherwise: share the spans out in order
        edges = np.linspace(0, len(spans), len(texts) + 1).astype(int)
        sizes = [max(1, int(b - a)) for a, b in zip(edges, edges[1:])]
    out, at = [], 0
    for size in sizes:
        part = spans[at : at + size] or spans[-1:]
        out.append((part[0][0], part[-1][1]))
        at += size
    return texts, out


def sound_span(wave: np.ndarray, decibels: float = 40.0) -> tuple[int, int]:
    """First and last sample of the sound: where the level over 5 ms is within `decibels` of the loudest.

    Raises:
        AizuchiError: the wave is silent.
    """
    size = RATE // 200
    power = np.concatenate([[0.0], np.cumsum(wave.astype(np.float64) ** 2)])
    level = (power[size:] - power[:-size]) / size if len(wave) >= size else np.zeros(0)
    if not level.size or level.max() <= 1e-10:
        raise AizuchiError("the speech is silent")
    loud = np.flatnonzero(level >= level.max() * 10 ** (-decibels / 10))
    return int(loud[0]), int(loud[-1] + size)


def open_synthesizer(spec: str) -> Synthesizer:
    """A synthesizer from its name.

    Args:
        spec: "hibari"; "hibari:0.85" for its voice shifted by 0.85; or "package.module:factory" for a
            callable of one's own that returns a `Synthesizer`.

    Raises:
        AizuchiError: the name is not known, or the factory can't be imported.
    """
    head, _, rest = spec.partition(":")
    if head == "hibari":
        try:
            return HibariSynthesizer(shift=float(rest or 1.0))
        except ValueError as error:
            raise AizuchiError(f"bad synthesizer {spec!r}: {error}") from error
    return load_factory(spec, "synthesizer")()


def load_factory(spec: str, what: str) -> Any:
    """Import "package.module:name".

    Raises:
        AizuchiError: it is not of that form, or can't be imported.
    """
    module, colon, name = spec.partition(":")
    if not (module and colon and name):
        raise AizuchiError(f"unknown {what} {spec!r}: give a name from --help, or package.module:factory")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise AizuchiError(f"can't import the {what} {spec!r}: {error}") from error


def _open_durations(path: str) -> Any:
    """A session of the model that also gives each phoneme's duration."""
    onnx, runtime = require("onnx", extra="eval"), require("onnxruntime", extra="eval")
    model = onnx.load(path)
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info("/Clip_output_0"))
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
