"""Moshi's transformers as the library takes them; see `aizuchi.kernels`."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...kernels.stack import FusedDepth, FusedStack, Layers, LayerStruct
from ...kernels.weights import Unsupported
from ..layers import LayerNormF32, RMSNorm, rotary_frequencies
from .attention import NamedLinear

_NORMS = (RMSNorm, LayerNormF32, nn.LayerNorm)


def _linear(module: nn.Module) -> nn.Module:
    """The layer under a published name."""
    if type(module) is not NamedLinear or module._forward_hooks or module._forward_pre_hooks:
        raise Unsupported
    return module.linear


def _layer(into: Layers, layer: Any, index: int = 0) -> LayerStruct:
    if hasattr(layer, "cross_attention") or layer._forward_hooks or layer._forward_pre_hooks:
        raise Unsupported
    attention, mlp = layer.self_attn, layer.mlp
    parts = [
        _linear(part) for part in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
    ]
    return LayerStruct(
        into.norm(layer.input_layernorm),
        into.norm(layer.post_attention_layernorm),
        *[into.linear(part, index) for part in (*parts, mlp.fc1, mlp.fc2)],
    )


def _check(config: Any, *norms: Any) -> tuple[int, int, int]:
    if config.hidden_act != "silu" or not all(isinstance(norm, _NORMS) for norm in norms if norm is not None):
        raise Unsupported
    return config.num_attention_heads, config.num_key_value_heads, config.head_dim


def fused_temporal(model: Any) -> FusedStack:
    """The layers of a `MoshiModel` and its norm.

    Raises:
        Unsupported: some part is left to torch.
    """
    config = model.config
    frequencies = rotary_frequencies(config.head_dim, config.rope_theta, model.device)
    stack = FusedStack(config.hidden_size, _check(config, model.norm), True, frequencies, model.norm)
    return stack.build([_layer(stack, layer) for layer in model.layers])


def fused_depth(model: Any) -> FusedDepth:
    """The steps of a `MoshiDepthDecoder`.

    Raises:
        Unsupported: some part is left to torch.
    """
    config = model.config
    if model.norms is not None:
        raise Unsupported
    depth = FusedDepth(config.hidden_size, _check(config), True, None, None)
    tables = [model.text_embed_tokens, *model.embed_tokens]
    return depth.build(
        [
            (
                depth.table(tables[step]),
                depth.linear(model.input_projections, step),
                [_layer(depth, layer, step) for layer in model.layers],
                depth.linear(model.lm_heads, step),
            )
            for step in range(config.num_codebooks)
        ]
    )
