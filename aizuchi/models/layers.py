"""Layers that Mimi and both transformers of Moshi are built from."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN

from ..kernels.weights import Weight, plain_weight


def at_least_float32(x: Tensor) -> Tensor:
    """Half precisions are widened to float32; float32 and float64 stay."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class RMSNorm(nn.Module):
    """Root-mean-square norm, computed in float32 at least, then cast back (the original's ``rms_norm_f32``)."""

    def __init__(self, dim: int, eps: float = 1e-8):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        wide = at_least_float32(x)
        return F.rms_norm(wide, self.weight.shape, self.weight.to(wide.dtype), self.eps).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, eps={self.eps}"


class LayerNormF32(nn.LayerNorm):
    """Layer norm computed in float32 at least, then cast back (the original's ``layer_norm_f32``)."""

    def forward(self, x: Tensor) -> Tensor:
        wide = at_least_float32(x)
        weight, bias = self.weight.to(wide.dtype), self.bias.to(wide.dtype)
        return F.layer_norm(wide, self.normalized_shape, weight, bias, self.eps).to(x.dtype)


def make_norm(kind: str, dim: int, eps: float | None = None) -> nn.Module:
    """A norm by the original's name: rms_norm_f32, rms_norm, layer_norm, layer_norm_f32.

    ``eps`` None takes the original's: 1e-8 for the ``_f32`` kinds, 1e-5 for the others.
    """
    if eps is None:
        eps = 1e-8 if kind.endswith("_f32") else 1e-5
    if kind in ("rms_norm_f32", "rms_norm"):
        return RMSNorm(dim, eps)
    if kind == "layer_norm":
        return nn.LayerNorm(dim, eps=eps)
    if kind == "layer_norm_f32":
        return LayerNormF32(dim, eps=eps)
    raise ValueError(f"Unknown norm {kind!r}: use rms_norm_f32, rms_norm, layer_norm or layer_norm_f32.")


NORM_KINDS = ("rms_norm_f32", "rms_norm", "layer_norm", "layer_norm_f32")


def rotary_frequencies(head_dim: int, max_period: float, device: Any = None) -> Tensor:
    """(head_dim / 2,) float32 angular frequencies, computed as the original does (moshi/modules/rope.py)."""
    steps = torch.arange(head_dim // 2, device=device, dtype=torch.float32)
    return torch.exp(steps * (-math.log(max_period) * 2 / head_dim))


def rotary_angles(positions: Tensor, head_dim: int, max_period: float) -> tuple[Tensor, Tensor]:
    """cos and sin of every position's angles.

    Args:
        positions: (rows, T) int64
    Returns:
        two tensors (rows, 1, T, head_dim / 2), float32
    """
    frequencies = rotary_frequencies(head_dim, max_period, positions.device)
    angles = positions[:, None, :, None].float() * frequencies
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of (rows, heads, T, head_dim): first half real, second half imaginary parts.

    This is the layout of the published HF checkpoints; the original's interleaved pairs are permuted to it
    when a checkpoint is read (checkpoints.md, section 4.1).
    """
    real, imaginary = at_least_float32(x).chunk(2, dim=-1)
    out = torch.cat([real * cos - imaginary * sin, real * sin + imaginary * cos], dim=-1)
    return out.to(x.dtype)


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float = 0.0, causal: bool = True
) -> Tensor:
    """Scaled dot-product attention with grouped key/value heads.

    Args:
        query: (rows, heads, T, head_dim); key, value: (rows, kv_heads, S, head_dim).
        mask: (rows or 1, 1, T, S) bool, True = may look; None = causal when ``causal``, else everything.
    Returns:
        (rows, T, heads * head_dim)
    """
    out = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=causal and mask is None and query.shape[2] > 1,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out.transpose(1, 2).flatten(2)


class PerCodebookLinear(nn.Module):
    """One linear layer for each codebook, stacked in one weight (weights, out, in).

    A module of its own because quantization, LoRA and weight decay must name it: tools that look for
    ``nn.Linear`` pass it by.

    Args:
        schedule: weight index of each codebook step; None = step k uses weight k.
    """

    def __init__(self, in_features: int, out_features: int, weights: int, schedule: list[int] | None = None):
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.schedule = schedule
        self.weight = nn.Parameter(torch.empty(weights, out_features, in_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=1 / math.sqrt(self.in_features))

    def _index(self, step: int) -> int:
        return step if self.schedule is None else self.schedule[step]

    def forward(self, x: Tensor, first: int = 0) -> Tensor:
        """x: (rows, steps, in), step s of x using the weight of codebook ``first + s``; -> (rows, steps, out)."""
        steps = x.shape[1]
        if steps == 1:
            return F.linear(x, self.weight[self._index(first)])
        if self.schedule is None:
            weight = self.weight[first : first + steps]
        else:
            weight = self.weight[self.schedule[first : first + steps]]
        # (steps, rows, in) x (steps, in, out) -> (rows, steps, out)
        return torch.bmm(x.transpose(0, 1), weight.transpose(1, 2)).transpose(0, 1)

    def step(self, x: Tensor, index: int) -> Tensor:
        """x: (rows, in) through codebook ``index``'s weight."""
        return F.linear(x, self.weight[self._index(index)])

    def kernel_weight(self, index: int) -> Weight:
        """Codebook ``index``'s matrix, for the library."""
        return plain_weight(self.weight[self._index(index)])

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, weights={self.weight.shape[0]}"


class TokenEmbedding(nn.Embedding):
    """Embedding in which id -1 is exact zeros; optionally low-rank, or of two streams muxed into one id.

    Args:
        low_rank: width of the table, brought to ``embedding_dim`` by a linear layer.
        demux: ids carry two tokens, ``(second + 1) * num_embeddings + first``; each has its own output layer,
            and a second token of -1 adds nothing. As in the original, the low-rank layer exists but is not
            used then (checkpoints.md, section 2.1).
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        low_rank: int | None = None,
        demux: bool = False,
    ):
        super().__init__(num_embeddings, low_rank or embedding_dim, padding_idx)
        self.low_rank = nn.Linear(low_rank, embedding_dim, bias=False) if low_rank else None
        self.demux = demux
        if demux:
            self.out1 = nn.Linear(low_rank or embedding_dim, embedding_dim, bias=False)
            self.out2 = nn.Linear(low_rank or embedding_dim, embedding_dim, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        blank = (ids < 0)[..., None]
        ids = ids.clamp(min=0)
        if self.demux:
            second = torch.div(ids, self.num_embeddings, rounding_mode="floor") - 1
            first = self.out1(super().forward(ids % self.num_embeddings))
            other = self.out2(super().forward(second.clamp(min=0)))
            return (first + other.masked_fill((second < 0)[..., None], 0)).masked_fill(blank, 0)
        out = super().forward(ids).masked_fill(blank, 0)
        return out if self.low_rank is None else self.low_rank(out)


class GatedMLP(nn.Module):
    """Gated feed-forward: ``fc2(act(first half of fc1(x)) * second half)``.

    Args:
        make_linear: builds a layer from (in_features, out_features); `PerCodebookLinear` in the depth decoder.
    """

    def __init__(self, dim: int, ffn_dim: int, act: str, make_linear: Any):
        super().__init__()
        self.fc1 = make_linear(dim, ffn_dim)
        self.fc2 = make_linear(ffn_dim // 2, dim)
        self.act = ACT2FN[act]

    def forward(self, x: Tensor, **step: int) -> Tensor:
        gate, up = self.fc1(x, **step).chunk(2, dim=-1)
        return self.fc2(self.act(gate) * up, **step)
