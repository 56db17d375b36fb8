"""Rows M1-M24 and D1-D19 of the documented API (and A1): configurations, their defaults and their refusals."""

import pytest
import torch

from aizuchi import MimiConfig, MoshiConfig, MoshiDepthConfig, MoshiForConditionalGeneration
from tests.models.moshi.reference import DEPTH, MIMI, tiny_config, tiny_model

MOSHI_DEFAULTS = dict(
    vocab_size=32000,
    hidden_size=4096,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=32,  # documented None, resolved
    audio_vocab_size=2048,
    max_position_embeddings=3000,
    rope_theta=10000.0,
    hidden_act="silu",
    head_dim=128,
    initializer_range=0.02,
    use_cache=True,
    sliding_window=3000,
    attention_dropout=0.0,
    ffn_dim=22528,
    rms_norm_eps=1e-8,
    num_codebooks=8,
    tie_word_embeddings=False,
)
DEPTH_DEFAULTS = dict(
    vocab_size=32000,
    hidden_size=1024,
    input_size=4096,
    num_hidden_layers=6,
    num_attention_heads=16,
    num_key_value_heads=16,
    audio_vocab_size=2048,
    max_position_embeddings=9,
    hidden_act="silu",
    head_dim=64,
    initializer_range=0.02,
    use_cache=True,
    sliding_window=8,
    attention_dropout=0.0,
    ffn_dim=5632,
    rms_norm_eps=1e-8,
    num_codebooks=8,
    tie_word_embeddings=False,
)


@pytest.mark.parametrize("field", MOSHI_DEFAULTS)
def test_M1_to_M18_documented_defaults(field):
    assert getattr(MoshiConfig(), field) == MOSHI_DEFAULTS[field]


def test_M_model_type_and_keys_to_ignore():
    assert MoshiConfig.model_type == "moshi" and MoshiDepthConfig.model_type == "moshi_depth"
    assert MoshiConfig.keys_to_ignore_at_inference == ["past_key_values"]


def test_M5_M10_given_heads_are_kept():
    config = tiny_config(num_key_value_heads=2, head_dim=8)
    assert (config.num_key_value_heads, config.head_dim) == (2, 8)


def test_M8_rope_theta_in_both_spellings():
    old, new = tiny_config(rope_theta=5000.0), tiny_config(rope_parameters={"rope_theta": 5000.0})
    assert old.rope_theta == new.rope_theta == old.rope_parameters["rope_theta"] == 5000.0
    old.rope_theta = 7.0
    assert old.rope_parameters["rope_theta"] == 7.0
    assert MoshiConfig.from_dict(new.to_dict()).rope_theta == 5000.0


def test_M15_D15_odd_ffn_dim_is_refused():
    with pytest.raises(ValueError, match=r"`ffn_dim=21` must be even"):
        tiny_config(ffn_dim=21)
    with pytest.raises(ValueError, match=r"`ffn_dim=21` must be even"):
        MoshiDepthConfig(ffn_dim=21)


def test_M17_more_codebooks_than_the_encoder_has_are_refused():
    with pytest.raises(ValueError, match=r"`num_codebooks=17`"):
        tiny_config(num_codebooks=17)


def test_M19_audio_encoder_as_dict_or_config_and_the_caller_s_dict_is_left_alone():
    given = MimiConfig(**MIMI).to_dict()
    before = dict(given)
    config = MoshiConfig(audio_encoder_config=given)
    assert given == before and given["model_type"] == "mimi"
    assert isinstance(config.audio_encoder_config, MimiConfig)
    assert config.audio_vocab_size == 64
    own = MimiConfig(**MIMI)
    assert MoshiConfig(audio_encoder_config=own).audio_encoder_config.codebook_size == 64
    assert isinstance(MoshiConfig().audio_encoder_config, MimiConfig)


def test_M20_depth_config_is_tied_to_its_parent():
    given = DEPTH | {"input_size": 7, "num_codebooks": 3}
    before = dict(given)
    depth = tiny_config(depth=given).depth_decoder_config
    assert given == before
    assert (depth.input_size, depth.vocab_size, depth.audio_vocab_size, depth.num_codebooks) == (
        48,
        60,
        64,
        4,
    )
    assert isinstance(MoshiConfig().depth_decoder_config, MoshiDepthConfig)
    as_config = MoshiConfig(depth_decoder_config=MoshiDepthConfig(num_hidden_layers=3))
    assert as_config.depth_decoder_config.num_hidden_layers == 3


def test_A1_other_hidden_size_without_a_depth_config_fits_together():
    config = MoshiConfig(hidden_size=256, vocab_size=500, num_codebooks=4)
    depth = config.depth_decoder_config
    assert (depth.input_size, depth.vocab_size, depth.num_codebooks) == (256, 500, 4)
    depth = MoshiConfig.from_audio_encoder_config(MimiConfig(**MIMI), hidden_size=256).depth_decoder_config
    assert (depth.input_size, depth.audio_vocab_size) == (256, 64)


def test_M21_sampling_rate():
    assert MoshiConfig().sampling_rate == 24000


def test_M22_from_audio_encoder_config():
    config = MoshiConfig.from_audio_encoder_config(MimiConfig(**MIMI), num_codebooks=4, hidden_size=64)
    assert (config.num_codebooks, config.audio_vocab_size, config.hidden_size) == (4, 64, 64)


def test_M23_round_trips(tmp_path):
    config = tiny_config(
        num_generated_codebooks=8,
        delays=[0, 0, 2, 2, 2, 0, 2, 2, 2],
        text_padding_weight=0.5,
        codebook_weights=[100.0] + [1.0] * 7,
        depth=dict(weights_per_step_schedule=[0, 1, 2, 3, 3, 3, 3, 3], output_norm="layer_norm"),
    )
    config.save_pretrained(tmp_path)
    loaded = MoshiConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert isinstance(loaded.audio_encoder_config, MimiConfig)
    assert loaded.depth_decoder_config.to_dict() == config.depth_decoder_config.to_dict()
    assert MoshiConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()
    depth = config.depth_decoder_config
    depth.save_pretrained(tmp_path / "depth")
    assert MoshiDepthConfig.from_pretrained(tmp_path / "depth").to_dict() == depth.to_dict()


def test_M24_A1_the_defaults_are_a_whole_moshiko():
    with torch.device("meta"):
        model = MoshiForConditionalGeneration(MoshiConfig())
    parameters = sum(p.numel() for p in model.parameters())
    mimi = sum(p.numel() for p in model.audio_encoder.parameters())
    stored = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    # 7.688 B of language model and 79.31 M of Mimi, as counted in the original
    layer = 4 * 4096**2 + (22528 + 11264) * 4096 + 2 * 4096
    temporal = 32 * layer + 4096 + 16 * 2049 * 4096 + (32001 + 32000) * 4096
    depth_layer = 8 * (4 * 1024**2 + (5632 + 2816) * 1024) + 2 * 1024
    depth = 6 * depth_layer + (32001 + 7 * 2049 + 8 * 2048) * 1024 + 8 * 4096 * 1024
    assert parameters - mimi == temporal + depth == 7_687_729_152
    assert round(mimi / 1e6, 2) == 79.31
    assert 31.0e9 < stored < 31.2e9


@pytest.mark.parametrize("field", DEPTH_DEFAULTS)
def test_D1_to_D18_documented_defaults(field):
    assert getattr(MoshiDepthConfig(), field) == DEPTH_DEFAULTS[field]


def test_D19_audio_encoder_config_is_accepted_and_ignored():
    config = MoshiDepthConfig(audio_encoder_config={"model_type": "mimi"})
    assert "audio_encoder_config" not in config.to_dict()


def test_D8_D13_a_frame_fits_into_window_and_positions():
    config = MoshiDepthConfig(num_codebooks=16)
    assert (config.sliding_window, config.max_position_embeddings) == (16, 17)


@pytest.mark.parametrize(
    "change, named",
    [
        (dict(num_attention_heads=4, num_key_value_heads=3), "num_key_value_heads=3"),
        (dict(audio_vocab_size=32), "audio_vocab_size=32"),
        (dict(delays=[0, 0, 1]), "delays"),
        (dict(delays=[0] * 8 + [-1]), "delays"),
        (dict(num_generated_codebooks=9), "num_generated_codebooks=9"),
        (dict(codebook_weights=[1.0]), "codebook_weights"),
        (dict(cross_attention=True), "cross_attention"),
        (dict(norm_type="batch_norm"), "norm_type='batch_norm'"),
        (dict(hidden_act="silly"), "hidden_act='silly'"),
        (dict(head_dim=7), "head_dim=7"),
        (dict(sliding_window=0), "sliding_window=0"),
        (dict(num_hidden_layers=0), "num_hidden_layers=0"),
        (dict(rope_parameters={"rope_type": "yarn"}), "rope_parameters"),
        (dict(depth=dict(weights_per_step_schedule=[0, 1])), "weights_per_step_schedule"),
        (dict(depth=dict(num_attention_heads=4, num_key_value_heads=3)), "num_key_value_heads=3"),
        (dict(mimi=dict(num_quantizers=3)), "num_codebooks=4"),
        (dict(vocab_size=0), "vocab_size=0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_parts_that_disagree_are_refused_by_name(change, named):
    with pytest.raises(ValueError, match=named):
        tiny_config(**change)


def test_conditioners_that_disagree_are_refused_by_name():
    lut = {"type": "lut", "lut": {"n_bins": 3, "dim": 4, "possible_values": ["a"]}}
    with pytest.raises(ValueError, match="fuser.*quality"):
        tiny_model(conditioners={"mood": lut}, fuser={"sum": ["quality"]})
    with pytest.raises(ValueError, match="conditioners.*'mood'.*'sound'"):
        tiny_model(conditioners={"mood": {"type": "sound"}}, fuser={})
