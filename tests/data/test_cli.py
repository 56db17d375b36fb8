"""`aizuchi data` as its user types it."""

from __future__ import annotations

import json

import pytest
import sentencepiece

from aizuchi.cli import main
from tests.data.helpers import make_dialogues, small_mimi_config


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_dialogues(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def spm(tmp_path_factory):
    prefix = tmp_path_factory.mktemp("spm") / "toy"
    text = ["a b c d e f g h i j", "ab cd ef gh ij", "abc def ghi j"] * 9
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_prefix=str(prefix), vocab_size=20, pad_id=3, minloglevel=2
    )
    return str(prefix) + ".model"


def test_check_is_quiet_about_good_data(data, capsys):
    assert main(["data", "check", str(data), "--decode"]) == 0
    out, err = capsys.readouterr()
    assert out == "" and "4 dialogues" in err and "0 problems" in err


def test_check_prints_one_line_a_problem_and_exits_with_1(tmp_path, capsys):
    data = make_dialogues(tmp_path)
    (tmp_path / "dialogue1.json").write_text('{"alignments": [\n["a", [1, 0.5], "SPEAKER_MAIN"]]}')
    (tmp_path / "dialogue2.json").unlink()
    data.write_text(data.read_text() + "{\n")
    assert main(["data", "check", str(data)]) == 1
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"{data}:5: malformed JSON")
    assert lines[1].startswith(f"{tmp_path / 'dialogue1.json'}:2: alignments[0] ('a') ends")
    assert lines[2].startswith(f"{tmp_path / 'dialogue2.json'}: the alignment is missing")
    assert "3 problems" in err


def test_stats_as_text_and_as_json(data, spm, capsys):
    assert main(["data", "stats", str(data), "--tokenizer", spm]) == 0
    assert "padding" in capsys.readouterr().out
    assert main(["data", "stats", str(data), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["dialogues"] == 4 and 0.1 < summary["share"]["model_speaks"] < 0.5


def test_plot_writes_a_picture(data, spm, tmp_path):
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("matplotlib.image")
    picture = tmp_path / "a.png"
    assert main(["data", "plot", str(data), str(picture), "--index", "1", "--tokenizer", spm]) == 0
    pixels = image.imread(picture)
    assert pixels.shape[0] > 300 and pixels.shape[1] > 800
    blue = (pixels[..., 2] - pixels[..., 0] > 0.3).any(axis=1)  # the model's color, by picture row
    orange = (pixels[..., 0] - pixels[..., 2] > 0.3).any(axis=1)
    assert blue.any() and orange.any() and blue.argmax() < orange.argmax()  # the model on top


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--index", "9"], "has 4 dialogues"),
        (["--start", "99"], "start is 99"),
        (["--seconds", "-1"], "above 0"),
        (["--tokenizer", "none.model"], "does not exist"),
    ],
)
def test_plot_refuses_what_it_cannot_draw(data, tmp_path, capsys, arguments, message):
    assert main(["data", "plot", str(data), str(tmp_path / "a.png"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_plot_refuses_an_unknown_format(data, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert main(["data", "plot", str(data), str(tmp_path / "a.xyz")]) == 2
    assert "xyz" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def mimi(tmp_path_factory):
    """A codec of random weights, small enough to encode in no time, as a folder."""
    import torch

    from aizuchi.models.mimi import MimiModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("mimi")
    MimiModel(small_mimi_config()).save_pretrained(folder)
    return str(folder)


def test_tokenize_then_check_and_count_the_shards(data, spm, mimi, tmp_path, capsys):
    out = str(tmp_path / "tokens")
    command = ["data", "tokenize", str(data), out, "--codec", mimi, "--tokenizer", spm, "--codebooks", "4"]
    command += ["--jobs", "1", "--shard-minutes", "0.1", "--augment", "wide", "--copies", "1"]
    assert main(command) == 0
    assert "4 dialogues" in (err := capsys.readouterr().err) and "2 variants" in err
    assert main(command) == 0  # nothing left to do
    capsys.readouterr()

    assert main(["data", "check", out]) == 0
    assert "4 dialogues" in capsys.readouterr().err
    assert main(["data", "stats", out, "--json"]) == 0
    stats = json.loads(capsys.readouterr().out)
    assert stats["variants"] == 2 and len(stats["used"]) == 4 and 0.5 < stats["text"]["padding"] < 1
    assert sum(stats["text"].values()) == pytest.approx(1)
    assert all(1 <= p <= u <= 64 for p, u in zip(stats["perplexity"], stats["used"]))
    assert main(["data", "stats", out]) == 0
    assert "codebook 3" in capsys.readouterr().out

    assert main([*command, "--keep-and-shift"]) == 2
    assert "keep_and_shift False, now True" in capsys.readouterr().err
    assert main([*command, "--keep-and-shift", "--overwrite"]) == 0

    shard = next((tmp_path / "tokens").glob("shard-*.safetensors"))
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    capsys.readouterr()
    assert main(["data", "check", out]) == 1
    assert shard.name in capsys.readouterr().out
    shard.write_bytes(content[:-1])
    assert main(["data", "check", out]) == 1
    assert "is cut" in capsys.readouterr().out


def test_tokenize_names_what_is_wrong(data, spm, mimi, tmp_path, capsys):
    out = str(tmp_path / "tokens")
    good = ["--codec", mimi, "--tokenizer", spm, "--jobs", "1", "--codebooks", "4"]
    for arguments, message in (
        ([*good, "--codebooks", "99"], "codebooks is 99"),
        ([*good, "--augment", "loud"], "neither a preset"),
        ([*good, "--copies", "2"], "go together"),
        (["--codec", "nowhere", "--tokenizer", spm], "nowhere"),
        (["--codec", mimi, "--tokenizer", "nowhere"], "nowhere does not exist"),
    ):
        assert main(["data", "tokenize", str(data), out, *arguments]) == 2
        assert message in capsys.readouterr().err


def test_the_codec_and_tokenizer_of_a_whole_model(data, spm, mimi, tmp_path, capsys):
    """In transformers' layout the codec is a part of the model's own file."""
    from aizuchi.models.mimi import MimiModel
    from aizuchi.models.moshi import MoshiConfig, MoshiForConditionalGeneration

    config = MoshiConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=32, num_codebooks=4,
        audio_encoder_config=small_mimi_config().to_dict(),
        depth_decoder_config=dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, ffn_dim=16),
    )  # fmt: skip
    whole = MoshiForConditionalGeneration(config)
    whole.audio_encoder.load_state_dict(MimiModel.from_pretrained(mimi).state_dict())
    model = tmp_path / "model"
    whole.save_pretrained(model)
    out = [str(tmp_path / "whole"), str(tmp_path / "alone")]
    for folder, source in zip(out, (str(model), mimi)):
        arguments = ["--codec", source, "--tokenizer", spm, "--jobs", "1", "--codebooks", "4"]
        assert main(["data", "tokenize", str(data), folder, *arguments]) == 0
    shards = [(tmp_path / name / "shard-00000.safetensors").read_bytes() for name in ("whole", "alone")]
    assert shards[0] == shards[1]
