"""Causal convolutions that run over whole signals or, with a state, over the chunks of one.

Both ways are the same arithmetic: a whole signal is a stream of one chunk whose past is padding
(same semantics as moshi/modules/conv.py). A chunk's length must be a multiple of the stride.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..state import State, keep_inactive, row_tensor


@dataclass
class ConvState(State):
    """The inputs that the next chunk's first outputs still look at."""

    previous: Tensor  # (rows, in_channels, padding)
    # (rows,) bool: nothing has come in yet. Only there when the signal's first value is what pads it.
    first: Tensor | None = row_tensor(reset=1)


class MimiConv1d(nn.Module):
    """Causal convolution (rows, in_channels, T) -> (rows, out_channels, T / stride).

    Args:
        pad_mode: what stands before the signal: "constant" (zeros) or "replicate" (its first value).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        bias: bool = True,
        pad_mode: str = "constant",
    ):
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, kernel_size, stride, dilation=dilation, bias=bias)
        self.padding = (kernel_size - 1) * dilation + 1 - stride
        self.replicate = pad_mode == "replicate"

    def init_state(self, rows: int, device: Any = None, dtype: torch.dtype | None = None) -> ConvState | None:
        """State of ``rows`` streams that have seen nothing; None when the convolution looks at no past."""
        if self.padding <= 0:
            return None
        previous = torch.zeros(rows, self.conv.in_channels, self.padding, device=device, dtype=dtype)
        first = torch.ones(rows, device=device, dtype=torch.bool) if self.replicate else None
        return ConvState(previous, first)

    def forward(self, x: Tensor, state: ConvState | None = None, active: Tensor | None = None) -> Tensor:
        if self.padding <= 0:
            return self.conv(x)
        if state is None:
            return self.conv(F.pad(x, (self.padding, 0), mode="replicate" if self.replicate else "constant"))
        previous = state.previous
        if state.first is not None:
            previous = torch.where(state.first[:, None, None], x[..., :1], previous)
            state.first.copy_(keep_inactive(torch.zeros_like(state.first), state.first, active))
        x = torch.cat([previous, x], dim=-1)
        state.previous.copy_(keep_inactive(x[..., -self.padding :], state.previous, active))
        return self.conv(x)


@dataclass
class ConvTransposeState(State):
    """What the last chunk already adds to the next chunk's first outputs."""

    partial: Tensor  # (rows, out_channels, kernel - stride), without bias


class MimiConvTranspose1d(nn.Module):
    """Causal transposed convolution (rows, in_channels, T) -> (rows, out_channels, T * stride).

    The ``kernel - stride`` outputs after the last input's own are trimmed, or kept for the next chunk.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        groups: int = 1,
        bias: bool = True,
    ):
        super().__init__()
        self.conv = nn.ConvTranspose1d(
            in_channels, out_channels, kernel_size, stride, groups=groups, bias=bias
        )
        self.overlap = kernel_size - stride

    def init_state(
        self, rows: int, device: Any = None, dtype: torch.dtype | None = None
    ) -> ConvTransposeState | None:
        """State of ``rows`` streams that have seen nothing; None when outputs never overlap."""
        if self.overlap <= 0:
            return None
        return ConvTransposeState(
            torch.zeros(rows, self.conv.out_channels, self.overlap, device=device, dtype=dtype)
        )

    def forward(
        self, x: Tensor, state: ConvTransposeState | None = None, active: Tensor | None = None
    ) -> Tensor:
        if self.overlap <= 0:
            return self.conv(x)
        if state is None:
            return self.conv(x)[..., : -self.overlap]
        conv = self.conv
        # The bias is added after the overlap, so that what waits in the state is free of it.
        y = F.conv_transpose1d(x, conv.weight, None, conv.stride, groups=conv.groups)
        y[..., : self.overlap] += state.partial
        state.partial.copy_(keep_inactive(y[..., -self.overlap :], state.partial, active))
        y = y[..., : -self.overlap]
        return y if conv.bias is None else y + conv.bias[:, None]
