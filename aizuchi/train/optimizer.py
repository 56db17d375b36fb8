"""The optimizer of a `MoshiTrainer`: which parameters learn at which rate, and which of them decay."""

from __future__ import annotations

from typing import Any

import torch

from .moshi_config import MoshiTraining


def make_optimizer(model: Any, config: MoshiTraining, text_alone: bool = False) -> torch.optim.Optimizer:
    """AdamW with groups for temporal, depth and text parts; norms and biases do not decay.

    ``text_alone``: of the steps that learn from text alone: for all that text goes through, at their one rate.
    """
    settings = config.optimizer
    if text_alone:
        assert config.text_only is not None
        rate = config.text_only.learning_rate or settings.learning_rate
        rates = {"temporal": rate, "text": rate}
    else:
        rates = {
            "temporal": settings.learning_rate,
            "text": settings.learning_rate * settings.text_scale,
            "depth": settings.depth_learning_rate or settings.learning_rate,
        }
    groups: dict[tuple[str, bool], list[Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = "temporal"
        if name.startswith("depth_decoder."):
            part = "depth"
        elif name.startswith(("decoder.model.embed_tokens.", "decoder.lm_head.")):
            part = "text"
        if text_alone and not name.startswith("decoder."):
            continue
        groups.setdefault((part, parameter.dim() > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": rates[part],
                "weight_decay": settings.weight_decay if decays else 0.0,
                "part": part,
            }
            for (part, decays), parameters in sorted(groups.items())
        ],
        betas=tuple(settings.betas),
        eps=settings.eps,
        fused=True,  # one pass over a tensor, not one for each operation
    )
