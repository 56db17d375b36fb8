"""Writing files of tensors from parts that are made one at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor
from tqdm import tqdm

from .tensors import Shape, write_safetensors

INDEX = "model.safetensors.index.json"
Bar: TypeAlias = tqdm
Entries = dict[str, tuple[torch.dtype, Shape]]
# What tensors a part has, and how to make them: each is let go of before the next.
Part = tuple[Entries, Callable[[], Iterator[tuple[str, Tensor]]]]


def constant(name: str, value: Tensor) -> Part:
    """A part that is one tensor, already made."""
    return {name: (value.dtype, tuple(value.shape))}, lambda: iter([(name, value)])


def write_shards(out: Path, parts: list[Part], shard_bytes: int, bar: Bar) -> None:
    """model.safetensors, or shards of it with their index."""
    shards: list[list[Part]] = [[]]
    filled = 0
    for part in parts:
        size = count_bytes(part[0])
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(part)
        filled += size
    bar.reset(total=sum(count_bytes(entries) for entries, _ in parts))
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = (
            "model.safetensors"
            if len(shards) == 1
            else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        )
        write_file(out / name, shard, bar)
        index |= {key: name for entries, _ in shard for key in entries}
    if len(shards) > 1:
        content = {"metadata": {"total_size": bar.total}, "weight_map": dict(sorted(index.items()))}
        write_json(out / INDEX, content)


def write_file(path: Path, parts: list[Part], bar: Bar) -> None:
    """One safetensors file."""
    entries = {name: entry for some, _ in parts for name, entry in some.items()}
    tensors = (item for _, make in parts for item in make())
    write_safetensors(path, entries, tensors, {"format": "pt"}, bar.update)


def count_bytes(entries: Entries) -> int:
    """Size of the data."""
    return sum(dtype.itemsize * torch.Size(shape).numel() for dtype, shape in entries.values())


def write_json(path: Path, content: Any) -> None:
    """JSON for people: indented, in UTF-8."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
