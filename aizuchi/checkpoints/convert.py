"""Conversion of whole checkpoints between the original's layout and transformers', both ways and without loss.

No model is built: tensors go from file to file, one group at a time. What one layout has no place for travels along:
the original's config.json inside ours (``kyutai``), transformers' JSON files in the folder ``transformers`` beside
the original's. The result takes its name only when it is complete.
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from .find import find
from .tensors import CheckpointError
from .to_hf import mimi_to_hf, moshi_to_hf, recast_hf
from .to_kyutai import mimi_to_kyutai, moshi_to_kyutai, recast_kyutai

LAYOUTS = ("hf", "kyutai")
SHARD_BYTES = 5 << 30


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    to: str | None = None,
    dtype: torch.dtype | None = None,
    force: bool = False,
    progress: bool = True,
    shard_bytes: int = SHARD_BYTES,
    **options: Any,
) -> Path:
    """Write a checkpoint in the other layout.

    Args:
        source: folder, file or hub repository; a whole model, or a Mimi codec alone.
        target: the folder to make.
        to: "hf" or "kyutai"; None for the one that the source isn't in.
        dtype: of the language model; None keeps every tensor as it is, bit for bit.
        force: take the place of an existing checkpoint.
        shard_bytes: transformers' layout is split into files of about this size.
        options: as for `find` (``mimi``, ``tokenizer``, ``lora``, and the hub's).
    Returns:
        the folder
    Raises:
        CheckpointError: the source is not whole, or something in it can't be expressed; nothing is written then.
    """
    if to is not None and to not in LAYOUTS:
        raise CheckpointError(f"`to` must be one of {', '.join(LAYOUTS)}, got {to!r}")
    target = Path(os.path.abspath(os.path.expanduser(target)))
    check_target(target, force)
    found = find(source, **options)
    if found.adapters is not None:
        raise CheckpointError(
            f"{source} holds LoRA adapters: merge them first (`aizuchi train merge {source} OUTPUT`)"
        )
    to = to or ("hf" if found.layout == "kyutai" else "kyutai")
    if to == found.layout and dtype is None:
        raise CheckpointError(f"{source} is in the layout {to!r} already: give another `to`, or a `dtype`")
    if found.holds == "part":
        raise CheckpointError(
            f"{source} holds a part of a model; only whole models and Mimi codecs are converted"
        )
    write = {
        ("moshi", "kyutai", "hf"): moshi_to_hf,
        ("moshi", "hf", "kyutai"): moshi_to_kyutai,
        ("moshi", "hf", "hf"): recast_hf,
        ("moshi", "kyutai", "kyutai"): recast_kyutai,
        ("mimi", "kyutai", "hf"): mimi_to_hf,
        ("mimi", "hf", "kyutai"): mimi_to_kyutai,
    }.get((found.holds, found.layout, to))
    if write is None:
        raise CheckpointError("a Mimi codec is kept in float32: there is nothing to convert")
    temporary = target.with_name(f".{target.name}.tmp.{secrets.token_hex(4)}")
    temporary.mkdir(parents=True)
    try:
        with tqdm(unit="B", unit_scale=True, desc="converting", disable=None if progress else True) as bar:
            write(found, temporary, dtype, shard_bytes, bar)
        put(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def check_target(target: Path, force: bool) -> None:
    """A CheckpointError where a folder may not be made, or not be replaced."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not force:
        raise CheckpointError(f"{target} exists: give another name, or --force to replace it")
    names = {path.suffix for path in target.iterdir()} if target.is_dir() else set()
    if ".safetensors" not in names:
        raise CheckpointError(f"{target} holds no checkpoint, so it is not replaced: give another name")


def put(temporary: Path, target: Path) -> None:
    """Rename a finished folder to its name; an old one goes only when the new one is in its place."""
    old = None
    if target.exists():
        old = target.with_name(f".{target.name}.old.{secrets.token_hex(4)}")
        os.rename(target, old)
    try:
        os.rename(temporary, target)
    except OSError:
        if old is not None:
            os.rename(old, target)
        raise
    if old is not None:
        shutil.rmtree(old)
