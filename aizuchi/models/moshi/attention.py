"""Self-attention and cross-attention of Moshi's transformers, under the published parameter names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..cache import Plan
from ..layers import PerCodebookLinear, attend, rotate


class NamedLinear(nn.Module):
    """A linear layer one level down: the published names are ``q_proj.linear.weight``."""

    def __init__(self, linear: nn.Module):
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor, **step: int) -> Tensor:
        return self.linear(x, **step)


def linear_maker(config: Any, per_codebook: bool) -> Callable[[int, int], nn.Module]:
    """How a transformer makes its linear layers: plain, or one for each codebook step."""
    if not per_codebook:
        return lambda inside, outside: nn.Linear(inside, outside, bias=False)
    return lambda inside, outside: PerCodebookLinear(
        inside, outside, config.num_step_weights, config.weights_per_step_schedule
    )


class SelfAttention(nn.Module):
    """Causal attention over what the cache holds, with rotary positions when angles are given."""

    is_causal = True

    def __init__(self, config: Any, layer_idx: int, per_codebook: bool = False):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.num_heads = config.num_attention_heads
        self.num_kv_heads = config.num_key_value_heads
        self.num_key_value_groups = self.num_heads // self.num_kv_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        make = linear_maker(config, per_codebook)
        self.q_proj = NamedLinear(make(config.hidden_size, self.num_heads * self.head_dim))
        self.k_proj = NamedLinear(make(config.hidden_size, self.num_kv_heads * self.head_dim))
        self.v_proj = NamedLinear(make(config.hidden_size, self.num_kv_heads * self.head_dim))
        self.o_proj = NamedLinear(make(self.num_heads * self.head_dim, config.hidden_size))

    def project(self, x: Tensor, **step: int) -> tuple[Tensor, Tensor, Tensor]:
        """(rows, T, H) -> query (rows, heads, T, head_dim), key and value (rows, kv_heads, T, head_dim)."""
        rows, length, _ = x.shape
        query = self.q_proj(x, **step).view(rows, length, self.num_heads, self.head_dim)
        key = self.k_proj(x, **step).view(rows, length, self.num_kv_heads, self.head_dim)
        value = self.v_proj(x, **step).view(rows, length, self.num_kv_heads, self.head_dim)
        return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)

    def forward(
        self,
        x: Tensor,
        plan: Plan,
        angles: tuple[Tensor, Tensor] | None = None,
        output_attentions: bool = False,
        **step: int,
    ) -> tuple[Tensor, Tensor | None]:
        """x: (rows, T, H) -> ((rows, T, H), attention weights (rows, heads, T, S) or None)."""
        query, key, value = self.project(x, **step)
        if angles is not None:
            query, key = rotate(query, *angles), rotate(key, *angles)
        key, value = plan.append(self.layer_idx, key, value)
        dropout = self.attention_dropout if self.training else 0.0
        out, weights = attention_by_name(self, query, key, value, plan.mask, dropout, output_attentions)
        return self.o_proj(out, **step), weights


class CrossAttention(nn.Module):
    """Attention to a condition: no positions, no mask (the original ignores the condition's mask too)."""

    def __init__(self, config: Any):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.head_dim = config.head_dim
        width = self.num_heads * self.head_dim
        self.q_proj = NamedLinear(nn.Linear(config.hidden_size, width, bias=False))
        self.k_proj = NamedLinear(nn.Linear(config.hidden_size, width, bias=False))
        self.v_proj = NamedLinear(nn.Linear(config.hidden_size, width, bias=False))
        self.o_proj = NamedLinear(nn.Linear(width, config.hidden_size, bias=False))

    def keys_values(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """source: (rows, S, H) -> two tensors (rows, heads, S, head_dim)."""
        shape = (*source.shape[:2], self.num_heads, self.head_dim)
        key, value = self.k_proj(source).view(shape), self.v_proj(source).view(shape)
        return key.transpose(1, 2), value.transpose(1, 2)

    def forward(self, x: Tensor, keys_values: tuple[Tensor, Tensor]) -> Tensor:
        query = self.q_proj(x).view(*x.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)
        return self.o_proj(attend(query, *keys_values, mask=None, causal=False))


def attention_by_name(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, dropout: float, output_attentions: bool
) -> tuple[Tensor, Tensor | None]:
    """The attention that ``config._attn_implementation`` names; "eager" where the weights are asked for.

    Returns:
        (rows, T, heads * head_dim), and the weights (rows, heads, T, S) or None
    """
    name = module.config._attn_implementation or "sdpa"
    if output_attentions or name == "eager":
        return _eager(module, query, key, value, mask, dropout)
    if name == "sdpa":
        if mask is not None and mask.dtype != torch.bool:
            mask = mask >= 0
        return attend(query, key, value, mask, dropout), None
    function = ALL_ATTENTION_FUNCTIONS[name]
    window = getattr(module.config, "sliding_window", None)
    out, weights = function(
        module, query, key, value, mask, dropout=dropout, scaling=module.scaling, sliding_window=window
    )
    return out.flatten(2), weights


def _eager(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float
) -> tuple[Tensor, Tensor]:
    key = key.repeat_interleave(module.num_key_value_groups, dim=1)
    value = value.repeat_interleave(module.num_key_value_groups, dim=1)
    scores = query @ key.transpose(2, 3) * module.scaling  # (rows, heads, T, S)
    if mask is None:
        length, past = query.shape[2], key.shape[2] - query.shape[2]
        mask = torch.ones(length, key.shape[2], dtype=torch.bool, device=query.device).tril(past)
    if mask.dtype != torch.bool:
        mask = mask >= 0
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = F.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(
        query.dtype
    )
    out = F.dropout(weights, dropout, module.training) @ value
    return out.transpose(1, 2).flatten(2), weights
