"""Resizing the text vocabulary: V ids, and the initial token in the row behind them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def _resized(weight: Tensor, size: int, std: float) -> Tensor:
    """(rows, H) with ``size`` rows: the old ones first, new ones normal with ``std``."""
    out = weight.new_empty(size, weight.shape[1])
    kept = min(size, weight.shape[0])
    out[:kept] = weight[:kept]
    out[kept:].normal_(0.0, std)
    return out


@torch.no_grad()
def resize_embedding(embedding: nn.Embedding, size: int, std: float) -> None:
    """Give an embedding of V + 1 rows ``size`` + 1 rows; the last row, the initial token's, stays the last."""
    initial = embedding.weight[-1:]
    rows = torch.cat([_resized(embedding.weight[:-1], size, std), initial])
    embedding.weight = nn.Parameter(rows, requires_grad=embedding.weight.requires_grad)
    embedding.num_embeddings = size + 1


@torch.no_grad()
def resize_text_vocabulary(
    config: Any, size: int | None, holder: Any, name: str, head_of: Any = None
) -> nn.Embedding:
    """Resize ``holder.<name>`` and the text head to ``size`` ids, and say so in ``config``.

    Raises:
        ValueError: the vocabulary is one that can't be resized, or ``size`` is not positive.
    """
    embedding = getattr(holder, name)
    if size is None or size == config.vocab_size:
        return embedding
    if size < 1:
        raise ValueError(f"`new_num_tokens={size}` must be positive.")
    if config.demux_second_text_stream or config.text_output_size != config.vocab_size:
        raise ValueError(
            "A vocabulary of two muxed streams, or with other outputs than inputs, can't be resized."
        )
    resize_embedding(embedding, size, config.initializer_range)
    if head_of is not None and head_of.lm_head is not None:
        head = head_of.lm_head
        head.weight = nn.Parameter(
            _resized(head.weight, size, config.initializer_range), requires_grad=head.weight.requires_grad
        )
        head.out_features = size
    for module in (holder, head_of):
        if module is not None:
            module.vocab_size = size
    config.vocab_size = size
    config.text_output_size = size
    return embedding
