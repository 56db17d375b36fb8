"""`aizuchi data` as its user types it."""

from __future__ import annotations

import json

import pytest
import sentencepiece

from aizuchi.cli import main
from tests.data.helpers import make_dialogues


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
