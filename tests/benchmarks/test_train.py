"""The training benchmark, at toy size: the figures that it prints are those of a real run."""

import json

import pytest
import torch

from aizuchi.models import presets
from aizuchi.models.moshi import MoshiConfig
from aizuchi.train.measures import flops_per_frame
from aizuchi.train.start import make_model
from benchmarks.train import main
from tests.train.tiny import MODEL, config_of

ARGUMENTS = ["--device=cpu", "--batch=2", "--seconds=2", "--steps=4", "--rank=2"]


def test_it_measures_a_run(tmp_path, monkeypatch, capsys):
    torch.set_num_threads(1)
    monkeypatch.setattr(presets, "preset_config", lambda name: MoshiConfig(**MODEL))
    main([*ARGUMENTS, f"--json={tmp_path / 'out.json'}"])
    result = json.loads((tmp_path / "out.json").read_text())
    assert json.loads(capsys.readouterr().out) == result
    assert 0 < result["trained_parameters"] < result["parameters"]
    assert result["tokens_per_second"] > 0 and 0 < result["matmul_fraction"] < 1
    assert result["reading_over_training"] > 1, "reading is the slower one"
    assert result["waiting_for_data"] < 0.5 and result["peak_gigabytes"] is None


def test_operations_of_a_frame_are_two_a_weight_forward_and_backward_for_input_and_weight(tmp_path):
    model = make_model(config_of(tmp_path))
    config = model.config
    attention = 12 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * 10 / 2
    weights = flops_per_frame(model, 10) - attention
    model.requires_grad_(False)
    assert flops_per_frame(model, 10) - attention == pytest.approx(weights * 4 / 6)
    layer = 4 * 32 * 32 + 32 * 96 + 48 * 32
    depth = 4 * (4 * 24 * 24 + 24 * 48 + 24 * 24)  # of each of four codebooks
    between = 4 * 32 * 24 + 4 * 24 * 32  # into the depth decoder, and its heads
    assert weights / 6 == 2 * layer + depth + between + 32 * 40
