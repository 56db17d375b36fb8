"""Reading and writing sound files. Signals are sines, whose resampled form is known."""

import io
import os
import struct

import numpy as np
import pytest
import soundfile

from aizuchi.audio import SAMPLE_RATE, read_audio, read_audio_with_rate, write_audio
from aizuchi.errors import AizuchiError


def sine(rate, seconds=1.0, hertz=440.0, amplitude=0.5):
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(
        np.float32
    )


def write(path, samples, rate, **options):
    soundfile.write(path, samples, rate, **options)
    return path


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 24000, 44100, 48000, 96000])
def test_any_rate_becomes_24_khz(tmp_path, rate):
    path = write(tmp_path / "a.wav", sine(rate), rate, subtype="FLOAT")
    audio = read_audio(path)
    assert audio.dtype == np.float32 and audio.shape == (1, SAMPLE_RATE) and audio.flags.c_contiguous
    middle = slice(2400, -2400)  # the filter rings at the ends
    np.testing.assert_allclose(audio[0, middle], sine(SAMPLE_RATE)[middle], atol=1e-4)


@pytest.mark.parametrize(
    "suffix, options, tolerance",
    [
        ("wav", {"subtype": "PCM_16"}, 1e-4),
        ("wav", {"subtype": "PCM_24"}, 1e-6),
        ("wav", {"subtype": "ULAW"}, 0.02),
        ("flac", {}, 1e-4),
        ("aiff", {}, 1e-4),
        ("ogg", {"subtype": "VORBIS"}, 0.05),
        ("opus", {"format": "OGG", "subtype": "OPUS"}, 0.05),
        ("mp3", {}, 0.05),
    ],
)
def test_any_format_is_read(tmp_path, suffix, options, tolerance):
    path = write(tmp_path / f"a.{suffix}", sine(24000), 24000, **options)
    audio = read_audio(path)
    assert abs(audio.shape[1] - 24000) <= 1200  # mp3 pads to whole frames
    middle = slice(12000, 21600)  # Opus takes its time to settle on a tone
    assert np.abs(audio[0, middle] - sine(24000)[middle]).max() < tolerance


def test_stereo_is_kept_or_averaged(tmp_path):
    left, right = sine(24000, hertz=300), sine(24000, hertz=700)
    path = write(tmp_path / "a.wav", np.stack([left, right], axis=1), 24000, subtype="FLOAT")
    np.testing.assert_array_equal(read_audio(path, mono=False), np.stack([left, right]))
    np.testing.assert_allclose(read_audio(path), ((left + right) / 2)[None], atol=1e-7)
    resampled = read_audio(path, rate=16000, mono=False)
    assert resampled.shape == (2, 16000)
    np.testing.assert_allclose(resampled[1, 1600:-1600], sine(16000, hertz=700)[1600:-1600], atol=1e-4)


def test_long_files_resample_without_seams(tmp_path):
    """The blocks that are decoded one by one leave no trace: several of them in a pure tone."""
    path = write(tmp_path / "a.wav", sine(16000, seconds=15.0), 16000, subtype="FLOAT")
    audio = read_audio(path)[0]
    assert len(audio) == 15 * SAMPLE_RATE
    np.testing.assert_allclose(audio[2400:-2400], sine(SAMPLE_RATE, seconds=15.0)[2400:-2400], atol=1e-4)


@pytest.mark.parametrize("samples", [1, 2, 159, 16001])
def test_the_length_is_the_rounded_ratio(tmp_path, samples):
    path = write(tmp_path / "a.wav", np.full(samples, 0.25, np.float32), 16000)
    assert abs(read_audio(path).shape[1] - samples * 1.5) <= 0.5


def test_the_own_rate_can_be_kept_and_asked(tmp_path):
    path = write(tmp_path / "a.wav", sine(22050), 22050, subtype="FLOAT")
    audio, rate = read_audio_with_rate(path, rate=None)
    assert rate == 22050
    np.testing.assert_array_equal(audio[0], sine(22050))


def test_an_open_file_is_read():
    buffer = io.BytesIO()
    soundfile.write(buffer, sine(24000), 24000, format="FLAC")
    buffer.seek(0)
    assert read_audio(buffer).shape == (1, 24000)


def test_missing_empty_folder_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(AizuchiError, match=r"no\.wav does not exist"):
        read_audio(tmp_path / "no.wav")
    with pytest.raises(AizuchiError, match="is a folder"):
        read_audio(tmp_path)
    (tmp_path / "empty.wav").touch()
    with pytest.raises(AizuchiError, match=r"empty\.wav is empty"):
        read_audio(tmp_path / "empty.wav")
    for name in ("text.wav", "text.raw", "text.m4a", "text"):
        (tmp_path / name).write_text("this is no sound " * 100)
        with pytest.raises(AizuchiError, match=f"{name} is not a sound file.*ffmpeg"):
            read_audio(tmp_path / name)


def test_no_samples_are_refused(tmp_path):
    path = write(tmp_path / "a.wav", np.zeros(0, np.float32), 24000)
    with pytest.raises(AizuchiError, match="holds no audio"):
        read_audio(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_refused_with_their_place(tmp_path, value):
    samples = np.stack([sine(24000, seconds=4), sine(24000, seconds=4)], axis=1)
    samples[72000, 1] = value
    path = write(tmp_path / "a.wav", samples, 24000, subtype="FLOAT")
    for mono in (True, False):
        with pytest.raises(
            AizuchiError, match=r"a\.wav holds NaN or infinite samples, the first at 3\.000 s"
        ):
            read_audio(path, mono=mono)


@pytest.mark.parametrize("rate", [0, 1, 999, 2_000_000])
def test_absurd_rates_are_refused(tmp_path, rate):
    path = write(tmp_path / "a.wav", sine(24000), 24000)
    with pytest.raises(AizuchiError, match=f"rate is {rate} Hz"):
        read_audio(path, rate=rate)
    with pytest.raises(AizuchiError, match=f"rate is {rate} Hz"):
        write_audio(tmp_path / "b.wav", sine(24000), rate)
    if rate:
        header = bytearray(path.read_bytes())
        header[24:28] = struct.pack("<I", rate)
        path.write_bytes(header)
        with pytest.raises(AizuchiError, match=rf"the sample rate of .*a\.wav is {rate} Hz"):
            read_audio(path)


def test_a_cut_file_is_refused(tmp_path):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 96000).astype(np.float32)
    path = write(tmp_path / "a.flac", noise, 24000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AizuchiError, match=r"a\.flac is (cut|damaged)"):
        read_audio(path)


def test_damage_in_the_middle_is_refused(tmp_path):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 96000).astype(np.float32)
    path = write(tmp_path / "a.flac", noise, 24000)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4000] = bytes(4000)
    path.write_bytes(data)
    with pytest.raises(AizuchiError, match=r"a\.flac is (cut|damaged)"):
        read_audio(path)


def test_the_length_limit_counts_what_is_decoded(tmp_path):
    path = write(tmp_path / "a.flac", sine(24000, seconds=2), 24000)
    assert read_audio(path, max_seconds=2).shape == (1, 48000)
    with pytest.raises(AizuchiError, match=r"a\.flac is longer than the limit of 1.9 s"):
        read_audio(path, max_seconds=1.9)


def test_too_many_channels_are_refused(tmp_path):
    path = write(tmp_path / "a.wav", np.zeros((10, 40), np.float32), 24000)
    with pytest.raises(AizuchiError, match="40 channels"):
        read_audio(path)


@pytest.mark.parametrize(
    "suffix, subtype", [("wav", "PCM_16"), ("flac", "PCM_16"), ("ogg", "VORBIS"), ("WAV", "PCM_16")]
)
def test_what_is_written_is_read_back(tmp_path, suffix, subtype):
    samples = np.stack([sine(24000, seconds=10), sine(24000, seconds=10, hertz=600)])
    path = tmp_path / f"a.{suffix}"
    write_audio(path, samples, 24000)
    info = soundfile.info(path)
    assert (info.samplerate, info.channels, info.subtype) == (24000, 2, subtype)
    tolerance = 0.05 if suffix == "ogg" else 1 / 32768
    np.testing.assert_allclose(read_audio(path, mono=False), samples, atol=tolerance)
    assert os.listdir(tmp_path) == [f"a.{suffix}"]


def test_one_channel_may_be_flat_and_loud_samples_are_clipped(tmp_path):
    write_audio(tmp_path / "a.wav", [0.0, 2.0, -2.0, 0.5], 24000)
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav"), [[0.0, 1.0, -1.0, 0.5]], atol=1 / 32767)


@pytest.mark.parametrize(
    "name, samples, message",
    [
        ("a.mp4", np.zeros(10), r"can't tell the format of .*a\.mp4"),
        ("a", np.zeros(10), "can't tell the format"),
        ("a.wav", np.zeros(0), "samples must be"),
        ("a.wav", np.zeros((1, 1, 10)), "samples must be"),
        ("a.wav", np.zeros((24000, 2)), "24000 channels: its shape must be"),
        ("a.wav", np.array([0.0, np.nan]), "samples holds NaN"),
        ("no/a.wav", np.zeros(10), "folder .* does not exist"),
    ],
)
def test_bad_output_is_refused_and_nothing_is_left(tmp_path, name, samples, message):
    with pytest.raises(AizuchiError, match=message):
        write_audio(tmp_path / name, samples)
    assert os.listdir(tmp_path) == []


def test_the_example_question_is_readable():
    path = os.path.join(os.path.dirname(__file__), "..", "examples", "question.flac")
    audio = read_audio(path)
    assert audio.shape[1] > SAMPLE_RATE and np.abs(audio).max() > 0.05
