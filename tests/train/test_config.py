"""Configurations: defaults, nested sections, and the words that wrong keys and values are refused with."""

from dataclasses import dataclass, field

import pytest
import torch

from aizuchi.errors import AizuchiError
from aizuchi.train.config import build, load_config, to_dict
from aizuchi.train.order import item_at, keyed_generator
from aizuchi.train.schedule import lr_scale


@dataclass
class Inner:
    rate: float = 1e-3
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    name: str | None = None


@dataclass
class Outer:
    output: str
    steps: int = 10
    inner: Inner = field(default_factory=Inner)
    model: dict | None = None
    fast: bool = False


def load(tmp_path, text, overrides=()):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return load_config(Outer, path, overrides)


def test_sections_and_numbers_that_yaml_reads_as_text(tmp_path):
    config = load(tmp_path, "output: x\ninner: {rate: 1e-4, betas: [0.5, 9e-1]}\nsteps: 1e3\nmodel: {a: 1}\n")
    assert config == Outer("x", 1000, Inner(1e-4, [0.5, 0.9]), {"a": 1})
    assert build(Outer, to_dict(config)) == config


def test_overrides_reach_into_sections(tmp_path):
    config = load(
        tmp_path, "output: x\n", ["inner.rate=2e-5", "steps=7", "model.hidden_size=64", "fast=true"]
    )
    assert (config.inner.rate, config.steps, config.model, config.fast) == (
        2e-5,
        7,
        {"hidden_size": 64},
        True,
    )


@pytest.mark.parametrize(
    "text, message",
    [
        ("output: x\nstep: 3", "unknown key 'step': did you mean 'steps'"),
        ("output: x\ninner: {rte: 3}", "inner: unknown key 'rte': did you mean 'rate'"),
        ("output: x\nzzzz: 3", "known keys: output, steps"),
        ("steps: 3", "'output' must be given"),
        ("output: x\nsteps: 1.5", "steps must be a whole number, not 1.5"),
        ("output: x\nsteps: true", "steps must be a whole number, not True"),
        ("output: x\nfast: 1", "fast must be true or false"),
        ("output: x\ninner: {betas: 3}", "betas must be a list"),
        ("output: x\ninner: 3", "inner is a section"),
        ("output: x\ninner: {betas: [a]}", r"betas\[0\] must be a number"),
        ("- 1", "must hold `key: value` lines"),
        ("a: [", "is not YAML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, message):
    with pytest.raises(AizuchiError, match=message):
        load(tmp_path, text)


def test_every_epoch_is_a_shuffle_of_its_own():
    epochs = [[item_at(e * 7 + i, 7, seed=3) for i in range(7)] for e in range(3)]
    assert all(sorted(e) == list(range(7)) for e in epochs)
    assert len({tuple(e) for e in epochs}) == 3
    assert epochs[0] != [item_at(i, 7, seed=4) for i in range(7)]


def test_generators_differ_by_every_part_of_their_key():
    keys = [(1, "a", 2), (2, "a", 2), (1, "b", 2), (1, "a", 3), (1 + 2**32, "a", 2)]
    assert len({keyed_generator(*k).integers(2**62) for k in keys}) == len(keys)
    assert keyed_generator(1, "a", 2).random() == keyed_generator(1, "a", 2).random()


def test_onecycle_is_torchs():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1.0, total_steps=40, pct_start=0.25, cycle_momentum=False
    )
    for step in range(40):
        assert lr_scale("onecycle", step, 40, 10) == pytest.approx(theirs.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        if step < 39:
            theirs.step()


def test_cosine_rises_and_falls():
    scales = [lr_scale("cosine", s, 100, 10, 0.1) for s in range(101)]
    assert scales[0] == 0.1 and scales[9] == 1.0 and scales[100] == pytest.approx(0.1)
    assert scales[10:] == sorted(scales[10:], reverse=True)
    assert {lr_scale("constant", s, 100, 10) for s in range(10, 100)} == {1.0}
