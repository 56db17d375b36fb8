"""Crops of sound files: what a factor of speed does to the sound and to its labels."""

import json

import numpy as np
import pytest

from aizuchi.audio import SAMPLE_RATE, write_audio
from aizuchi.errors import AizuchiError
from aizuchi.train.waves import VALIDATION, FileWaves
from tests.train.tiny_codec import config_of

SECONDS = 2.0
SAMPLES = 24 * 1920  # 1.92 s


@pytest.fixture
def tone(tmp_path):
    """A tone of 1 kHz in the second half of 4 s, which is the phone "a"."""
    t = np.arange(4 * SAMPLE_RATE) / SAMPLE_RATE
    wave = np.where(t >= 2, 0.3 * np.sin(2 * np.pi * 1000 * t), 0).astype(np.float32)
    write_audio(tmp_path / "tone.wav", wave)
    (tmp_path / "tone.json").write_text(json.dumps({"phones": [["a", [2.0, 4.0]]]}))
    return tmp_path / "tone.wav"


def source(tone, speed):
    return FileWaves([tone], SECONDS, seed=0, phones=["a"], speed=speed)


def pitch(wave):
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 8 * len(wave)))
    return spectrum.argmax() * SAMPLE_RATE / (8 * len(wave))


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_speed_moves_pace_and_pitch_and_labels_with_them(tone, factor):
    quick = source(tone, [factor, factor])
    seen = 0
    for position in range(20):
        wave, labels = quick.draw(position, SAMPLES, np.random.default_rng(position))
        assert wave.shape == (SAMPLES,) and wave.dtype == np.float32 and labels.shape == (24,)
        loud = np.abs(wave.reshape(24, 1920)).mean(1) > 0.1
        assert (labels == 1).sum() - loud.sum() in (-1, 0, 1)  # a frame may hold the onset
        if loud.sum() > 4:
            assert pitch(wave[np.repeat(loud, 1920)]) == pytest.approx(1000 * factor, rel=0.01)
            seen += 1
    assert seen > 5


def test_without_speed_crops_are_those_of_before_and_validation_is_never_changed(tone):
    plain, moving = source(tone, [1.0, 1.0]), source(tone, [0.8, 1.25])
    at = VALIDATION
    for a, b in zip(*(s.draw(at, SAMPLES, np.random.default_rng(1)) for s in (plain, moving))):
        np.testing.assert_array_equal(a, b)
    changed = [s.draw(0, SAMPLES, np.random.default_rng(1))[0] for s in (plain, moving)]
    assert not np.array_equal(*changed)


@pytest.mark.parametrize("speed", [[1.0], [1.2, 0.9], [0.0, 1.0], [1.0, 9.0]])
def test_a_speed_that_makes_no_sense_is_refused(tmp_path, speed):
    with pytest.raises(AizuchiError, match="data.speed holds two factors"):
        config_of(tmp_path, data={"train": "waves", "speed": speed})


def test_speed_is_for_files(tmp_path):
    with pytest.raises(AizuchiError, match="a source in Python makes its own"):
        config_of(tmp_path, data={"train": "python:a:b", "speed": [0.9, 1.1]})
