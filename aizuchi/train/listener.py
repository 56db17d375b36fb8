"""Losses by what a listener makes of sound: a recogniser's layers judge what a voice leaves of the words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .waves import load_object

# waveforms (B, 1, S) -> what it makes of them, (B, F, D) each
Listener = Callable[[Tensor], Sequence[Tensor]]


def make_listener(spec: str | None) -> Listener | None:
    """The listener that ``package.module:function`` makes; None for None. AizuchiError if it can't be imported."""
    return None if spec is None else load_object(spec, "loss.listener")()


def hearing_loss(made: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """By how much what is heard differs from what is to be heard, as a share of that one's variance; features of a
    listener weigh the same (after Johnson et al., arXiv 1603.08155).

    Args:
        made, wanted: features (B, F, D) of the sound that was made and of the one that was wanted.
    """
    shares = []
    for one, other in zip(made, wanted, strict=True):
        spread = other.float().var((0, 1)).mean().clamp(min=1e-8)
        shares.append((one.float() - other.float()).square().mean() / spread)
    return torch.stack(shares).mean()
