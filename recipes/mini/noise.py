"""Noise of many colours as spectra: kept once, and drawn from, since a row of spectra has no waveform to add it to.

What is kept is the power in bands of noise that was made as sound. Drawn for each band and moment alone it would be
smoother than sound is: a low band holds few lines of a spectrum, and windows overlap.
"""

from __future__ import annotations

import functools
import random

import numpy as np

from recipes.mini.spectrum import BANDS, mel_power
from recipes.mini.timing import RATE

COLOURS = 32
SLOPES = (-0.2, 1.6)  # of power with frequency: 0 is white, 1 is pink
SECONDS = 12
LOWEST = 50.0  # Hz, below which it rises no more
TILTS = 4.0  # dB by which bands are louder or quieter than a colour has them
KNOTS = 5


@functools.lru_cache(maxsize=1)
def colours() -> np.ndarray:
    """(COLOURS, T, BANDS) float32, each made of noise of root mean square 1; the same in every process."""
    found = []
    for number, slope in enumerate(np.linspace(*SLOPES, COLOURS)):
        size = SECONDS * RATE
        spectrum = np.fft.rfft(np.random.default_rng(number).normal(size=size))
        spectrum *= np.maximum(np.fft.rfftfreq(size, 1 / RATE), LOWEST) ** (-slope / 2)
        wave = np.fft.irfft(spectrum, size)
        found.append(mel_power(wave / np.sqrt(np.mean(wave**2))).numpy())
    return np.stack(found)


def draw_noise(length: int, db: float, rng: random.Random) -> np.ndarray:
    """(length, BANDS) float32 power of noise of any colour at `db` dBFS."""
    bank = colours()
    kept = bank[rng.randrange(len(bank))]
    at = (np.arange(length) + rng.randrange(len(kept))) % len(kept)
    tilt = np.interp(
        np.linspace(0, KNOTS - 1, BANDS), range(KNOTS), [rng.uniform(-TILTS, TILTS) for _ in range(KNOTS)]
    )
    return kept[at] * (10 ** ((db + tilt) / 10)).astype(np.float32)
