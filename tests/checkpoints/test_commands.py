"""`aizuchi convert` and `aizuchi models` as a person runs them."""

from __future__ import annotations

import json

import pytest

from aizuchi.cli import main

from . import tiny


@pytest.fixture(scope="module")
def kyutai(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands") / "kyutai"
    tiny.kyutai_folder(folder, tiny.MOSHI)
    return folder


def test_convert_there_and_back(kyutai, tmp_path, capsys):
    assert main(["convert", str(kyutai), str(tmp_path / "hf")]) == 0
    captured = capsys.readouterr()
    assert "Kyutai layout: Moshi" in captured.err and "Hugging Face layout: Moshi" in captured.out
    assert main(["convert", str(tmp_path / "hf"), str(tmp_path / "back")]) == 0
    assert (tmp_path / "back" / "model.safetensors").read_bytes() == (
        kyutai / "model.safetensors"
    ).read_bytes()


def test_convert_refuses_to_overwrite(kyutai, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.safetensors").write_text("mine")
    assert main(["convert", str(kyutai), str(tmp_path / "out")]) == 2
    assert "--force" in capsys.readouterr().err
    assert (tmp_path / "out" / "model.safetensors").read_text() == "mine"
    assert main(["convert", str(kyutai), str(tmp_path / "out"), "--force", "--dtype", "float32"]) == 0
    assert "fp32" in capsys.readouterr().out


def test_models_describes_a_checkpoint(kyutai, capsys):
    assert main(["models", str(kyutai)]) == 0
    out = capsys.readouterr().out
    for words in ("Kyutai layout", "63.5 k parameters", "bf16", "delays", "30 frames (2.4 s)"):
        assert words in out
    assert main(["models", str(kyutai), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["layout"] == "kyutai" and facts["sizes"]["written_codebooks"] == 4


@pytest.mark.parametrize("command", [["models"], ["convert"]])
def test_errors_are_one_line(command, tmp_path, capsys):
    arguments = [
        *command,
        str(tmp_path / "nowhere"),
        *([str(tmp_path / "out")] if command == ["convert"] else []),
    ]
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and "no such file or folder" in captured.err
    assert list(tmp_path.iterdir()) == []
