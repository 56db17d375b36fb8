"""The options of published models, as their config.json files have them (names of files left out)."""

from __future__ import annotations

from typing import Any

_COMMON: dict[str, Any] = {
    "card": 2048,
    "existing_text_padding_id": 3,
    "causal": True,
    "layer_scale": None,
    "hidden_scale": 4.125,
    "gating": "silu",
    "norm": "rms_norm_f32",
    "positional_embedding": "rope",
    "depformer_multi_linear": True,
    "depformer_pos_emb": "none",
    "depformer_weights_per_step": True,
}
_STREAM = [0, 1, 1, 1, 1, 1, 1, 1]
_DEPTH: dict[str, Any] = {
    "depformer_dim": 1024,
    "depformer_num_heads": 16,
    "depformer_num_layers": 6,
    "depformer_dim_feedforward": 4224,
}
MOSHIKO = (
    _COMMON
    | _DEPTH
    | {
        "dim": 4096,
        "text_card": 32000,
        "n_q": 16,
        "dep_q": 8,
        "num_heads": 32,
        "num_layers": 32,
        "context": 3000,
        "max_period": 10000,
        "depformer_layer_scale": None,
        "depformer_context": 8,
        "depformer_max_period": 10000,
        "depformer_gating": "silu",
        "delays": [0, *_STREAM, *_STREAM],
    }
)
PERSONAPLEX = MOSHIKO | {"dep_q": 16, "depformer_context": 16}
_DESCRIPTION = {
    "conditioners": {
        "description": {
            "type": "lut",
            "lut": {
                "n_bins": 31,
                "dim": 16,
                "tokenizer": "noop",
                "possible_values": ["very_bad", "bad", "neutral", "good", "very_good"],
            },
        }
    },
    "fuser": {"sum": ["description"], "prepend": [], "cross": []},
    "model_type": "hibiki",
}
HIBIKI_2B = (
    _COMMON
    | _DEPTH
    | _DESCRIPTION
    | {
        "dim": 2560,
        "text_card": 48000,
        "n_q": 32,
        "dep_q": 16,
        "num_heads": 20,
        "num_layers": 24,
        "context": 3000,
        "max_period": 100000.0,
        "depformer_context": 16,
        "delays": [0, 0, *[2] * 15, 0, *[2] * 15],
    }
)
HIBIKI_1B = (
    _COMMON
    | _DEPTH
    | _DESCRIPTION
    | {
        "dim": 2048,
        "text_card": 48000,
        "n_q": 16,
        "dep_q": 8,
        "num_heads": 16,
        "num_layers": 16,
        "context": 3000,
        "max_period": 100000.0,
        "delays": [0, 0, *[2] * 7, 0, *[2] * 7],
    }
)
HIBIKI_ZERO = (
    _COMMON
    | _DEPTH
    | {
        "dim": 2048,
        "text_card": 48000,
        "n_q": 32,
        "dep_q": 16,
        "num_heads": 16,
        "num_layers": 28,
        "hidden_scale": 6,
        "kv_repeat": 2,
        "positional_embedding": "rope_concat",
        "depformer_norm": "layer_norm",
        "depformer_weights_per_step_schedule": [0, 1, 2, 3, 4, 5, 6, 7, *[8] * 8],
        "context": 3000,
        "max_period": 20000,
        "delays": [0, 0, *[2] * 15, 0, *[2] * 15],
        "model_type": "hibiki",
    }
)
STT_1B = (
    _COMMON
    | _DEPTH
    | {
        "dim": 2048,
        "text_card": 8000,
        "n_q": 32,
        "dep_q": 0,
        "num_heads": 16,
        "num_layers": 16,
        "context": 750,
        "max_period": 100000.0,
        "depformer_dim_feedforward": None,
        "delays": [0] * 33,
        "conditioners": {},
        "cross_attention": False,
        "extra_heads_num_heads": 4,
        "extra_heads_dim": 6,
        "model_type": "stt",
        "stt_config": {"audio_delay_seconds": 0.5, "audio_silence_prefix_seconds": 0.0},
    }
)
STT_2_6B = STT_1B | {
    "text_card": 4000,
    "num_heads": 32,
    "num_layers": 48,
    "context": 375,
    "extra_heads_num_heads": 0,
    "model_id": {"sig": "dabcc802", "epoch": 50},
    "lm_gen_config": {"temp": 0.0, "temp_text": 0.0, "top_k": 250, "top_k_text": 50},
    "stt_config": {"audio_delay_seconds": 2.5, "audio_silence_prefix_seconds": 1.0},
}
TTS_1_6B = _COMMON | {
    "dim": 2048,
    "text_card": 8000,
    "text_card_out": None,
    "n_q": 32,
    "dep_q": 32,
    "num_heads": 16,
    "num_layers": 16,
    "context": 500,
    "max_period": 10000,
    "depformer_dim": 1024,
    "depformer_num_heads": 16,
    "depformer_num_layers": 4,
    "depformer_dim_feedforward": 3072,
    "depformer_low_rank_embeddings": 128,
    "depformer_weights_per_step_schedule": [0, 1, 2, 3, 4, 5, 6, 7, *[8] * 8, *[9] * 8, *[10] * 8],
    "demux_second_stream": True,
    "cross_attention": True,
    "delays": [0, 0, *[2] * 31],
    "conditioners": {
        "speaker_wavs": {"type": "tensor", "tensor": {"dim": 512}},
        "cfg": {
            "type": "lut",
            "lut": {
                "n_bins": 7,
                "dim": 16,
                "tokenizer": "noop",
                "possible_values": ["1.0", "1.5", "2.0", "2.5", "3.0", "3.5", "4.0"],
            },
        },
        "control": {
            "type": "lut",
            "lut": {"n_bins": 1, "dim": 2048, "tokenizer": "noop", "possible_values": ["ok"]},
        },
    },
    "fuser": {
        "sum": ["control", "cfg"],
        "prepend": [],
        "cross": ["speaker_wavs"],
        "cross_attention_pos_emb": True,
        "cross_attention_pos_emb_scale": 1,
    },
    "model_type": "tts",
    "tts_config": {"audio_delay": 1.28, "second_stream_ahead": 2},
    "lm_gen_config": {"temp": 0.6, "text_temp": 0.6},
}
TTS_0_75B = {
    name: value
    for name, value in TTS_1_6B.items()
    if name not in ("conditioners", "fuser", "depformer_weights_per_step_schedule")
} | {
    "dim": 1024,
    "num_layers": 24,
    "n_q": 16,
    "dep_q": 16,
    "cross_attention": False,
    "delays": [0, 0, *[2] * 15],
    "depformer_weights_per_step_schedule": [0, 1, 2, 3, 4, 5, 6, 7, *[8] * 8],
}
FAMILIES = {
    "moshiko": MOSHIKO,
    "personaplex": PERSONAPLEX,
    "hibiki-2b": HIBIKI_2B,
    "hibiki-1b": HIBIKI_1B,
    "hibiki-zero": HIBIKI_ZERO,
    "stt-1b": STT_1B,
    "stt-2.6b": STT_2_6B,
    "tts-1.6b": TTS_1_6B,
    "tts-0.75b": TTS_0_75B,
}
