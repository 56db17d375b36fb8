"""Quantized checkpoints: the same model from the file as from quantizing at load, and what is refused."""

import json

import pytest
import torch

from aizuchi.checkpoints.load import load
from aizuchi.checkpoints.quantize import quantize
from aizuchi.cli import main
from aizuchi.engine import Sampling, reply
from aizuchi.errors import AizuchiError
from aizuchi.models.quantized import (
    QuantizedLinear,
    dequantize_model,
    from_int4,
    quantize_model,
    to_int4,
    to_int8,
)
from tests.models.moshi.reference import tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model().save_pretrained(path)
    return path


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_saved_and_reloaded_it_is_what_loading_makes(folder, tmp_path, kind):
    out = tmp_path / kind
    assert main(["convert", str(folder), str(out), "--quantize", kind]) == 0
    fresh, saved = load(folder, quantize=kind).model, load(out).model
    assert saved.config.aizuchi_quantization == {"version": 1, "kind": kind}
    first, second = fresh.state_dict(), saved.state_dict()
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    kept = [name for name, module in saved.named_modules() if isinstance(module, QuantizedLinear)]
    assert any("depth_decoder.layers" in name for name in kept) and "depth_decoder.lm_heads" in kept
    assert not any(name.startswith("audio_encoder") for name in kept)
    wave = 0.1 * torch.randn(1, 1920 * 4, generator=torch.Generator().manual_seed(0))
    one, other = (reply(model, wave, Sampling(seed=1)) for model in (fresh, saved))
    assert torch.equal(one.waveform, other.waveform) and torch.equal(one.codes, other.codes)
    # another dtype casts what is not quantized, and loses nothing of the scales
    half = load(out, dtype=torch.bfloat16).model.depth_decoder.lm_heads
    assert torch.equal(
        half.dequantized(torch.float32), saved.depth_decoder.lm_heads.dequantized(torch.float32)
    )


def test_levels():
    weight = torch.randn(6, 200, generator=torch.Generator().manual_seed(0))
    weight[2] = 0
    packed, scale = to_int4(weight)
    assert packed.dtype == torch.uint8 and packed.shape == (6, 128) and scale.shape == (6, 8)
    error = (from_int4(packed, scale, 200) - weight).abs()
    steps = scale.abs().repeat_interleave(32, 1)[:, :200]
    assert (error <= steps * 1.05).all() and error.mean() < 0.4 * steps[weight.abs().amax(1) > 0].mean()
    assert (from_int4(packed, scale, 200)[2] == 0).all()
    levels, scale = to_int8(weight)
    assert ((levels.float() * scale[:, None] - weight).abs() <= 0.51 * scale[:, None] + 1e-6).all()


def test_what_is_refused(folder, tmp_path):
    with pytest.raises(AizuchiError, match="int8 or int4"):
        quantize(folder, tmp_path / "x", "int3")
    with pytest.raises(AizuchiError, match="quantized already"):
        quantize_model(load(folder, quantize="int8").model, "int4")
    out = quantize(folder, tmp_path / "int8", "int8")
    config = json.loads((out / "config.json").read_text())
    config["aizuchi_quantization"]["version"] = 9
    (out / "config.json").write_text(json.dumps(config))
    with pytest.raises(AizuchiError, match="format 9"):
        load(out)
    assert main(["convert", str(folder), str(tmp_path / "y"), "--to", "kyutai", "--quantize", "int8"]) == 2
    assert not (tmp_path / "x").exists() and not (tmp_path / "y").exists()


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_plain_layers_take_the_place_of_quantized_ones(folder, tmp_path, kind):
    out = tmp_path / kind
    assert main(["convert", str(folder), str(out), "--quantize", kind]) == 0
    quantized, plain = load(out).model, dequantize_model(load(out).model)
    assert not any(isinstance(module, QuantizedLinear) for module in plain.modules())
    assert plain.state_dict().keys() == load(folder).model.state_dict().keys()
    assert plain.config.aizuchi_quantization is None and dequantize_model(plain) is plain
    wave = 0.1 * torch.randn(1, 1920 * 4, generator=torch.Generator().manual_seed(0))
    one, other = (reply(model, wave, Sampling(seed=1)) for model in (quantized, plain))
    assert torch.equal(one.codes, other.codes)
    assert torch.allclose(one.waveform, other.waveform, atol=1e-5)
    plain.save_pretrained(tmp_path / "plain")  # and what is saved is read as plain weights
    again = load(tmp_path / "plain").model.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in plain.state_dict().items())


def test_a_run_from_a_quantized_checkpoint_trains_its_matrices(folder, tmp_path):
    from aizuchi.train.moshi_config import MoshiTraining
    from aizuchi.train.start import make_model

    assert main(["convert", str(folder), str(tmp_path / "int8"), "--quantize", "int8"]) == 0
    model = make_model(MoshiTraining(output=str(tmp_path / "run"), checkpoint=str(tmp_path / "int8")))
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert names == {name for name, _ in load(folder).model.named_parameters()}
