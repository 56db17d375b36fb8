"""transformers' caches at the model's door: checked, and legacy tuples taken in and given back."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache

from ..cache import RingCache

LegacyCache = tuple[tuple[Tensor, Tensor], ...]


def check_cache(cache: Any, config: Any, rows: int) -> None:
    """A ``Cache`` for this many layers, heads, head sizes and rows, else a ValueError."""
    if not isinstance(cache, Cache):
        raise ValueError(
            f"`past_key_values` must be a transformers Cache or a tuple of (key, value) pairs, got {type(cache)}."
        )
    if cache.layers and len(cache.layers) != config.num_hidden_layers:
        raise ValueError(
            f"`past_key_values` holds {len(cache.layers)} layers, this model has {config.num_hidden_layers}: "
            "is it another model's?"
        )
    for layer in cache.layers:
        keys = getattr(layer, "keys", None)
        if keys is not None and keys.dim() == 4 and keys.numel():
            _check_keys(keys, config, rows)


def _check_keys(keys: Tensor, config: Any, rows: int) -> None:
    expected = (config.num_key_value_heads, config.head_dim)
    if (keys.shape[1], keys.shape[3]) != expected:
        raise ValueError(
            f"`past_key_values` holds keys of {keys.shape[1]} heads of size {keys.shape[3]}, this model has "
            f"{expected[0]} of size {expected[1]}: is it another model's?"
        )
    if keys.shape[0] != rows:
        raise ValueError(f"`past_key_values` holds {keys.shape[0]} rows, the input has {rows}.")


def from_legacy(past: Any, config: Any, rows: int) -> DynamicCache:
    """A ``DynamicCache`` of this model from (key, value) pairs (B, kv_heads, S, head_dim), one a layer.

    It keeps keys that the window has passed: a tuple has no other place to count positions in than its length.
    """
    if len(past) != config.num_hidden_layers or any(len(pair) != 2 for pair in past):
        raise ValueError(
            f"`past_key_values` as a tuple must hold {config.num_hidden_layers} (key, value) pairs, one a layer; "
            f"got {len(past)}."
        )
    cache = DynamicCache()
    for i, (key, value) in enumerate(past):
        _check_keys(key, config, rows)
        cache.update(key, value, i)
    return cache


def to_legacy(cache: Any) -> LegacyCache:
    """(key, value) pairs, one a layer."""
    return tuple((layer.keys, layer.values) for layer in cache.layers)


def check_ring(state: Any, config: Any, rows: int) -> None:
    """A ring of this model with this many rows, else a ValueError."""
    if not isinstance(state, RingCache):
        raise ValueError(f"`state` must come from `init_state`, got {type(state)}.")
    found = (len(state.keys), *(state.keys[0].shape[i] for i in (0, 1, 3)), state.window)
    expected = (
        config.num_hidden_layers,
        rows,
        config.num_key_value_heads,
        config.head_dim,
        config.sliding_window,
    )
    if found != expected:
        raise ValueError(
            f"`state` is one of (layers, rows, heads, head size, window) {found}, this model and input need "
            f"{expected}."
        )
