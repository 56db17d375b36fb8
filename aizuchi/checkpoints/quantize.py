"""A checkpoint with quantized weights, made ahead of time: transformers' layout, `quantized.VERSION` in config.json."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path
from typing import Any

from ..models.quantized import check_kind, quantize_model
from .convert import check_target, put
from .load import load
from .tokenizer import save_tokenizer


def quantize(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    kind: str,
    force: bool = False,
    **options: Any,
) -> Path:
    """Write ``source`` with its language model in int8 or int4.

    Args:
        source, options: as for `load`. target: the folder to make. kind: "int8" or "int4".
        force: take the place of an existing checkpoint.
    Returns:
        the folder
    Raises:
        AizuchiError: an unknown kind, or weights that are quantized already.
        CheckpointError: the source is not whole; nothing is written then.
    """
    check_kind(kind)
    target = Path(os.path.abspath(os.path.expanduser(target)))
    check_target(target, force)
    loaded = load(source, **options)
    model = quantize_model(loaded.model, kind)
    temporary = target.with_name(f".{target.name}.tmp.{secrets.token_hex(4)}")
    temporary.mkdir(parents=True)
    try:
        model.save_pretrained(temporary)
        loaded.feature_extractor.save_pretrained(temporary)
        if loaded.checkpoint.tokenizer is not None:
            save_tokenizer(loaded.checkpoint.tokenizer, temporary)
        put(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target
