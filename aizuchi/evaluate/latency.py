"""Mouth-to-ear latency: how much later a sound leaves a system than it went in, by cross-correlation.

Record both ends on one clock (a stereo file, or two files started together) while the system passes the
input on: an echo, a loopback, or a codec. The lag of best agreement is the latency. Waveforms are compared
first; where a codec has changed them too much for that, the energy envelopes are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aizuchi.errors import AizuchiError

ENVELOPE_RATE = 1000  # Hz: one envelope sample is a millisecond
MIN_AGREEMENT = 0.3  # a waveform correlation below this is no match


@dataclass(frozen=True)
class Latency:
    """A measured delay.

    Attributes:
        seconds: how much later the output is.
        agreement: normalised correlation at that lag, 1 for an exact copy.
        method: "wave" or "envelope".
    """

    seconds: float
    agreement: float
    method: str


def measure(
    given: np.ndarray, heard: np.ndarray, rate: int, max_seconds: float = 5.0, method: str = "auto"
) -> Latency:
    """Find the lag in 0..max_seconds at which `heard` agrees best with `given`.

    Args:
        given: (samples,) what went in.
        heard: (samples,) what came out, on the same clock.
        rate: samples per second of both.
        max_seconds: the largest lag looked at.
        method: "wave", "envelope", or "auto": waveforms, and envelopes where those do not agree.

    Raises:
        AizuchiError: a recording is silent or empty, or the method is unknown.
    """
    if method not in ("auto", "wave", "envelope"):
        raise AizuchiError(f"method is {method!r}: it must be auto, wave or envelope")
    for name, wave in (("given", given), ("heard", heard)):
        if wave.ndim != 1 or wave.size == 0:
            raise AizuchiError(f"{name} must be (samples,) and not empty, not {wave.shape}")
        if not np.any(wave):
            raise AizuchiError(f"{name} is silent: there is nothing to correlate")
    if method != "envelope":
        lag, agreement = _best_lag(given, heard, int(max_seconds * rate))
        if method == "wave" or agreement >= MIN_AGREEMENT:
            return Latency(lag / rate, agreement, "wave")
    lag, agreement = _best_lag(
        _envelope(given, rate), _envelope(heard, rate), int(max_seconds * ENVELOPE_RATE)
    )
    return Latency(lag / ENVELOPE_RATE, agreement, "envelope")


def track(
    given: np.ndarray, heard: np.ndarray, rate: int, window_seconds: float = 3.0, max_seconds: float = 5.0
) -> list[tuple[float, Latency]]:
    """Latency over time: (start of the window in seconds, latency) for each window with sound in it.

    A latency that grows shows a system that falls behind.
    """
    size = int(window_seconds * rate)
    found = []
    for start in range(0, max(1, len(given) - size + 1), size):
        piece = given[start : start + size]
        answer = heard[start : start + size + int(max_seconds * rate)]
        if np.abs(piece).max(initial=0) < 1e-3 or not np.any(answer):
            continue
        found.append((start / rate, measure(piece, answer, rate, max_seconds)))
    return found


def _best_lag(given: np.ndarray, heard: np.ndarray, max_lag: int) -> tuple[float, float]:
    """The lag (in samples, refined by a parabola) with the highest normalised correlation, and that."""
    given = given.astype(np.float64) - given.mean()
    heard = heard.astype(np.float64) - heard.mean()
    size = 1 << (len(given) + len(heard) - 1).bit_length()
    spectrum = np.fft.rfft(heard, size) * np.fft.rfft(given, size).conj()
    correlation = np.fft.irfft(spectrum, size)[: min(max_lag, len(heard) - 1) + 1]  # (lags,)
    # The energy of the part of `heard` that `given` lies over at each lag: a loud place elsewhere must
    # not win over the right one.
    energy = np.concatenate([[0.0], np.cumsum(heard**2)])
    lags = np.arange(len(correlation))
    under = energy[np.minimum(lags + len(given), len(heard))] - energy[lags]
    floor = 1e-6 * energy[-1] + 1e-20
    score = correlation / np.sqrt((given**2).sum() * np.maximum(under, floor) + 1e-20)
    best = int(score.argmax())
    shift = 0.0
    if 0 < best < len(score) - 1:
        left, middle, right = score[best - 1 : best + 2]
        bend = left - 2 * middle + right
        shift = 0.5 * (left - right) / bend if bend < 0 else 0.0
    return best + shift, float(score[best])


def _envelope(wave: np.ndarray, rate: int) -> np.ndarray:
    """Log energy at 1 kHz over 10 ms windows, so that loud and soft sounds weigh alike."""
    step = rate / ENVELOPE_RATE
    edges = np.arange(0, len(wave) / step).astype(np.float64) * step
    power = np.concatenate([[0.0], np.cumsum(wave.astype(np.float64) ** 2)])
    half = 0.005 * rate
    low = np.clip(edges - half, 0, len(wave)).astype(int)
    high = np.clip(edges + half, 0, len(wave)).astype(int)
    energy = (power[high] - power[low]) / np.maximum(1, high - low)
    floor = max(1e-4 * energy.max(), 1e-12)
    return np.log(np.maximum(energy, floor) / floor)
