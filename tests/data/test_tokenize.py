"""Audio to shards and back: exact, resumable, and never half-written."""

from __future__ import annotations

import functools
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from aizuchi.data import workers
from aizuchi.data.alignments import DataError
from aizuchi.data.augment import UserAugment
from aizuchi.data.codec import MimiCodec, encode
from aizuchi.data.dialogues import read_dialogues
from aizuchi.data.frames import words_to_frames
from aizuchi.data.shards import INDEX, DialogueTokens, ShardError, ShardFolder, write_shard
from aizuchi.data.tokenize import TokenizeOptions, tokenize
from aizuchi.data.tokenizer import TextTokenizer
from aizuchi.errors import AizuchiError
from tests.data.helpers import FakeCodec, LetterTokenizer, make_dialogues, small_mimi_config

TOKENIZER = TextTokenizer(LetterTokenizer())
SHORT = TokenizeOptions(shard_minutes=7 / 60)  # two dialogues of about 3 s a shard


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    return make_dialogues(folder, 5)


def run(data, folder, options=SHORT, codec=FakeCodec, **more):
    return tokenize(read_dialogues(data), folder, codec, TOKENIZER, options, **more)


def contents(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


class Counting(FakeCodec):
    """Counts the dialogues that are encoded."""

    count = 0

    def encode(self, wave):
        Counting.count += 1
        return super().encode(wave)


@pytest.fixture
def counting():
    Counting.count = 0
    return Counting


def test_tokens_are_those_of_the_audio_and_the_words(data, tmp_path):
    shards = run(data, tmp_path / "tokens")
    assert [r.dialogues for r in shards.records] == [2, 1, 1, 1]
    assert shards.codebooks == 4 and shards.variants == 1
    dialogues = read_dialogues(data)
    assert [entry.name for _, entry in shards.dialogues] == [d.name for d in dialogues]
    for i, dialogue in enumerate(dialogues):
        codes = encode(FakeCodec(), dialogue.waves())
        text, model, user = shards.read(i)
        frames = codes.shape[-1]
        assert np.array_equal(model, codes[0].T) and np.array_equal(user, codes[1].T)
        assert model.any() and not np.array_equal(model, user)
        assert np.array_equal(text, words_to_frames(dialogue.alignment().words, frames, TOKENIZER))
        assert shards.dialogues[i][1].text_conditions == ({"style": f"s{i}"} if i % 2 else {})
        part = shards.read(i, 10, 5)
        assert all(np.array_equal(a, b[10:15]) for a, b in zip(part, (text, model, user)))
        assert len(shards.read(i, frames - 3, 10)[0]) == 3
        for wrong in (dict(start=frames), dict(start=-1), dict(variant=1)):
            with pytest.raises(IndexError):
                shards.read(i, **wrong)


def test_processes_give_the_same_bytes_as_one(data, tmp_path):
    one = run(data, tmp_path / "one")
    two = run(data, tmp_path / "two", jobs=2)
    assert contents(one.folder) == contents(two.folder)


def test_a_finished_run_does_nothing_again(data, tmp_path, counting):
    done: list[float] = []
    first = contents(run(data, tmp_path / "tokens", codec=counting).folder)
    assert counting.count == 5
    again = run(data, tmp_path / "tokens", codec=counting, report=done.append)
    assert counting.count == 5 and contents(again.folder) == first
    assert sum(done) == pytest.approx(sum(d.duration for d in read_dialogues(data)))


def test_only_what_changed_is_redone(data, tmp_path, counting):
    folder = run(data, tmp_path / "tokens", codec=counting).folder
    good = contents(folder)

    (folder / "shard-00001.safetensors").write_bytes(good["shard-00001.safetensors"][:-7])  # cut
    (folder / "shard-00002.json").unlink()  # interrupted between the shard and its record
    flipped = bytearray(good["shard-00003.safetensors"])
    flipped[-1] ^= 1
    (folder / "shard-00003.safetensors").write_bytes(flipped)  # damaged
    counting.count = 0
    run(data, folder, codec=counting)
    assert counting.count == 3 and contents(folder) == good

    words = data.parent / "dialogue4.json"
    words.write_text(words.read_text().replace("SPEAKER_USER", "SPEAKER_GUEST"))
    counting.count = 0
    run(data, folder, codec=counting)
    assert counting.count == 1

    counting.count = 0
    data.write_text("".join(data.read_text().splitlines(keepends=True)[:3]))
    shards = run(data, folder, codec=counting)
    assert counting.count == 0 and len(shards.dialogues) == 3
    assert sorted(p.name for p in folder.glob("shard-*.safetensors")) == [r.file for r in shards.records]


def test_a_killed_run_continues_to_the_same_bytes(data, tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        "import functools, sys\n"
        "from tests.data.test_tokenize import *\n"
        "if __name__ == '__main__':\n"
        "    run(sys.argv[1], sys.argv[2], codec=functools.partial(FakeCodec, 0.5))\n"
    )
    root = Path(__file__).parents[2]
    folder = tmp_path / "tokens"
    child = subprocess.Popen(
        [sys.executable, str(script), str(data), str(folder)],
        env={**os.environ, "PYTHONPATH": str(root)},
        cwd=root,
    )
    while not list(folder.glob("shard-*.json")):  # the first shard is done, others are not
        assert child.poll() is None
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    (folder / ".shard-00003.tmp.abcd.safetensors").write_bytes(b"left behind")
    done = sorted(folder.glob("shard-*.json"))
    assert 1 <= len(done) < 4
    stamps = {p: p.stat().st_mtime_ns for p in done}
    with pytest.raises(ShardError, match="not finished"):
        ShardFolder(folder)
    run(data, folder)
    assert {p: p.stat().st_mtime_ns for p in done} == stamps
    assert contents(folder) == contents(run(data, tmp_path / "unbroken").folder)


def test_two_runs_at_once_are_refused(data, tmp_path):
    class Second(FakeCodec):
        def encode(self, wave):
            with pytest.raises(ShardError, match="another run"):
                run(data, tmp_path / "tokens")
            return super().encode(wave)

    run(data, tmp_path / "tokens", codec=Second)


def test_an_interrupt_ends_the_workers_and_leaves_no_debris(data, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(workers, "as_completed", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path / "tokens", codec=functools.partial(FakeCodec, 30.0), jobs=2)
    assert not list((tmp_path / "tokens").glob(".*"))


def test_damage_that_only_decoding_finds_does_not_stop_the_rest(data, tmp_path):
    import soundfile

    listed = [d.audio for d in read_dialogues(data)]
    for audio in listed:
        soundfile.write(audio.with_suffix(".flac"), *soundfile.read(audio))
    data.write_text(data.read_text().replace(".wav", ".flac"))
    audio = listed[2].with_suffix(".flac")
    whole = audio.read_bytes()
    audio.write_bytes(whole[: len(whole) // 2])  # the header still promises all
    with pytest.raises(DataError, match="dialogue2.flac") as caught:
        run(data, tmp_path / "tokens")
    assert [p.where for p in caught.value.problems] == [f"{data}:3"]
    assert len(list((tmp_path / "tokens").glob("shard-*.json"))) == 3
    with pytest.raises(ShardError, match="not finished"):
        ShardFolder(tmp_path / "tokens")
    audio.write_bytes(whole)
    assert len(run(data, tmp_path / "tokens").dialogues) == 5


def test_a_missing_alignment_stops_before_anything_is_encoded(data, tmp_path, counting):
    (data.parent / "dialogue3.json").unlink()
    with pytest.raises(DataError, match="alignment is missing"):
        run(data, tmp_path / "tokens", codec=counting)
    assert counting.count == 0 and not (tmp_path / "tokens").exists()
    shards = run(data, tmp_path / "tokens", TokenizeOptions(need_words=False))
    assert (shards.read(3)[0] == -1).all() and (shards.read(2)[0] >= 0).all()


def test_other_settings_are_refused_unless_overwritten(data, tmp_path, counting):
    folder = run(data, tmp_path / "tokens").folder
    before = contents(folder)
    for options, codec, name in (
        (SHORT, functools.partial(FakeCodec, 0.0, "other"), "codec 'fake', now 'other'"),
        (TokenizeOptions(keep_and_shift=True), FakeCodec, "keep_and_shift False, now True"),
    ):
        with pytest.raises(ShardError, match=name):
            run(data, folder, options, codec)
    assert contents(folder) == before
    shards = run(data, folder, TokenizeOptions(keep_and_shift=True), overwrite=True)
    assert len(shards.records) == 1 and len(list(folder.glob("shard-*.safetensors"))) == 1


def test_augmented_copies_lie_beside_the_recorded_user(data, tmp_path):
    augment = UserAugment(gain_p=1.0, gain_db=(-20.0, -6.0), noise_p=0.0, echo_p=0.0)
    clean = run(data, tmp_path / "clean")
    shards = run(data, tmp_path / "tokens", TokenizeOptions(augment=augment, copies=2))
    again = run(data, tmp_path / "again", TokenizeOptions(augment=augment, copies=2))
    assert shards.variants == 3
    for i in range(5):
        rows = [shards.read(i, variant=v) for v in range(3)]
        assert all(np.array_equal(a, b) for a, b in zip(rows[0], clean.read(i)))
        assert np.array_equal(rows[1][1], rows[0][1])  # the model's side is the same
        loud = [row[2].astype(float).sum() for row in rows]
        assert loud[1] < 0.6 * loud[0] and loud[2] < 0.6 * loud[0] and loud[1] != loud[2]
        assert np.array_equal(again.read(i, variant=2)[2], rows[2][2])
    with pytest.raises(AizuchiError, match="go together"):
        TokenizeOptions(copies=1)


def test_mono_files_are_one_side(data, tmp_path):
    import soundfile

    for d in read_dialogues(data):
        wave, rate = soundfile.read(d.audio)
        soundfile.write(d.audio, wave[:, 0], rate)
    with pytest.raises(DataError, match="has 1 channel;"):
        run(data, tmp_path / "tokens")
    shards = run(data, tmp_path / "tokens", TokenizeOptions(mono="user"))
    assert not shards.read(0)[1].any() and shards.read(0)[2].any()


def test_an_unknown_version_is_refused(data, tmp_path):
    folder = run(data, tmp_path / "tokens").folder
    index = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps({**index, "version": 2}))
    with pytest.raises(ShardError, match="format version 2; this aizuchi reads 1"):
        ShardFolder(folder)
    with pytest.raises(ShardError, match="format version 2"):  # and never overwritten by accident
        run(data, folder)
    (folder / INDEX).write_text("{}")
    with pytest.raises(ShardError, match="not in the format"):
        ShardFolder(folder)
    (folder / INDEX).write_text("{")
    with pytest.raises(ShardError, match="malformed"):
        ShardFolder(folder)


def test_a_cut_or_damaged_shard_is_refused(data, tmp_path):
    folder = run(data, tmp_path / "tokens").folder
    path = folder / "shard-00001.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(ShardError, match=f"shard-00001.safetensors is cut: {len(whole) - 1} bytes of"):
        ShardFolder(folder)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "hash" in ShardFolder(folder).verify()[0]
    path.unlink()
    with pytest.raises(ShardError, match="missing"):
        ShardFolder(folder)
    with pytest.raises(ShardError, match="does not exist"):
        ShardFolder(tmp_path / "none")
    with pytest.raises(ShardError, match="holds no token shards"):
        ShardFolder(tmp_path)


def test_a_full_disk_leaves_no_half_shard(data, tmp_path):
    """A limit on the size of files stands for the full disk: the write fails in the same way."""
    folder = tmp_path / "tokens"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))
        with pytest.raises(OSError, match="File too large"):
            run(data, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert not list(folder.glob("shard-*")) and not list(folder.glob(".*"))
    assert len(run(data, folder).dialogues) == 5


@pytest.mark.parametrize(
    "text, model, user",
    [
        ((5,), (4, 2), (5, 1, 2)),
        ((5,), (5, 2), (5, 2)),
        ((5,), (5, 2), (5, 1, 3)),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, text, model, user):
    tokens = DialogueTokens(
        "a", np.zeros(text, np.int32), np.zeros(model, np.int16), np.zeros(user, np.int16)
    )
    with pytest.raises((ShardError, IndexError)):
        write_shard(tmp_path / "a.safetensors", [tokens], "key")
    with pytest.raises(ShardError, match="at least one"):
        write_shard(tmp_path / "a.safetensors", [], "key")
    assert list(tmp_path.iterdir()) == []


def test_a_codec_that_answers_nonsense_is_refused():
    class Wrong(FakeCodec):
        def __init__(self, change):
            self.change = change

        def encode(self, wave):
            return self.change(super().encode(wave) if isinstance(self, Wrong) else wave)

    waves = np.random.default_rng(0).normal(0, 0.1, (2, 4000)).astype(np.float32)
    for change, message in (
        (lambda c: c[:, :3], "shape"),
        (lambda c: c + 2048, "outside"),
        (lambda c: c - 2048, "outside"),
    ):
        wrong = FakeCodec()
        wrong.encode = lambda w, change=change: change(FakeCodec().encode(w))
        with pytest.raises(AizuchiError, match=message):
            encode(wrong, waves)


def test_mimi_is_a_codec():
    from aizuchi.models.mimi import MimiModel

    torch.manual_seed(0)
    model = MimiModel(small_mimi_config())
    codec = MimiCodec(model, 4)
    waves = np.random.default_rng(0).normal(0, 0.1, (2, 5000)).astype(np.float32)
    codes = encode(codec, waves)
    assert codes.shape == (2, 4, 3) and codes.dtype == np.int16
    expected = model.encode(torch.from_numpy(waves)[:, None]).audio_codes[:, :4].numpy()
    assert np.array_equal(codes, expected)

    before = codec.fingerprint()
    with torch.no_grad():
        next(model.decoder.parameters()).add_(1)
    assert codec.fingerprint() == before  # the decoder has no say in the codes
    with torch.no_grad():
        next(model.encoder.parameters()).add_(1)
    assert codec.fingerprint() != before
    with pytest.raises(AizuchiError, match="codebooks is 7"):
        MimiCodec(model, 7)


def test_codes_come_back_however_they_lay_in_memory(tmp_path):
    """Transposed arrays, such as codes (K, F) turned around, are written as what they say, not as they lie."""
    codes = np.arange(24, dtype=np.int16).reshape(4, 6)
    turned = DialogueTokens("a", np.zeros(6, np.int32), codes.T, codes.T[:, None])
    path = tmp_path / "shard-00000.safetensors"
    write_shard(path, [turned, turned], "key")
    import safetensors.numpy

    read = safetensors.numpy.load_file(path)
    assert np.array_equal(read["model"], np.concatenate([codes.T, codes.T]))
    assert np.array_equal(read["user"][:6, 0], codes.T)
