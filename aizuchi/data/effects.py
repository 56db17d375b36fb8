"""What happens to a voice on its way to a microphone: pure functions over float32 waves of (samples,).

Those that draw take a numpy Generator and nothing else is random. Every one returns a new array, of the
same length where it changes a wave. Rates are 24 kHz unless an argument says otherwise.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import soundfile
import soxr

from aizuchi.audio import SAMPLE_RATE, FloatArray
from aizuchi.data.frames import FRAME_SAMPLES
from aizuchi.data.stats import active_frames
from aizuchi.errors import AizuchiError

NOMINAL_DB = -26.0  # the level of speech (dBFS) where a channel has none: the usual level of test speech
_OPUS_KBPS = (6.0, 256.0)  # what libsndfile maps its compression level onto, for one channel

# How the power of a noise falls with frequency f: as f ** -exponent.
NOISE_COLORS = {"white": 0.0, "pink": 1.0, "brown": 2.0}


def decibels(ratio: float) -> float:
    """Amplitude ratio to dB; -inf for 0."""
    return 20 * float(np.log10(ratio)) if ratio > 0 else -np.inf


def amplitude(db: float) -> float:
    """dB to amplitude ratio."""
    return float(10 ** (db / 20))


def rms(wave: FloatArray) -> float:
    """Root mean square; 0 for an empty wave."""
    return float(np.sqrt(np.mean(np.square(wave, dtype=np.float64)))) if wave.size else 0.0


def speech_level(wave: FloatArray) -> float:
    """RMS of the frames that hold sound; the nominal level (-26 dBFS) if none does.

    A user is silent most of the time: over the whole channel the level would be that of the pauses.
    """
    frames = active_frames(wave)
    if not frames.any():
        return amplitude(NOMINAL_DB)
    return rms(wave[np.repeat(frames, FRAME_SAMPLES)[: len(wave)]])


def gain(wave: FloatArray, db: float) -> FloatArray:
    """Louder or softer by this many dB."""
    return (wave * np.float32(amplitude(db))).astype(np.float32)


def mix(wave: FloatArray, other: FloatArray, db: float, level: float | None = None) -> FloatArray:
    """Add a sound of RMS 1 at `db` relative to the speech of the wave (an SNR of -db).

    Args:
        wave: the voice.
        other: as long, and of RMS 1 where it sounds (silent sections do not count).
        db: its level relative to the speech.
        level: RMS of the speech; measured if None.
    """
    level = speech_level(wave) if level is None else level
    return (wave + np.float32(amplitude(db) * level) * other).astype(np.float32)


def colored_noise(samples: int, exponent: float, rng: np.random.Generator) -> FloatArray:
    """Gaussian noise of RMS 1 whose power falls as f ** -exponent above 20 Hz (0 white, 1 pink, 2 brown)."""
    spectrum = np.fft.rfft(rng.standard_normal(max(samples, 2)))
    frequency = np.fft.rfftfreq(max(samples, 2), 1 / SAMPLE_RATE)
    spectrum *= np.maximum(frequency, 20.0) ** (-exponent / 2)
    spectrum[0] = 0
    return _unit(np.fft.irfft(spectrum, max(samples, 2))[:samples].astype(np.float32))


def excerpt(recording: FloatArray, samples: int, rng: np.random.Generator) -> FloatArray:
    """A random stretch of a recording, repeated from its start if it is too short, of RMS 1."""
    first = int(rng.integers(0, max(1, len(recording) - samples + 1)))
    return _unit(np.resize(recording[first:], samples).astype(np.float32))


def noise_track(
    samples: int,
    rng: np.random.Generator,
    recordings: Sequence[FloatArray] = (),
    longest: float = 30.0,
    silent: float = 0.5,
) -> FloatArray:
    """Noise and silence in turn, as in the Moshi paper: sections of random kind and length.

    Args:
        samples: length of the result.
        rng: draws everything.
        recordings: noises to draw from; synthetic ones (white, pink, brown) if there are none.
        longest: the longest section in seconds.
        silent: the share of sections that are silent; the first one never is.

    Returns:
        (samples,), of RMS 1 within each section that is not silent.
    """
    out = np.zeros(samples, np.float32)
    at = 0
    while at < samples:
        length = min(samples - at, max(1, round(rng.uniform(min(1.0, longest), longest) * SAMPLE_RATE)))
        if at == 0 or rng.random() >= silent:
            if recordings:
                section = excerpt(recordings[int(rng.integers(len(recordings)))], length, rng)
            else:
                color = list(NOISE_COLORS)[int(rng.integers(len(NOISE_COLORS)))]
                section = colored_noise(length, NOISE_COLORS[color], rng)
            out[at : at + length] = section
        at += length
    return out


def babble(samples: int, voices: Sequence[FloatArray], rng: np.random.Generator, talkers: int) -> FloatArray:
    """Several voices at once, of RMS 1.

    Raises:
        AizuchiError: there are no voices.
    """
    if not voices:
        raise AizuchiError("voices is empty: babble needs recordings of speech")
    total = np.zeros(samples, np.float32)
    for _ in range(talkers):
        total += excerpt(voices[int(rng.integers(len(voices)))], samples, rng)
    return _unit(total)


def room_response(seconds: float, direct_db: float, rng: np.random.Generator) -> FloatArray:
    """A synthetic room: the direct sound, then noise that decays by 60 dB in `seconds` (its RT60).

    Args:
        seconds: RT60.
        direct_db: energy of the direct sound relative to that of the tail.
        rng: draws the tail.

    Returns:
        (samples,), 1 at index 0.
    """
    samples = max(2, round(seconds * SAMPLE_RATE))
    time = np.arange(samples) / SAMPLE_RATE
    tail = rng.standard_normal(samples) * 10 ** (-3 * time / seconds)
    tail[: min(samples // 2, round(0.002 * SAMPLE_RATE))] = 0  # the first wall is some way off
    tail *= amplitude(-direct_db) / np.sqrt(np.sum(tail**2))
    tail[0] = 1
    return tail.astype(np.float32)


def convolve(wave: FloatArray, response: FloatArray) -> FloatArray:
    """The wave heard through a response, cut to its length; by overlap-add, in memory that stays small."""
    out = np.zeros(len(wave) + len(response) - 1, np.float32)
    block = max(1 << 16, 4 * len(response))
    size = 1 << (block + len(response) - 2).bit_length()
    spectrum = np.fft.rfft(response, size)
    for at in range(0, len(wave), block):
        piece = np.fft.irfft(np.fft.rfft(wave[at : at + block], size) * spectrum, size)
        end = min(len(out), at + min(block, len(wave) - at) + len(response) - 1)
        out[at:end] += piece[: end - at].astype(np.float32)
    return out[: len(wave)]


def delay(wave: FloatArray, seconds: float) -> FloatArray:
    """The wave later by this long, cut to its length."""
    shift = min(len(wave), round(seconds * SAMPLE_RATE))
    return np.concatenate([np.zeros(shift, np.float32), wave[: len(wave) - shift]])


def echo(
    user: FloatArray, model: FloatArray, scale: float, seconds: float, response: FloatArray | None = None
) -> FloatArray:
    """The model's own voice comes back through the user's microphone.

    Args:
        user, model: (samples,) of one length.
        scale: of the echo's direct sound, 0 to 1.
        seconds: from the loudspeaker to the stream.
        response: the room, for instance from `room_response`.
    """
    if len(user) != len(model):
        raise AizuchiError(f"user has {len(user)} samples and model {len(model)}: they must be equally long")
    heard = model if response is None else convolve(model, response)
    return (user + np.float32(scale) * delay(heard, seconds)).astype(np.float32)


def band_limit(wave: FloatArray, rate: int) -> FloatArray:
    """Through a device that samples at `rate`: nothing is left above rate / 2."""
    low = soxr.resample(wave, SAMPLE_RATE, rate)
    return _fit(soxr.resample(low, rate, SAMPLE_RATE), len(wave))


def clip(wave: FloatArray, db: float) -> FloatArray:
    """Cut the peaks off, at `db` below the highest: an overdriven microphone at unchanged level."""
    top = np.float32(np.abs(wave).max(initial=0.0) * amplitude(-db))
    return np.clip(wave, -top, top)


def mute_pauses(wave: FloatArray, shortest: float = 0.24) -> FloatArray:
    """Exact silence wherever the level is that of a pause for this many seconds: a noise gate, as calls have.

    The 80 ms frames beside speech are kept, so that no onset or ending is cut.
    """
    sound = active_frames(wave)
    kept = sound | np.append(sound[1:], False) | np.insert(sound[:-1], 0, False) if sound.size else sound
    edges = np.flatnonzero(np.diff(np.concatenate([[True], kept, [True]]).astype(np.int8)))
    out = wave.copy()
    for first, last in zip(edges[::2], edges[1::2]):
        if (last - first) * FRAME_SAMPLES >= shortest * SAMPLE_RATE:
            out[first * FRAME_SAMPLES : last * FRAME_SAMPLES] = 0
    return out


def opus(wave: FloatArray, kbps: float) -> FloatArray:
    """Through the Opus codec and back, at about this many kbit/s (6 to 256)."""
    low, high = _OPUS_KBPS
    if not low <= kbps <= high:
        raise AizuchiError(f"kbps is {kbps:g}; Opus takes {low:g} to {high:g}")
    if not len(wave):
        return wave.copy()
    buffer = io.BytesIO()
    level = 1 - (kbps - low) / (high - low)
    with soundfile.SoundFile(
        buffer, "w", SAMPLE_RATE, 1, "OPUS", format="OGG", compression_level=level
    ) as sink:
        for at in range(0, len(wave), 1 << 16):
            sink.write(wave[at : at + (1 << 16)])
    buffer.seek(0)
    return _fit(soundfile.read(buffer, dtype="float32")[0], len(wave))


def _unit(wave: FloatArray) -> FloatArray:
    level = rms(wave)
    return (wave / np.float32(level)).astype(np.float32) if level > 0 else wave


def _fit(wave: FloatArray, samples: int) -> FloatArray:
    out = np.zeros(samples, np.float32)
    out[: min(samples, len(wave))] = wave[:samples]
    return out
