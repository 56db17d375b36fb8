"""The codec against transformers' `MimiModel`, offline, wherever that one is right."""

from __future__ import annotations

import pytest
import torch
import transformers

from tests.models.mimi.helpers import FRAME, TINY, fit_codebooks, make_model, speech


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"num_key_value_heads": 1},
        {"attention_bias": True, "head_dim": 8},
        {"num_residual_layers": 2, "use_conv_shortcut": True},
        {"num_semantic_quantizers": 2, "num_quantizers": 5, "hidden_act": "silu"},
        {"pad_mode": "replicate"},
        {"upsample_groups": 4, "rope_theta": 300.0, "compress": 1},
        {"vector_quantization_hidden_dimension": 32, "codebook_dim": 32},
    ],
    ids=lambda fields: " ".join(fields) or "plain",
)
def test_offline(fields: dict) -> None:
    """40 frames = 80 positions, eight windows."""
    model = make_model(**{**TINY, **fields})
    waves = torch.cat([speech(40 * FRAME), speech(40 * FRAME, start=44_000)])
    fit_codebooks(model, waves)
    theirs = transformers.MimiModel(transformers.MimiConfig(**{**TINY, **fields})).eval()
    flat = {
        name.replace("encoder.encoder_seanet.", "encoder.")
        .replace("encoder.encoder_transformer.", "encoder_transformer.")
        .replace("encoder.downsample.", "downsample.")
        .replace("decoder.decoder_seanet.", "decoder.")
        .replace("decoder.decoder_transformer.", "decoder_transformer.")
        .replace("decoder.upsample.", "upsample."): name
        for name in theirs.state_dict()
    }
    weights = model.state_dict()
    assert flat.keys() == weights.keys()
    theirs.load_state_dict({flat[name]: tensor for name, tensor in weights.items()})
    model, theirs, waves = model.double(), theirs.double(), waves.double()
    with torch.no_grad():
        codes = model.encode(waves).audio_codes
        assert codes[:, 0].unique().numel() > 20
        assert (
            codes == theirs.encode(waves).audio_codes
        ).float().mean() > 0.999  # theirs compares in float32
        torch.testing.assert_close(
            model.decode(codes).audio_values, theirs.decode(codes).audio_values, rtol=0, atol=1e-5
        )
