"""Sound files in and out: any format and rate to float32 at the models' 24 kHz, and back to a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from aizuchi.errors import AizuchiError
from aizuchi.files import atomic_path

SAMPLE_RATE = 24_000
MAX_SECONDS = 2 * 3600.0  # 1.4 GB as stereo at 24 kHz

_MIN_RATE, _MAX_RATE = 1_000, 768_000
_MAX_CHANNELS = 32
_BLOCK = 1 << 16  # frames decoded at a time: a header that lies about the length costs no memory
_FORMATS = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS")}
# The frame count in a header of these is exact, so that fewer decoded frames mean a cut file.
_EXACT_LENGTH = {"WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC"}

FloatArray = npt.NDArray[np.float32]


def read_audio(
    file: str | os.PathLike[str] | BinaryIO,
    rate: int | None = SAMPLE_RATE,
    mono: bool = True,
    max_seconds: float = MAX_SECONDS,
) -> FloatArray:
    """Read a sound file (wav, flac, ogg, opus, mp3, aiff, ... at any rate) and resample it.

    It is decoded and resampled block by block, so that memory stays near the size of the result.

    Args:
        file: a path, or an open binary file (seekable).
        rate: samples per second of the result; None keeps the file's own.
        mono: average the channels; False keeps them.
        max_seconds: longer files are refused, whatever their header claims.

    Returns:
        float32 of shape (channels, samples), full scale at 1.0; channels is 1 if mono. A file of n samples
        at rate r gives n * rate / r samples, rounded.

    Raises:
        AizuchiError: the file is missing, empty, damaged, cut, too long, no sound file, or holds samples
            that are not finite; the message names it.
    """
    return read_audio_with_rate(file, rate, mono, max_seconds)[0]


def read_audio_with_rate(
    file: str | os.PathLike[str] | BinaryIO,
    rate: int | None = SAMPLE_RATE,
    mono: bool = True,
    max_seconds: float = MAX_SECONDS,
) -> tuple[FloatArray, int]:
    """Like `read_audio`, and also return the rate of the result (for `rate=None`)."""
    if rate is not None:
        _check_rate(rate, "rate")
    name = _name(file)
    _check_there(file, name)
    try:
        source = soundfile.SoundFile(file)
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: suffixes of headerless formats
        raise AizuchiError(
            f"{name} is not a sound file that can be read ({_reason(error)}). Convert it to wav, flac, ogg "
            "or mp3, for instance with: ffmpeg -i INPUT output.wav"
        ) from error
    with source:
        _check_rate(source.samplerate, f"the sample rate of {name}")
        if source.channels > _MAX_CHANNELS:
            raise AizuchiError(f"{name} has {source.channels} channels; at most {_MAX_CHANNELS} are read")
        rate = rate or source.samplerate
        pieces = _decode(source, name, rate, mono, max_seconds)
    return pieces, rate


def stream_pcm(file: BinaryIO, source_rate: int, rate: int = SAMPLE_RATE) -> Iterator[FloatArray]:
    """Raw 16-bit little-endian mono samples of a pipe, as they come.

    Args:
        file: an open pipe.
        source_rate: of the samples that come. rate: of those that are given.

    Returns:
        float32 (1, samples) pieces of any length, full scale at 1.0.
    """
    _check_rate(source_rate, "the rate of the raw samples")
    stream = soxr.ResampleStream(source_rate, rate, 1, dtype="float32") if source_rate != rate else None
    read = file.read1 if hasattr(file, "read1") else file.read  # what is there, where that can be asked for
    odd = b""  # half a sample
    while chunk := read(_BLOCK):
        chunk = odd + chunk
        whole = len(chunk) // 2 * 2
        odd = chunk[whole:]
        samples = np.frombuffer(chunk[:whole], "<i2").astype(np.float32) / np.float32(32768)
        yield (stream.resample_chunk(samples) if stream is not None else samples)[None]
    if stream is not None:
        yield stream.resample_chunk(np.zeros(0, np.float32), last=True)[None]


def write_audio(path: str | os.PathLike[str], samples: npt.ArrayLike, rate: int = SAMPLE_RATE) -> None:
    """Write a sound file, atomically: the file is complete or as it was before.

    Args:
        path: its suffix sets the format: .wav and .flac hold 16-bit PCM, .ogg holds Vorbis.
        samples: (samples,) or (channels, samples), full scale at 1.0; louder ones are clipped.
        rate: samples per second.

    Raises:
        AizuchiError: an unknown suffix, a missing folder, no samples, a wrong shape, or samples that are
            not finite.
    """
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    if suffix not in _FORMATS:
        raise AizuchiError(f"can't tell the format of {path}: end its name in {', '.join(_FORMATS)}")
    _check_rate(rate, "rate")
    data = np.atleast_2d(np.asarray(samples, dtype=np.float32))  # (channels, samples)
    if data.ndim != 2 or data.size == 0:
        raise AizuchiError(f"samples must be (samples,) or (channels, samples), not {np.shape(samples)}")
    if data.shape[0] > _MAX_CHANNELS:
        raise AizuchiError(f"samples has {data.shape[0]} channels: its shape must be (channels, samples)")
    if not np.isfinite(data).all():
        raise AizuchiError("samples holds NaN or infinite values")
    container, subtype = _FORMATS[suffix]
    try:
        with (
            atomic_path(path) as temporary,
            soundfile.SoundFile(
                temporary, "w", rate, data.shape[0], subtype=subtype, format=container
            ) as sink,
        ):
            for start in range(
                0, data.shape[1], _BLOCK
            ):  # one long write overflows the Vorbis encoder's stack
                sink.write(np.clip(data[:, start : start + _BLOCK].T, -1.0, 1.0))
    except soundfile.LibsndfileError as error:
        raise AizuchiError(f"can't write {path}: {_reason(error)}") from error


def _decode(source: soundfile.SoundFile, name: str, rate: int, mono: bool, max_seconds: float) -> FloatArray:
    """All of an open file as (channels, samples) at `rate`."""
    channels = 1 if mono else source.channels
    stream = None
    if source.samplerate != rate:
        stream = soxr.ResampleStream(source.samplerate, rate, channels, dtype="float32")
    pieces: list[FloatArray] = []
    done = 0  # frames of the file
    while True:
        try:
            block = source.read(_BLOCK, dtype="float32", always_2d=True)  # (frames, channels)
        except soundfile.LibsndfileError as error:
            at = done / source.samplerate
            raise AizuchiError(f"{name} is damaged after {at:.2f} s ({_reason(error)})") from error
        if len(block) == 0:
            break
        bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
        if bad.size:
            at = (done + int(bad[0])) / source.samplerate
            raise AizuchiError(f"{name} holds NaN or infinite samples, the first at {at:.3f} s")
        done += len(block)
        if done > max_seconds * source.samplerate:
            raise AizuchiError(f"{name} is longer than the limit of {max_seconds:g} s: cut it into parts")
        if mono:
            block = block.mean(axis=1, keepdims=True)
        pieces.append(stream.resample_chunk(block) if stream is not None else block)
    if done == 0:
        raise AizuchiError(f"{name} holds no audio: it has a header and no samples")
    if done < source.frames and source.format in _EXACT_LENGTH:
        promised, found = source.frames / source.samplerate, done / source.samplerate
        raise AizuchiError(f"{name} is cut: {found:.2f} s of {promised:.2f} s could be read")
    if stream is not None:
        pieces.append(stream.resample_chunk(np.zeros((0, channels), np.float32), last=True))
    return np.ascontiguousarray(np.concatenate(pieces).T)


def _check_there(file: str | os.PathLike[str] | BinaryIO, name: str) -> None:
    """Say what is wrong with a path in better words than the decoder would."""
    if not isinstance(file, (str, os.PathLike)):
        return
    if not os.path.exists(file):
        raise AizuchiError(f"{name} does not exist")
    if os.path.isdir(file):
        raise AizuchiError(f"{name} is a folder: give a sound file")
    if not os.access(file, os.R_OK):
        raise AizuchiError(f"{name} can't be read: permission denied")
    if os.path.isfile(file) and os.path.getsize(file) == 0:
        raise AizuchiError(f"{name} is empty")


def _check_rate(rate: int, name: str) -> None:
    if not _MIN_RATE <= rate <= _MAX_RATE:
        raise AizuchiError(f"{name} is {rate} Hz; it must lie between {_MIN_RATE} and {_MAX_RATE} Hz")


def _name(file: Any) -> str:
    if isinstance(file, (str, os.PathLike)):
        return os.fspath(file)
    return getattr(file, "name", None) or "the given audio"


def _reason(error: Exception) -> str:
    """The library's own words, without the prefix that repeats the path."""
    return getattr(error, "error_string", str(error)).strip().rstrip(".")
