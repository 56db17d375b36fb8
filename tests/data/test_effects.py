"""Each effect by what it does to a signal."""

from __future__ import annotations

import numpy as np
import pytest

from aizuchi.data import effects
from aizuchi.errors import AizuchiError

RATE = 24000


def rng(seed=0):
    return np.random.default_rng(seed)


FRAME = 1920


@pytest.fixture(scope="module")
def voice():
    """4 s of white bursts, as broad as a signal can be, on whole frames: 0 to 11 and 25 to 36 of 50."""
    wave = 0.1 * rng(9).standard_normal(50 * FRAME).astype(np.float32)
    wave[12 * FRAME : 25 * FRAME] = 0
    wave[37 * FRAME :] = 0
    return wave


def band_power(wave, low, high):
    spectrum = np.abs(np.fft.rfft(wave)) ** 2
    frequency = np.fft.rfftfreq(len(wave), 1 / RATE)
    return float(spectrum[(frequency >= low) & (frequency < high)].sum())


def lag(later, earlier):
    """Samples by which one wave lags another, by cross-correlation."""
    size = 2 * len(later)
    product = np.fft.rfft(later, size) * np.conj(np.fft.rfft(earlier, size))
    peak = int(np.argmax(np.fft.irfft(product, size)))
    return peak if peak < len(later) else peak - size


def test_the_speech_level_ignores_pauses(voice):
    assert effects.decibels(effects.speech_level(voice)) == pytest.approx(-20, abs=0.1)
    assert effects.decibels(effects.rms(voice)) == pytest.approx(-23.2, abs=0.1)  # 24 frames of 50
    assert effects.decibels(effects.speech_level(np.zeros(RATE, np.float32))) == pytest.approx(-26)


@pytest.mark.parametrize("db", [-24.0, 0.0, 15.0])
def test_gain(voice, db):
    assert effects.decibels(effects.rms(effects.gain(voice, db)) / effects.rms(voice)) == pytest.approx(
        db, abs=1e-4
    )


@pytest.mark.parametrize("db", [-30.0, -6.0, 6.0])
def test_mix_has_the_signal_to_noise_ratio_that_was_asked_for(voice, db):
    noise = effects.colored_noise(len(voice), 1.0, rng())
    mixed = effects.mix(voice, noise, db)
    active = voice != 0
    added = mixed - voice
    snr = effects.decibels(effects.rms(voice[active]) / effects.rms(added))
    assert snr == pytest.approx(-db, abs=0.1)


@pytest.mark.parametrize("color, exponent", effects.NOISE_COLORS.items())
def test_noise_colors_fall_as_they_should(color, exponent):
    noise = effects.colored_noise(20 * RATE, exponent, rng())
    assert effects.rms(noise) == pytest.approx(1, abs=1e-4)
    assert abs(noise.mean()) < 1e-3
    octaves = [band_power(noise, f, 2 * f) / f for f in (100, 200, 400, 800, 1600, 3200, 6000)]
    slopes = np.diff(10 * np.log10(octaves))  # dB an octave; the last step is a little short of one
    assert np.allclose(slopes, -3.01 * exponent, atol=1.0)


def test_a_noise_track_has_noise_and_exact_silence_in_turn():
    track = effects.noise_track(120 * RATE, rng(), longest=5.0, silent=0.5)
    assert track.shape == (120 * RATE,)
    sections = np.split(track, np.flatnonzero(np.diff((track == 0).astype(np.int8))) + 1)
    sections = [s for s in sections if len(s) > 100]
    silent = [s for s in sections if not s.any()]
    sounding = [s for s in sections if s.any()]
    assert len(silent) > 3 and len(sounding) > 3
    assert 0.2 < sum(map(len, silent)) / len(track) < 0.8
    assert track[:100].any()
    assert effects.rms(np.concatenate(sounding)) == pytest.approx(1, abs=0.02)
    assert effects.noise_track(RATE, rng(), silent=0.0).all()
    assert not effects.noise_track(60 * RATE, rng(1), longest=2.0, silent=1.0)[2 * RATE :].any()


def test_recorded_noise_is_used_where_there_is_some():
    hum = np.sin(2 * np.pi * 100 * np.arange(RATE) / RATE).astype(np.float32)
    track = effects.noise_track(3 * RATE, rng(), [hum], longest=30.0)
    assert band_power(track, 99, 101) / band_power(track, 0, 12000) > 0.95
    assert effects.rms(track) == pytest.approx(1, abs=1e-3)
    assert effects.excerpt(np.zeros(10, np.float32), 30, rng()).tolist() == [0] * 30


def test_babble_has_all_its_voices():
    t = np.arange(RATE) / RATE
    voices = [np.sin(2 * np.pi * f * t).astype(np.float32) for f in (300, 500, 700)]
    crowd = effects.babble(2 * RATE, voices, rng(), talkers=30)
    assert effects.rms(crowd) == pytest.approx(1, abs=1e-4)
    assert all(band_power(crowd, f - 5, f + 5) > 0.01 * band_power(crowd, 0, 12000) for f in (300, 500, 700))
    with pytest.raises(AizuchiError, match="voices is empty"):
        effects.babble(RATE, [], rng(), 2)


@pytest.mark.parametrize("rt60", [0.2, 0.6])
def test_a_room_decays_in_its_time(rt60):
    response = effects.room_response(rt60, 6.0, rng())
    assert response[0] == 1
    tail = response[1:].astype(np.float64)
    assert 10 * np.log10(np.sum(tail**2)) == pytest.approx(-6, abs=0.01)
    # Schroeder's backward integral, fitted from -5 to -25 dB as T20 is measured.
    decay = 10 * np.log10(np.cumsum(tail[::-1] ** 2)[::-1] / np.sum(tail**2) + 1e-30)
    fit = (decay < -5) & (decay > -25)
    slope = np.polyfit(np.arange(len(tail))[fit] / RATE, decay[fit], 1)[0]
    assert -60 / slope == pytest.approx(rt60, rel=0.1)


def test_convolution_by_blocks_is_convolution():
    wave, response = rng(1).standard_normal(70001).astype(np.float32), rng(2).standard_normal(301)
    expected = np.convolve(wave, response)[:70001]
    assert np.abs(effects.convolve(wave, response.astype(np.float32)) - expected).max() < 1e-3
    assert np.abs(effects.convolve(wave, np.ones(1, np.float32)) - wave).max() < 1e-6
    assert effects.convolve(wave[:10], response.astype(np.float32)).shape == (10,)


@pytest.mark.parametrize("seconds", [0.1, 0.3, 0.5])
def test_an_echo_comes_back_later_and_softer(voice, seconds):
    user = np.roll(voice, RATE) * 0.5
    response = effects.room_response(0.3, 10.0, rng())
    for room in (None, response):
        added = effects.echo(user, voice, 0.2, seconds, room) - user
        assert abs(lag(added, voice) - seconds * RATE) <= 1
        expected = 0.2 if room is None else 0.2 * np.sqrt(1.1)  # the tail adds a tenth of the energy
        whole = effects.rms(voice[: -round(seconds * RATE)])
        assert effects.rms(added) / whole == pytest.approx(expected, rel=0.1)
        assert not added[: round(seconds * RATE)].any()
    assert np.array_equal(effects.echo(user, voice, 0.0, seconds), user)
    with pytest.raises(AizuchiError, match="equally long"):
        effects.echo(user, voice[:-1], 0.2, seconds)


def test_delay_beyond_the_end_is_silence():
    assert not effects.delay(np.ones(100, np.float32), 1.0).any()


@pytest.mark.parametrize("rate", [8000, 16000])
def test_a_band_limit_cuts_above_and_keeps_below(voice, rate):
    narrow = effects.band_limit(voice, rate)
    assert narrow.shape == voice.shape
    above = band_power(narrow, rate / 2 * 1.02, 12000) / band_power(voice, rate / 2 * 1.02, 12000)
    below = band_power(narrow, 50, rate / 2 * 0.85) / band_power(voice, 50, rate / 2 * 0.85)
    assert (
        10 * np.log10(above) < -50
    )  # the resampler leaves about -57 dB, gated white noise being its worst case
    assert 10 * np.log10(below) == pytest.approx(0, abs=0.1)
    assert lag(narrow, voice) == 0


def test_clipping_cuts_peaks_only(voice):
    clipped = effects.clip(voice, 6.0)
    top = np.abs(voice).max() * 10 ** (-6 / 20)
    assert np.abs(clipped).max() == pytest.approx(top, rel=1e-5)
    small = np.abs(voice) < 0.99 * top
    assert np.array_equal(clipped[small], voice[small])
    assert not effects.clip(np.zeros(10, np.float32), 6.0).any()


def test_the_gate_makes_pauses_exactly_silent_and_leaves_speech(voice):
    noisy = voice + 1e-4 * rng(3).standard_normal(len(voice)).astype(np.float32)
    gated = effects.mute_pauses(noisy)
    assert not gated[13 * FRAME : 24 * FRAME].any()  # but for one frame beside each burst
    assert not gated[38 * FRAME :].any()
    for speech in (slice(0, 13 * FRAME), slice(24 * FRAME, 38 * FRAME)):
        assert np.array_equal(gated[speech], noisy[speech])
    short = noisy.copy()
    short[14 * FRAME : 25 * FRAME] = 0.1  # a pause of two frames is left alone
    assert np.array_equal(effects.mute_pauses(short)[: 25 * FRAME], short[: 25 * FRAME])
    assert effects.mute_pauses(np.zeros(0, np.float32)).shape == (0,)


def test_opus_keeps_length_and_time_and_loses_more_at_a_lower_rate():
    t = np.arange(2 * RATE) / RATE
    wave = (0.3 * np.sin(2 * np.pi * (200 + 400 * t) * t) * (np.sin(6 * t) > 0)).astype(np.float32)
    errors = []
    for kbps in (12, 32, 128):
        coded = effects.opus(wave, kbps)
        assert coded.shape == wave.shape and coded.dtype == np.float32
        assert abs(lag(coded, wave)) <= 2
        errors.append(effects.rms(coded - wave) / effects.rms(wave))
    assert 0.5 > errors[0] > errors[1] > errors[2] > 0
    with pytest.raises(AizuchiError, match="kbps is 2"):
        effects.opus(wave, 2)
    assert effects.opus(wave[:0], 12).shape == (0,)
