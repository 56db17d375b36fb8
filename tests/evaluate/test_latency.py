import numpy as np
import pytest

from aizuchi.errors import AizuchiError
from aizuchi.evaluate.latency import measure, track

RATE = 24000
FRAME = 0.08


def speech_like(seconds, seed=0):
    """Noise bursts of uneven lengths and levels with silences between."""
    rng = np.random.default_rng(seed)
    wave = np.zeros(int(seconds * RATE), np.float32)
    at = 0
    while at < len(wave):
        size = int(rng.uniform(0.08, 0.4) * RATE)
        wave[at : at + size] = rng.normal(size=len(wave[at : at + size])) * rng.uniform(0.05, 0.3)
        at += size + int(rng.uniform(0.05, 0.3) * RATE)
    return wave


@pytest.mark.parametrize("delay", [0.0, 0.160, 0.2375, 1.2])
def test_planted_delay_is_found_to_the_sample(delay):
    given = speech_like(4)
    shift = round(delay * RATE)
    heard = np.concatenate([np.zeros(shift, np.float32), given * 0.5])
    found = measure(given, heard, RATE)
    assert abs(found.seconds * RATE - shift) < 0.51
    assert found.method == "wave" and found.agreement > 0.99


def test_noise_and_a_loud_stranger_do_not_mislead():
    given = speech_like(3)
    shift = round(0.32 * RATE)
    heard = np.zeros(8 * RATE, np.float32)
    heard[shift : shift + len(given)] += given
    heard += np.random.default_rng(1).normal(size=len(heard)) * 0.05
    heard[5 * RATE : 6 * RATE] += np.random.default_rng(2).normal(size=RATE) * 2.0
    assert abs(measure(given, heard, RATE).seconds - 0.32) < 0.001


def test_a_changed_waveform_is_matched_by_its_envelope():
    given = speech_like(4)
    envelope = np.abs(given)
    other = (
        np.random.default_rng(9).normal(size=len(given)).astype(np.float32) * envelope
    )  # no phase in common
    heard = np.concatenate([np.zeros(round(0.4 * RATE)), other])
    found = measure(given, heard, RATE)
    assert found.method == "envelope"
    assert abs(found.seconds - 0.4) < FRAME


def test_track_shows_a_system_that_falls_behind():
    given = speech_like(9)
    heard = np.zeros(12 * RATE, np.float32)
    for window, delay in enumerate((0.2, 0.6, 1.1)):
        start = window * 3 * RATE
        at = start + round(delay * RATE)
        heard[at : at + 3 * RATE] = given[start : start + 3 * RATE]
    found = track(given, heard, RATE, window_seconds=3.0)
    assert [round(start) for start, _ in found] == [0, 3, 6]
    assert np.allclose([latency.seconds for _, latency in found], [0.2, 0.6, 1.1], atol=0.002)


def test_bad_input_is_refused():
    wave = speech_like(1)
    with pytest.raises(AizuchiError, match="silent"):
        measure(wave, np.zeros(100, np.float32), RATE)
    with pytest.raises(AizuchiError, match="method"):
        measure(wave, wave, RATE, method="magic")
    with pytest.raises(AizuchiError, match="given"):
        measure(np.zeros((2, 4)), wave, RATE)
