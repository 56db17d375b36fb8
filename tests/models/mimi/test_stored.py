"""A codec whose transformers are stored in int8: wide again once it is loaded, alone or in a model."""

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
from aizuchi.models.quantized import QuantizedLinear, store_codec, to_int8
from tests.models.mimi.helpers import TINY, make_model, speech
from tests.models.moshi.reference import tiny_model


def matrices(codec: MimiModel) -> dict[str, nn.Linear]:
    return {name: m for name, m in codec.named_modules() if isinstance(m, nn.Linear)}


@torch.no_grad()
def rounded(codec: MimiModel) -> MimiModel:
    codec = copy.deepcopy(codec)
    for module in matrices(codec).values():
        levels, scale = to_int8(module.weight)
        module.weight.copy_(levels.float() * scale[:, None])
    return codec


def test_a_stored_codec_is_wide_once_it_is_loaded(tmp_path: Path) -> None:
    codec = make_model(fit_seconds=4, **TINY, num_encoder_hidden_layers=3)
    wanted = rounded(codec)
    codec.save_pretrained(tmp_path / "plain")
    store_codec(codec).save_pretrained(tmp_path / "stored")
    assert any(isinstance(m, QuantizedLinear) for m in codec.modules())
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("plain", "stored")]
    assert sizes[1] < sizes[0] - 2 * sum(m.weight.numel() for m in matrices(wanted).values())
    loaded = MimiModel.from_pretrained(tmp_path / "stored")
    assert not any(isinstance(m, QuantizedLinear) for m in loaded.modules())
    assert loaded.config.aizuchi_stored is None and len(loaded.encoder_transformer.layers) == 3
    ours, theirs = loaded.state_dict(), wanted.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    wave = speech(24_000)
    with torch.no_grad():
        assert torch.equal(loaded.encode(wave).audio_codes, wanted.encode(wave).audio_codes)
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
