"""Branches of one training: their weights are averaged, and nothing of a branch that fails is taken for finished."""

from __future__ import annotations

import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from aizuchi.errors import AizuchiError
from aizuchi.train.checkpoints import STATE
from recipes.mini import branches
from tests.train.test_cli import config_values, token_shards

WAITS = "import signal,sys,time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); time.sleep(60)"


def checkpoint(run, step, **tensors):
    folder = run / "checkpoints" / f"step_{step:08d}"
    folder.mkdir(parents=True)
    save_file(tensors, folder / branches.WEIGHTS)
    (folder / STATE).write_text(f'{{"format_version": 1, "step": {step}}}')
    return folder / branches.WEIGHTS


def test_all_get_the_mean_of_their_newest_weights(tmp_path):
    runs = [tmp_path / "a", tmp_path / "b"]
    old = checkpoint(runs[0], 1, w=torch.tensor([9.0, 9.0]), n=torch.tensor(1))
    files = [
        checkpoint(runs[0], 2, w=torch.tensor([1.0, 2.0]), n=torch.tensor(5)),
        checkpoint(runs[1], 3, w=torch.tensor([3.0, -2.0]), n=torch.tensor(6)),
    ]
    branches.share_average(runs)
    for file in files:
        assert load_file(file)["w"].tolist() == [2.0, 0.0] and load_file(file)["n"] == 5
    assert load_file(old)["w"].tolist() == [9.0, 9.0]
    assert [branches.steps_of(run) for run in runs] == [2, 3] and branches.steps_of(tmp_path / "c") == 0


def test_weights_of_other_models_are_refused_and_left(tmp_path):
    runs = [tmp_path / "a", tmp_path / "b"]
    file = checkpoint(runs[0], 1, w=torch.zeros(2))
    checkpoint(runs[1], 1, w=torch.zeros(3))
    before = file.read_bytes()
    with pytest.raises(AizuchiError, match="not of one model"):
        branches.share_average(runs)
    assert file.read_bytes() == before
    with pytest.raises(AizuchiError, match="no checkpoint yet"):
        branches.share_average([runs[0], tmp_path / "c"])


def test_a_branch_that_fails_stops_the_others(tmp_path):
    runs = [tmp_path / "a", tmp_path / "b"]
    commands = [[sys.executable, "-c", WAITS], [sys.executable, "-c", "raise SystemExit('no data')"]]
    with pytest.raises(AizuchiError, match="b ended with an error"):
        branches.train_together(commands, runs, 1, 5, None)
    assert "no data" in (tmp_path / "b.log").read_text()


def test_time_over_is_no_failure(tmp_path):
    branches.train_together([[sys.executable, "-c", WAITS]], [tmp_path / "a"], 1, 5, 1.0)


def test_two_branches_of_a_training_give_their_mean(tmp_path, capsys):
    token_shards(tmp_path / "tokens")
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(config_values(tmp_path, train=str(tmp_path / "tokens"))))
    command = [str(config), "--out", str(tmp_path / "run"), "--steps", "3"]
    assert branches.main(command) == 0
    runs = [tmp_path / "run" / f"branch-{i}" for i in (0, 1)]
    own = [load_file(run / "model" / branches.WEIGHTS) for run in runs]
    mean = load_file(tmp_path / "run" / "model" / branches.WEIGHTS)
    differ = [name for name in mean if not torch.equal(own[0][name], own[1][name])]
    assert differ and all(torch.allclose(mean[k], (own[0][k] + own[1][k]) / 2) for k in differ)
    assert {p.name for p in (tmp_path / "run" / "model").iterdir()} >= {"config.json", branches.WEIGHTS}
    capsys.readouterr()
    assert branches.main(command) == 0  # given again, nothing is trained
    assert "after 3 steps" in capsys.readouterr().out
