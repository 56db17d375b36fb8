"""Compiled layers: the same steps, and what they need."""

import pytest
import torch

from aizuchi.errors import AizuchiError
from aizuchi.train.compiled import compile_layers
from tests.train.test_moshi import assert_same_weights
from tests.train.tiny import config_of, trainer_of


@pytest.mark.slow  # a compiler takes its time
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_layers_give_the_same_steps(tmp_path, checkpointing):
    plain = trainer_of(config_of(tmp_path / "a", steps=3))
    compiled = trainer_of(
        config_of(tmp_path / "b", compile=True, gradient_checkpointing=checkpointing, steps=3)
    )
    for step in range(3):
        a, b = (t.train_step(t.batches[step]) for t in (plain, compiled))
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
    assert_same_weights(plain.plain.state_dict(), compiled.plain.state_dict(), 2e-5)
    layers = [*compiled.plain.decoder.model.layers, *compiled.plain.depth_decoder.layers]
    assert all(layer._compiled_call_impl is not None for layer in layers)


def test_on_several_threads_depth_layers_are_not_compiled(tmp_path, monkeypatch):
    trainer = trainer_of(config_of(tmp_path))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    compile_layers(trainer.plain, torch.device("cpu"))
    temporal, depth = trainer.plain.decoder.model.layers, trainer.plain.depth_decoder.layers
    assert all(layer._compiled_call_impl is not None for layer in temporal)
    assert all(layer._compiled_call_impl is None for layer in depth)


def test_compile_says_what_it_needs(tmp_path, monkeypatch):
    with pytest.raises(AizuchiError, match="leave one out"):
        trainer_of(config_of(tmp_path, compile=True, shard=True))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # says the same as shard
    with pytest.raises(AizuchiError, match="leave one out"):
        trainer_of(config_of(tmp_path, compile=True))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(AizuchiError, match="C\\+\\+ compiler"):
        trainer_of(config_of(tmp_path, compile=True))
