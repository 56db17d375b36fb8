"""transformers' caches at the model's door: checked, and legacy tuples taken in and given back."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache

LegacyCache = tuple[tuple[Tensor, Tensor], ...]


def check_cache(cache: Any, config: Any) -> None:
    """A ``Cache`` for this many layers, heads and head sizes, else a ValueError."""
    if not isinstance(cache, Cache):
        raise ValueError(
            f"`past_key_values` must be a transformers Cache or a tuple of (key, value) pairs, got {type(cache)}."
        )
    filled = [layer for layer in cache.layers if getattr(layer, "keys", None) is not None]
    if filled and len(cache.layers) > config.num_hidden_layers:
        raise ValueError(
            f"`past_key_values` holds {len(cache.layers)} layers, this model has {config.num_hidden_layers}: "
            "is it another model's?"
        )
    for layer in filled:
        if layer.keys.dim() == 4 and layer.keys.numel():
            _check_heads(layer.keys, config)


def _check_heads(keys: Tensor, config: Any) -> None:
    expected = (config.num_key_value_heads, config.head_dim)
    if (keys.shape[1], keys.shape[3]) != expected:
        raise ValueError(
            f"`past_key_values` holds keys of {keys.shape[1]} heads of size {keys.shape[3]}, this model has "
            f"{expected[0]} of size {expected[1]}: is it another model's?"
        )


def from_legacy(past: Any, config: Any) -> DynamicCache:
    """A ``DynamicCache`` of this model from (key, value) pairs (B, kv_heads, S, head_dim), one a layer."""
    if len(past) != config.num_hidden_layers or any(len(pair) != 2 for pair in past):
        raise ValueError(
            f"`past_key_values` as a tuple must hold {config.num_hidden_layers} (key, value) pairs, one a layer; "
            f"got {len(past)}."
        )
    cache = DynamicCache(config=config)
    for i, (key, value) in enumerate(past):
        _check_heads(key, config)
        cache.update(key, value, i)
    return cache


def to_legacy(cache: Any) -> LegacyCache:
    """(key, value) pairs, one a layer. Keys that the window has passed are gone."""
    return tuple((layer.keys, layer.values) for layer in cache.layers)
