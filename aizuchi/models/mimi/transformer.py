"""The transformers between Mimi's convolutions and quantizer: pre-norm, layer scale, windowed attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from ..cache import FusedPlan, RingCache, SequenceCache, window_mask
from ..layers import attend, rotary_angles, rotate
from .configuration import MimiConfig
from .fused import fused_transformer


class MimiLayerScale(nn.Module):
    """A learnt scale for each channel of a residual branch (arXiv 2103.17239)."""

    def __init__(self, config: MimiConfig):
        super().__init__()
        self.scale = nn.Parameter(torch.full((config.hidden_size,), config.layer_scale_initial_scale))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x


class MimiMLP(nn.Module):
    """``fc2(act(fc1(x)))`` without biases."""

    def __init__(self, config: MimiConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.act = ACT2FN[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class MimiAttention(nn.Module):
    """Multi-head attention with rotary positions; keys and values of the past come from the plan."""

    def __init__(self, config: MimiConfig, layer_idx: int):
        super().__init__()
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.dropout = config.attention_dropout
        bias = config.attention_bias
        heads, kv_heads = (
            config.num_attention_heads * config.head_dim,
            config.num_key_value_heads * config.head_dim,
        )
        self.q_proj = nn.Linear(config.hidden_size, heads, bias=bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_heads, bias=bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_heads, bias=bias)
        self.o_proj = nn.Linear(heads, config.hidden_size, bias=bias)

    def forward(self, x: Tensor, plan: Any, cos: Tensor, sin: Tensor) -> Tensor:
        # (rows, T, heads * head_dim) -> (rows, heads, T, head_dim)
        query, key, value = (
            proj(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        key, value = plan.append(self.layer_idx, rotate(key, cos, sin), value)
        dropout = self.dropout if self.training else 0.0
        return self.o_proj(attend(rotate(query, cos, sin), key, value, plan.mask, dropout))


class MimiTransformerLayer(GradientCheckpointingLayer):
    """Attention and feed-forward, each behind a layer norm and a layer scale."""

    def __init__(self, config: MimiConfig, layer_idx: int):
        super().__init__()
        self.self_attn = MimiAttention(config, layer_idx)
        self.mlp = MimiMLP(config)
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.self_attn_layer_scale = MimiLayerScale(config)
        self.mlp_layer_scale = MimiLayerScale(config)

    def forward(self, x: Tensor, plan: Any, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn_layer_scale(self.self_attn(self.input_layernorm(x), plan, cos, sin))
        return x + self.mlp_layer_scale(self.mlp(self.post_attention_layernorm(x)))


class MimiTransformer(nn.Module):
    """(rows, hidden_size, T) -> same, each position looking at the last ``sliding_window`` ones.

    ``layers``: how many, None for the configuration's ``num_hidden_layers``.
    """

    def __init__(self, config: MimiConfig, layers: int | None = None):
        super().__init__()
        self.config = config
        count = config.num_hidden_layers if layers is None else layers
        self.layers = nn.ModuleList([MimiTransformerLayer(config, i) for i in range(count)])

    def init_state(
        self,
        rows: int,
        device: Any = None,
        dtype: torch.dtype | None = None,
        original_ring: bool = False,
        weights: torch.dtype | None = None,
    ) -> RingCache:
        """Rings for ``rows`` streams.

        Args:
            original_ring: rings of exactly ``sliding_window`` positions, as the original server has them: the
                first position of a frame then loses its oldest key to the last one.
            weights: dtype of the weights that the library works with; None leaves the work to torch.
        """
        config = self.config
        ring = RingCache.create(
            rows,
            len(self.layers),
            config.num_key_value_heads,
            config.head_dim,
            window=config.sliding_window,
            chunk=config.latent_stride,
            capacity=config.sliding_window if original_ring else None,
            device=device,
            dtype=dtype,
        )
        ring.fused = None if weights is None else fused_transformer(self, weights)
        return ring

    def forward(self, x: Tensor, state: RingCache | None = None, active: Tensor | None = None) -> Tensor:
        x = x.transpose(1, 2)  # (rows, T, hidden_size)
        plan: Any
        if state is not None:
            plan = state.begin(x.shape[1], active)
            if isinstance(plan, FusedPlan):
                return plan.run(x).transpose(1, 2)
        else:
            positions = torch.arange(x.shape[1], device=x.device)[None]
            window = self.config.sliding_window
            # within the window the mask is plainly causal, which has a faster kernel
            mask = window_mask(positions, positions, window) if x.shape[1] > window else None
            plan = SequenceCache(positions, mask)
        cos, sin = rotary_angles(plan.positions, self.config.head_dim, self.config.rope_theta)
        for layer in self.layers:
            x = layer(x, plan, cos, sin)
        return x.transpose(1, 2)
