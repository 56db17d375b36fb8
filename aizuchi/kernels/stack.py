"""A transformer's layers in one call: what `stack.h` runs, built from the modules whose inside it is."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor, nn

from .library import Library, load
from .weights import BF16, F32, FORMATS, Keeper, LinearStruct, TableStruct, Unsupported

# Up to this many positions (rows x length) a product with a matrix is bound by reading the matrix.
FEW = 64


class NormStruct(ctypes.Structure):
    """`Norm` of stack.h."""

    _fields_ = [("weight", ctypes.c_void_p), ("bias", ctypes.c_void_p), ("eps", ctypes.c_double)]


class LayerStruct(ctypes.Structure):
    """`Layer` of stack.h."""

    _fields_ = [
        *[(name, NormStruct) for name in ("first", "second")],
        *[(name, LinearStruct) for name in ("query", "key", "value", "out", "up", "down")],
        ("attention_scale", ctypes.c_void_p),
        ("mlp_scale", ctypes.c_void_p),
    ]


class StackStruct(ctypes.Structure):
    """`Stack` of stack.h."""

    _fields_ = [
        ("layers", ctypes.c_void_p),
        ("last", ctypes.c_void_p),
        ("frequencies", ctypes.c_void_p),
        *[(name, ctypes.c_int64) for name in ("count", "dim", "heads", "kv_heads", "head_dim", "gated")],
    ]


class StepStruct(ctypes.Structure):
    """`Step` of library.cpp."""

    _fields_ = [
        ("table", TableStruct),
        ("projection", LinearStruct),
        ("stack", StackStruct),
        ("head", LinearStruct),
    ]


class PastStruct(ctypes.Structure):
    """`Past` of stack.h."""

    _fields_ = [
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("format", ctypes.c_int64),
        ("positions", ctypes.c_void_p),
        ("offset", ctypes.c_void_p),
        *[(name, ctypes.c_int64) for name in ("rows", "capacity", "window", "kept")],
    ]


class Past(Keeper):
    """Keys and values of a state's tensors, each of a layer (rows, kv_heads, capacity, head_dim)."""

    def __init__(
        self,
        keys: list[Tensor],
        values: list[Tensor],
        positions: Tensor | None = None,
        offset: Tensor | None = None,
        window: int = 0,
        kept: int = 0,
    ):
        super().__init__()
        rows, _, capacity, _ = keys[0].shape
        if keys[0].dtype not in FORMATS:
            raise Unsupported
        addresses = [
            self.array(ctypes.c_void_p, [self.pointer(tensor) for tensor in tensors])
            for tensors in (keys, values)
        ]
        self.rows = rows
        self.struct = PastStruct(
            *map(ctypes.addressof, addresses),
            FORMATS[keys[0].dtype],
            self.pointer(positions),
            self.pointer(offset),
            rows,
            capacity,
            window,
            kept,
        )
        self.address = ctypes.addressof(self.struct)


class Layers(Keeper):
    """Layers that the library runs.

    Args:
        sizes: heads, kv_heads, head_dim. gated: whether the feed-forward is.
        frequencies: of the rotary embedding, None for no positions.
    """

    def __init__(
        self,
        dim: int,
        sizes: tuple[int, int, int],
        gated: bool,
        frequencies: Tensor | None,
        last: nn.Module | None,
    ):
        super().__init__()
        library = load()
        if library is None:
            raise Unsupported
        self.library: Library = library
        self.dim, self.sizes, self.gated = dim, sizes, gated
        self.frequencies = self.floats(frequencies)
        self.last = None if last is None else self.keep(self.norm(last))

    def norm(self, module: nn.Module) -> NormStruct:
        """A norm of models/layers.py, or torch's layer norm."""
        if module._forward_hooks or module._forward_pre_hooks:
            raise Unsupported
        bias = getattr(module, "bias", None)
        if isinstance(module, nn.LayerNorm) and bias is None:
            raise Unsupported
        return NormStruct(self.floats(module.weight), self.floats(bias), module.eps)

    def stack(self, layers: list[LayerStruct]) -> StackStruct:
        """The structure of these layers and all that they share."""
        array = self.array(LayerStruct, layers)
        last = None if self.last is None else ctypes.addressof(self.last)
        return StackStruct(
            ctypes.addressof(array),
            last,
            self.frequencies,
            len(layers),
            self.dim,
            *self.sizes,
            int(self.gated),
        )


class FusedStack(Layers):
    """Layers over rings: a few positions of every row at a time."""

    def build(self, layers: list[LayerStruct]) -> FusedStack:
        """Take the layers; returns itself."""
        self.struct = self.stack(layers)
        self.address = ctypes.addressof(self.struct)
        return self

    def run(self, x: Tensor, past: Past, active: Tensor | None) -> Tensor:
        """x (rows, length, dim) -> the same of the last layer, normed; float32 inside."""
        wide = x.float().contiguous()
        out = torch.empty_like(wide)
        self.library.stack(
            self.address,
            past.address,
            None if active is None else active.data_ptr(),
            x.shape[1],
            wide.data_ptr(),
            out.data_ptr(),
            torch.get_num_threads(),
        )
        return out.to(x.dtype)


class FusedDepth(Layers):
    """The steps of a frame, each with a table, a projection, layers and a head of its own."""

    def build(
        self, steps: list[tuple[TableStruct, LinearStruct, list[LayerStruct], LinearStruct]]
    ) -> FusedDepth:
        """Take the parts of every step; returns itself."""
        self.steps = [
            self.keep(StepStruct(table, projection, self.stack(layers), head))
            for table, projection, layers, head in steps
        ]
        self.addresses = [ctypes.addressof(step) for step in self.steps]
        return self

    def step(self, index: int, token: Tensor, hidden: Tensor, past: Past) -> Tensor:
        """token (rows,), hidden (rows, input_size) float32 -> logits (rows, A) float32."""
        logits = torch.empty(past.rows, self.steps[index].head.out_features)
        token = token.contiguous()
        self.library.depth_step(
            self.addresses[index],
            past.address,
            index,
            token.data_ptr(),
            hidden.data_ptr(),
            logits.data_ptr(),
            torch.get_num_threads(),
        )
        return logits


def wanted() -> bool:
    """Whether the library may compute now: it gives no gradients, and compilers can't see into it."""
    return not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def try_fused(build: Any, *args: Any) -> Any:
    """What ``build`` makes, or None where the library is absent or does not know a part."""
    try:
        return build(*args)
    except Unsupported:
        return None


__all__ = [
    "BF16",
    "F32",
    "FEW",
    "FusedDepth",
    "FusedStack",
    "LayerStruct",
    "Layers",
    "Past",
    "try_fused",
    "wanted",
]
