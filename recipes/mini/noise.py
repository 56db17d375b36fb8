"""Noise of many colours as spectra: kept once, and drawn from, since a row of spectra has no waveform to add it to.

What is kept is the power in bands of noise that was made as sound. Drawn for each band and moment alone it would be
smoother than sound is: a low band holds few lines of a spectrum, and windows overlap.
"""

from __future__ import annotations

import functools
import random

import numpy as np

from aizuchi.data.effects import colored_noise
from recipes.mini.spectrum import BANDS, mel_power
from recipes.mini.timing import RATE

COLOURS = 32
SLOPES = (-0.2, 1.6)  # of power with frequency: 0 is white, 1 is pink
SECONDS = 12
TILTS = 4.0  # dB by which bands are louder or quieter than a colour has them
KNOTS = 5


@functools.lru_cache(maxsize=1)
def colours() -> np.ndarray:
    """(COLOURS, T, BANDS) float32, each made of noise of root mean square 1; the same in every process."""
    made = (
        colored_noise(SECONDS * RATE, slope, np.random.default_rng(number))
        for number, slope in enumerate(np.linspace(*SLOPES, COLOURS))
    )
    return np.stack([mel_power(wave).numpy() for wave in made])


def draw_noise(length: int, db: float, rng: random.Random) -> np.ndarray:
    """(length, BANDS) float32 power of noise of any colour at `db` dBFS."""
    bank = colours()
    kept = bank[rng.randrange(len(bank))]
    at = (np.arange(length) + rng.randrange(len(kept))) % len(kept)
    tilt = np.interp(
        np.linspace(0, KNOTS - 1, BANDS), range(KNOTS), [rng.uniform(-TILTS, TILTS) for _ in range(KNOTS)]
    )
    return kept[at] * (10 ** ((db + tilt) / 10)).astype(np.float32)
