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
    """Means over rows: the spectral loss through the codes and without them, SI-SDR (dB), usage of the codebooks, and
    the rank of what the acoustic ones quantize (`effective_rank`): of rows that are to be decoded; and how well the
    semantic codebooks tell, of all.

    Args:
        codec: `MimiModel`, in evaluation mode. batches: on its device.
        target: what the semantic codebook should tell of a batch, for ``head``, which says how well it does.
    """
    sizes = codec.config
    counter = CodeCounter(sizes.num_quantizers, sizes.codebook_size)
    totals = {"spectral": 0.0, "spectral_unquantized": 0.0, "si_sdr": 0.0}
    rows = decoded = 0
    acoustic = []
    for batch in batches:
        latents = codec.encode_latent(batch.wave)
        wanted = None if head is None else target(batch)
        if wanted is not None:
            told = codec.quantizer.decode(codec.quantizer.encode(latents, sizes.num_semantic_quantizers))
            score = float(head(told, wanted)[1]) * len(latents)
            totals["semantic_score"] = totals.get("semantic_score", 0.0) + score
        rows += len(latents)
        wave = batch.decoded_wave
        latents = latents if batch.decoded is None else latents[batch.decoded]
        n = len(wave)
        codes = codec.quantizer.encode(latents)
        counter.add(codes)
        acoustic.append(codec.quantizer.acoustic_residual_vector_quantizer._project(latents).flatten(0, 1))
        made = codec.decode_latent(codec.quantizer.decode(codes))[..., : wave.shape[-1]]
        plain = codec.decode_latent(latents)[..., : wave.shape[-1]]
        totals["spectral"] += float(spectral(made, wave)) * n
        totals["spectral_unquantized"] += float(spectral(plain, wave)) * n
        totals["si_sdr"] += float(si_sdr(made[:, 0], wave[:, 0]).sum())
        decoded += n
    values = {name: total / (rows if name == "semantic_score" else decoded) for name, total in totals.items()}
    values["acoustic_rank"] = effective_rank(torch.cat(acoustic))
    return values | counter.result(sizes.frame_rate)


@torch.no_grad()
def measure_semantic(
    codec: Any,
    batches: Iterable[WaveBatch],
    target: Callable[[WaveBatch], Tensor | None],
    head: Any,
) -> dict[str, float]:
    """How well ``head`` tells from unquantized latents what it should; see `measure_codec`."""
    branch = codec.quantizer.semantic_residual_vector_quantizer
    score, rows = 0.0, 0
    for batch in batches:
        told = branch._restore(branch._project(codec.encode_latent(batch.wave)))
        score += float(head(told, target(batch))[1]) * len(batch.wave)
        rows += len(batch.wave)
    return {"semantic_score": score / rows}


def effective_rank(vectors: Tensor) -> float:
    """In how many directions vectors (N, dim) vary: the exponential of the entropy of their variances' shares.

    Roy and Vetterli (2007), here of the covariance's eigenvalues. A codec whose acoustic codebooks quantize next to
    one direction has fallen in: all but its first two or so say nothing, though all of their entries are used.
    """
    centred = (vectors - vectors.mean(0)).double()
    values = torch.linalg.eigvalsh(centred.T @ centred).clamp(min=0)
    share = values / values.sum().clamp(min=1e-300)
    return float((-(share * share.clamp(min=1e-300).log()).sum()).exp())
