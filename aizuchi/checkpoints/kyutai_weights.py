"""A file of the original's language model, seen in its released form whatever form it was saved in.

Released files pack attention in ``in_proj_weight`` and ``out_proj.weight``; today's `moshi` package saves
``in_projs.{i}.weight`` and ``out_projs.{i}.weight``. Training wraps the weights in ``best_state``, int8 files keep
a scale for each row beside a weight, LoRA files hold what is to be added. All of this is undone while reading, one
tensor at a time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .moshi_layout import Group
from .tensors import CheckpointError, Shape, TensorSource

_WRAPPERS = ("best_state.", "fsdp_best_state.model.", "fsdp_best_state.", "model.")
_SPLIT = re.compile(r"(.*_att(?:n|ention))\.(in|out)_projs\.(\d+)\.weight")
_STEP = re.compile(r"^(linears\.|depformer_in\.|depformer_emb\.|depformer\..*\.gating\.)(\d+)")
_LORA = re.compile(r"(.*)\.lora_([AB])\.weight")


@dataclass
class _Entry:
    """A released tensor: the names of its blocks in the file, of their scales, and of its LoRA matrices."""

    blocks: dict[int, str] = field(default_factory=dict)
    scales: dict[int, str] = field(default_factory=dict)
    lora: dict[int, dict[str, str]] = field(default_factory=dict)
    shape: Shape = ()


def _canonical(name: str) -> tuple[str, int, str]:
    """(released name of the tensor, index of the block in it, "" or "scb" or "A" or "B")."""
    role = ""
    if name.endswith("_scb"):
        name, role = name.removesuffix("_scb"), "scb"
    if match := _LORA.fullmatch(name):
        name, role = f"{match[1]}.weight", match[2]
    block = 0
    if match := _SPLIT.fullmatch(name):
        name, block = f"{match[1]}.{match[2]}_proj.weight", int(match[3])
    if name.endswith(("_attn.in_proj.weight", "_attention.in_proj.weight")):
        name = name.removesuffix(".weight") + "_weight"
    return name, block, role


class KyutaiWeights:
    """Tensors under released names; reading undoes packing, quantization and LoRA.

    Args:
        source: the model's file.
        lora: a file of ``lora_A`` and ``lora_B`` matrices to be merged: W + scaling * B @ A.

    Attributes:
        shapes: released name -> shape.
        split: whether the file holds ``in_projs.{i}.weight`` rather than ``in_proj_weight``.
    """

    def __init__(self, source: TensorSource, lora: TensorSource | None = None, lora_scaling: float = 2.0):
        self.label = source.label
        self.lora_scaling = lora_scaling
        self._source, self._lora = source, lora
        self._aliases: dict[str, str] = {}
        self._repeats: dict[str, int] = {}
        self._entries: dict[str, _Entry] = {}
        self.split = any(_SPLIT.fullmatch(name) for name in source.infos)
        prefix = _wrapper(source.infos)
        for name in source.infos:
            released, block, role = _canonical(name.removeprefix(prefix))
            if not role:
                self._entries.setdefault(released, _Entry()).blocks[block] = name
        self._attach(source, prefix)
        if lora is not None:
            self._attach(lora, _wrapper(lora.infos))
        for released, entry in self._entries.items():
            entry.shape = self._shape(released, entry)
        self.shapes: dict[str, Shape] = {name: entry.shape for name, entry in self._entries.items()}

    @property
    def quantized(self) -> bool:
        """Whether weights are int8 with a scale for each row."""
        return any(entry.scales for entry in self._entries.values())

    @property
    def depth_steps(self) -> int:
        """Codebooks that the weights have depth steps for."""
        return sum(name.startswith("linears.") for name in self.shapes)

    @property
    def extra_heads(self) -> tuple[int, int] | None:
        """(number, width) of the extra heads, None without any."""
        heads = [shape for name, shape in self.shapes.items() if name.startswith("extra_heads.")]
        return (len(heads), heads[0][0]) if heads else None

    def bytes(self, name: str) -> int:
        """Size of a tensor as it is read."""
        return math.prod(self.shapes[name]) * self.dtype(name).itemsize

    def dtype(self, name: str) -> torch.dtype:
        """What `read` gives: the file's, bfloat16 where it is int8."""
        entry = self._entry(name)
        return torch.bfloat16 if entry.scales else self._source.infos[entry.blocks[0]].dtype

    def fill_depth_steps(self, groups: Iterable[Group]) -> None:
        """Where a file holds 8 of 16 depth steps, let 8 to 15 be copies of 0 to 7 (PersonaPlex does so)."""
        for expected, shape in [item for group in groups for item in group.theirs.items()]:
            found = self.shapes.get(expected)
            if found is None:
                alias = _STEP.sub(lambda match: f"{match[1]}{int(match[2]) - 8}", expected)
                if alias in self.shapes and alias != expected:
                    self._aliases[expected] = alias
                    self.shapes[expected] = self.shapes[alias]
            elif expected.startswith("depformer.") and ".self_attn." in expected and 2 * found[0] == shape[0]:
                self._repeats[expected] = 2
                self.shapes[expected] = shape

    def check(self, groups: list[Group]) -> None:
        """Refuse a file that is not what a configuration says.

        Raises:
            CheckpointError: the first tensor that is missing, too much, or of another shape, and how many are.
        """
        expected = {name: shape for group in groups for name, shape in group.theirs.items()}
        if not expected.keys() & self.shapes.keys():
            some = next(iter(self.shapes), None)
            raise CheckpointError(
                f"{self.label} is no Moshi language model: none of the {len(expected)} tensors is there, such as "
                f"'text_emb.weight'; it holds {'nothing' if some is None else f'{some!r} {self.shapes[some]}'}"
            )
        wrong = [name for name in expected if name in self.shapes and self.shapes[name] != expected[name]]
        if wrong:
            raise CheckpointError(
                f"{self.label}: {wrong[0]!r} has shape {self.shapes[wrong[0]]}, the configuration expects "
                f"{expected[wrong[0]]} ({len(wrong)} of {len(expected)} tensors differ)"
            )
        if missing := [name for name in expected if name not in self.shapes]:
            raise CheckpointError(
                f"{self.label} lacks {missing[0]!r} of shape {expected[missing[0]]} "
                f"({len(missing)} of {len(expected)} tensors are missing)"
            )
        if more := [name for name in self.shapes if name not in expected]:
            raise CheckpointError(
                f"{self.label} holds {more[0]!r} of shape {self.shapes[more[0]]}, which the configuration has no "
                f"place for ({len(more)} such tensors)"
            )

    def read(self, name: str) -> Tensor:
        """One tensor under its released name, in memory of its own."""
        entry = self._entry(name)
        blocks = [self._read_block(entry, i) for i in range(len(entry.blocks))]
        tensor = blocks[0] if len(blocks) == 1 else torch.cat(blocks)
        if entry.lora:
            tensor = self._merge(tensor, entry)
        repeats = self._repeats.get(name, 1)
        return tensor if repeats == 1 else torch.cat([tensor] * repeats)

    def _entry(self, name: str) -> _Entry:
        return self._entries[self._aliases.get(name, name)]

    def _read_block(self, entry: _Entry, index: int) -> Tensor:
        tensor = self._source.read(entry.blocks[index])
        if index not in entry.scales:
            return tensor
        # bitsandbytes' row-wise absmax: 127 stands for the largest value of the row.
        scale = self._source.read(entry.scales[index]).float().reshape(-1, 1)
        return (tensor.float() * (scale / 127)).to(torch.bfloat16)

    def _merge(self, tensor: Tensor, entry: _Entry) -> Tensor:
        """W + scaling * B @ A, computed in float32."""
        lora = self._lora or self._source
        downs = [lora.read(entry.lora[i]["A"]).float() for i in sorted(entry.lora)]
        ups = [lora.read(entry.lora[i]["B"]).float() for i in sorted(entry.lora)]
        if len(downs) == 1:  # depth steps may be packed: (steps * rank, in) and (steps * out, rank)
            steps = downs[0].shape[0] // ups[0].shape[1]
            downs, ups = list(downs[0].chunk(steps)), list(ups[0].chunk(steps))
        update = torch.cat([up @ down for up, down in zip(ups, downs, strict=True)])
        if update.shape != tensor.shape:
            name = entry.lora[min(entry.lora)]["B"]
            raise CheckpointError(
                f"{lora.label}: {name!r} gives a change of shape {tuple(update.shape)} for a weight of shape "
                f"{tuple(tensor.shape)}"
            )
        return (tensor.float() + self.lora_scaling * update).to(tensor.dtype)

    def _attach(self, source: TensorSource, prefix: str) -> None:
        """Find the scales and the LoRA matrices that belong to the weights."""
        touched: list[tuple[str, dict[str, str]]] = []
        for name, info in source.infos.items():
            released, block, role = _canonical(name.removeprefix(prefix))
            if not role:
                if source is self._lora:
                    raise CheckpointError(f"{source.label}: {name!r} is no LoRA matrix (lora_A, lora_B)")
                continue
            entry = self._entries.get(released)
            if entry is None or (role == "scb" and block not in entry.blocks):
                raise CheckpointError(f"{source.label}: {name!r} of shape {info.shape} belongs to no weight")
            if role == "scb":
                entry.scales[block] = name
            else:
                pair = entry.lora.setdefault(block, {})
                pair[role] = name
                touched.append((name, pair))
        for name, pair in touched:
            if len(pair) != 2:
                raise CheckpointError(f"{source.label}: {name!r} lacks its other half")

    def _shape(self, released: str, entry: _Entry) -> Shape:
        infos = [self._source.infos[name] for _, name in sorted(entry.blocks.items())]
        for block, name in entry.blocks.items():
            if self._source.infos[name].dtype == torch.int8 and block not in entry.scales:
                raise CheckpointError(
                    f"{self.label}: {name!r} is int8 and its scale {name + '_scb'!r} is missing"
                )
        alike = all((info.shape, info.dtype) == (infos[0].shape, infos[0].dtype) for info in infos)
        if sorted(entry.blocks) != list(range(len(infos))) or not alike:
            parts = {name: self._source.infos[name].shape for name in entry.blocks.values()}
            raise CheckpointError(f"{self.label}: the parts of {released!r} don't fit together: {parts}")
        return infos[0].shape if len(infos) == 1 else (sum(i.shape[0] for i in infos), *infos[0].shape[1:])


def _wrapper(names: Iterable[str]) -> str:
    """The prefix under which training scripts put the weights, "" for none."""
    names = list(names)
    return next((p for p in _WRAPPERS if names and all(name.startswith(p) for name in names)), "")
