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

from ...kernels.convolve import FusedConvolutions, StreamStates
from ...kernels.stack import try_fused, wanted
from ...kernels.weights import Prepared
from ..state import State, keep_inactive, row_tensor

# Up to this many positions a convolution is one matrix product with its unfolded input, as the frames of a stream
# are. The convolution kernels are made for long signals, and several times slower here (17 times for the decoder's
# first transposed one on a CPU).
SHORT = 16


def _narrow(x: Tensor) -> bool:
    """Whether a product with ``x`` is taken in half precision, by its own type or by autocast.

    There strided convolutions are matrix products at any length: oneDNN's bfloat16 convolutions on CPUs with AMX
    compute wrong values where the kernel is twice the stride and the channels are few (torch 2.13: k 16, stride 8,
    16 channels), forwards and in the gradient of the transposed ones.
    """
    return x.dtype in (torch.bfloat16, torch.float16) or (
        x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)
    )


class StreamState(State):
    """Base of states that the library may work on, where ``fused`` says how."""

    fused: Prepared | None  # gives a `FusedConvolutions`

    def streams(self) -> list[tuple[Tensor | None, Tensor | None]]:
        """(past, first) of each convolution."""
        raise NotImplementedError

    def run(self, x: Tensor, active: Tensor | None) -> Tensor | None:
        """All convolutions in one call; None where torch has to do it."""
        if self.fused is None or not wanted() or x.dtype != torch.float32:
            return None
        if not hasattr(self, "_view"):  # made once
            self._view = try_fused(StreamStates, self.streams())
        fused: FusedConvolutions | None = self.fused.get()
        return None if self._view is None or fused is None else fused.run(x, self._view, active)


@dataclass
class ConvState(StreamState):
    """The inputs that the next chunk's first outputs still look at."""

    previous: Tensor  # (rows, in_channels, padding)
    # (rows,) bool: nothing has come in yet. Only there when the signal's first value is what pads it.
    first: Tensor | None = row_tensor(reset=1)
    fused: Prepared | None = None

    def streams(self) -> list[tuple[Tensor | None, Tensor | None]]:
        return [(self.previous, self.first)]


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
            return self._convolve(x)
        if state is None:
            return self._convolve(
                F.pad(x, (self.padding, 0), mode="replicate" if self.replicate else "constant")
            )
        if (fused := state.run(x, active)) is not None:
            return fused
        previous = state.previous
        if state.first is not None:
            previous = torch.where(state.first[:, None, None], x[..., :1], previous)
            state.first.copy_(keep_inactive(torch.zeros_like(state.first), state.first, active))
        x = torch.cat([previous, x], dim=-1)
        state.previous.copy_(keep_inactive(x[..., -self.padding :], state.previous, active))
        return self._convolve(x)

    def _convolve(self, x: Tensor) -> Tensor:
        """The convolution without padding."""
        conv = self.conv
        (kernel,), (stride,), (dilation,) = conv.kernel_size, conv.stride, conv.dilation
        length = (x.shape[-1] - (kernel - 1) * dilation - 1) // stride + 1
        if kernel == 2 * stride > 2 and length > SHORT and _narrow(x):
            # each output sees its own stride of inputs and the next one
            blocks = x[..., : (length + 1) * stride].unflatten(-1, (-1, stride)).transpose(1, 2).flatten(2)
            own, following = (part.flatten(1) for part in conv.weight.split(stride, dim=-1))
            y = F.linear(blocks[:, :-1], own, conv.bias) + F.linear(blocks[:, 1:], following)
            return y.transpose(1, 2)
        if length > SHORT or dilation > 1:
            return conv(x)
        windows = x.unfold(-1, kernel, stride).transpose(1, 2).flatten(2)  # (rows, length, in * kernel)
        return F.linear(windows, conv.weight.flatten(1), conv.bias).transpose(1, 2)


@dataclass
class ConvTransposeState(StreamState):
    """What the last chunk already adds to the next chunk's first outputs."""

    partial: Tensor  # (rows, out_channels, kernel - stride), without bias
    fused: Prepared | None = None

    def streams(self) -> list[tuple[Tensor | None, Tensor | None]]:
        return [(self.partial, None)]


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
        if state is not None and (fused := state.run(x, active)) is not None:
            return fused
        y = self._convolve(x)  # (rows, out_channels, T * stride + overlap)
        if self.overlap > 0:
            if state is not None:
                y[..., : self.overlap] += state.partial
                state.partial.copy_(keep_inactive(y[..., -self.overlap :], state.partial, active))
            y = y[..., : -self.overlap]
        # The bias comes last, so that what waits in the state is free of it.
        return y if self.conv.bias is None else y + self.conv.bias[:, None]

    def _convolve(self, x: Tensor) -> Tensor:
        """The transposed convolution without trimming and bias."""
        conv = self.conv
        (kernel,), (stride,) = conv.kernel_size, conv.stride
        length = x.shape[-1]
        if (length > SHORT and not _narrow(x)) or conv.groups > 1 or kernel != 2 * stride:
            return F.conv_transpose1d(x, conv.weight, None, conv.stride, groups=conv.groups)
        # each position adds to its own stride of outputs and to the next one
        pieces = (x.transpose(1, 2) @ conv.weight.flatten(1)).unflatten(-1, (-1, 2, stride))
        own, following = pieces.transpose(1, 2).unbind(3)  # (rows, out_channels, length, stride) each
        return (F.pad(own, (0, 0, 0, 1)) + F.pad(following, (0, 0, 1, 0))).flatten(2)
