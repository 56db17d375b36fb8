"""Named model sizes: what benchmarks run, what a first run falls back to, where a recipe starts from."""

from __future__ import annotations

from typing import Any

PRESETS = {
    "mini": "about 19 M parameters, codec included: real time on one CPU core",
    "1b": "1 B temporal and depth decoders of the size of Hibiki-1B's, the real Mimi",
    "7b": "Moshiko: 7.7 B, the real Mimi",
}


def preset_config(name: str) -> Any:
    """The `MoshiConfig` of a preset.

    Raises:
        ValueError: an unknown name; the message lists the known ones.
    """
    from .mimi import MimiConfig
    from .moshi import MoshiConfig

    if name == "7b":
        return MoshiConfig()
    if name == "1b":
        depth = dict(hidden_size=1024, num_hidden_layers=6, num_attention_heads=16, ffn_dim=5632)
        return MoshiConfig(
            vocab_size=48000,
            hidden_size=2048,
            num_hidden_layers=16,
            num_attention_heads=16,
            ffn_dim=11264,
            rope_theta=100000.0,
            delays=[0] + [0, 2, 2, 2, 2, 2, 2, 2] * 2,
            depth_decoder_config=depth,
        )
    if name == "mini":
        mimi = MimiConfig(
            num_filters=16,
            hidden_size=128,
            codebook_size=512,
            codebook_dim=64,
            vector_quantization_hidden_dimension=64,
            num_quantizers=8,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            intermediate_size=512,
            upsample_groups=128,
        )
        depth = dict(hidden_size=128, num_hidden_layers=3, num_attention_heads=4, ffn_dim=688)
        return MoshiConfig(
            vocab_size=1000,
            hidden_size=384,
            num_hidden_layers=6,
            num_attention_heads=6,
            ffn_dim=2048,
            sliding_window=750,
            audio_encoder_config=mimi,
            depth_decoder_config=depth,
        )
    raise ValueError(f"There is no preset {name!r}; the presets are {', '.join(PRESETS)}.")


def random_model(name: str = "mini", seed: int = 0, dtype: Any = None) -> Any:
    """A model of a preset's size with random weights: it runs, and talks nonsense."""
    import torch

    from .moshi import MoshiForConditionalGeneration

    config, usual = preset_config(name), torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            torch.set_default_dtype(dtype or usual)  # a large model is never there twice
            model = MoshiForConditionalGeneration(config)
        finally:
            torch.set_default_dtype(usual)
    if dtype in (torch.bfloat16, torch.float16):
        model.audio_encoder.float()  # as when a checkpoint is loaded
    return model.eval()
