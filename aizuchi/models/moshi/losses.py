"""The losses: weighted cross-entropies of the text stream and of the codebooks (paper, section 3.4.5).

Each returns a sum and its weight, so that several processes can share one normalisation.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def weighted_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of weighted cross-entropies in float32 at least, and the sum of weights.

    Args:
        logits: (N, classes); targets: (N,) int64; weights: (N,), 0 where nothing is learned.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    learned = weights > 0
    losses = F.cross_entropy(wide, torch.where(learned, targets, 0), reduction="none")
    # `where`, not a product: logits of positions that are not learned may be anything, NaN included.
    losses = torch.where(learned, losses, 0) * weights
    return losses.sum(), weights.sum()


def normalised(total: Tensor, weight: Tensor) -> Tensor:
    """total / weight, and 0 where nothing was to be learned."""
    return total / torch.where(weight > 0, weight, torch.ones_like(weight))


def text_weights(targets: Tensor, config: Any, dtype: torch.dtype) -> Tensor:
    """Weight of each text target: 0 for -100, -1 and the initial token, less for padding and its end."""
    padding = (targets == config.text_padding_token_id) | (targets == config.text_end_padding_token_id)
    weights = torch.where(padding, config.text_padding_weight, 1.0).to(dtype)
    learned = (targets >= 0) & (targets < config.text_output_size)
    return torch.where(learned, weights, 0)


def audio_weights(targets: Tensor, config: Any, dtype: torch.dtype) -> Tensor:
    """Weight of each audio target (..., K): its codebook's, 0 for -100, -1 and the initial token."""
    codebooks = getattr(config, "codebook_weights", None) or [1.0] * targets.shape[-1]
    weights = torch.tensor(codebooks, dtype=dtype, device=targets.device).expand(targets.shape)
    learned = (targets >= 0) & (targets < config.audio_vocab_size)
    return torch.where(learned, weights, 0)


def text_loss_parts(logits: Tensor, targets: Tensor, config: Any) -> tuple[Tensor, Tensor]:
    """Sum and weight of the text loss: logits (..., V), targets (...), already aligned."""
    weights = text_weights(targets, config, torch.promote_types(logits.dtype, torch.float32))
    return weighted_cross_entropy(logits.flatten(0, -2), targets.flatten(), weights.flatten())


def audio_loss_parts(logits: Tensor, targets: Tensor, config: Any) -> tuple[Tensor, Tensor]:
    """Sum and weight of the audio loss: logits (..., K, A), targets (..., K), already aligned."""
    weights = audio_weights(targets, config, torch.promote_types(logits.dtype, torch.float32))
    return weighted_cross_entropy(logits.flatten(0, -2), targets.flatten(), weights.flatten())


def causal_text_loss(logits: Tensor, labels: Tensor, config: Any) -> Tensor:
    """Next-token loss of (B, T, V) logits for (B, T) labels, shifted inside."""
    return normalised(*text_loss_parts(logits[:, :-1], labels[:, 1:], config))
