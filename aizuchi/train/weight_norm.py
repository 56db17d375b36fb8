"""Weight norm while a codec is in training (Salimans and Kingma, 2016; EnCodec trains its SEANet so).

Nothing in SEANet keeps activations in bounds. With a convolution's direction and size apart, a step of Adam turns a
filter instead of stretching it, and wide layers no longer blow up at useful learning rates.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import is_parametrized


def add_weight_norm(*parts: nn.Module) -> None:
    """Split the weights of all convolutions in some parts into size and direction of each output channel's filter."""
    for part in parts:
        for conv in list(part.modules()):
            if isinstance(conv, nn.Conv1d | nn.ConvTranspose1d) and not is_parametrized(conv):
                weight_norm(conv, dim=1 if isinstance(conv, nn.ConvTranspose1d) else 0)


def without_weight_norm(codec: Any) -> Any:
    """A codec with plain weights: a copy of one that is trained with weight norm, or the codec itself."""
    state, found = codec.state_dict(), False
    for name, conv in codec.named_modules():
        if isinstance(conv, nn.Conv1d | nn.ConvTranspose1d) and is_parametrized(conv):
            found = True
            for i in (0, 1):
                del state[f"{name}.parametrizations.weight.original{i}"]
            state[f"{name}.weight"] = conv.weight.detach()
    if not found:
        return codec
    # Copies share their classes, and taking the parametrization off one would take it off the other.
    with torch.random.fork_rng(devices=[]):
        plain = type(codec)(codec.config)
    plain.load_state_dict(state)
    return plain.to(codec.device, codec.dtype).train(codec.training)
