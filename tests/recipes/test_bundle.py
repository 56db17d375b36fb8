"""Bundles: files of a bounded size that give back, bit by bit, the tokens, files and checkpoints of the mini recipe."""

import hashlib
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch

from aizuchi.data.shards import DialogueTokens, ShardFolder, write_index, write_shard
from aizuchi.data.tokenizer import TextTokenizer
from aizuchi.errors import AizuchiError
from recipes.mini import bundle
from recipes.mini.bundle_codings import (
    CODINGS,
    decode_planes,
    decode_tokens,
    encode_planes,
    encode_tokens,
    exact_item,
)
from recipes.mini.bundle_parts import INDEX, Bundle, BundleError, Item, new_folder, write_bundle

ROOT = Path(__file__).resolve().parents[2]
TOKENIZER = ROOT / "aizuchi/pretrained/mini/tokenizer_spm.model"
WORDS = ["hello", "seven", "moon"]
PART = 4096  # bytes
MIB = str(PART / (1 << 20))


def dialogue(name, frames, rng, size=512):
    """Codes from 0 to size - 1, text and heard words that are mostly padding."""
    text = np.where(rng.random(frames) < 0.9, 3, rng.integers(0, 1330, frames))
    heard = np.where(rng.random(frames) < 0.95, 0, rng.integers(-1, 5, frames))
    codes = rng.integers(0, size, (frames, 24)).astype(np.int16)
    return DialogueTokens(
        name,
        text.astype(np.int32),
        codes[:, :8],
        codes[:, 8:].reshape(-1, 2, 8),
        heard=heard.astype(np.int32),
    )


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    """A small codec, of no use but as the one that the shards are of."""
    from aizuchi.data.codec import load_codec
    from aizuchi.models.mimi import MimiConfig, MimiModel
    from aizuchi.train.checkpoints import save_model
    from tests.train.tiny_codec import MODEL

    folder = tmp_path_factory.mktemp("codec")
    fields = MODEL | {"num_key_value_heads": 2, "upsample_groups": 16, "num_quantizers": 8}
    save_model(MimiModel(MimiConfig(**fields)), folder)
    return folder, load_codec(folder).fingerprint()


@pytest.fixture
def runs(tmp_path, codec):
    """tokens/train of three shards, tokens/valid of one, the tokenizer with its words, the codec."""
    rng = np.random.default_rng(0)
    shutil.copy(TOKENIZER, tmp_path / "tokenizer.model")
    (tmp_path / "heard.txt").write_text("\n".join(WORDS) + "\n")
    shutil.copytree(codec[0], tmp_path / "codec-bf16")
    settings = {
        "codec": codec[1],
        "codebooks": 8,
        "codebook_size": 512,
        "tokenizer": TextTokenizer(TOKENIZER).fingerprint(),
        "variants": 2,
        "heard_classes": 5,
        "heard_words": hashlib.sha256(" ".join(WORDS).encode()).hexdigest()[:16],
    }
    for part, shards in (("train", 3), ("valid", 1)):
        folder = tmp_path / "tokens" / part
        folder.mkdir(parents=True)
        records = []
        for i in range(shards):
            made = [dialogue(f"{part}/{i}/{n}", 90 + 7 * n, rng) for n in range(3)]
            records.append(write_shard(folder / f"shard-{i:05d}.safetensors", made, f"key{i}"))
        write_index(folder, settings, records, complete=True)
    return tmp_path


def pack(runs, *more):
    return bundle.main(
        [
            *("pack", "tokens", "--tokens", str(runs / "tokens"), "--out", str(runs / "bundle")),
            *("--tokenizer", str(runs / "tokenizer.model"), "--codec", str(runs / "codec-bf16")),
            *("--part-mib", MIB, *more),
        ]
    )


def unpack(runs):
    return bundle.main(["unpack", "tokens", str(runs / "bundle"), "--out", str(runs / "there")])


def files(folder):
    """What a folder holds: names to bytes."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def spoil(folder, change):
    """Change what the parts hold, and the index with it, as if they had been written so."""
    index = json.loads((folder / INDEX).read_text())
    part = index["parts"][0]
    content = change(bytearray((folder / part["file"]).read_bytes()))
    (folder / part["file"]).write_bytes(content)
    part |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / INDEX).write_text(json.dumps(index))


# -- token shards ----------------------------------------------------------------------------------------------
def test_tokens_come_back_bit_by_bit_from_small_parts(runs):
    assert pack(runs) == 0 and unpack(runs) == 0
    sizes = [p.stat().st_size for p in (runs / "bundle").glob("part-*.bin")]
    assert len(sizes) > 3 and max(sizes) <= PART
    there, here = files(runs / "there"), files(runs)
    for part in ("train", "valid"):
        for name, content in files(runs / "tokens" / part).items():
            assert there.pop(f"{part}/{name}") == content, name
    assert there.pop("tokenizer.model") == here["tokenizer.model"]
    assert there.pop("heard.txt") == here["heard.txt"]
    assert {f"codec-bf16/{n.removeprefix('codec/')}": c for n, c in there.items()} == {
        n: c for n, c in here.items() if n.startswith("codec-bf16/")
    }


def test_a_training_reads_what_was_unpacked(runs):
    from aizuchi.train.tokens import Pieces, open_sources

    assert pack(runs) == 0 and unpack(runs) == 0
    before, after = (
        Pieces(open_sources(f"{folder / 'train'}"), 40, seed=3)
        for folder in (runs / "tokens", runs / "there")
    )
    assert len(before) == len(after) > 20
    for position in range(len(before)):
        a, b = before.draw(position), after.draw(position)
        for name in ("text", "model", "user", "heard"):
            assert np.array_equal(getattr(a, name), getattr(b, name)), name


def test_hours_take_whole_shards_of_all_but_the_validation(runs):
    frames = ShardFolder(runs / "tokens/train").records[0].frames
    assert pack(runs, "--hours", str(1.5 * frames * 0.08 / 3600)) == 0 and unpack(runs) == 0
    train, valid = ShardFolder(runs / "there/train"), ShardFolder(runs / "there/valid")
    assert [r.file for r in train.records] == ["shard-00000.safetensors", "shard-00001.safetensors"]
    assert train.verify() == [] and len(train.dialogues) == 6 and len(valid.dialogues) == 3
    assert not (runs / "there/train/shard-00002.safetensors").exists()


def test_codes_take_their_bits_and_no_more():
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 512, (20000, 8)).astype(np.int16)
    content = safetensors.numpy.save({"model": codes, "text": np.full(20000, 3, np.int32)})
    blob = encode_tokens(content)
    assert decode_tokens(blob) == content
    assert len(blob) < 1.01 * codes.size * 9 / 8 + 500


@pytest.mark.parametrize("size", [1, 2, 256, 257, 2048, 1 << 15])
@pytest.mark.parametrize("shape", [(1, 1), (13, 8), (13, 3, 4), (13, 0), (0, 8)])
def test_shards_of_any_codes_and_shapes(size, shape):
    codes = np.random.default_rng(size).integers(0, size, shape).astype(np.int16)
    mixed = {"user": codes, "model": codes - 1, "text": codes.astype(np.int32) * -70000}  # some below 0
    content = safetensors.numpy.save(mixed, {"aizuchi": "{}"})
    assert decode_tokens(encode_tokens(content)) == content


def test_only_their_own_tokenizer_words_and_codec_go_with_shards(runs, capsys):
    (runs / "heard.txt").write_text("other words\n")
    assert pack(runs) == 2 and "another list of words" in capsys.readouterr().err
    (runs / "heard.txt").write_text("\n".join(WORDS))
    weights = runs / "codec-bf16/model.safetensors"
    state = safetensors.torch.load_file(weights)
    state["encoder.layers.0.conv.weight"] += 0.01
    safetensors.torch.save_file(state, weights, {"format": "pt"})
    assert pack(runs) == 2 and "another codec" in capsys.readouterr().err
    assert not (runs / "bundle").exists()
    assert pack(runs, "--no-codec") == 0 and unpack(runs) == 0
    assert not (runs / "there/codec").exists()


def test_a_damaged_shard_is_not_packed(runs, capsys):
    path = runs / "tokens/train/shard-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    assert pack(runs) == 2
    assert "shard-00001.safetensors is damaged" in capsys.readouterr().err
    assert not (runs / "bundle").exists()


# -- damage ----------------------------------------------------------------------------------------------------
def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda b: flip(b / "part-001.bin"), "part-001.bin is damaged"),
        (lambda b: (b / "part-002.bin").write_bytes(b"short"), "part-002.bin is cut: 5 bytes of 4096"),
        (lambda b: (b / "part-000.bin").unlink(), "part-000.bin is missing"),
        (lambda b: (b / INDEX).unlink(), "holds no bundle"),
        (lambda b: (b / INDEX).write_text("{"), "is damaged"),
        (lambda b: (b / INDEX).write_text("{}"), "not the index of a bundle"),
        (
            lambda b: (b / INDEX).write_text((b / INDEX).read_text().replace('"version": 1', '"version": 2')),
            "version 2",
        ),
        (lambda b: spoil(b, lambda c: c + b"more"), "its parts are not what its items add up to"),
    ],
)
def test_a_damaged_bundle_is_refused_and_nothing_is_written(runs, capsys, harm, message):
    assert pack(runs) == 0
    harm(runs / "bundle")
    assert unpack(runs) == 2
    assert message in capsys.readouterr().err
    assert not (runs / "there").exists() and not list(runs.glob(".tmp*"))


def test_damage_that_the_parts_do_not_tell_is_found_in_the_content(tmp_path):
    content = np.random.default_rng(0).integers(0, 256, 9000, np.uint8).tobytes()
    write_bundle(tmp_path, "files", [exact_item("a.bin", content, "planes")], PART)

    def change(part):
        part[3000] ^= 16
        return bytes(part)

    spoil(tmp_path, change)
    assert bundle.main(["unpack", "files", str(tmp_path), "--out", str(tmp_path / "there")]) == 2
    assert not (tmp_path / "there").exists()


def test_what_is_there_is_neither_lost_nor_overwritten(runs, capsys):
    assert pack(runs) == 0 and unpack(runs) == 0
    assert unpack(runs) == 2 and "is there already" in capsys.readouterr().err
    before = files(runs / "bundle")

    def failing():
        yield Item("a", "raw", b"x" * 9000)
        raise AizuchiError("stop")

    with pytest.raises(AizuchiError, match="stop"):
        write_bundle(runs / "bundle", "files", failing(), PART)
    assert files(runs / "bundle") == before
    with pytest.raises(ZeroDivisionError), new_folder(runs / "half") as folder:
        (folder / "file").write_text("")
        raise ZeroDivisionError
    assert not (runs / "half").exists() and not list(runs.glob(".tmp*"))


def test_a_smaller_bundle_leaves_nothing_of_a_larger_one(tmp_path):
    for size in (20 * PART, 10):
        write_bundle(tmp_path, "files", [Item("a", "raw", b"x" * size)], PART)
    assert sorted(files(tmp_path)) == [INDEX, "part-000.bin"]
    assert [item.blob for item in Bundle(tmp_path, "files").items()] == [b"x" * 10]


@pytest.mark.parametrize("name", ["../a", "/a", "a/../../b", "", "a\\..\\b"])
def test_names_can_not_lead_out_of_the_folder(tmp_path, name):
    with pytest.raises(BundleError, match="leads out"):
        write_bundle(tmp_path / "out", "files", [Item(name, "raw", b"")], PART)
    write_bundle(tmp_path / "out", "files", [Item("good", "raw", b"x")], PART)
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    index["items"][0]["name"] = name
    (tmp_path / "out" / INDEX).write_text(json.dumps(index))
    with pytest.raises(BundleError, match="leads out"):
        Bundle(tmp_path / "out", "files")


def test_bundles_of_another_kind_and_parts_of_no_size_are_refused(runs, capsys):
    assert pack(runs) == 0
    assert bundle.main(["unpack", "files", str(runs / "bundle"), "--out", str(runs / "there")]) == 2
    assert "a bundle of tokens, not of files" in capsys.readouterr().err
    assert pack(runs, "--part-mib", "0") == 2 and "--part-mib is 0" in capsys.readouterr().err


# -- files and states ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [0, 1, 3, 4, 4096, 5001, (4 << 20) + 6])
def test_planes_are_exact(size):
    content = np.random.default_rng(size).standard_normal(size // 4 + 1).astype(np.float32).tobytes()[:size]
    assert decode_planes(encode_planes(content)) == content


def test_planes_make_weights_smaller():
    numbers = np.random.default_rng(0).standard_normal(100_000).astype(np.float32) * 0.02
    rounded = (numbers.view(np.uint32) & 0xFFFF0000).view(np.float32)  # as bfloat16 holds them
    assert len(encode_planes(numbers.tobytes())) < 0.87 * numbers.nbytes
    assert len(encode_planes(rounded.tobytes())) < 0.40 * numbers.nbytes


def test_a_coding_that_would_lose_something_is_refused(monkeypatch):
    monkeypatch.setitem(CODINGS, "raw", (bytes, lambda blob: blob[:-1]))
    with pytest.raises(BundleError, match="would be lost"):
        exact_item("a", b"abc", "raw")
    with pytest.raises(BundleError, match="can't be packed as tokens"):
        exact_item("a", b"no shard", "tokens")


def checkpoint(run, step, rng):
    folder = run / "checkpoints" / f"step_{step:08d}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(rng.standard_normal(300_000).astype(np.float32).tobytes())
    (folder / "optimizer.pt").write_bytes(rng.bytes(5003))
    (folder / "training.json").write_text(json.dumps({"format_version": 1, "step": step}))
    return folder


def test_a_state_is_the_newest_whole_checkpoint_and_the_log(tmp_path, capsys):
    rng = np.random.default_rng(0)
    run, there = tmp_path / "run", tmp_path / "there"
    checkpoint(run, 20, rng)
    newest = checkpoint(run, 100, rng)
    (checkpoint(run, 120, rng) / "training.json").unlink()  # was never finished
    (run / "log.csv").write_text("step,loss\n100,2.5\n")
    carry = ["state", "pack", str(run), "--out", str(tmp_path / "bundle"), "--part-mib", "0.25"]
    assert bundle.main(carry) == 0
    sizes = [p.stat().st_size for p in (tmp_path / "bundle").glob("part-*.bin")]
    assert len(sizes) > 3 and max(sizes) <= 1 << 18

    back = ["state", "unpack", str(tmp_path / "bundle"), "--run"]
    assert bundle.main([*back, str(there)]) == 0
    assert [p.name for p in (there / "checkpoints").iterdir()] == ["step_00000100"]
    assert files(there / "checkpoints/step_00000100") == files(newest)
    assert (there / "log.csv").read_text() == "step,loss\n100,2.5\n"

    (there / "checkpoints/step_00000100/optimizer.pt").unlink()
    assert bundle.main([*back, str(there)]) == 0  # the same step is replaced
    assert files(there / "checkpoints/step_00000100") == files(newest)
    later = checkpoint(there, 140, rng)
    before = files(there)
    capsys.readouterr()
    assert bundle.main([*back, str(there)]) == 2
    assert f"has {later.name} already" in capsys.readouterr().err and files(there) == before
    assert bundle.main(["state", "pack", str(tmp_path), "--out", str(tmp_path / "none")]) == 2
    assert "has no checkpoint yet" in capsys.readouterr().err


def test_a_run_goes_on_from_a_state_to_the_very_same_weights(tmp_path):
    from tests.train.tiny import config_of, trainer_of

    whole = trainer_of(config_of(tmp_path / "whole", steps=4, keep=4)).run()
    shutil.rmtree(tmp_path / "whole/checkpoints/step_00000004")  # as it stood at step 2
    assert bundle.main(["state", "pack", str(tmp_path / "whole"), "--out", str(tmp_path / "bundle")]) == 0
    assert bundle.main(["state", "unpack", str(tmp_path / "bundle"), "--run", str(tmp_path / "there")]) == 0
    trainer = trainer_of(config_of(tmp_path / "there", steps=4, keep=4))
    trainer.resume()
    assert trainer.step == 2
    made = trainer.run()
    assert (made / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_tokens_are_unpacked_and_trained_on_without_a_library_for_sound():
    modules = "recipes.mini.bundle_tokens, recipes.mini.bundle_files, aizuchi.train.start"
    code = f"import sys, {modules}\nassert not {{'soundfile', 'soxr'}} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# -- the page --------------------------------------------------------------------------------------------------
def test_the_page_gives_commands_that_are_there():
    from aizuchi.train.config import load_config
    from aizuchi.train.mimi_config import MimiTraining
    from aizuchi.train.moshi_config import MoshiTraining

    page = (ROOT / "recipes/mini/README.md").read_text(encoding="utf-8")
    section = page.split("## On a borrowed GPU\n")[1].split("\n## ")[0].replace("\\\n", " ")
    blocks = section.split("```")[1::2]
    parsed = []
    for line in (line for block in blocks for line in block.splitlines()):
        words = shlex.split(line, comments=True)
        if "recipes.mini.bundle" in words:
            given = words[words.index("recipes.mini.bundle") + 1 :]
            parsed.append(bundle.build_parser().parse_args(given))
        elif "train" in words:
            kind, config, *rest = words[words.index("train") + 1 :]
            assert set(rest[::2]) == {"--set"}
            load_config({"moshi": MoshiTraining, "mimi": MimiTraining}[kind], ROOT / config, rest[1::2])
            parsed.append(kind)
    assert len(parsed) == 10 and {"moshi", "mimi"} <= set(map(str, parsed))
