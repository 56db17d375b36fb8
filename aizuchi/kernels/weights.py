"""Weights as the library takes them: where they lie and in which format. Nothing is copied."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

F32, BF16, INT8, INT4 = range(4)
FORMATS = {torch.float32: F32, torch.bfloat16: BF16}


class LinearStruct(ctypes.Structure):
    """`Linear` of linear.h."""

    _fields_ = [
        ("weight", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("out_features", ctypes.c_int64),
        ("in_features", ctypes.c_int64),
        ("format", ctypes.c_int64),
    ]


class TableStruct(ctypes.Structure):
    """`Table` of library.cpp."""

    _fields_ = [("weight", ctypes.c_void_p), ("format", ctypes.c_int64), ("entries", ctypes.c_int64)]


class Unsupported(Exception):
    """This module, dtype or device is left to torch."""


@dataclass
class Weight:
    """A matrix (out, in) in one of the formats; ``scale`` for the integer ones."""

    data: Tensor
    out_features: int
    in_features: int
    format: int
    scale: Tensor | None = None
    bias: Tensor | None = None


class Keeper:
    """Holds on to every tensor that a structure points at."""

    def __init__(self) -> None:
        self.kept: list[Any] = []
        self.cast: torch.dtype | None = None  # float32 matrices are copied to this dtype

    def __deepcopy__(self, memo: Any) -> None:
        return None  # pointers are good for these tensors only

    def __reduce__(self) -> Any:
        return (_nothing, ())

    def keep(self, value: Any) -> Any:
        """``value``, for as long as this lives."""
        self.kept.append(value)
        return value

    def pointer(self, tensor: Tensor | None) -> int | None:
        """Where a contiguous tensor on the CPU lies.

        Raises:
            Unsupported: it is elsewhere, or not contiguous.
        """
        if tensor is None:
            return None
        if tensor.device.type != "cpu" or not tensor.is_contiguous():
            raise Unsupported
        return self.keep(tensor.detach()).data_ptr()

    def floats(self, tensor: Tensor | None) -> int | None:
        """Where a float32 copy of a small tensor lies, or the tensor itself if it is one."""
        return None if tensor is None else self.pointer(tensor.detach().float().contiguous())

    def linear(self, module: nn.Module, index: int = 0) -> LinearStruct:
        """A linear layer, of codebook step ``index`` where it has one for each."""
        weight = weight_of(module, index)
        data, number = weight.data, weight.format
        if number == F32 and self.cast is not None:
            data, number = data.detach().to(self.cast), FORMATS[self.cast]
        return LinearStruct(
            self.pointer(data),
            self.pointer(weight.scale),  # of an integer format
            self.floats(weight.bias),
            weight.out_features,
            weight.in_features,
            number,
        )

    def table(self, module: nn.Module) -> TableStruct:
        """An embedding table that is nothing but one."""
        if getattr(module, "low_rank", None) is not None or getattr(module, "demux", False):
            raise Unsupported
        weight = module.weight
        if weight.dtype not in FORMATS:
            raise Unsupported
        return TableStruct(self.pointer(weight), FORMATS[weight.dtype], weight.shape[0])

    def array(self, kind: Any, values: list[Any]) -> Any:
        """A C array."""
        return self.keep((kind * len(values))(*values))


class Prepared(Keeper):
    """What ``build`` makes of ``sources``, made anew when one of them lies elsewhere, or (``written``: where copies are
    taken) was written to."""

    def __init__(self, build: Callable[[], Any], sources: Iterable[Tensor], written: bool = True):
        super().__init__()
        self.build, self.sources, self.written = build, list(sources), written
        self.places: Any = None
        self.value: Any = None

    def get(self) -> Any:
        """It; None where it can't be made."""
        if self.written:
            places: list[Any] = [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in self.sources]
        else:
            places = [tensor.data_ptr() for tensor in self.sources]
        if places != self.places:
            self.places = places
            try:
                self.value = self.build()
            except Unsupported:
                self.value = None
        return self.value


def _nothing() -> None:
    return None


def weight_of(module: nn.Module, index: int = 0) -> Weight:
    """The matrix of a linear layer; a module that is none of torch's says it by ``kernel_weight(index)``.

    Raises:
        Unsupported: a layer or dtype that the library does not know, as an adapter's.
    """
    if module._forward_hooks or module._forward_pre_hooks:
        raise Unsupported
    if (own := getattr(module, "kernel_weight", None)) is not None:
        return own(index)
    if type(module) is not nn.Linear:
        raise Unsupported
    return plain_weight(module.weight, module.bias)


def plain_weight(weight: Tensor, bias: Tensor | None = None) -> Weight:
    """A floating-point matrix (out, in)."""
    if weight.dtype not in FORMATS:
        raise Unsupported
    out, inside = weight.shape
    return Weight(weight, out, inside, FORMATS[weight.dtype], bias=bias)
