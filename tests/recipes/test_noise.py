"""Noise as spectra is what noise as sound has."""

from __future__ import annotations

import random

import numpy as np
import pytest

pytest.importorskip("scipy")

from aizuchi.data.effects import colored_noise
from aizuchi.evaluate.scenarios import coloured_noise
from recipes.mini import noise
from recipes.mini.spectrum import BANDS, mel_power
from recipes.mini.timing import USER_LEVEL


def test_pink_noise_is_as_loud_in_each_band_as_in_sound():
    sound = mel_power(colored_noise(10 * 24000, 1.0, np.random.default_rng(99)) * 10 ** (-30 / 20)).numpy()
    slopes = np.linspace(*noise.SLOPES, noise.COLOURS)
    kept = noise.colours()[np.abs(slopes - 1).argmin()] * 1e-3
    by_band = 10 * np.log10(kept.mean(0) / sound.mean(0))
    assert np.abs(by_band).max() < 1.0  # dB: the nearest colour's slope is 0.02 beside it
    # as much from moment to moment, which noise drawn for each band alone is not
    assert (kept.var(0) / kept.mean(0) ** 2)[:3] == pytest.approx(
        (sound.var(0) / sound.mean(0) ** 2)[:3], rel=0.5
    )


def test_drawn_noise_has_its_level_and_differs():
    made = [noise.draw_noise(3000, -40.0, random.Random(seed)) for seed in range(20)]
    assert all(m.shape == (3000, BANDS) and m.dtype == np.float32 and (m > 0).all() for m in made)
    louder = noise.draw_noise(3000, -20.0, random.Random(0))
    assert louder == pytest.approx(made[0] * 100, rel=1e-4)
    assert len({m[:100].tobytes() for m in made}) == 20


def test_users_are_disturbed_by_as_loud_noise_as_is_asked_about():
    """At 15 dB below the user, low bands included."""
    from recipes.mini.ear_rows import NOISE, disturbed

    assert NOISE[0] < 15 < NOISE[1]
    quiet = np.full((400, BANDS), 1e-9, np.float32)
    generator = np.random.default_rng(0)
    sound = coloured_noise(10 * 24000, np.random.default_rng(99)) * 10 ** ((USER_LEVEL - 15) / 20)
    asked = mel_power(sound).numpy().mean(0)
    made = np.stack([disturbed(quiet, random.Random(seed), generator).mean(0) for seed in range(120)])
    share = (made[:, :5] > asked[:5]).all(1).mean()  # of all rows
    assert share > 0.05  # fainter microphones' are among them
