"""A moving average of a module's weights: smoother than the last step's, and what a codec is exported with."""

import torch
from torch import nn


@torch.no_grad()
def move_average(average: nn.Module, module: nn.Module, decay: float, step: int) -> None:
    """Move an average, in place, towards a module's weights by ``1 - decay``; buffers are copied.

    Args:
        step: steps done; a young average is a plain mean of what there is.
    """
    decay = min(decay, (1 + step) / (10 + step))
    for mean, parameter in zip(average.parameters(), module.parameters()):
        mean.lerp_(parameter, 1 - decay)
    for mean, buffer in zip(average.buffers(), module.buffers()):
        mean.copy_(buffer)
