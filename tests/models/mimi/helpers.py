"""What the tests of the codec share: real speech, small models, fitted codebooks, the reference's model."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from aizuchi.checkpoints.mimi_layout import hf_to_kyutai
from aizuchi.models.mimi import MimiConfig, MimiModel

FRAME = 1920
ASSETS = Path(__file__).parents[2] / "assets"

# The published model's structure (ratios, window, layers, codebook size) at an eighth of its width.
NARROW = {
    "hidden_size": 64,
    "num_filters": 8,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 128,
    "codebook_dim": 32,
    "vector_quantization_hidden_dimension": 32,
    "num_quantizers": 8,
    "upsample_groups": 64,
    # strong enough that an error inside the transformers shows in the codes
    "layer_scale_initial_scale": 0.1,
}
# Small in everything, with a window that a few frames fill.
TINY = {
    **NARROW,
    "hidden_size": 32,
    "num_filters": 4,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "codebook_size": 64,
    "codebook_dim": 16,
    "vector_quantization_hidden_dimension": 16,
    "upsample_groups": 32,
    "sliding_window": 10,
}


@functools.lru_cache
def _excerpt(speed: float) -> np.ndarray:
    samples, rate = soundfile.read(ASSETS / "ljspeech.flac", dtype="float32")
    return soxr.resample(samples, rate * speed, 24_000)


def speech(samples: int, start: int = 0) -> Tensor:
    """(1, 1, samples) of real speech at 24 kHz: one sentence at several speeds, over and over."""
    once = np.concatenate([_excerpt(speed) for speed in (1.0, 0.93, 1.08)])
    return torch.from_numpy(np.resize(np.roll(once, -start), samples))[None, None].clone()


def make_model(seed: int = 0, fit_seconds: float = 0, **fields: object) -> MimiModel:
    """A random model; with ``fit_seconds`` its codebooks are fitted to that much speech."""
    torch.manual_seed(seed)
    model = MimiModel(MimiConfig(**fields)).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # nothing may stay at an initial value that hides it: biases at zero, norms at one
            if name.endswith("bias") or "layernorm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.05)
            elif "transformer" in name and parameter.dim() == 2:
                # initial values would make the transformers almost the identity
                parameter.mul_(parameter.shape[1] ** -0.5 / model.config.initializer_range)
    if fit_seconds:
        fit_codebooks(model, speech(int(24_000 * fit_seconds)), seed)
    return model


@torch.no_grad()
def fit_codebooks(model: MimiModel, waves: Tensor, seed: int = 0) -> None:
    """Make each codebook's entries out of what it is asked to quantize on ``waves`` (B, channels, S).

    Entries are drawn from its inputs and jittered by half of their spread, so that codes are many and what one
    codebook leaves over is as hard for the next one. Usage varies from entry to entry.
    """
    generator = torch.Generator().manual_seed(seed)
    latents = model.encode_latent(waves)
    quantizer = model.quantizer
    for branch in (
        quantizer.semantic_residual_vector_quantizer,
        quantizer.acoustic_residual_vector_quantizer,
    ):
        residual = branch._project(latents)
        for codebook in branch.codebooks():
            vectors = residual.flatten(0, 1)
            size = codebook.cluster_usage.shape[0]
            picked = vectors[torch.arange(size) % len(vectors)]
            noise = torch.randn(picked.shape, generator=generator) * vectors.std(0) * 0.5
            usage = torch.rand(size, generator=generator) * 4 + 0.1
            codebook.cluster_usage.copy_(usage)
            codebook.embed_sum.copy_((picked + noise.to(picked)) * usage[:, None].to(picked))
            residual = residual - codebook.decode(codebook.encode(residual))


def reference(model: MimiModel) -> torch.nn.Module:
    """The ``moshi`` package's model with the same sizes and weights."""
    from moshi.models import loaders

    config = model.config
    seanet = {
        **loaders._seanet_kwargs,
        "channels": config.audio_channels,
        "dimension": config.hidden_size,
        "n_filters": config.num_filters,
        "n_residual_layers": config.num_residual_layers,
        "dilation_base": config.dilation_growth_rate,
        "compress": config.compress,
        "ratios": config.upsampling_ratios,
        "true_skip": not config.use_conv_shortcut,
    }
    transformer = {
        **loaders._transformer_kwargs,
        "d_model": config.hidden_size,
        "input_dimension": config.hidden_size,
        "output_dimensions": [config.hidden_size],
        "num_heads": config.num_attention_heads,
        "num_layers": config.num_hidden_layers,
        "dim_feedforward": config.intermediate_size,
        "context": config.sliding_window,
        "max_period": config.rope_theta,
    }
    quantizer = {
        "dimension": config.vector_quantization_hidden_dimension,
        "n_q": config.num_quantizers,
        "n_q_semantic": config.num_semantic_quantizers,
        "bins": config.codebook_size,
        "input_dimension": config.hidden_size,
        "output_dimension": config.hidden_size,
    }
    sizes = {
        "sample_rate": config.sampling_rate,
        "channels": config.audio_channels,
        "frame_rate": config.frame_rate,
        "seanet": seanet,
        "quantizer": quantizer,
        "transformer": transformer,
    }
    original = loaders.get_mimi(None, sizes, num_codebooks=config.num_quantizers)
    original.load_state_dict(hf_to_kyutai(model.state_dict(), config.num_attention_heads))
    return original.to(model.dtype)


def cut(x: Tensor, sizes: list[int]) -> list[Tensor]:
    """``x`` in chunks of these sizes, over and over until its end."""
    chunks, start, i = [], 0, 0
    while start < x.shape[-1]:
        chunks.append(x[..., start : start + sizes[i % len(sizes)]])
        start += sizes[i % len(sizes)]
        i += 1
    return chunks
