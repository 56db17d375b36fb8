"""A row on disk: everything a conversation is, in one safetensors file, to go on elsewhere bit for bit.

The file carries a format version and a fingerprint of the model's configuration, and is refused where either is
not known. It fits any row of an engine with the same number of rows: a batched matmul is bit-equal only then.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import AizuchiError
from ..files import atomic_path
from .duplex import DuplexEngine

FORMAT = "aizuchi-row"
VERSION = 1
# Fields of a configuration that say nothing about the numbers.
_NEUTRAL = {"transformers_version", "_name_or_path", "name_or_path", "architectures", "torch_dtype", "dtype"}


def fingerprint(config: Any) -> str:
    """A digest of a configuration's fields, nested ones included."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in sorted(value.items()) if key not in _NEUTRAL}
        return value

    return hashlib.sha256(
        json.dumps(plain(config.to_dict()), sort_keys=True, default=str).encode()
    ).hexdigest()


def export_row(engine: DuplexEngine, row: int) -> dict[str, Tensor]:
    """What row ``row`` holds, by name, as copies."""
    engine.check_row(row, joined=True)
    _check_unguided(engine)
    return engine.state.export_row(row)


def import_row(engine: DuplexEngine, row: int, tensors: dict[str, Tensor]) -> None:
    """Let ``row``, which must be free, go on where the exported row was."""
    if engine.joined[row]:
        raise AizuchiError(f"row {row} is taken: leave it first")
    _check_unguided(engine)
    engine.state.import_row(row, tensors)
    engine.adopt(row)


def _check_unguided(engine: DuplexEngine) -> None:
    if engine.loop.guidance is not None:
        raise AizuchiError("a guided row can't be kept: its unconditional half is not part of it")


def save_row(engine: DuplexEngine, row: int, path: str | os.PathLike[str]) -> None:
    """Write a row's whole state to ``path``, atomically."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in export_row(engine, row).items()}
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "model": fingerprint(engine.config),
        "rows": str(engine.rows),
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata)


def load_row(engine: DuplexEngine, row: int, path: str | os.PathLike[str]) -> None:
    """Read a row that `save_row` wrote into a free row.

    Raises:
        AizuchiError: not such a file, another version, model or number of rows; nothing is changed then.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            _check(metadata, engine, path)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError as error:
        raise AizuchiError(f"{path} does not exist") from error
    except SafetensorError as error:
        raise AizuchiError(f"{path} is damaged or no safetensors file ({error})") from error
    device = engine.model.device
    try:
        import_row(engine, row, {name: tensor.to(device) for name, tensor in tensors.items()})
    except ValueError as error:
        raise AizuchiError(f"{path} does not fit this engine: {error}") from error


def _check(metadata: dict[str, str], engine: DuplexEngine, path: Any) -> None:
    if metadata.get("format") != FORMAT:
        raise AizuchiError(f"{path} is no snapshot of a row")
    if metadata.get("version") != str(VERSION):
        raise AizuchiError(
            f"{path} has version {metadata.get('version')}, this is aizuchi for version {VERSION}"
        )
    if metadata.get("model") != fingerprint(engine.config):
        raise AizuchiError(f"{path} is from a model with another configuration")
    if metadata.get("rows") != str(engine.rows):
        raise AizuchiError(
            f"{path} is from an engine of {metadata.get('rows')} rows, this one has {engine.rows}: results are "
            "bit-identical for a fixed number of rows only"
        )
