"""Leave out what teaches nothing: frames of the model's stream that repeat the frame before, code for code.

Where nobody speaks a codec gives the same codes frame after frame. In dialogues that is most of the time, and the depth
decoder spends most of its time on it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def thin_repeats(labels: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """Labels (B, K, T) of columns, with all but a random ``share`` of the columns that repeat the last one ignored."""
    if share >= 1:
        return labels
    repeats = torch.zeros(labels.shape[0], labels.shape[2], dtype=torch.bool, device=labels.device)
    repeats[:, 1:] = (labels[..., 1:] == labels[..., :-1]).all(1)
    dropped = torch.from_numpy(rng.random(repeats.shape) >= share)
    return labels.masked_fill((repeats & dropped.to(repeats.device))[:, None], -100)
