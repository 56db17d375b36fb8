"""MimiConfig: documented fields and defaults, both spellings, and sizes that contradict each other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from aizuchi.models.mimi import MimiConfig, MimiModel
from tests.models.mimi.helpers import FRAME, TINY

DEFAULTS = {
    "sampling_rate": 24_000,
    "frame_rate": 12.5,
    "audio_channels": 1,
    "hidden_size": 512,
    "num_filters": 64,
    "num_residual_layers": 1,
    "upsampling_ratios": [8, 6, 5, 4],
    "kernel_size": 7,
    "last_kernel_size": 3,
    "residual_kernel_size": 3,
    "dilation_growth_rate": 2,
    "use_causal_conv": True,
    "pad_mode": "constant",
    "compress": 2,
    "trim_right_ratio": 1.0,
    "codebook_size": 2048,
    "codebook_dim": 256,
    "num_quantizers": 32,
    "use_conv_shortcut": False,
    "vector_quantization_hidden_dimension": 256,
    "num_semantic_quantizers": 1,
    "upsample_groups": 512,
    "num_hidden_layers": 8,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "hidden_act": "gelu",
    "max_position_embeddings": 8000,
    "initializer_range": 0.02,
    "norm_eps": 1e-5,
    "use_cache": False,
    "use_streaming": False,
    "sliding_window": 250,
    "attention_dropout": 0.0,
    "layer_scale_initial_scale": 0.01,
    "attention_bias": False,
    # derived
    "rope_theta": 10_000.0,
    "head_dim": 64,
    "num_codebooks": 32,
    "encodec_frame_rate": 25,
    "latent_stride": 2,
    "frame_size": FRAME,
}


def test_defaults() -> None:
    config = MimiConfig()
    assert {name: getattr(config, name) for name in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize(
    "fields", [{"rope_theta": 5e3}, {"rope_parameters": {"rope_theta": 5e3, "rope_type": "default"}}]
)
def test_rope_spellings(fields: dict, tmp_path: Path) -> None:
    config = MimiConfig(**fields)
    assert config.rope_theta == 5e3 and config.rope_parameters["rope_theta"] == 5e3
    config.save_pretrained(tmp_path)
    assert MimiConfig.from_pretrained(tmp_path).rope_theta == 5e3


def test_round_trip(tmp_path: Path) -> None:
    config = MimiConfig(
        **{**TINY, "upsampling_ratios": [4, 4, 3, 10], "frame_rate": 6.25, "rope_theta": 77.0}
    )
    config.save_pretrained(tmp_path)
    again = MimiConfig.from_pretrained(tmp_path)
    assert again.to_dict() == {
        **config.to_dict(),
        **{k: again.to_dict()[k] for k in ("transformers_version",)},
    }
    assert (again.frame_size, again.latent_stride) == (3840, 8)


def test_transformers_reads_and_writes_it(tmp_path: Path) -> None:
    MimiConfig(**{**TINY, "rope_theta": 77.0}).save_pretrained(tmp_path)
    theirs = transformers.MimiConfig.from_pretrained(tmp_path)
    assert theirs.rope_parameters["rope_theta"] == 77.0
    assert (theirs.frame_rate, theirs.frame_size, theirs.encodec_frame_rate) == (12.5, FRAME, 25)
    theirs.save_pretrained(tmp_path)
    ours = MimiConfig.from_pretrained(tmp_path)
    assert {name: getattr(ours, name) for name in TINY} == TINY and ours.frame_rate == 12.5


def test_private_frame_rate_of_transformers_5() -> None:
    assert MimiConfig(_frame_rate=25.0).frame_rate == 25.0
    assert MimiConfig(_frame_rate=None).frame_rate == 12.5


@pytest.mark.parametrize(
    ("fields", "stride"),
    [
        ({}, 2),
        ({"upsampling_ratios": [8, 6, 5, 8], "frame_rate": 12.5}, 1),
        ({"upsampling_ratios": [4, 4, 3], "frame_rate": 12.5}, 40),
        ({"upsampling_ratios": [8, 8, 5], "frame_rate": 25.0, "sampling_rate": 16_000}, 2),
        ({"sampling_rate": 16_000, "upsampling_ratios": [2, 2], "frame_rate": None}, 2),
    ],
)
def test_frames(fields: dict, stride: int) -> None:
    config = MimiConfig(**{**TINY, **fields})
    assert config.latent_stride == stride
    assert config.frame_size == round(config.sampling_rate / config.frame_rate)
    model = MimiModel(config).eval()
    assert (model.downsample is None) == (model.upsample is None) == (stride == 1)
    codes = model.encode(torch.randn(1, 1, 2 * config.frame_size + 1)).audio_codes
    assert codes.shape == (1, 8, 3)
    assert model.decode(codes).audio_values.shape == (1, 1, 3 * config.frame_size)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"frame_rate": 7.0}, "frame_rate"),
        ({"frame_rate": 50.0}, "frame_rate"),
        ({"frame_rate": -1}, "frame_rate"),
        ({"num_quantizers": 1}, "num_semantic_quantizers"),
        ({"num_semantic_quantizers": 0}, "num_semantic_quantizers"),
        ({"codebook_size": 1000}, "codebook_size"),
        ({"codebook_dim": 128}, "codebook_dim"),
        ({"use_causal_conv": False}, "use_causal_conv"),
        ({"trim_right_ratio": 0.5}, "trim_right_ratio"),
        ({"pad_mode": "reflect"}, "pad_mode"),
        ({"upsampling_ratios": [8, 0]}, "upsampling_ratios"),
        ({"upsampling_ratios": [8, 1.5]}, "upsampling_ratios"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"head_dim": 63}, "head_dim"),
        ({"hidden_size": "512"}, "hidden_size"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"num_filters": 63}, "num_filters"),
        ({"num_encoder_hidden_layers": -1}, "num_encoder_hidden_layers"),
        ({"num_decoder_residual_layers": -1}, "num_decoder_residual_layers"),
        ({"decoder_channels": [64, 32, 16]}, "decoder_channels"),
        ({"decoder_channels": [64, 32, 16, 8, 5]}, "decoder_channels"),
        ({"upsample_groups": 500}, "upsample_groups"),
        ({"hidden_act": "gleu"}, "hidden_act"),
        ({"sliding_window": 0}, "sliding_window"),
        ({"rope_theta": -1.0}, "rope_theta"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4}}, "rope_parameters"),
    ],
)
def test_parts_that_disagree(fields: dict, name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}`"):
        MimiConfig(**fields)
