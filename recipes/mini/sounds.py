"""Sounds of a room, made from noise and decays: what the model has to let pass without a word.

Each function draws from its generator and returns float32 at 24 kHz with a peak of 1.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from recipes.mini.timing import RATE


def _noise(seconds: float, low: float, high: float, rng: np.random.Generator) -> np.ndarray:
    """White noise between two frequencies, with soft edges."""
    n = max(16, round(seconds * RATE))
    spectrum = np.fft.rfft(rng.standard_normal(n))
    frequency = np.fft.rfftfreq(n, 1 / RATE)
    spectrum /= 1 + (np.maximum(low, 1.0) / np.maximum(frequency, 1e-3)) ** 4
    spectrum /= 1 + (frequency / high) ** 4
    return np.fft.irfft(spectrum, n)


def _unit(wave: np.ndarray) -> np.ndarray:
    return (wave / max(float(np.abs(wave).max(initial=0.0)), 1e-9)).astype(np.float32)


def _decay(n: int, attack: float, seconds: float) -> np.ndarray:
    """Envelope: linear rise, then a fall by 60 dB in `seconds`."""
    t = np.arange(n) / RATE
    return np.minimum(t / attack, 1.0) * np.exp(-6.9 * np.maximum(t - attack, 0) / seconds)


def _burst(seconds: float, low: float, high: float, attack: float, rng: np.random.Generator) -> np.ndarray:
    wave = _noise(seconds, low, high, rng)
    return wave * _decay(len(wave), attack, seconds)


def _sequence(parts: list[np.ndarray], gaps: list[float]) -> np.ndarray:
    out: list[np.ndarray] = []
    for part, gap in zip(parts, gaps):
        out += [part, np.zeros(max(0, round(gap * RATE)))]
    return _unit(np.concatenate(out))


def cough(rng: np.random.Generator) -> np.ndarray:
    """One to three bursts: an explosive onset, then a rough, voiced end."""
    parts = []
    for _ in range(rng.integers(1, 4)):
        burst = _burst(rng.uniform(0.15, 0.3), 300, rng.uniform(2500, 5000), 0.008, rng)
        t = np.arange(len(burst)) / RATE
        pitch = rng.uniform(90, 220)
        voiced = np.sin(2 * np.pi * pitch * t + 4 * np.sin(2 * np.pi * 31 * t)) ** 3
        fall = np.maximum(0, 1 - t / t[-1])
        parts.append(_unit(burst) + 0.25 * voiced * fall * np.minimum(t / 0.04, 1))
    return _sequence(parts, list(rng.uniform(0.08, 0.3, len(parts))))


def throat(rng: np.random.Generator) -> np.ndarray:
    """Clearing one's throat: low noise with a slow rattle."""
    wave = _noise(rng.uniform(0.3, 0.7), 150, 1800, rng)
    t = np.arange(len(wave)) / RATE
    rattle = 1 + 0.8 * np.sin(2 * np.pi * rng.uniform(22, 38) * t)
    return _unit(wave * rattle * np.sin(np.pi * t / t[-1]))


def breath(rng: np.random.Generator) -> np.ndarray:
    """Breathing in or out near the microphone."""
    wave = _noise(rng.uniform(0.4, 1.0), 400, rng.uniform(3000, 7000), rng)
    return _unit(wave * np.sin(np.linspace(0, np.pi, len(wave))) ** 2)


def click(rng: np.random.Generator) -> np.ndarray:
    """A mouse or a switch."""
    parts = [_burst(rng.uniform(0.01, 0.04), 1500, 9000, 0.001, rng) for _ in range(rng.integers(1, 3))]
    return _sequence(parts, list(rng.uniform(0.05, 0.15, len(parts))))


def knock(rng: np.random.Generator) -> np.ndarray:
    """Two to four knocks on wood."""
    pitch = rng.uniform(120, 350)
    parts = []
    for _ in range(rng.integers(2, 5)):
        n = round(0.12 * RATE)
        t = np.arange(n) / RATE
        body = np.sin(2 * np.pi * pitch * t) + 0.4 * np.sin(2 * np.pi * 2.7 * pitch * t)
        parts.append((body + 0.3 * rng.standard_normal(n)) * _decay(n, 0.002, 0.1))
    return _sequence(parts, [rng.uniform(0.06, 0.2)] * len(parts))


def bump(rng: np.random.Generator) -> np.ndarray:
    """Something falls, or a hand meets the microphone."""
    return _unit(_burst(rng.uniform(0.15, 0.5), 30, rng.uniform(200, 900), 0.004, rng))


def rustle(rng: np.random.Generator) -> np.ndarray:
    """Paper or cloth: high noise in irregular swells."""
    wave = _noise(rng.uniform(0.5, 1.3), 1500, 9000, rng)
    steps = rng.random(max(2, len(wave) // 1200)) ** 3
    swell = np.interp(np.arange(len(wave)), np.linspace(0, len(wave), len(steps)), steps)
    return _unit(wave * swell * np.sin(np.linspace(0, np.pi, len(wave))))


def typing(rng: np.random.Generator) -> np.ndarray:
    """A few keystrokes."""
    parts = [_burst(rng.uniform(0.02, 0.05), 800, 6000, 0.002, rng) for _ in range(rng.integers(4, 11))]
    return _sequence([p * rng.uniform(0.4, 1) for p in parts], list(rng.uniform(0.04, 0.15, len(parts))))


def hum(rng: np.random.Generator) -> np.ndarray:
    """A machine or a passing car: mains harmonics and low noise, fading in and out."""
    wave = 0.5 * _unit(_noise(rng.uniform(0.8, 1.6), 40, rng.uniform(300, 1200), rng))
    t = np.arange(len(wave)) / RATE
    for harmonic in range(1, 6):
        wave = wave + rng.random() / harmonic * np.sin(2 * np.pi * 50 * harmonic * t + rng.uniform(0, 6.28))
    return _unit(wave * np.sin(np.pi * t / t[-1]).clip(min=0) ** 0.5)


SOUNDS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    sound.__name__: sound for sound in (cough, throat, breath, click, knock, bump, rustle, typing, hum)
}


def make_sound(name: str, rng: np.random.Generator) -> np.ndarray:
    """The sound of that name; ValueError if there is none."""
    if name not in SOUNDS:
        raise ValueError(f"sound {name!r} is none of {', '.join(SOUNDS)}")
    return SOUNDS[name](rng)
