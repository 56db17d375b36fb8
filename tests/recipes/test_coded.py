"""Rows that are coded before the decoder learns from them (`recipes.mini.coded`), and its transformer's spectra
(`recipes.mini.teach`).
"""

import copy
import functools
import itertools
import shutil

import numpy as np
import pytest
import torch

from aizuchi.data.codec import MimiCodec, encode
from aizuchi.errors import AizuchiError
from aizuchi.train.checkpoints import save_model
from aizuchi.train.mimi_start import make_codec
from recipes.mini import teach
from recipes.mini.books import Books
from recipes.mini.coded import (
    ANSWERS,
    ASSISTANT,
    KINDS,
    OWN,
    ROOM,
    SOMEONE,
    Coded,
    Source,
    _make_one,
    code_again,
    codes_of,
    main,
    rows,
)
from recipes.mini.grid import FRAME
from recipes.mini.stage import StageConfig
from recipes.mini.timing import RATE
from tests.train.tiny_codec import Tones, config_of

FRAMES = 60  # of a shard here


class Tonal:
    """Tones, coded by a codec."""

    def __init__(self, codec):
        self.codec = MimiCodec(codec, codec.config.num_quantizers)

    def make(self, part, kind, number):
        generator = np.random.default_rng([KINDS.index(kind), number, part == "valid"])
        wave = Tones().draw(0, FRAMES * FRAME, generator)[0]
        with torch.no_grad():
            latents = self.codec.model.encode_latent(torch.from_numpy(wave)[None, None])
        return {"wave": wave, "codes": codes_of(self.codec, latents), "latents": latents[0].T.numpy()}


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    torch.manual_seed(0)
    made = make_codec(config_of(tmp_path_factory.mktemp("codec"))).eval()
    books = made.quantizer.acoustic_residual_vector_quantizer.codebooks()
    with torch.no_grad():
        latents = made.encode_latent(
            torch.from_numpy(Tones().draw(0, 40 * FRAME, np.random.default_rng(5))[0])[None, None]
        )
        for book in (*made.quantizer.semantic_residual_vector_quantizer.codebooks(), *books):
            project = made.quantizer.acoustic_residual_vector_quantizer._project
            book.embed_sum.copy_(project(latents)[0, :16])
            book.cluster_usage.fill_(1.0)
    return made


@pytest.fixture(scope="module")
def folder(codec, tmp_path_factory):
    made = tmp_path_factory.mktemp("coded")
    for part, kind in itertools.product(("train", "valid"), KINDS):
        for number in range(3):
            assert _make_one((made / part / kind, number), Tonal(codec)) == FRAMES * FRAME / RATE
    return made


def test_a_row_is_a_stretch_with_its_codes(folder):
    source = rows(str(folder), assistant=0.5, room=0.1)
    found = [source.draw(i, 8 * FRAME, np.random.default_rng(i)) for i in range(40)]
    assert {row.phase for row in found} == {True, False}
    shards = [shard for kind in source.shards.values() for shard in kind]
    for row in found[:10]:
        assert row.wave.dtype == np.float32 and row.codes.shape[1] == 8
        places = [
            (wave, codes, at)
            for wave, codes in shards
            for at in range(FRAMES - 7)
            if np.array_equal(codes[:, at : at + 8], row.codes)
        ]
        assert any(
            np.array_equal(np.round(row.wave * 32767).astype(np.int16), wave[at * FRAME : (at + 8) * FRAME])
            for wave, _, at in places
        )


def test_shares_are_those_asked_for(folder):
    source = rows(str(folder), assistant=0.5, room=0.1)
    kinds = [source.choose(8, np.random.default_rng(i))[0] for i in range(600)]
    shares = {kind: kinds.count(kind) / 600 for kind in KINDS}
    assert shares == pytest.approx(
        {ASSISTANT: 0.21, ANSWERS: 0.14, OWN: 0.15, SOMEONE: 0.4, ROOM: 0.1}, abs=0.06
    )
    assert ANSWERS not in rows(str(folder), told=0.0).shares


def test_what_is_not_there_is_told(folder, tmp_path, capsys):
    with pytest.raises(AizuchiError, match="nothing coded of assistant"):
        rows(str(tmp_path))
    with pytest.raises(AizuchiError, match="longer than what is coded"):
        rows(str(folder)).draw(0, (FRAMES + 1) * FRAME, np.random.default_rng(0))
    counts = [part for kind in KINDS for part in (f"--{kind}", "3")] + ["--valid", "3"]
    none = str(tmp_path / "none")
    options = ["--codec", none, "--voice-codec", none, "--clips", none, *counts]
    assert main([*options, "--out", str(folder)]) == 0  # all are there
    assert main([*options, "--out", str(tmp_path / "out")]) == 2
    assert "error:" in capsys.readouterr().err
    assert main(["--out", str(tmp_path / "out")]) == 2
    assert "give --voice-codec" in capsys.readouterr().err


def test_the_assistant_has_its_voices_codes_and_others_their_own_at_one_pitch(codec, tmp_path):
    pytest.importorskip("hibari")
    pytest.importorskip("pyworld")
    from recipes.mini.clips import Shard, make_shard
    from recipes.mini.one_pitch import make_pairs
    from recipes.mini.voices import ASSISTANT as VOICE
    from tests.recipes.test_one_pitch import Speaker

    make_shard(Shard(VOICE, 0), tmp_path / "clips", seed=3, size=40)
    make_pairs(tmp_path / "pairs/train/00000.json", Speaker())
    other = copy.deepcopy(codec)
    with torch.no_grad():
        for book in other.quantizer.acoustic_residual_vector_quantizer.codebooks():
            book.embed_sum.copy_(book.embed_sum.flip(0))  # the same entries under other numbers
    for name, one in (("codec", codec), ("voice", other)):
        save_model(one, tmp_path / name)
    load = functools.partial(
        Source, tmp_path / "codec", tmp_path / "voice", tmp_path / "pairs", tmp_path / "clips"
    )
    source = load(None, lines=4, codebooks=4)
    made = {kind: source.make("train", kind, 0, 2) for kind in KINDS}
    for row in made.values():
        assert row["wave"].shape == (25 * FRAME,) and row["wave"].dtype == np.float32
        assert row["codes"].shape == (4, 25)
    mine, others = made[ASSISTANT], made[SOMEONE]
    for kind in (ASSISTANT, ANSWERS):
        assert np.array_equal(made[kind]["codes"], encode(source.voice, made[kind]["wave"][None])[0])
    assert not np.array_equal(made[ANSWERS]["wave"], mine["wave"])
    assert not np.array_equal(mine["codes"], encode(source.codec, mine["wave"][None])[0])
    assert np.array_equal(made[OWN]["codes"], encode(source.codec, made[OWN]["wave"][None])[0])
    # what is coded is what was said, not what is to be heard
    assert not np.array_equal(others["codes"], encode(source.codec, others["wave"][None])[0])


def teach_some(codec, known, folder, out, entries=False, rate=1e-2):
    """A stage before and after some steps."""
    source = Coded(folder / "train", {ASSISTANT: 0.5, SOMEONE: 0.5})
    config = StageConfig(str(out), 200, 8, rate, seed=1, precision="fp32", eval_every=0, save_every=1000)
    torch.manual_seed(0)
    batches = teach.Rows(source, 8, 1)
    stage = teach.TeachStage(config, copy.deepcopy(codec), known, batches, batches, entries)
    before = stage.evaluate()
    stage.run()
    return before, stage.evaluate(), stage


def test_a_transformer_learns_spectra_and_keeps_what_it_said_of_the_assistant(
    codec, folder, tmp_path, monkeypatch
):
    before, after, _ = teach_some(codec, copy.deepcopy(codec), folder, tmp_path / "kept")
    assert after["others"] < 0.75 * before["others"] and after["assistant"] < before["assistant"]
    assert after["missed"] < 0.5
    monkeypatch.setattr(teach, "KEPT", 0.0)
    _, free, _ = teach_some(codec, copy.deepcopy(codec), folder, tmp_path / "free")
    assert free["missed"] > 2 * after["missed"]


def test_codebooks_learn_with_it_and_the_assistant_keeps_its_codes(codec, folder, tmp_path):
    books = Books(codec.quantizer.acoustic_residual_vector_quantizer, 0.3)
    batch = teach.Rows(Coded(folder / "train", {SOMEONE: 1.0}), 4, 1)(0)
    acoustic = codec.quantizer.acoustic_residual_vector_quantizer
    codes = batch[0][:, 1:]
    with torch.no_grad():  # before they learn they are the codec's
        told, wanted = books.known(codes), acoustic.decode(codes)
        torch.testing.assert_close(told, wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(books.heard(batch[1])[0], wanted, rtol=1e-4, atol=1e-5)
    poor = copy.deepcopy(codec)
    with torch.no_grad():  # entries that lie together tell little
        for book in poor.quantizer.acoustic_residual_vector_quantizer.codebooks():
            book.embed_sum *= 0.02
    _, fixed, _ = teach_some(poor, None, folder, tmp_path / "fixed")
    _, after, stage = teach_some(poor, None, folder, tmp_path / "learned", True)
    assert after["others"] < 0.97 * fixed["others"]
    made = copy.deepcopy(codec)
    stage.averages.books.give(made.quantizer.acoustic_residual_vector_quantizer)
    new, old = (one.quantizer.acoustic_residual_vector_quantizer for one in (made, codec))
    with torch.no_grad():
        torch.testing.assert_close(new.decode(codes), stage.averages.books.known(codes), rtol=1e-4, atol=1e-5)
        again = torch.stack(new.encode(batch[1], 3), 1)
        torch.testing.assert_close(
            new.decode(again), stage.averages.books.heard(batch[1])[0], rtol=1e-4, atol=1e-5
        )
    assert not torch.equal(again, torch.stack(old.encode(batch[1], 3), 1))


def test_what_was_heard_is_coded_again(codec, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "coded")
    other = copy.deepcopy(codec)
    with torch.no_grad():
        for book in other.quantizer.codebooks():
            book.embed_sum.copy_(book.embed_sum.flip(0))
    assert code_again(tmp_path / "coded", MimiCodec(other, 4)) == 2 * len(KINDS) * 3
    names = [path.relative_to(folder) for path in sorted(folder.rglob("*.npy"))]
    for name in names:
        same = np.array_equal(np.load(folder / name), np.load(tmp_path / "coded" / name))
        assert same is (not name.name.endswith("codes.npy")), name
    assert code_again(tmp_path / "coded", MimiCodec(codec, 4))
    assert all(np.array_equal(np.load(folder / name), np.load(tmp_path / "coded" / name)) for name in names)


@pytest.mark.parametrize("options", [["--known"], ["--entries"]])
def test_teaching_leaves_what_it_should(codec, folder, tmp_path, options):
    save_model(codec, tmp_path / "codec")
    learns = ["decoder_transformer."] + ["acoustic_"] * ("--entries" in options)
    options = options + [str(tmp_path / "codec")] * ("--known" in options)
    options += ["--codec", str(tmp_path / "codec"), "--coded", str(folder), "--codebooks", "4"]
    assert teach.main([*options, "--out", str(tmp_path / "out"), "--steps", "3", "--batch-size", "2"]) == 0
    from aizuchi.models.mimi import MimiModel

    made = MimiModel.from_pretrained(tmp_path / "out/codec").state_dict()
    for name, tensor in codec.state_dict().items():
        if name.endswith(("cluster_usage", "initialized")):
            continue
        moved = any(part in name for part in learns)
        assert torch.equal(tensor, made[name]) is not moved, name
