"""What the ear learns from: spectra, their components, and rows of words."""

import random

import numpy as np
import pytest
import torch

from recipes.mini import ear_rows
from recipes.mini.ear_rows import EarRows, disturbed, ends_in, voice_weights, warped
from recipes.mini.spectrum import BANDS, HOP, STEPS, Components, band_centres, mel_power
from recipes.mini.timing import RATE
from tests.recipes.tones import FRAMES, WORDS, spoken, tone


def test_a_spectrum_knows_nothing_of_what_comes_after_it():
    wave = np.random.default_rng(0).standard_normal(20 * HOP).astype(np.float32)
    later = wave.copy()
    later[12 * HOP :] = 0
    first, second = mel_power(wave), mel_power(later)
    assert first.shape == (20, BANDS) and torch.equal(first[:12], second[:12])
    assert not torch.allclose(first[12], second[12])


def test_white_noise_has_its_variance_in_every_band():
    wave = 0.1 * np.random.default_rng(1).standard_normal(RATE * 20).astype(np.float32)
    assert mel_power(wave).mean(0).numpy() == pytest.approx(np.full(BANDS, 0.01), rel=0.2)


def test_components_keep_what_is_largest_and_come_back(tmp_path):
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(4000, 6, generator=generator) @ torch.randn(6, 24, generator=generator) + 3.0
    found = Components.fit(frames, 6)
    assert found.kept == pytest.approx(1.0, abs=1e-6)
    assert torch.allclose(found.backward(found.forward(frames)), frames, atol=1e-3)
    assert float(found.forward(frames).square().mean()) == pytest.approx(1.0, rel=1e-3)
    found.save(tmp_path / "components.safetensors")
    again = Components.load(tmp_path / "components.safetensors")
    assert torch.allclose(again.forward(frames), found.forward(frames), atol=1e-5)
    with pytest.raises(Exception, match="mini.ear makes it"):
        Components.load(tmp_path / "nowhere")


def test_words_stand_where_they_end(rows, heard):
    """The tone that sounds before a word's frame is that word's."""
    middles = np.argmax(mel_power(np.stack([tone(word) for word in WORDS]))[:, 5:15].mean(1).numpy(), axis=-1)
    seen = 0
    for number in range(12):
        row = rows.row(number)
        assert row.power.shape == (FRAMES * STEPS, BANDS) and row.shares.shape[0] == FRAMES
        for frame in np.flatnonzero(row.words):
            end = frame * STEPS
            band = np.argmax(np.exp(np.log(row.power[max(0, end - 8) : end + 1] + 1e-9).mean(0)))
            if end > 10:
                seen += abs(int(band) - int(middles[row.words[frame] - 2])) <= 2
    assert seen > 60
    assert all((rows.row(3).power == rows.row(3).power).ravel())  # by the number alone


def test_no_held_out_run_comes_by_chance(library, heard, monkeypatch):
    monkeypatch.setattr(ear_rows, "held_out_runs", lambda: ("one two", "cat monday"))
    monkeypatch.setattr(ear_rows, "SHARES", {"spliced": 1})
    rows = EarRows(library, [], heard, FRAMES, takes=1)
    refused = [[heard.class_of(w) for w in run] for run in (("one", "two"), ("cat", "monday"))]
    for number in range(20):
        said = [int(word) for word in rows.row(number).words if word]
        assert not any(said[i : i + 2] in refused for i in range(len(said)))
    assert ends_in([1, 2, 3], {(2, 3)}, 1) and not ends_in([1, 2, 3, 4], {(2, 3)}, 1)


def test_disturbed_spectra_are_finite_and_differ():
    power = np.full((400, BANDS), 1e-3, np.float32)
    generator = np.random.default_rng(0)
    made = [disturbed(power, random.Random(seed), generator) for seed in range(30)]
    assert all(np.isfinite(m).all() and (m > 0).all() and m.shape == power.shape for m in made)
    assert len({float(m.sum()) for m in made}) > 15 and np.all(power == np.float32(1e-3))


def test_masks_are_few_and_short():
    power = np.ones((600, BANDS), np.float32)
    for seed in range(20):
        hidden = ear_rows.masked(power, random.Random(seed)) < 1
        bands, moments = hidden.all(0).sum(), hidden.all(1).sum()
        assert bands <= 12 and moments <= 48
        assert (hidden == (hidden.all(0) | hidden.all(1)[:, None])).all()
    assert (power == 1).all()


def test_a_warp_moves_what_stands_at_a_frequency():
    def pitch(wave):
        return band_centres()[int(mel_power(wave)[3:].mean(0).argmax())]

    tone = np.sin(2 * np.pi * 1500 * np.arange(RATE) / RATE).astype(np.float32)
    power = mel_power(tone).numpy()
    assert pitch(tone) == pytest.approx(1500, rel=0.06)
    for factor in (0.8, 1.2):
        moved = band_centres()[int(warped(power, factor)[3:].mean(0).argmax())]
        assert moved == pytest.approx(1500 * factor, rel=0.06)
    assert warped(power, 1.0) is power


@pytest.mark.parametrize("tempo", [0.8, 1.25])
def test_a_row_of_another_tempo_has_its_words_where_they_end(heard, tempo):
    canvas = ear_rows._Canvas(FRAMES, tempo)
    clip = ear_rows.heard_clip(spoken("one two three"), heard)
    canvas.at = 40
    canvas.add(clip)
    row = canvas.row(own=False)
    assert row.power.shape == (FRAMES * STEPS, BANDS) and row.shares.shape[0] == FRAMES
    for k, word in enumerate(["one", "two", "three"]):
        end = (40 + (0.25 + 0.2 * k) * 100) / tempo  # spectra
        assert row.words[int(end / STEPS)] == heard.class_of(word)
        middle = row.power[int(end - 12 / tempo) : int(end - 8 / tempo)].mean(0).argmax()
        assert abs(int(middle) - int(mel_power(tone(word))[5:15].mean(0).argmax())) <= 1


def test_engines_are_heard_by_their_shares():
    clips = {"pico:en-US": 9, "kokoro:b": 100, "kokoro:a": 25}
    assert voice_weights(clips) == pytest.approx([20, 40, 10])  # a, b, pico
    assert voice_weights({"flite:rms": 1}) == [14]
