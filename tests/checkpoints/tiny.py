"""Tiny checkpoints with random weights, written by the `moshi` package itself and by SentencePiece."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from moshi.models import loaders
from moshi.models.lm import LMModel
from safetensors.torch import save_file

# Moshiko in small: what LMModel takes, as a config.json says it.
MOSHI: dict[str, Any] = {
    "dim": 32,
    "text_card": 60,
    "existing_text_padding_id": 3,
    "n_q": 8,
    "dep_q": 4,
    "card": 16,
    "num_heads": 4,
    "num_layers": 2,
    "hidden_scale": 4.125,
    "causal": True,
    "layer_scale": None,
    "context": 30,
    "max_period": 10000,
    "gating": "silu",
    "norm": "rms_norm_f32",
    "positional_embedding": "rope",
    "depformer_dim": 16,
    "depformer_dim_feedforward": 66,
    "depformer_num_heads": 2,
    "depformer_num_layers": 2,
    "depformer_layer_scale": None,
    "depformer_multi_linear": True,
    "depformer_context": 4,
    "depformer_max_period": 10000,
    "depformer_gating": "silu",
    "depformer_pos_emb": "none",
    "depformer_weights_per_step": True,
    "delays": [0, 0, 1, 1, 1, 0, 1, 1, 1],
}
# Every option that a published relative of Moshi uses, in one model: a speech synthesis model in small ...
TTS: dict[str, Any] = MOSHI | {
    "n_q": 4,
    "dep_q": 4,
    "delays": [0, 0, 2, 2, 2],
    "depformer_weights_per_step_schedule": [0, 1, 2, 2],
    "depformer_low_rank_embeddings": 8,
    "demux_second_stream": True,
    "cross_attention": True,
    "conditioners": {
        "speaker_wavs": {"type": "tensor", "tensor": {"dim": 12}},
        "cfg": {
            "type": "lut",
            "lut": {"n_bins": 2, "dim": 6, "tokenizer": "noop", "possible_values": ["1.0", "2.0"]},
        },
    },
    "fuser": {"sum": ["cfg"], "cross": ["speaker_wavs"], "prepend": [], "cross_attention_pos_emb": True},
    "model_type": "tts",
    "tts_config": {"audio_delay": 1.28, "second_stream_ahead": 2},
    "lm_gen_config": {"temp": 0.6, "text_temp": 0.6},
}
# ... and Hibiki-Zero's: grouped keys and values, halves for the rotary embedding, norms in the depth decoder.
HIBIKI: dict[str, Any] = MOSHI | {
    "kv_repeat": 2,
    "positional_embedding": "rope_concat",
    "depformer_norm": "layer_norm",
    "hidden_scale": 6,
    "max_period": 20000,
    "depformer_weights_per_step_schedule": [0, 1, 2, 2],
    "model_type": "hibiki",
    "text_card_out": 50,
}
STT: dict[str, Any] = MOSHI | {
    "dep_q": 0,
    "n_q": 4,
    "delays": [0] * 5,
    "extra_heads_num_heads": 2,
    "extra_heads_dim": 3,
    "model_type": "stt",
    "stt_config": {"audio_delay_seconds": 0.5, "audio_silence_prefix_seconds": 0.0},
    "lm_gen_config": {"temp": 0.0, "temp_text": 0.0, "top_k": 250, "top_k_text": 50},
    "model_id": {"sig": "dabcc802", "epoch": 50},
}
FAMILIES = {"moshi": MOSHI, "tts": TTS, "hibiki": HIBIKI, "stt": STT}

MIMI: dict[str, Any] = copy.deepcopy(loaders._mimi_config)
MIMI["seanet"] |= {"n_filters": 2, "dimension": 16}
MIMI["quantizer"] |= {"dimension": 8, "n_q": 8, "bins": 16, "input_dimension": 16, "output_dimension": 16}
MIMI["transformer"] |= {
    "d_model": 16,
    "num_heads": 2,
    "num_layers": 2,
    "dim_feedforward": 32,
    "input_dimension": 16,
    "output_dimensions": [16],
    "context": 25,
}


def original_lm(
    raw: dict[str, Any], dtype: torch.dtype = torch.float32, seed: int = 0, device: str = "cpu"
) -> LMModel:
    """The original's model of a config.json, with random weights, by the original's own loader."""
    torch.manual_seed(seed)
    options = copy.deepcopy(raw)  # the loader writes into what it is given
    carried = (
        "model_type lm_gen_config tts_config stt_config model_id moshi_name mimi_name mimi_config_name tokenizer_name "
        "lora_name lora lora_rank lora_scaling"
    ).split()
    for name in carried:
        options.pop(name, None)
    model = loaders.get_moshi_lm(None, options, device=device, dtype=dtype)
    if device != "meta":
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, 0.2)  # norms and paddings too, or a mistake there would not show
    return model


def packed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict of today's `moshi` package in the packing of the released files."""
    out: dict[str, Any] = {}
    for name, tensor in state.items():
        for part, released in (("in_projs", "in_proj_weight"), ("out_projs", "out_proj.weight")):
            if f".{part}." in name:
                base, _, rest = name.partition(f".{part}.")
                out.setdefault(f"{base}.{released}", {})[int(rest.split(".")[0])] = tensor
                break
        else:
            out[name] = tensor
    return {
        name: torch.cat([value[i] for i in sorted(value)]) if isinstance(value, dict) else value
        for name, value in out.items()
    }


def original_mimi(seed: int = 1) -> Any:
    """The original's Mimi in small, with codebooks that say something."""
    torch.manual_seed(seed)
    model = loaders.get_mimi(None, copy.deepcopy(MIMI), num_codebooks=4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, 0.02 if name.endswith("bias") else 0.3)
        # Codebooks are made of what they will quantize, or nearly every code would be the same.
        latents = model.encode_to_latent(torch.randn(1, 1, 1920 * 60) * 0.3, quantize=False)
        for branch in (model.quantizer.rvq_first, model.quantizer.rvq_rest):
            rest = branch.input_proj(latents)[0].T  # (frames, dim)
            for layer in branch.vq.layers:
                book = layer._codebook
                chosen = rest[torch.randperm(len(rest))[: len(book.cluster_usage)]]
                book.cluster_usage.uniform_(0.5, 2)
                book.embedding_sum.copy_(chosen * book.cluster_usage[:, None])
                rest = rest - chosen[torch.cdist(rest, chosen).argmin(dim=1)]
    return model


def train_tokenizer(path: Path, size: int = 60) -> Path:
    """A SentencePiece model like the original's: unigram, byte fallback or not, control pieces 0 to 3."""
    words = "hello listening moshi speech full duplex the a yes no well how are you I think that sounds good".split()
    generator = random.Random(0)
    lines = [" ".join(generator.choices(words, k=8)) for _ in range(300)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(path.with_suffix("")),
        vocab_size=size,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=3,
        byte_fallback=size > 300,
        model_type="unigram",
        hard_vocab_limit=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    return path


def kyutai_folder(
    folder: Path, raw: dict[str, Any], dtype: torch.dtype = torch.bfloat16, released: bool = True
) -> tuple[LMModel, Any]:
    """A checkpoint in the original's layout, and the models it was written from."""
    folder.mkdir(parents=True, exist_ok=True)
    lm, mimi = original_lm(raw, dtype), original_mimi()
    state = lm.state_dict()
    save_file(packed(state) if released else state, folder / "model.safetensors", metadata={"format": "pt"})
    codec = mimi.state_dict()
    save_file(
        packed(codec) if released else codec, folder / "mimi-tiny.safetensors", metadata={"format": "pt"}
    )
    train_tokenizer(folder / "tokenizer_tiny.model")
    names = {
        "mimi_name": "mimi-tiny.safetensors",
        "mimi_config_name": "mimi_config.json",
        "tokenizer_name": "tokenizer_tiny.model",
    }
    (folder / "mimi_config.json").write_text(json.dumps(MIMI))
    (folder / "config.json").write_text(json.dumps(raw | names))
    return lm, mimi
