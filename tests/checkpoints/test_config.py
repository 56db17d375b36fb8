"""The original's options: read, written back, refused by name."""

from __future__ import annotations

import copy
import json

import pytest

from aizuchi import MimiConfig, MoshiConfig
from aizuchi.checkpoints import CheckpointError
from aizuchi.checkpoints.kyutai_config import kyutai_config, moshi_config
from aizuchi.checkpoints.kyutai_mimi_config import kyutai_mimi_config, mimi_config
from aizuchi.checkpoints.kyutai_options import MOSHIKO, hidden_width
from aizuchi.checkpoints.moshi_layout import moshi_groups

from . import published, tiny


def forget(config):
    """The configuration without the copy of what it was read from."""
    config = copy.deepcopy(config)
    del config.kyutai
    return config


def test_absent_means_the_documented_defaults():
    config, default = moshi_config(None).to_dict(), MoshiConfig().to_dict()
    assert config.pop("kyutai") == {"config": None}
    assert config == default


@pytest.mark.parametrize("family", published.FAMILIES)
def test_a_config_is_written_back_as_it_was_read(family):
    raw = published.FAMILIES[family] | {
        "model_id": {"sig": "x"},
        "lm_gen_config": {"temp": 0.5},
        "lora": False,
    }
    assert kyutai_config(moshi_config(raw)) == raw
    # through JSON too, as config.json of the Hugging Face layout keeps it
    again = MoshiConfig(**json.loads(json.dumps(moshi_config(raw).to_dict(), default=str)))
    assert kyutai_config(again) == raw


@pytest.mark.parametrize("family", published.FAMILIES)
def test_options_made_from_the_fields_alone_describe_the_same_model(family):
    config = moshi_config(published.FAMILIES[family])
    again = moshi_config(kyutai_config(forget(config)))
    assert forget(again).to_dict() == forget(config).to_dict()
    assert moshi_groups(again) == moshi_groups(config)


def test_a_changed_field_is_written_and_the_rest_is_carried():
    config = moshi_config(published.STT_2_6B)
    config.sliding_window = 100
    raw = kyutai_config(config)
    assert raw["context"] == 100 and raw["stt_config"] == published.STT_2_6B["stt_config"]
    assert moshi_config(raw).sliding_window == 100


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("moshiko", (8, 16, 8)),
        ("personaplex", (8, 16, 16)),
        ("hibiki-2b", (16, 32, 16)),
        ("hibiki-1b", (8, 16, 8)),
        ("stt-1b", (32, 32, 0)),
        ("tts-1.6b", (32, 32, 32)),
        ("tts-0.75b", (16, 16, 16)),
    ],
)
def test_codebooks_of_a_stream_read_and_written(family, expected):
    config = moshi_config(published.FAMILIES[family])
    assert (config.num_codebooks, config.num_input_codebooks, config.num_generated_codebooks) == expected


def test_two_speakers_in_one_synthesis_model():
    raw = published.TTS_1_6B | {"tts_config": {"multistream": True}}
    config = moshi_config(raw)
    assert config.num_codebooks == 16
    assert kyutai_config(forget(config))["tts_config"] == {"multistream": True}


@pytest.mark.parametrize(("dim", "scale"), [(4096, 4.125), (2048, 4), (2048, 6), (1000, 4.3), (48, 4.125)])
def test_the_width_of_the_feed_forward_is_found_again(dim, scale):
    raw = published.STT_2_6B | {"dim": dim, "num_heads": 4, "hidden_scale": scale}
    config = moshi_config(raw)
    assert config.ffn_dim == 2 * hidden_width(dim, int(scale * dim))
    assert moshi_config(kyutai_config(forget(config))).ffn_dim == config.ffn_dim


@pytest.mark.parametrize("hidden", range(40, 60))
def test_every_width_of_a_feed_forward_can_be_written_or_is_refused(hidden):
    config = forget(moshi_config(published.STT_2_6B | {"dim": 16, "num_heads": 4}))
    config.ffn_dim = 2 * hidden
    try:
        raw = kyutai_config(config)
    except CheckpointError as error:
        assert "ffn_dim" in str(error)
        assert hidden_width(16, 64) != hidden
    else:
        assert moshi_config(raw).ffn_dim == 2 * hidden


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rag_token_id": 4}, "rag_token_id=4"),
        ({"bias_proj": True}, "bias_proj=True"),
        ({"norm_emb": True}, "norm_emb"),
        ({"layer_scale": 0.01}, "layer_scale"),
        ({"causal": False}, "causal"),
        ({"positional_embedding": "sin_rope"}, "positional_embedding='sin_rope'"),
        ({"depformer_pos_emb": "sin"}, "depformer_pos_emb"),
        ({"depformer_multi_linear": False}, "depformer_multi_linear"),
        ({"depformer_weights_per_step": False}, "depformer_weights_per_step"),
        ({"depformer_dim_feedforward": [10, 20]}, "depformer_dim_feedforward"),
        ({"gating": "none"}, "gating='none'"),
        ({"context": None}, "context"),
        ({"num_layers": None}, "num_layers"),
        ({"norm": "batch_norm"}, "batch_norm"),
        ({"delays": [0, 1]}, "delays"),
        ({"card": 1024}, "1024"),
        ({"conditioners": {"ref": {"type": "multi_arc_encoder"}}}, "conditioners.ref.type"),
        (
            {"conditioners": {"a": {"type": "lut", "lut": {"n_bins": 1, "dim": 2, "odd": 1}}}},
            "conditioners.a.odd",
        ),
        ({"kv_repeat": 2, "cross_attention": True, "fuser": {"cross": ["x"]}}, "kv_repeat"),
    ],
)
def test_options_that_can_not_be_expressed_are_refused_by_name(change, words):
    with pytest.raises(CheckpointError) as error:
        moshi_config(MOSHIKO | change)
    assert words in str(error.value)


def test_options_of_the_depth_decoder_do_not_matter_without_one():
    assert moshi_config(published.STT_1B | {"depformer_pos_emb": "sin"}).depth_decoder_config is None


def test_the_published_mimi_needs_no_description():
    from moshi.models import loaders

    assert mimi_config(None).to_dict() == MimiConfig().to_dict()
    assert mimi_config(loaders._mimi_config).to_diff_dict() == MimiConfig().to_diff_dict()
    assert kyutai_mimi_config(MimiConfig()) is None


def test_mimi_of_other_sizes_is_described_as_the_original_describes_it():
    assert kyutai_mimi_config(mimi_config(tiny.MIMI)) == tiny.MIMI
    assert kyutai_mimi_config(MimiConfig(num_encoder_hidden_layers=8)) is None
    with pytest.raises(CheckpointError, match="num_encoder_hidden_layers=9"):
        kyutai_mimi_config(MimiConfig(num_encoder_hidden_layers=9))
    same = {"decoder_channels": [1024, 512, 256, 128, 64], "num_decoder_residual_layers": 1}
    assert kyutai_mimi_config(MimiConfig(**same)) is None
    for other in ({"decoder_channels": [1024, 512, 256, 128, 96]}, {"num_decoder_residual_layers": 2}):
        with pytest.raises(CheckpointError, match=next(iter(other))):
            kyutai_mimi_config(MimiConfig(**other))


@pytest.mark.parametrize(
    ("section", "change", "words"),
    [
        ("seanet", {"causal": False}, "seanet.causal"),
        ("seanet", {"lstm": 2}, "seanet.lstm"),
        ("transformer", {"gating": "silu"}, "transformer.gating"),
        ("quantizer", {"input_dimension": 3}, "quantizer.input_dimension"),
    ],
)
def test_options_of_mimi_that_can_not_be_expressed_are_refused_by_name(section, change, words):
    raw = copy.deepcopy(tiny.MIMI)
    raw[section] |= change
    with pytest.raises(CheckpointError, match=words):
        mimi_config(raw)
