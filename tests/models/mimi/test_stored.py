"""A codec of which what is large is stored in int8: wide again once it is loaded, alone or in a model."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from aizuchi.data.codec import load_codec
from aizuchi.engine.memory import need
from aizuchi.errors import AizuchiError
from aizuchi.models.mimi import MimiModel
from aizuchi.models.moshi import MoshiForConditionalGeneration
from aizuchi.models.quantized import QuantizedLinear, to_int8
from aizuchi.models.stored import store_codec
from tests.models.mimi.helpers import TINY, make_model, speech
from tests.models.moshi.reference import tiny_model

LARGE = 500


def large(codec: MimiModel) -> dict[str, nn.Module]:
    """What is stored in int8: matrices of transformers, and the decoder's convolutions but for the small ones."""
    found: dict[str, nn.Module] = {n: m for n, m in codec.named_modules() if isinstance(m, nn.Linear)}
    for name, module in codec.decoder.named_modules():
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d) and module.weight.numel() >= LARGE:
            found[name] = module
    return found


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of a tiny decoder's convolutions count as large."""
    monkeypatch.setattr("aizuchi.models.stored.LARGE", LARGE)


@torch.no_grad()
def rounded(codec: MimiModel) -> MimiModel:
    codec = copy.deepcopy(codec)
    for module in large(codec).values():
        levels, scale = to_int8(module.weight.flatten(1))
        module.weight.copy_((levels.float() * scale[:, None]).view_as(module.weight))
    return codec


def test_a_stored_codec_is_wide_once_it_is_loaded(tmp_path: Path) -> None:
    codec = make_model(fit_seconds=4, **TINY, num_encoder_hidden_layers=3)
    wanted = rounded(codec)
    codec.save_pretrained(tmp_path / "plain")
    store_codec(codec).save_pretrained(tmp_path / "stored")
    assert any(isinstance(m, QuantizedLinear) for m in codec.modules())
    kinds = [type(m).__name__ for m in codec.decoder.modules()]
    assert {"StoredConvolution", "Conv1d", "ConvTranspose1d"} <= set(kinds)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("plain", "stored")]
    assert sizes[1] < sizes[0] - 2 * sum(m.weight.numel() for m in large(wanted).values())
    loaded = MimiModel.from_pretrained(tmp_path / "stored")
    assert not any(isinstance(m, QuantizedLinear) for m in loaded.modules())
    assert loaded.config.aizuchi_stored is None and len(loaded.encoder_transformer.layers) == 3
    ours, theirs = loaded.state_dict(), wanted.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    wave = speech(24_000)
    with torch.no_grad():
        codes = wanted.encode(wave).audio_codes
        assert torch.equal(loaded.encode(wave).audio_codes, codes)
        assert torch.equal(loaded.decode(codes).audio_values, wanted.decode(codes).audio_values)
    loaded.save_pretrained(tmp_path / "again")  # as any other
    assert all(
        torch.equal(w, ours[n]) for n, w in MimiModel.from_pretrained(tmp_path / "again").state_dict().items()
    )
    config = json.loads((tmp_path / "stored/config.json").read_text())
    config["aizuchi_stored"]["version"] = 9
    (tmp_path / "stored/config.json").write_text(json.dumps(config))
    with pytest.raises(AizuchiError, match="format 9"):
        MimiModel.from_pretrained(tmp_path / "stored")


def test_a_model_carries_a_stored_codec(tmp_path: Path) -> None:
    model = tiny_model()
    wanted = rounded(model.audio_encoder)
    plain = need(model.config).codec
    store_codec(model.audio_encoder)
    model.save_pretrained(tmp_path)
    assert need(model.config).codec == plain  # what it needs once it is loaded
    whole, part = MoshiForConditionalGeneration.from_pretrained(tmp_path), load_codec(tmp_path).model
    for codec in (whole.audio_encoder, part):
        ours = codec.state_dict()
        assert all(torch.equal(ours[name], w) for name, w in wanted.state_dict().items())
    assert whole.config.audio_encoder_config.aizuchi_stored is None
    narrow = MoshiForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16).audio_encoder
    assert {w.dtype for w in narrow.parameters()} == {torch.float32}


def test_a_codec_that_was_stored_before_its_convolutions_were(tmp_path: Path) -> None:
    codec = make_model(fit_seconds=4, **TINY)
    store_codec(codec, convolutions=False).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["aizuchi_stored"]["convolutions"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = MimiModel.from_pretrained(tmp_path).state_dict()
    plain = codec.decoder.state_dict(prefix="decoder.")
    assert plain and all(torch.equal(loaded[name], w) for name, w in plain.items())
