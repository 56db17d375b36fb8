"""When somebody speaks on a channel: silero-vad, and its edges brought to the sound's own."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import soxr

from aizuchi.errors import AizuchiError, require
from aizuchi.evaluate.intervals import Interval, merge

VAD_RATE = 16_000
HOP_SECONDS = 0.01  # of the energy that edges are brought to
EDGE_DECIBELS = 30.0  # an edge is where the level comes within this of the segment's loud parts
REACH_SECONDS = 0.15  # how far an edge may be outside the detector's


class Detector(Protocol):
    """Finds speech on one channel."""

    def __call__(self, wave: np.ndarray, rate: int) -> list[Interval]:
        """(start, end) of speech in seconds, for a wave of (samples,)."""
        ...


class SileroDetector:
    """silero-vad (ONNX, inside its package) with its own defaults, as Full-Duplex-Bench uses it.

    Its segments start up to 30 ms early and end 100 ms or more late; `refine` brings both edges to the
    sound. Full-Duplex-Bench's rules want the unrefined ones.

    Args:
        refine: bring the edges to the sound.
        threshold: speech probability from which on it is speech.

    Raises:
        MissingDependencyError: silero-vad is not installed.
    """

    def __init__(self, refine: bool = True, threshold: float = 0.5) -> None:
        self._silero = require("silero_vad", extra="eval")
        require("onnxruntime", extra="eval")
        self._model = self._silero.load_silero_vad(onnx=True)
        self._refine = refine
        self._threshold = threshold

    def __call__(self, wave: np.ndarray, rate: int) -> list[Interval]:
        import torch

        _check(wave)
        low = soxr.resample(wave, rate, VAD_RATE) if rate != VAD_RATE else wave
        found = self._silero.get_speech_timestamps(
            torch.from_numpy(np.ascontiguousarray(low, dtype=np.float32)),
            self._model,
            sampling_rate=VAD_RATE,
            threshold=self._threshold,
        )
        segments = [(s["start"] / VAD_RATE, s["end"] / VAD_RATE) for s in found]
        return refine_edges(segments, wave, rate) if self._refine else segments


class EnergyDetector:
    """Speech is where the level is within `decibels` of the loud parts: for clean, synthetic audio.

    It needs no package, and finds edges to 10 ms; it takes any sound for speech.

    Args:
        decibels: how far below the loud parts speech may lie.
        floor: level (root mean square, full scale 1) below which nothing is speech.
        bridge: silences up to this many seconds are part of the speech.
        shortest: shorter sounds are left out.
    """

    def __init__(
        self,
        decibels: float = EDGE_DECIBELS,
        floor: float = 1e-3,
        bridge: float = 0.15,
        shortest: float = 0.05,
    ) -> None:
        self._ratio = 10 ** (-decibels / 20)
        self._floor = floor
        self._bridge = bridge
        self._shortest = shortest

    def __call__(self, wave: np.ndarray, rate: int) -> list[Interval]:
        _check(wave)
        level, hop = _levels(wave, rate)
        threshold = max(self._floor, self._ratio * float(np.percentile(level, 99)))
        loud = np.flatnonzero(level >= threshold)
        spans = merge([(i * hop, (i + 1) * hop) for i in loud], self._bridge + 1e-9)
        return [(start, min(end, len(wave) / rate)) for start, end in spans if end - start >= self._shortest]


def refine_edges(segments: list[Interval], wave: np.ndarray, rate: int) -> list[Interval]:
    """Bring each segment's edges to where its sound starts and ends, at most 0.15 s outside it.

    The sound is what comes within 30 dB of the segment's loud parts and 6 dB above the recording's quiet
    ones, in steps of 10 ms. A segment in which nothing does is kept as it is.
    """
    level, hop = _levels(wave, rate)
    quiet = 2.0 * float(np.percentile(level, 5)) if level.size else 0.0
    out: list[Interval] = []
    for k, (start, end) in enumerate(segments):
        before = segments[k - 1][1] if k else 0.0
        after = segments[k + 1][0] if k + 1 < len(segments) else len(wave) / rate
        low = int(max(before, start - REACH_SECONDS) / hop)
        high = int(np.ceil(min(after, end + REACH_SECONDS) / hop))
        piece = level[low:high]
        if not piece.size:
            out.append((start, end))
            continue
        threshold = max(float(np.percentile(piece, 95)) * 10 ** (-EDGE_DECIBELS / 20), quiet)
        loud = np.flatnonzero(piece >= threshold)
        if loud.size:
            start, end = (low + loud[0]) * hop, min((low + loud[-1] + 1) * hop, len(wave) / rate)
        out.append((float(start), float(end)))
    return merge(out)


def _levels(wave: np.ndarray, rate: int) -> tuple[np.ndarray, float]:
    """Root mean square of each 10 ms, the last one of what is left, and the exact length of a step."""
    size = max(1, round(rate * HOP_SECONDS))
    count = -(-len(wave) // size)
    padded = np.zeros(count * size)
    padded[: len(wave)] = wave
    return np.sqrt((padded.reshape(count, size) ** 2).mean(axis=1)), size / rate


def _check(wave: np.ndarray) -> None:
    if wave.ndim != 1 or wave.size == 0:
        raise AizuchiError(f"wave must be (samples,) and not empty, not {wave.shape}")
