"""The training-time quantizer: it quantizes with gradients and moves the codebooks of a `MimiModel`.

Codebooks are no parameters: each entry is a moving average of the vectors that were assigned to it (van den Oord et
al., 2017, appendix A.1), begun by k-means over real latents, and an entry that nothing is assigned to any more is
put on a latent of the present batch. All of it lives in the model's own buffers (``embed_sum``,
``cluster_usage``), so that what is trained is exactly what encodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_KMEANS_STEPS = 10
_KMEANS_VECTORS = 32  # at most so many a codebook entry


@dataclass
class Quantized:
    """What the quantizer made of latents.

    latents: (D, H, T), straight-through, of the D rows that are decoded. semantic: (B, H, T), the semantic codebooks'
    part alone. commitment: scalar. inputs: for each codebook the vectors (rows, T, dim) it quantized: of all B rows for
    semantic codebooks, of D for the others. assigned: their codes, (rows, T) each.
    """

    latents: Tensor
    semantic: Tensor
    commitment: Tensor
    inputs: list[Tensor]
    assigned: list[Tensor]

    @property
    def codes(self) -> Tensor:
        """(B, K, T), where all rows are decoded."""
        return torch.stack(self.assigned, 1)


class CodebookTrainer:
    """Quantizes for training, and updates codebooks.

    Args:
        quantizer: of a `MimiModel`. decay: of the moving averages. dead: an entry whose usage falls below this
            share of the mean is revived. reduce: sums a tensor over processes; broadcast: takes the first's.
        apart: reconstruction does not move what the semantic codebooks quantize; it takes what they tell.
    """

    def __init__(
        self,
        quantizer: Any,
        decay: float = 0.99,
        dead: float = 0.1,
        reduce: Callable[[Tensor], Tensor] = lambda x: x,
        broadcast: Callable[[Tensor], Tensor] = lambda x: x,
        apart: bool = False,
    ):
        self.quantizer = quantizer
        self.apart = apart
        self.decay, self.dead = decay, dead
        self.reduce, self.broadcast = reduce, broadcast

    @property
    def branches(self) -> list[Any]:
        """The semantic and the acoustic residual quantizer."""
        q = self.quantizer
        return [q.semantic_residual_vector_quantizer, q.acoustic_residual_vector_quantizer]

    def quantize(
        self, latents: Tensor, levels: Tensor | None = None, decoded: Tensor | None = None
    ) -> Quantized:
        """Quantize latents (B, H, T), row b with its first ``levels[b]`` codebooks (B,); None = all. Rows that are not
        ``decoded`` (B,) meet the semantic codebooks alone.

        Every row is run through all codebooks, so that dropped ones go on learning. Distances are taken in float32,
        whatever the layers around compute in: bfloat16 would choose other entries than encoding does.
        """
        with torch.autocast(latents.device.type, enabled=False):
            return self._quantize(latents.float(), levels, decoded)

    def _quantize(self, latents: Tensor, levels: Tensor | None, decoded: Tensor | None) -> Quantized:
        outputs, codes, losses, inputs = [], [], [], []
        first = 0  # number of the branch's first codebook
        for branch in self.branches:
            if first > 0 and decoded is not None:
                latents = latents[decoded]
                levels = None if levels is None else levels[decoded]
            projected = residual = branch._project(latents)  # (rows, T, dim)
            kept = torch.zeros_like(projected)
            for level, codebook in enumerate(branch.codebooks(), start=first):
                inputs.append(residual.detach())
                codes.append(codebook.encode(inputs[-1]))
                entry = codebook.decode(codes[-1]).detach()
                losses.append(F.mse_loss(residual, entry))
                residual = residual - entry
                used = entry if levels is None else entry * (levels > level)[:, None, None]
                kept = kept + used.detach()
            outputs.append(branch._restore(projected + (kept - projected).detach()))
            if first == 0:
                semantic = outputs[0]
                if self.apart:
                    outputs[0] = branch._restore(kept)
                if decoded is not None:
                    outputs[0] = outputs[0][decoded]
            if levels is not None and first > 0:
                # a row without acoustic codebooks gets nothing from them, nor a gradient through them
                outputs[-1] = outputs[-1] * (levels > first)[:, None, None]
            first += len(branch.layers)
        return Quantized(outputs[0] + outputs[1], semantic, torch.stack(losses).mean(), inputs, codes)

    def unquantized_semantic(self, latents: Tensor) -> Tensor:
        """The semantic part of latents (B, H, T) before there are codebooks: through its projections alone."""
        branch = self.branches[0]
        return branch._restore(branch._project(latents))

    @torch.no_grad()
    def initialise(
        self,
        latents: Tensor,
        generator: np.random.Generator,
        per_step: int | None = None,
        head: Any = None,
        decoded: Tensor | None = None,
    ) -> None:
        """Begin every codebook with k-means over the latents (N, H, T) that it will quantize.

        The semantic part is scaled to what it explains of the latents, and the acoustic projections begin where they
        carry most of the rest, see `fit_projections`.

        Args:
            per_step: vectors of a training step, which the usage is scaled to: a codebook that began heavier than
                its steps would lag behind an encoder that is still moving. Default: as many as there are here.
            head: what tells the teacher's labels from the semantic part; it goes on telling the same.
            decoded: (N,) rows that acoustic codebooks are for; None for all.
        """
        for branch in self.branches:
            if branch is self.branches[1]:
                latents = latents if decoded is None else latents[decoded]
                self._scale_semantic(latents, head)
                fit_projections(branch, latents, latents - self._semantic(latents))
                for projection in (branch.input_proj, branch.output_proj):
                    if projection is not None:
                        projection.weight.copy_(self.broadcast(projection.weight.detach()))
            residual = branch._project(latents).flatten(0, 1).float()  # (N * T, dim)
            for codebook in branch.codebooks():
                size = codebook.embed_sum.shape[0]
                limit = min(len(residual), size * _KMEANS_VECTORS)
                chosen = torch.from_numpy(generator.permutation(len(residual))[:limit]).to(residual.device)
                centres = kmeans(residual[chosen], size, generator)
                codebook.embed_sum.copy_(self.broadcast(centres))
                codebook.cluster_usage.fill_(1.0)
                codes = codebook.encode(residual)
                counts = torch.bincount(codes, minlength=size).clamp(min=0.5)
                usage = counts * ((per_step or len(residual)) / counts.sum())
                codebook.cluster_usage.copy_(usage)
                codebook.embed_sum.mul_(codebook.cluster_usage[:, None])
                residual = residual - codebook.decode(codes)

    def _semantic(self, latents: Tensor) -> Tensor:
        """What the semantic codebooks give of latents (N, H, T)."""
        branch = self.branches[0]
        return branch._restore(entries_of(branch, latents))

    def _scale_semantic(self, latents: Tensor, head: Any) -> None:
        """Make the semantic part as large as helps to tell the latents: what it adds beyond, others must undo."""
        projection = self.branches[0].output_proj
        if projection is None:
            return
        given, told = (x - x.mean((0, 2), keepdim=True) for x in (latents, self._semantic(latents)))
        scale = float((given * told).sum() / told.square().sum().clamp(min=1e-12))
        scale = min(1.0, max(0.05, scale))
        projection.weight.mul_(scale)
        if head is not None:
            head.linear.weight.div_(scale)

    @torch.no_grad()
    def update(self, quantized: Quantized, generator: np.random.Generator) -> int:
        """Move the codebooks towards what they quantized (the first ones, where it was by those alone), and revive
        dead entries; returns how many were dead.
        """
        revived = 0
        codebooks = self.quantizer.codebooks()[: len(quantized.assigned)]
        counts, sums = [], []
        for codebook, codes, inputs in zip(codebooks, quantized.assigned, quantized.inputs):
            size, dim = codebook.embed_sum.shape
            flat = codes.flatten()
            counts.append(torch.bincount(flat, minlength=size).float())
            sums.append(
                torch.zeros(size, dim, device=flat.device).index_add_(0, flat, inputs.flatten(0, 1).float())
            )
        counts, sums = self.reduce(torch.stack(counts)), self.reduce(torch.stack(sums))
        for i, codebook in enumerate(codebooks):
            codebook.cluster_usage.lerp_(counts[i].to(codebook.cluster_usage), 1 - self.decay)
            codebook.embed_sum.lerp_(sums[i].to(codebook.embed_sum), 1 - self.decay)
            mean = codebook.cluster_usage.mean()
            dead = codebook.cluster_usage < self.dead * mean
            number = int(dead.sum())
            if number:
                vectors = quantized.inputs[i].flatten(0, 1)
                picks = torch.from_numpy(generator.integers(0, len(vectors), number)).to(vectors.device)
                fresh = self.broadcast(vectors[picks].to(codebook.embed_sum))
                # as if it had its share: an entry of little usage would be moved away by its first vector
                codebook.cluster_usage[dead] = mean
                codebook.embed_sum[dead] = fresh * mean
                revived += number
        return revived


@torch.no_grad()
def entries_of(branch: Any, latents: Tensor) -> Tensor:
    """Sum of the entries that a residual quantizer's codebooks choose for latents (N, H, T): (N, T, dim)."""
    projected = residual = branch._project(latents)
    for codebook in branch.codebooks():
        residual = residual - codebook.decode(codebook.encode(residual))
    return projected - residual


@torch.no_grad()
def fit_projections(branch: Any, latents: Tensor, target: Tensor) -> None:
    """Set a quantizer's projections to the best that their width allows, target (N, H, T) of latents (N, H, T).

    This is reduced-rank regression (Izenman, 1975), without an intercept, which codebooks bring. Random projections
    hide a part of the latents from the codebooks, and projections that learn hide more and more of it: what gets
    fewer bits at first is worth less to the decoder, so the gradients leave it, commitment draws it in, and it gets
    fewer still. A mini codec ended with latents of 28 directions of which its acoustic codebooks saw 1.6, and with
    six codebooks that said nothing. So training leaves the input projection as it is fitted here, by default.
    """
    if branch.input_proj is None:
        return
    inputs, outputs = (x.transpose(1, 2).flatten(0, 1).double() for x in (latents, target))  # (N * T, H)
    inputs, outputs = inputs - inputs.mean(0), outputs - outputs.mean(0)
    gram = inputs.T @ inputs
    gram.diagonal().add_(1e-6 * gram.diagonal().mean().clamp(min=1e-12))
    best = torch.linalg.solve(gram, inputs.T @ outputs)  # (H, H), of unlimited rank
    _, vectors = torch.linalg.eigh(best.T @ gram @ best)  # its predictions' main directions are the last
    main = vectors[:, -branch.input_proj.out_channels :]  # (H, dim)
    main = (
        main * main.gather(0, main.abs().argmax(0, keepdim=True)).sign()
    )  # either sign is as good: take one
    # what is quantized has a variance of 1 in the mean of its directions: commitment weighs what it always does
    size = (inputs @ best @ main).square().mean().sqrt().clamp(min=1e-6)
    branch.input_proj.weight.copy_((best @ main / size).T[..., None])
    branch.output_proj.weight.copy_((main * size)[..., None])


def kmeans(vectors: Tensor, count: int, generator: np.random.Generator, steps: int = _KMEANS_STEPS) -> Tensor:
    """Lloyd's algorithm from random vectors: (N, dim) -> (count, dim). Empty clusters start anew elsewhere."""
    number = len(vectors)
    first = generator.permutation(number)[:count]
    if number < count:  # too few to go round: repeat, a little apart
        first = np.concatenate([first, generator.integers(0, number, count - number)])
    centres = vectors[torch.from_numpy(first).to(vectors.device)].clone()
    if number < count:
        noise = torch.from_numpy(generator.standard_normal(centres.shape)).to(centres)
        centres[number:] += noise[number:] * vectors.std() * 0.01
    for _ in range(steps):
        nearest = (vectors @ centres.T - centres.square().sum(-1) / 2).argmax(-1)
        counts = torch.bincount(nearest, minlength=count)
        sums = torch.zeros_like(centres).index_add_(0, nearest, vectors)
        empty = counts == 0
        centres = sums / counts.clamp(min=1)[:, None]
        missing = int(empty.sum())
        if missing:
            picks = torch.from_numpy(generator.integers(0, number, missing)).to(vectors.device)
            centres[empty] = vectors[picks]
    return centres


class CodeCounter:
    """How codes are used: share of entries, perplexity, and bits a second."""

    def __init__(self, codebooks: int, size: int):
        self.counts = torch.zeros(codebooks, size, dtype=torch.float64)

    def add(self, codes: Tensor) -> None:
        """Count codes (B, K, T)."""
        for k, row in enumerate(codes.cpu().unbind(1)):
            self.counts[k] += torch.bincount(row.flatten(), minlength=self.counts.shape[1])

    def result(self, frame_rate: float, names: Sequence[str] | None = None) -> dict[str, float]:
        """Usage and perplexity of each codebook, ``usage`` the least of them, and the entropy as a bit rate."""
        share = self.counts / self.counts.sum(-1, keepdim=True).clamp(min=1)
        entropy = -(share * share.clamp(min=1e-300).log2()).sum(-1)  # (K,) bits
        usage = (self.counts > 0).double().mean(-1)
        values = {"usage": float(usage.min()), "kbps": float(entropy.sum()) * frame_rate / 1000}
        for k in range(len(usage)):
            values[f"usage{k}"] = float(usage[k])
            values[f"perplexity{k}"] = float(2 ** entropy[k])
        return values
