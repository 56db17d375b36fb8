"""Bundles of the mini recipe's clips and lines: sound that comes back in its place, sample by sample as long."""

import json
import re
import shutil
import zlib

import numpy as np
import pytest
import soundfile

from aizuchi.errors import AizuchiError
from recipes.mini import bundle, bundle_clips, codec_data, lines
from recipes.mini.bundle_parts import BundleError
from recipes.mini.clips import ClipLibrary, Shard, write_shard
from recipes.mini.codec_data import waves
from recipes.mini.timing import RATE, Spoken
from recipes.mini.utterances import Utterance
from recipes.mini.voices import ASSISTANT

PART = "0.01"  # MiB


def speak(text, speed=1.0):
    """A voice that hums: some 1 s of harmonics that rise and fall, of its own for every text; one word a bump."""
    rng = np.random.default_rng(zlib.crc32(text.encode()))
    samples = int(rng.integers(20_000, 30_000))
    t = np.arange(samples) / RATE
    pitch = np.cumsum(110 + 60 * np.sin(2 * np.pi * 1.3 * t + rng.uniform(0, 6))) / RATE
    wave = sum(np.sin(2 * np.pi * k * pitch) / k for k in range(1, 12))
    wave = (0.15 * wave * np.sin(np.pi * 3 * t * RATE / samples) ** 2).astype(np.float32)
    end = samples / RATE
    words = tuple((word, i * end / 3, (i + 1) * end / 3) for i, word in enumerate(text.split()[:3]))
    return Spoken(wave, words, tuple(("m", s + 0.01, e - 0.01) for _, s, e in words))


def snr(original, decoded):
    return 10 * np.log10((original**2).sum() / ((original - decoded) ** 2).sum())


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two voices, three shards."""
    folder = tmp_path_factory.mktemp("clips")
    for voice, number in (("flite:rms", 0), ("flite:rms", 1), (ASSISTANT, 0)):
        texts = [f"what is {word} {number}" for word in ("seven", "moon", "blue")]
        said = ((Utterance("plus", text, {"a": 1}, (1,)), 1.0, speak(text + voice)) for text in texts)
        write_shard(Shard(voice, number), folder, 0, said)
    return folder


@pytest.fixture
def pack(clips, tmp_path):
    def command(*more):
        out = ["--out", str(tmp_path / "bundle"), "--part-mib", PART]
        return bundle.main(["pack", "clips", "--clips", str(clips), *out, *more])

    return command


def unpack(folder, what="clips"):
    return bundle.main(["unpack", what, str(folder / "bundle"), "--out", str(folder / "there")])


def assert_same_place(before, after, least=12.0):
    assert [c.name for c in after] == [c.name for c in before]
    for a, b in zip(before, after):
        assert (a.utterance, a.voice, a.speed, a.words, a.phones) == (
            *(b.utterance, b.voice, b.speed),
            *(b.words, b.phones),
        )
        original, decoded = a.read().audio, b.read().audio
        assert len(original) == len(decoded) == a.stop - a.start
        assert snr(original, decoded) > least


def all_clips(folder):
    return [c for kinds in ClipLibrary(folder).by_voice.values() for found in kinds.values() for c in found]


def test_clips_come_back_in_their_place(clips, pack, tmp_path):
    assert pack() == 0 and unpack(tmp_path) == 0
    sizes = [p.stat().st_size for p in (tmp_path / "bundle").glob("part-*.bin")]
    assert len(sizes) > 2 and max(sizes) <= 0.01 * (1 << 20)
    assert_same_place(all_clips(clips), all_clips(tmp_path / "there"))
    for path in clips.rglob("*.json"):
        assert (tmp_path / "there" / path.relative_to(clips)).read_bytes() == path.read_bytes()
        whole, _ = soundfile.read(path.with_suffix(".flac"))
        back, rate = soundfile.read(tmp_path / "there" / path.relative_to(clips).with_suffix(".flac"))
        assert len(back) == len(whole) and rate == RATE


def test_a_decoder_that_is_late_or_early_or_cuts_is_put_right(clips, pack, tmp_path, monkeypatch):
    plain = bundle_clips.decode_opus
    for late in (37, -41):
        with monkeypatch.context() as patch:

            def shifted(blob, late=late):
                samples = plain(blob)
                return np.concatenate([np.zeros(late, np.float32), samples]) if late > 0 else samples[-late:]

            patch.setattr(bundle_clips, "decode_opus", shifted)
            assert pack() == 0 and unpack(tmp_path) == 0
        index = json.loads((tmp_path / "bundle/bundle.json").read_text())
        shifts = [row["shift"] for row in index["items"] if "shift" in row]
        assert len(shifts) == 3 and all(abs(shift - late) <= 2 for shift in shifts)
        assert_same_place(all_clips(clips), all_clips(tmp_path / "there"))
        (tmp_path / "there").rename(tmp_path / f"there{late}")


def test_sound_that_comes_back_of_another_length_is_refused(pack, tmp_path, monkeypatch, capsys):
    assert pack() == 0
    plain = bundle_clips.decode_opus
    monkeypatch.setattr(bundle_clips, "decode_opus", lambda blob: plain(blob)[:-1000])
    assert unpack(tmp_path) == 2
    assert "samples instead of" in capsys.readouterr().err and not (tmp_path / "there").exists()
    assert pack() == 2  # and not packed in the first place
    assert "does not come back from Opus in its place" in capsys.readouterr().err


@pytest.mark.parametrize("shift", [0, 1, -1, 200, -479])
def test_shifts_are_found_to_the_sample(shift):
    wave = speak("a b c").audio
    moved = np.roll(wave, shift) + 0.01 * np.random.default_rng(0).standard_normal(len(wave)).astype(
        np.float32
    )
    assert bundle_clips.shift_between(wave, moved) == shift


def test_a_bit_rate_is_kept(clips):
    wave = np.tile(speak("seven eight nine").audio, 6)
    for kbps in (16, 32, 64):
        found = len(bundle_clips.encode_opus(wave, kbps)) * 8 / (len(wave) / RATE) / 1000
        assert 0.7 * kbps < found < 1.25 * kbps


def test_hours_take_all_voices_by_turns(pack, tmp_path, capsys):
    assert pack("--hours", "0.0012") == 0 and unpack(tmp_path) == 0
    found = sorted(p.relative_to(tmp_path / "there").as_posix() for p in (tmp_path / "there").rglob("*.json"))
    assert found == ["flite/rms/00000.json", "hibari/heart/00000.json"]
    assert pack("--opus-kbps", "500") == 2 and "--opus-kbps is 500" in capsys.readouterr().err


def test_a_held_out_voice_is_not_packed(clips, tmp_path, capsys):
    path = tmp_path / "clips/flite/awb/00000.json"
    path.parent.mkdir(parents=True)
    source = clips / "flite/rms/00000.json"
    path.write_text(source.read_text().replace("flite:rms", "flite:awb"))
    path.with_suffix(".flac").write_bytes(source.with_suffix(".flac").read_bytes())
    command = ["pack", "clips", "--clips", str(tmp_path / "clips"), "--out", str(tmp_path / "bundle")]
    assert bundle.main(command) == 2
    assert "held out" in capsys.readouterr().err and not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda audio: audio.write_bytes(audio.read_bytes()[:20000]), "is (cut|damaged)"),
        (lambda audio: soundfile.write(audio, np.zeros(9000, np.float32), RATE), "is cut: 9000 samples"),
        (lambda audio: soundfile.write(audio, np.zeros((90000, 2)), RATE), "is not mono"),
        (lambda audio: soundfile.write(audio, np.zeros(90000), 2 * RATE), "is not mono at 24000"),
        (lambda audio: audio.write_bytes(b"no sound at all"), "is not a sound file"),
        (lambda audio: audio.unlink(), "is missing"),
    ],
)
def test_damaged_clips_are_not_packed(clips, tmp_path, capsys, harm, message):
    shutil.copytree(clips / "flite", tmp_path / "clips/flite")
    harm(tmp_path / "clips/flite/rms/00001.flac")
    command = ["pack", "clips", "--clips", str(tmp_path / "clips"), "--out", str(tmp_path / "bundle")]
    assert bundle.main(command) == 2
    assert re.search(message, capsys.readouterr().err) and not (tmp_path / "bundle").exists()


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """Folder of lines/, 30 and one for validation in a voice that hums, and there/: packed and unpacked."""

    class Voice:
        speak = staticmethod(speak)

    folder = tmp_path_factory.mktemp("spoken")
    command = ["pack", "lines", "--lines", "30", "--spoken", str(folder / "lines")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "get_assistant", Voice)
        patch.setattr(lines, "CLIPS_PER_SHARD", 12)
        assert bundle.main([*command, "--out", str(folder / "bundle"), "--part-mib", PART]) == 0
    assert unpack(folder, "lines") == 0
    return folder


def test_rows_of_spoken_lines_are_those_of_lines_spoken_as_they_come(spoken, clips, monkeypatch):
    def rows(**more):
        source = waves(str(clips), lines=30, assistant=1.0, **more)
        return [source.draw(i, 12 * 1920, np.random.default_rng(i)) for i in range(5)]

    monkeypatch.setattr(codec_data, "speak_assistant", speak)
    fresh = rows()
    monkeypatch.setattr(codec_data, "speak_assistant", None)  # nothing speaks there
    for (wave, labels, *_), (again, labels_again, *_) in zip(fresh, rows(spoken=str(spoken / "there"))):
        assert np.array_equal(labels, labels_again) and labels.any()
        assert snr(wave, again) > 12


def test_validation_has_its_own_spoken_lines(spoken, clips):
    train, valid = (
        source(str(clips), spoken=str(spoken / "there")) for source in (waves, codec_data.validation_waves)
    )
    assert (train.lines, valid.lines) == (codec_data.all_lines(30)[:30], codec_data.all_lines(30)[30:])
    assert valid.lines
    with pytest.raises(AizuchiError, match="holds no spoken lines"):
        waves(str(clips), spoken=str(spoken / "nowhere"))
    with pytest.raises(AizuchiError, match="holds clips of flite:rms"):
        waves(str(clips), spoken=str(clips))


def test_lines_are_spoken_once(spoken, monkeypatch):
    monkeypatch.setattr(lines, "get_assistant", None)  # nothing speaks
    monkeypatch.setattr(lines, "CLIPS_PER_SHARD", 12)
    texts = codec_data.all_lines(30)
    lines.speak_lines(texts, spoken / "lines")  # and nothing has to
    with pytest.raises(TypeError):
        lines.speak_lines([*texts[:-1], "another one"], spoken / "lines")
    with pytest.raises(AizuchiError, match="is not of these 5 lines"):
        lines.speak_lines(texts[:5], spoken / "lines")


def test_damaged_sound_is_an_error_of_ours():
    item = bundle_clips.Item("a.flac", "opus", b"no sound at all", {"samples": 100, "shift": 0})
    with pytest.raises(BundleError, match=r"a\.flac is damaged"):
        bundle_clips._decoded(item)
