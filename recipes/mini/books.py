"""A codec's acoustic codebooks as weights, which learn with what is read from their codes (`recipes.mini.teach`)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

COMMIT = (
    0.25  # weight of how far vectors are from their entries, beside how far entries are from their vectors
)


class Books(nn.Module):
    """Residual codebooks and the ways into and out of them, in units of what comes into them.

    Whoever is heard takes the nearest entry (van den Oord et al., arXiv 1711.00937, with gradients straight through);
    whoever has codes keeps them, and their entries learn from what is read.

    Args:
        acoustic: a `MimiResidualVectorQuantizer` with ways in and out. size: standard deviation of the vectors that it
            quantizes.
    """

    def __init__(self, acoustic: Any, size: float):
        super().__init__()
        self.size = size
        self.into = nn.Parameter(acoustic.input_proj.weight[..., 0] / size)  # (dim, C)
        self.entries = nn.Parameter(
            torch.stack([book.embed for book in acoustic.codebooks()]) / size
        )  # (K, V, dim)
        self.out = nn.Parameter(acoustic.output_proj.weight[..., 0] * size)  # (C, dim)

    def heard(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (B, C, F) -> quantized ones, and how far entries and vectors are from each other."""
        left = vectors = F.linear(latents.transpose(1, 2), self.into)  # (B, F, dim)
        chosen, apart = torch.zeros_like(vectors), vectors.new_zeros(())
        for entries in self.entries:
            with torch.no_grad():
                at = (F.linear(left, entries) - entries.square().sum(1) / 2).argmax(-1)  # (B, F)
            entry = F.embedding(at, entries)
            apart = apart + F.mse_loss(entry, left.detach()) + COMMIT * F.mse_loss(left, entry.detach())
            chosen, left = chosen + entry, left - entry.detach()
        return self._restored(chosen + vectors - vectors.detach()), apart

    def known(self, codes: Tensor) -> Tensor:
        """Codes (B, K, F) -> latents (B, C, F)."""
        entries = [F.embedding(codes[:, k], book) for k, book in enumerate(self.entries)]
        return self._restored(torch.stack(entries).sum(0))

    def _restored(self, vectors: Tensor) -> Tensor:
        return F.linear(vectors, self.out).transpose(1, 2)

    @torch.no_grad()
    def give(self, acoustic: Any) -> None:
        """Write them into a quantizer."""
        acoustic.input_proj.weight.copy_(self.into[..., None] * self.size)
        acoustic.output_proj.weight.copy_(self.out[..., None] / self.size)
        for book, entries in zip(acoustic.codebooks(), self.entries):
            book.embed_sum.copy_(entries * self.size * book.cluster_usage.clamp(min=book.epsilon)[:, None])
