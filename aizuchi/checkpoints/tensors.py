"""Tensors in files, one at a time: safetensors (one file or shards) and PyTorch pickles, read and written.

The files are read by position into memory of the tensor's own. A memory map would be shorter, but its touched
pages count as the process's memory until the file is closed, and a tensor that is a view of the map lives in a
file that someone may overwrite. Writing knows all names and shapes in advance and never holds two tensors.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
from torch import Tensor

from aizuchi.errors import AizuchiError

Shape = tuple[int, ...]
Note = Callable[[int], Any]  # told how many bytes were moved, for a progress bar

# In the order in which the safetensors library lays tensors out: the last first, then by name.
DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
    "U64": torch.uint64,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_RANK = {dtype: rank for rank, dtype in enumerate(DTYPES.values())}
_MAX_HEADER = 100_000_000  # the limit of the safetensors library
_BLOCK = 64 << 20


class CheckpointError(AizuchiError):
    """A checkpoint can't be used; the message names the file, and the key and shape where there are any."""


@dataclass(frozen=True)
class TensorInfo:
    """What a header says about a tensor: ``start`` and ``end`` are positions in ``file``."""

    shape: Shape
    dtype: torch.dtype
    file: Path
    start: int = 0
    end: int = 0

    @property
    def bytes(self) -> int:
        """Size of the tensor's data."""
        return math.prod(self.shape) * self.dtype.itemsize


class TensorSource(Protocol):
    """Named tensors that can be read one by one."""

    label: str
    infos: dict[str, TensorInfo]

    def read(self, name: str) -> Tensor:
        """One tensor, in memory of its own."""


class SafetensorsFiles:
    """The tensors of one safetensors file, or of the shards of one checkpoint.

    Raises:
        CheckpointError: a file is missing, is no safetensors file or is cut off (the message names the first
            tensor that isn't wholly there), or two files hold the same tensor.
    """

    def __init__(self, paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]):
        if isinstance(paths, (str, os.PathLike)):
            paths = [paths]
        self.paths = [Path(path) for path in paths]
        self.label = (
            str(self.paths[0]) if len(self.paths) == 1 else f"{self.paths[0].parent} ({len(paths)} files)"
        )
        self.infos: dict[str, TensorInfo] = {}
        self.metadata: dict[str, str] = {}
        for path in self.paths:
            infos, metadata = read_header(path)
            if twice := sorted(infos.keys() & self.infos.keys()):
                raise CheckpointError(f"{path}: {twice[0]!r} is in {self.infos[twice[0]].file} too")
            self.infos |= infos
            self.metadata |= metadata

    def read(self, name: str) -> Tensor:
        """One tensor, in memory of its own."""
        info = self.infos[name]
        tensor = torch.empty(info.shape, dtype=info.dtype)
        if tensor.numel():
            view = memoryview(tensor.reshape(-1).view(torch.uint8).numpy())
            with open(info.file, "rb", buffering=0) as file:
                file.seek(info.start)
                done = 0
                while done < len(view):
                    count = file.readinto(view[done : done + _BLOCK])
                    if not count:
                        raise CheckpointError(f"{info.file} ends inside {name!r} of shape {info.shape}")
                    done += count
        return tensor


class PickleFile:
    """The tensors of a PyTorch pickle, as training scripts write them; nothing but tensors is unpickled.

    The dictionaries that wrap the weights (``best_state``, ``fsdp_best_state``, ``model``) are taken off.
    """

    _WRAPPERS = ("best_state", "fsdp_best_state", "model", "state_dict")

    def __init__(self, path: str | os.PathLike[str]):
        self.label = str(path)
        try:
            content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        except Exception as error:  # the unpickler raises whatever the bytes make it raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(
                f"{path} can't be read as a PyTorch checkpoint of plain tensors: {reason}"
            ) from error
        while isinstance(content, Mapping):
            wrapper = next((w for w in self._WRAPPERS if isinstance(content.get(w), Mapping)), None)
            if wrapper is None:
                break
            content = content[wrapper]
        if not isinstance(content, Mapping):
            raise CheckpointError(f"{path} holds a {type(content).__name__}, not named tensors")
        self._tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
        path = Path(path)
        self.infos = {n: TensorInfo(tuple(t.shape), t.dtype, path) for n, t in self._tensors.items()}

    def read(self, name: str) -> Tensor:
        """One tensor, in memory of its own."""
        return self._tensors[name].detach().clone()


def open_tensors(path: str | os.PathLike[str]) -> TensorSource:
    """A file of tensors by its suffix: PyTorch's (.pt, .pth, .th, .bin) or else safetensors."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist" if not path.exists() else f"{path} is not a file")
    return PickleFile(path) if path.suffix in (".pt", ".pth", ".th", ".bin") else SafetensorsFiles(path)


def read_header(path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Names, shapes, dtypes and places of a safetensors file's tensors, and its metadata.

    Raises:
        CheckpointError: it is missing, no safetensors file, or shorter than its header says.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist")
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= _MAX_HEADER:
            raise CheckpointError(f"{path} is not a safetensors file{_what_else(start, size)}")
        raw = file.read(length)
    if len(raw) < length:
        raise CheckpointError(
            f"{path} is cut off inside its header ({size:,} bytes): download or copy it again"
        )
    try:
        header = json.loads(raw)
        metadata = header.pop("__metadata__", None) or {}
        infos = {name: _info(entry, path, 8 + length) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is not a safetensors file: its header can't be read ({error})"
        ) from error
    for name, info in infos.items():
        if info.end - info.start != info.bytes or info.start < 8 + length:
            raise CheckpointError(
                f"{path}: {name!r} of shape {info.shape} needs {info.bytes:,} bytes, its place has "
                f"{info.end - info.start:,}: the file is damaged"
            )
    by_end = sorted(infos.items(), key=lambda item: item[1].end)
    lost = sum(info.end > size for info in infos.values())
    for name, info in by_end:
        if info.end > size:
            raise CheckpointError(
                f"{path} is cut off: {name!r} of shape {info.shape} ends at byte {info.end:,}, the file has {size:,}; "
                f"{lost} of {len(infos)} tensors are affected. Download or copy it again"
            )
    return infos, metadata


def _info(entry: dict[str, Any], path: Path, offset: int) -> TensorInfo:
    start, end = entry["data_offsets"]
    return TensorInfo(tuple(entry["shape"]), DTYPES[entry["dtype"]], path, offset + start, offset + end)


def _what_else(start: bytes, size: int) -> str:
    if size == 0:
        return ": it is empty"
    if start.startswith(b"version "):
        return ": it is a Git LFS pointer, the weights themselves were not fetched (git lfs pull)"
    if start.startswith(b"GGUF"):
        return " but GGUF, which is not supported"
    return ""


def write_safetensors(
    path: str | os.PathLike[str],
    entries: Mapping[str, tuple[torch.dtype, Shape]],
    tensors: Iterable[tuple[str, Tensor]],
    metadata: Mapping[str, str] | None = None,
    note: Note | None = None,
) -> None:
    """Write a safetensors file from tensors that come one at a time, in any order.

    The bytes are those that `safetensors.torch.save_file` writes for the same tensors and metadata.

    Args:
        entries: dtype and shape of every tensor.
        tensors: all of them; each is let go of before the next is asked for.
    """
    raw, places, size = _header(entries, metadata)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(raw)))
        file.write(raw)
        file.truncate(8 + len(raw) + size)
        for name, tensor in tensors:
            if (tensor.dtype, tuple(tensor.shape)) != (entries[name][0], tuple(entries[name][1])):
                raise RuntimeError(
                    f"{name}: {tensor.dtype} {tuple(tensor.shape)} where {entries[name]} was announced"
                )
            file.seek(8 + len(raw) + places.pop(name))
            _write(file, tensor, note)
        if places:
            raise RuntimeError(
                f"{len(places)} tensors were announced and not written, such as {next(iter(places))}"
            )
        file.flush()
        os.fsync(file.fileno())


def write_hollow(path: str | os.PathLike[str], entries: Mapping[str, tuple[torch.dtype, Shape]]) -> None:
    """A file with a header and a hole where the data would be: enough for whoever reads headers."""
    raw, _, size = _header(entries, None)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + size)


def _header(
    entries: Mapping[str, tuple[torch.dtype, Shape]], metadata: Mapping[str, str] | None
) -> tuple[bytes, dict[str, int], int]:
    """The header's bytes, where each tensor's data begins behind it, and how long the data is."""
    order = sorted(entries, key=lambda name: (-_RANK[entries[name][0]], name))
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    places, position = {}, 0
    for name in order:
        dtype, shape = entries[name]
        size = math.prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": _NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [position, position + size],
        }
        places[name] = position
        position += size
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    return raw, places, position


def _write(file: BinaryIO, tensor: Tensor, note: Note | None) -> None:
    if not tensor.numel():
        return
    data = memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    for start in range(0, len(data), _BLOCK):
        count = file.write(data[start : start + _BLOCK])
        if note is not None:
            note(count)
