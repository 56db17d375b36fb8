"""What is measured of a codec in training: reconstruction, and how its codebooks are used."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from .codebooks import CodeCounter
from .spectral import si_sdr
from .waves import WaveBatch


@torch.no_grad()
def measure_codec(
    codec: Any,
    batches: Iterable[WaveBatch],
    spectral: Callable[[Tensor, Tensor], Tensor],
    target: Callable[[WaveBatch], Tensor | None],
    head: Any = None,
) -> dict[str, float]:
    """Means over rows: the spectral loss through the codes and without them, SI-SDR (dB), usage of the codebooks.

    Args:
        codec: `MimiModel`, in evaluation mode. batches: on its device.
        target: what the semantic codebook should tell of a batch, for ``head``, which says how well it does.
    """
    sizes = codec.config
    counter = CodeCounter(sizes.num_quantizers, sizes.codebook_size)
    totals = {"spectral": 0.0, "spectral_unquantized": 0.0, "si_sdr": 0.0}
    rows = 0
    for batch in batches:
        wave, n = batch.wave, len(batch.wave)
        latents = codec.encode_latent(wave)
        codes = codec.quantizer.encode(latents)
        counter.add(codes)
        made = codec.decode_latent(codec.quantizer.decode(codes))[..., : wave.shape[-1]]
        plain = codec.decode_latent(latents)[..., : wave.shape[-1]]
        totals["spectral"] += float(spectral(made, wave)) * n
        totals["spectral_unquantized"] += float(spectral(plain, wave)) * n
        totals["si_sdr"] += float(si_sdr(made[:, 0], wave[:, 0]).sum())
        wanted = None if head is None else target(batch)
        if wanted is not None:
            told = codec.quantizer.decode(codes[:, : sizes.num_semantic_quantizers])
            score = float(head(told, wanted)[1]) * n
            totals["semantic_score"] = totals.get("semantic_score", 0.0) + score
        rows += n
    return {name: total / rows for name, total in totals.items()} | counter.result(sizes.frame_rate)
