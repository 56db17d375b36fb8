"""Weight-only quantization: matrices in 8 or 4 bits, everything else as it is.

  int8  one scale for each output; levels -127 to 127
  int4  one scale for each 32 inputs of an output; levels -8 to 7, the largest value of a group at -8

Layers of the temporal transformer and of the depth decoder, and their heads, are quantized; embedding tables, norms
and the codec are not (`stored.py` says how one is stored). Scales are bfloat16 numbers, so that casting a model loses
nothing of them. On a CPU the compiled kernels read the quantized weights as they are; elsewhere, and for whole
sequences, a layer widens its weights first.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import AizuchiError
from ..kernels.few import few_rows
from ..kernels.stack import FEW
from ..kernels.weights import INT4, INT8, Weight
from .layers import PerCodebookLinear

KINDS = ("int8", "int4")
VERSION = 1
GROUP, BLOCK = 32, 128  # inputs that share a scale; inputs that are packed together


def check_kind(kind: str) -> str:
    """``kind``, or an AizuchiError that names the known ones."""
    if kind not in KINDS:
        raise AizuchiError(f"there is no quantization {kind!r}: use {' or '.join(KINDS)}")
    return kind


def _bfloat16(scale: Tensor) -> Tensor:
    return scale.to(torch.bfloat16).float()


def to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(..., out, in) -> int8 of the same shape, scales (..., out)."""
    wide = weight.detach().float()
    scale = _bfloat16(wide.abs().amax(-1).clamp(min=1e-30) / 127)
    return (wide / scale[..., None]).round().clamp(-127, 127).to(torch.int8), scale


def to_int4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(..., out, in) -> packed uint8 (..., out, W / 2) and scales (..., out, W / 32), W: ``in`` up to whole blocks.

    In a block of 128 inputs, word l (4 bytes, little endian) holds input (l % 4) * 32 + j * 4 + l // 4 in its nibble j.
    """
    wide = F.pad(weight.detach().float(), (0, -weight.shape[-1] % BLOCK))
    groups = wide.unflatten(-1, (-1, GROUP))
    largest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))[..., 0]
    scale = _bfloat16(largest / -8)
    scale = torch.where(scale == 0, 1.0, scale)
    level = ((groups / scale[..., None]).round().clamp(-8, 7) + 8).to(torch.int64)
    # (..., block, group, j, quarter) -> (..., block, quarter, group, j)
    nibbles = level.flatten(-2).unflatten(-1, (-1, 4, 8, 4)).movedim(-1, -3)
    words = (nibbles << torch.arange(0, 32, 4, device=weight.device)).sum(-1)
    words = torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)
    return words.flatten(-3).contiguous().view(torch.uint8), scale


def from_int4(packed: Tensor, scale: Tensor, in_features: int) -> Tensor:
    """What :meth:`to_int4` packed, as float32 (..., out, in)."""
    words = packed.contiguous().view(torch.int32).long()
    nibbles = (words[..., None] >> torch.arange(0, 32, 4, device=packed.device)) & 15
    level = nibbles.flatten(-2).unflatten(-1, (-1, 4, 4, 8)).movedim(-3, -1).flatten(-4)
    wide = (level - 8).float().unflatten(-1, (-1, GROUP)) * scale.float()[..., None]
    return wide.flatten(-2)[..., :in_features]


class QuantizedLinear(nn.Module):
    """A linear layer without bias whose matrix is quantized; with ``weights``, one for each codebook step.

    Args:
        weights, schedule: as in `PerCodebookLinear`; None for a single matrix.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kind: str,
        weights: int | None = None,
        schedule: list[int] | None = None,
        device: Any = None,
    ):
        super().__init__()
        self.in_features, self.out_features, self.kind = in_features, out_features, check_kind(kind)
        self.weights, self.schedule = weights, schedule
        lead = () if weights is None else (weights,)
        width = -(-in_features // BLOCK) * BLOCK
        shape = (*lead, out_features, in_features if kind == "int8" else width // 2)
        scales = (*lead, out_features) if kind == "int8" else (*lead, out_features, width // GROUP)
        dtype = torch.int8 if kind == "int8" else torch.uint8
        scale_dtype = torch.float32 if kind == "int8" else torch.bfloat16
        self.register_buffer("weight", torch.zeros(shape, dtype=dtype, device=device))
        self.register_buffer("scale", torch.ones(scales, dtype=scale_dtype, device=device))

    @classmethod
    def of(cls, module: Any, kind: str, fill: bool = True) -> QuantizedLinear:
        """A layer as it is after quantization; ``fill`` False leaves its numbers to be loaded."""
        stacked = isinstance(module, PerCodebookLinear)
        weights, schedule = (module.weight.shape[0], module.schedule) if stacked else (None, None)
        out = cls(module.in_features, module.out_features, kind, weights, schedule, module.weight.device)
        if fill:
            weight, scale = (to_int8 if kind == "int8" else to_int4)(module.weight)
            out.weight.copy_(weight)
            out.scale.copy_(scale)
        return out

    def _index(self, step: int) -> int:
        return step if self.schedule is None else self.schedule[step]

    def dequantized(self, dtype: torch.dtype, chosen: list[int] | None = None) -> Tensor:
        """The matrix (out, in), or those ``chosen`` of a stack (chosen, out, in)."""
        weight, scale = (
            (self.weight, self.scale) if chosen is None else (self.weight[chosen], self.scale[chosen])
        )
        if self.kind == "int8":
            return (weight.float() * scale.float()[..., None]).to(dtype)
        return from_int4(weight, scale, self.in_features).to(dtype)

    def kernel_weight(self, index: int = 0) -> Weight:
        """The matrix, of codebook ``index`` where there is one for each, for the library."""
        weight, scale = self.weight, self.scale
        if self.weights is not None:
            weight, scale = weight[self._index(index)], scale[self._index(index)]
        number, kept = (INT8, torch.float32) if self.kind == "int8" else (INT4, torch.bfloat16)
        return Weight(weight, self.out_features, self.in_features, number, scale.to(kept).contiguous())

    def forward(self, x: Tensor, first: int = 0) -> Tensor:
        """As `nn.Linear`, or as `PerCodebookLinear` with x (rows, steps, in) and its ``first`` step."""
        if self.weights is None:
            rows = x.numel() // self.in_features
            few = few_rows(self, x.reshape(rows, -1)) if rows <= FEW else None
            if few is not None:
                return few.view(*x.shape[:-1], self.out_features)
            return F.linear(x, self.dequantized(x.dtype))
        weight = self.dequantized(x.dtype, [self._index(first + step) for step in range(x.shape[1])])
        return torch.bmm(x.transpose(0, 1), weight.transpose(1, 2)).transpose(0, 1)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.kind}, weights={self.weights}"


def quantize_model(model: Any, kind: str, fill: bool = True) -> Any:
    """Quantize the language model's layers in place, one at a time; returns the model.

    Args:
        model: `MoshiForConditionalGeneration`. kind: int8 or int4.
        fill: False only makes room for quantized weights that are to be loaded.
    Raises:
        AizuchiError: an unknown kind, or a model that is quantized already.
    """
    check_kind(kind)
    if fill and getattr(model.config, "aizuchi_quantization", None):
        raise AizuchiError("this model is quantized already")
    for part in (model.decoder, model.depth_decoder):
        if part is not None:
            quantize_layers(part, kind, fill)
    model.config.aizuchi_quantization = {"version": VERSION, "kind": kind}
    return model


def dequantize_model(model: Any) -> Any:
    """Put plain float32 layers in place of quantized ones, such as a model needs that is to be trained, whose
    quantized matrices would stay what they are; returns the model. One that is not quantized is left alone.
    """
    if not getattr(model.config, "aizuchi_quantization", None):
        return model
    widen_layers(model)
    model.config.aizuchi_quantization = None
    return model


def quantize_layers(part: nn.Module, kind: str, fill: bool) -> None:
    """Put quantized layers in place of a module's plain ones."""
    for parent in list(part.modules()):
        for name, child in list(parent.named_children()):
            plain = type(child) is nn.Linear and child.bias is None and not _is_table(parent)
            if plain or isinstance(child, PerCodebookLinear):
                setattr(parent, name, QuantizedLinear.of(child, kind, fill))


def widen_layers(part: nn.Module) -> None:
    """Put plain float32 layers in place of a module's quantized ones."""
    for parent in list(part.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, QuantizedLinear):
                plain: Any
                with torch.device(child.weight.device):
                    if child.weights is None:
                        plain = nn.Linear(child.in_features, child.out_features, bias=False)
                    else:
                        plain = PerCodebookLinear(
                            child.in_features, child.out_features, child.weights, child.schedule
                        )
                with torch.no_grad():
                    plain.weight.copy_(child.dequantized(torch.float32))
                setattr(parent, name, plain.train(child.training))


def _is_table(module: nn.Module) -> bool:
    return isinstance(module, nn.Embedding)  # its low-rank part is read a row at a time


def check_version(said: dict[str, Any]) -> None:
    """AizuchiError unless what a configuration says of quantized weights is of this format."""
    if said.get("version") != VERSION:
        raise AizuchiError(
            f"these weights are quantized in format {said.get('version')}, this is aizuchi for format {VERSION}"
        )
