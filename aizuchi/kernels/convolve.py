"""Streams of convolutions in one call, and residual quantization: what convolve.h and quantize.h run."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .library import Library, load
from .stack import FEW
from .weights import BF16, F32, Keeper, Unsupported

CONVOLUTION, TRANSPOSED, CHANNELWISE = range(3)


class PanelsStruct(ctypes.Structure):
    """`Panels` of convolve.h."""

    _fields_ = [
        ("weight", ctypes.c_void_p),
        *[(name, ctypes.c_int64) for name in ("format", "out", "inside")],
    ]


class ConvolutionStruct(ctypes.Structure):
    """`Convolution` of convolve.h."""

    _fields_ = [
        *[(name, ctypes.c_int64) for name in ("kind", "in_channels", "out_channels", "kernel", "stride")],
        ("panels", PanelsStruct),
        ("bias", ctypes.c_void_p),
        *[(name, ctypes.c_int64) for name in ("activated", "branch")],
    ]


class StateStruct(ctypes.Structure):
    """`ConvolutionState` of convolve.h."""

    _fields_ = [("past", ctypes.c_void_p), ("first", ctypes.c_void_p)]


class CodebookStruct(ctypes.Structure):
    """`Codebook` of quantize.h."""

    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("sums", "usage")],
        ("epsilon", ctypes.c_double),
        *[(name, ctypes.c_int64) for name in ("size", "dim")],
    ]


@dataclass
class Part:
    """One convolution of a chain: torch's module, and what stands around it.

    ``activated``: it sees the ELU of its input. ``branch``: 1 = its input goes past it and the next one, 2 = what
    went past is added to its output.
    """

    conv: Any
    activated: bool = False
    branch: int = 0


def panels(matrix: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """A matrix (out, in) in the order of convolve.h: one flat tensor."""
    matrix = matrix.to(dtype)
    out, inside = matrix.shape
    narrow = dtype == torch.bfloat16
    if narrow:
        inside = -(-inside // 32) * 32
        matrix = torch.nn.functional.pad(matrix, (0, inside - matrix.shape[1]))
    parts, start = [], 0
    while start < out:
        left = out - start
        width = 64 if left > 32 else 32 if left > 16 else 16
        part = matrix.new_zeros(width, inside)
        part[: min(width, left)] = matrix[start : start + width]
        part = part.t()  # (in, width)
        if narrow:
            part = part.unflatten(0, (-1, 2)).transpose(1, 2)  # (in / 2, width, 2)
        parts.append(part.reshape(-1))
        start += width
    return torch.cat(parts)


def dilated(weight: Tensor, dilation: int) -> Tensor:
    """The same convolution (out, in, kernel) without dilation: zeros stand between its weights."""
    wide = weight.new_zeros(*weight.shape[:2], (weight.shape[2] - 1) * dilation + 1)
    wide[..., ::dilation] = weight
    return wide


class FusedConvolutions(Keeper):
    """A chain of convolutions over streams.

    Args:
        dtype: float32 or bfloat16, of the copy of the weights that is kept; what flows is float32.
    """

    def __init__(self, parts: list[Part], dtype: torch.dtype = torch.float32):
        super().__init__()
        library = load()
        if library is None:
            raise Unsupported
        self.library: Library = library
        self.dtype = dtype
        self.struct = self.array(ConvolutionStruct, [self._convolution(part) for part in parts])
        self.address, self.count = ctypes.addressof(self.struct), len(parts)
        self.out_channels = parts[-1].conv.out_channels

    def _convolution(self, part: Part) -> ConvolutionStruct:
        conv = part.conv
        if conv.weight.dtype != torch.float32 or conv.weight.device.type != "cpu":
            raise Unsupported
        (kernel,), (stride,), (dilation,) = conv.kernel_size, conv.stride, conv.dilation
        weight = conv.weight.detach()
        if dilation != 1:
            if conv.transposed or stride != 1:
                raise Unsupported
            weight, kernel = dilated(weight, dilation), (kernel - 1) * dilation + 1
        if kernel < stride:
            raise Unsupported
        if not conv.transposed:
            if conv.groups != 1:
                raise Unsupported
            kind, matrix = CONVOLUTION, weight.transpose(1, 2).flatten(1)  # (out, kernel * in)
        elif conv.groups == 1:
            kind, matrix = TRANSPOSED, weight.permute(2, 1, 0).flatten(0, 1)  # (kernel * out, in)
        elif conv.groups == conv.in_channels == conv.out_channels:
            kind, matrix = CHANNELWISE, weight[:, 0].t()  # (kernel, channels)
        else:
            raise Unsupported
        if kind == CHANNELWISE:
            packed, number = matrix.contiguous(), F32
        else:
            packed = panels(matrix, self.dtype)
            number = F32 if self.dtype == torch.float32 else BF16
        return ConvolutionStruct(
            kind,
            conv.in_channels,
            conv.out_channels,
            kernel,
            stride,
            PanelsStruct(self.pointer(packed), number, *matrix.shape),
            self.floats(conv.bias),
            int(part.activated),
            part.branch,
        )

    def run(self, x: Tensor, states: StreamStates, active: Tensor | None) -> Tensor | None:
        """x (rows, channels, T) -> (rows, out_channels, T'), float32; None for more than a few positions."""
        length = x.shape[-1]
        for part in self.struct:
            length = length // part.stride if part.kind == CONVOLUTION else length * part.stride
        if x.shape[0] * min(length, x.shape[-1]) > FEW:
            return None
        x = x.transpose(1, 2).contiguous()
        out = torch.empty(x.shape[0], length, self.out_channels)
        self.library.convolve(
            self.address,
            states.address,
            self.count,
            x.shape[0],
            None if active is None else active.data_ptr(),
            x.shape[1],
            x.data_ptr(),
            out.data_ptr(),
            torch.get_num_threads(),
        )
        return out.transpose(1, 2)


class StreamStates(Keeper):
    """Where the states of a chain's convolutions lie: (past, first) of each, None for none."""

    def __init__(self, states: list[tuple[Tensor | None, Tensor | None]]):
        super().__init__()
        if any(past is not None and past.dtype != torch.float32 for past, _ in states):
            raise Unsupported
        self.struct = self.array(StateStruct, [StateStruct(*map(self.pointer, state)) for state in states])
        self.address = ctypes.addressof(self.struct)


class FusedCodebooks(Keeper):
    """Codebooks in a row, of sums (size, dim), usage (size,) and the least usage that counts."""

    def __init__(self, books: list[tuple[Tensor, Tensor, float]]):
        super().__init__()
        library = load()
        if library is None or any(part.dtype != torch.float32 for book in books for part in book[:2]):
            raise Unsupported
        self.library: Library = library
        structs = [
            CodebookStruct(self.pointer(sums), self.pointer(usage), epsilon, *sums.shape)
            for sums, usage, epsilon in books
        ]
        self.struct = self.array(CodebookStruct, structs)
        self.address, self.dim = ctypes.addressof(self.struct), books[0][0].shape[1]

    def encode(self, x: Tensor, count: int) -> Tensor:
        """Vectors (..., dim) -> codes (..., count) of the first codebooks, each of what the ones before left."""
        residual = x.clone(memory_format=torch.contiguous_format)
        codes = torch.empty(*x.shape[:-1], count, dtype=torch.long)
        number = residual.numel() // self.dim
        self.library.quantize(
            self.address, count, residual.data_ptr(), number, codes.data_ptr(), torch.get_num_threads()
        )
        return codes

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (..., count) -> the sum of their entries (..., dim)."""
        codes = codes.contiguous()
        out = torch.empty(*codes.shape[:-1], self.dim)
        number = out.numel() // self.dim
        self.library.dequantize(self.address, codes.shape[-1], codes.data_ptr(), number, out.data_ptr())
        return out
