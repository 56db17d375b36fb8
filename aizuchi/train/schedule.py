"""Learning-rate schedules as pure functions of the step, so that a resumed run needs no memory of the past."""

from __future__ import annotations

import math

SCHEDULES = ("cosine", "onecycle", "constant")


def lr_scale(kind: str, step: int, steps: int, warmup: int, final: float = 0.0) -> float:
    """By what the peak learning rate is multiplied at a step (0 to steps - 1).

    Args:
        kind: "cosine": linear warm-up, then half a cosine down to ``final``; "onecycle": half a cosine up from
            1 / 25, then half a cosine down to 4e-6 (torch's OneCycleLR with its defaults); "constant": warm-up only.
        warmup: steps of the rise.
    """
    if kind == "onecycle":
        # torch.optim.lr_scheduler.OneCycleLR's phases end at step pct * total - 1 and total - 1.
        rise, last = max(1.0, warmup - 1.0), steps - 1.0
        if step <= rise:
            return _cosine(1 / 25, 1.0, step / rise)
        return _cosine(1.0, 1 / 25 / 1e4, (step - rise) / max(1.0, last - rise))
    if step < warmup:
        return (step + 1) / warmup
    if kind == "constant":
        return 1.0
    return _cosine(1.0, final, (step - warmup) / max(1, steps - warmup))


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * min(1.0, done)))
