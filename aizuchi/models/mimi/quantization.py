"""Split residual vector quantization (arXiv 2410.00037, section 3.3.3; moshi/quantization).

A codebook is stored as the running statistics it was trained with: entry = embed_sum / cluster_usage. Entries
are computed from them whenever they are needed and kept nowhere, so that loading, casting or editing the
statistics always takes effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels.convolve import FusedCodebooks
from ...kernels.stack import FEW, wanted
from ..layers import at_least_float32
from .configuration import MimiConfig
from .fused import fused_codebooks


@dataclass
class QuantizerOutput:
    """What a codec trainer needs from one pass through the quantizer.

    Attributes:
        latents: (B, hidden_size, T) quantized; the gradient passes straight through to the input.
        codes: (B, K, T) int64.
        commitment_loss: scalar, mean over codebooks of the squared distance of each codebook's input to its
            entry; its gradient goes to the input only.
        inputs: for each codebook the vectors (B, T, dim) it was asked to quantize, detached; with ``codes``
            all that a moving-average update of ``embed_sum`` and ``cluster_usage`` needs.
    """

    latents: Tensor
    codes: Tensor
    commitment_loss: Tensor
    inputs: list[Tensor]


class MimiEuclideanCodebook(nn.Module):
    """Entries in a Euclidean space; a vector's code is the index of the nearest one (the first if tied)."""

    initialized: Tensor  # (1,) kept for the format
    cluster_usage: Tensor  # (codebook_size,)
    embed_sum: Tensor  # (codebook_size, dim)

    def __init__(self, config: MimiConfig, epsilon: float = 1e-5):
        super().__init__()
        self.epsilon = epsilon
        self.register_buffer("initialized", torch.ones(1))
        self.register_buffer("cluster_usage", torch.ones(config.codebook_size))
        self.register_buffer("embed_sum", torch.empty(config.codebook_size, config.codebook_dim))
        nn.init.normal_(self.embed_sum, std=config.codebook_dim**-0.5)

    @property
    def embed(self) -> Tensor:
        """(codebook_size, dim) all entries."""
        return self.embed_sum / self.cluster_usage.clamp(min=self.epsilon)[:, None]

    def encode(self, x: Tensor) -> Tensor:
        """Vectors (..., dim) -> codes (...) int64, compared in float32 at least."""
        # argmin |x - e|^2 = argmax x.e - |e|^2 / 2, with e = sum / usage: no table of entries is needed
        total = at_least_float32(self.embed_sum)
        usage = at_least_float32(self.cluster_usage).clamp(min=self.epsilon)
        half_norm = total.square().sum(-1) / usage.square() / 2
        return (F.linear(x.to(total.dtype), total) / usage - half_norm).argmax(-1)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (...) -> entries (..., dim)."""
        usage = F.embedding(codes, self.cluster_usage[:, None]).clamp(min=self.epsilon)
        return F.embedding(codes, self.embed_sum) / usage


class MimiVectorQuantization(nn.Module):
    """One level of a residual quantizer; holds its codebook under the published name."""

    def __init__(self, config: MimiConfig):
        super().__init__()
        self.codebook = MimiEuclideanCodebook(config)


def _pointwise(projection: nn.Module | None, x: Tensor) -> Tensor:
    """A convolution of kernel 1 of x (B, T, in): a product, which for a frame is several times cheaper."""
    return x if projection is None else F.linear(x, cast(nn.Conv1d, projection).weight[..., 0])


class MimiResidualVectorQuantizer(nn.Module):
    """Codebooks in a row, each quantizing what the ones before left over."""

    def __init__(self, config: MimiConfig, num_quantizers: int):
        super().__init__()
        self.layers = nn.ModuleList([MimiVectorQuantization(config) for _ in range(num_quantizers)])
        self.input_proj: nn.Module | None = None
        self.output_proj: nn.Module | None = None
        inner = config.vector_quantization_hidden_dimension
        if inner != config.hidden_size:
            self.input_proj = nn.Conv1d(config.hidden_size, inner, 1, bias=False)
            self.output_proj = nn.Conv1d(inner, config.hidden_size, 1, bias=False)

    def _project(self, latents: Tensor) -> Tensor:
        """(B, hidden_size, T) -> (B, T, dim)."""
        return _pointwise(self.input_proj, latents.transpose(1, 2))

    def _restore(self, quantized: Tensor) -> Tensor:
        """(B, T, dim) -> (B, hidden_size, T)."""
        return _pointwise(self.output_proj, quantized).transpose(1, 2)

    def codebooks(self) -> list[MimiEuclideanCodebook]:
        """The codebooks in their order."""
        return [cast(MimiVectorQuantization, layer).codebook for layer in self.layers]

    def _fused(self, x: Tensor) -> FusedCodebooks | None:
        """The library's codebooks, for x (B, T, ...) of a few positions."""
        few = x.shape[0] * x.shape[1] <= FEW and x.device.type == "cpu" and x.dtype != torch.float64
        return fused_codebooks(self) if few and wanted() else None

    def encode(self, latents: Tensor, num_quantizers: int) -> list[Tensor]:
        """(B, hidden_size, T) -> ``num_quantizers`` codes, each (B, T)."""
        residual = self._project(latents)
        if (fused := self._fused(residual)) is not None:
            return list(fused.encode(residual, num_quantizers).unbind(-1))
        codes = []
        for codebook in self.codebooks()[:num_quantizers]:
            codes.append(codebook.encode(residual))
            residual = residual - codebook.decode(codes[-1])
        return codes

    def decode(self, codes: Tensor) -> Tensor:
        """(B, K, T) -> (B, hidden_size, T)."""
        if (fused := self._fused(codes[:, 0])) is not None:
            return self._restore(fused.decode(codes.transpose(1, 2)))
        pairs = zip(
            self.codebooks(), codes.unbind(1), strict=False
        )  # fewer codes than codebooks may be given
        entries = [codebook.decode(level) for codebook, level in pairs]
        return self._restore(sum(entries[1:], entries[0]))

    def forward(
        self, latents: Tensor, num_quantizers: int
    ) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
        """Quantize with gradients; returns (latents, codes, losses, inputs), the last three per codebook."""
        projected = residual = self._project(latents)
        codes, losses, inputs = [], [], []
        for codebook in self.codebooks()[:num_quantizers]:
            inputs.append(residual.detach())
            codes.append(codebook.encode(inputs[-1]))
            entry = codebook.decode(codes[-1]).detach()
            losses.append(F.mse_loss(residual, entry))
            residual = residual - entry
        # straight through the whole sum at once: the output's gradient is that of the projected latents
        return self._restore(projected - residual.detach()), codes, losses, inputs


def check_num_quantizers(count: int | None, config: MimiConfig, name: str = "num_quantizers") -> int:
    """How many codebooks to use, None being all; ValueError naming ``name`` if there aren't as many."""
    if count is None:
        return config.num_quantizers
    if not config.num_semantic_quantizers <= count <= config.num_quantizers or count != int(count):
        raise ValueError(
            f"`{name}` asks for {count} codebooks; this model has {config.num_quantizers}, "
            f"and uses at least its {config.num_semantic_quantizers} semantic one(s)."
        )
    return int(count)


class MimiSplitResidualVectorQuantizer(nn.Module):
    """A semantic and an acoustic residual quantizer side by side.

    Both quantize the same latents (the acoustic one does not see the semantic one's residual) and their
    outputs are added.
    """

    def __init__(self, config: MimiConfig):
        super().__init__()
        self.config = config
        self.num_semantic = config.num_semantic_quantizers
        num_acoustic = config.num_quantizers - config.num_semantic_quantizers
        self.semantic_residual_vector_quantizer = MimiResidualVectorQuantizer(config, self.num_semantic)
        self.acoustic_residual_vector_quantizer = MimiResidualVectorQuantizer(config, num_acoustic)

    def codebooks(self) -> list[MimiEuclideanCodebook]:
        """All codebooks in the order of the codes."""
        return (
            self.semantic_residual_vector_quantizer.codebooks()
            + self.acoustic_residual_vector_quantizer.codebooks()
        )

    def encode(self, latents: Tensor, num_quantizers: int | None = None) -> Tensor:
        """(B, hidden_size, T) -> codes (B, K, T) int64."""
        count = check_num_quantizers(num_quantizers, self.config)
        codes = self.semantic_residual_vector_quantizer.encode(latents, self.num_semantic)
        if count > self.num_semantic:
            codes += self.acoustic_residual_vector_quantizer.encode(latents, count - self.num_semantic)
        return torch.stack(codes, dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, K, T) of the first K codebooks -> latents (B, hidden_size, T)."""
        out = self.semantic_residual_vector_quantizer.decode(codes[:, : self.num_semantic])
        if codes.shape[1] > self.num_semantic:
            out = out + self.acoustic_residual_vector_quantizer.decode(codes[:, self.num_semantic :])
        return out

    def forward(self, latents: Tensor, num_quantizers: int | None = None) -> QuantizerOutput:
        """Quantize latents (B, hidden_size, T) with gradients, for training a codec."""
        count = check_num_quantizers(num_quantizers, self.config)
        out, codes, losses, inputs = self.semantic_residual_vector_quantizer(latents, self.num_semantic)
        if count > self.num_semantic:
            rest = self.acoustic_residual_vector_quantizer(latents, count - self.num_semantic)
            out, codes, losses, inputs = out + rest[0], codes + rest[1], losses + rest[2], inputs + rest[3]
        return QuantizerOutput(out, torch.stack(codes, dim=1), torch.stack(losses).mean(), inputs)
