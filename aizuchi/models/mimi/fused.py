"""Mimi's parts as the library takes them; see `aizuchi.kernels`. Copies of weights are made once a model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ...kernels.convolve import FusedCodebooks, FusedConvolutions, Part
from ...kernels.few import prepared
from ...kernels.stack import FusedStack, LayerStruct
from ...kernels.weights import Prepared, Unsupported
from ..layers import rotary_frequencies


def _once(module: nn.Module, key: Any, build: Any) -> Prepared:
    """What ``build()`` makes of a module, kept with it."""
    return prepared(module, key, build, [*module.parameters(), *module.buffers()])


def fused_convolutions(owner: nn.Module, parts: Any, dtype: torch.dtype) -> Prepared:
    """Gives a `FusedConvolutions`; ``parts()`` lists them, and raises `Unsupported` where there is something else."""
    return _once(owner, dtype, lambda: FusedConvolutions(parts(), dtype))


def fused_transformer(model: Any, dtype: torch.dtype) -> Prepared:
    """Gives a `FusedStack`, the layers of a `MimiTransformer`, their weights in ``dtype``."""
    return _once(model, dtype, lambda: _transformer(model, dtype))


def _transformer(model: Any, dtype: torch.dtype) -> FusedStack:
    config = model.config
    if config.hidden_act != "gelu":
        raise Unsupported
    frequencies = rotary_frequencies(
        config.head_dim, config.rope_theta, model.layers[0].mlp.fc1.weight.device
    )
    sizes = (config.num_attention_heads, config.num_key_value_heads, config.head_dim)
    stack = FusedStack(config.hidden_size, sizes, False, frequencies, None)
    stack.cast = dtype
    layers = []
    for layer in model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        linear = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj, mlp.fc1, mlp.fc2)
        layers.append(
            LayerStruct(
                stack.norm(layer.input_layernorm),
                stack.norm(layer.post_attention_layernorm),
                *map(stack.linear, linear),
                stack.floats(layer.self_attn_layer_scale.scale),
                stack.floats(layer.mlp_layer_scale.scale),
            )
        )
    return stack.build(layers)


def fused_codebooks(quantizer: Any) -> FusedCodebooks | None:
    """The codebooks of a residual quantizer; what they hold is read where it lies, at each call."""
    books = quantizer.codebooks()
    sources = [tensor for book in books for tensor in (book.embed_sum, book.cluster_usage)]

    def build() -> FusedCodebooks:
        return FusedCodebooks([(book.embed_sum, book.cluster_usage, book.epsilon) for book in books])

    return prepared(quantizer, "codebooks", build, sources, written=False).get()


__all__ = [
    "FusedConvolutions",
    "Part",
    "Prepared",
    "Unsupported",
    "fused_codebooks",
    "fused_convolutions",
    "fused_transformer",
]
