"""The chain of the mini recipe: its commands are ones that exist, and at toy size it runs from end to end."""

import argparse
import importlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("hibari")

from recipes.mini import run

ROOT = Path(__file__).resolve().parents[2]


def test_every_stage_is_a_command_that_takes_its_arguments(tmp_path):
    for stage in run.stages(tmp_path, 2, "recorded"):
        for command in (stage.command, stage.quick):
            module, *arguments = command[1:]
            if module == "aizuchi":
                parser = argparse.ArgumentParser()
                importlib.import_module(f"aizuchi.cli.{arguments.pop(0)}").add_arguments(parser)
            else:
                parser = importlib.import_module(module).build_parser()
            assert isinstance(parser.parse_args(arguments), argparse.Namespace)


def test_configurations_are_what_the_trainers_take(tmp_path):
    from aizuchi.train.config import load_config
    from aizuchi.train.mimi_config import MimiTraining
    from aizuchi.train.moshi_config import MoshiTraining

    for stage in run.stages(tmp_path, 2, "recorded"):
        if stage.name in ("decoder", "moshi"):
            kind = MoshiTraining if stage.name == "moshi" else MimiTraining
            for command in (stage.command, stage.quick):
                sets = [command[i + 1] for i, part in enumerate(command) if part == "--set"]
                assert load_config(kind, ROOT / command[4], sets).output == str(tmp_path / stage.name)


def test_an_unknown_stage_is_refused(capsys):
    with pytest.raises(SystemExit):
        run.main(["bake"])
    assert "the stages are clips, listening, vocabulary" in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_chain_runs_at_toy_size(tmp_path):
    began = time.monotonic()
    command = [sys.executable, "-m", "recipes.mini.run", "--quick", "--runs", str(tmp_path)]
    assert subprocess.run(command, cwd=ROOT).returncode == 0
    assert (tmp_path / "package/config.json").is_file() and list((tmp_path / "package").glob("*.safetensors"))
    print(f"{time.monotonic() - began:.0f} s")
