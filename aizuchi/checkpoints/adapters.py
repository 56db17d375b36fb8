"""A folder of LoRA adapters: `adapter.safetensors`, and `adapter.json`: how they are made, and for which model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..models.adapters import add_adapters, load_trained
from .tensors import CheckpointError

ADAPTER = "adapter.safetensors"
SETTINGS = "adapter.json"
FORMAT_VERSION = 1


def load_adapters(model: Any, folder: str | Path) -> None:
    """Put the adapters of a folder into their base model, as `add_adapters` does."""
    from safetensors.torch import load_file

    settings = read_settings(folder)
    add_adapters(model, settings["rank"], settings["scale"], settings["dropout"], settings["embeddings"])
    load_trained(model, load_file(Path(folder) / ADAPTER))


def read_settings(folder: str | Path) -> dict[str, Any]:
    """What a folder of adapters says of itself."""
    try:
        settings = json.loads((Path(folder) / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} is no folder of LoRA adapters ({error})") from error
    if settings.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder} has format version {settings.get('format_version')}; this aizuchi knows {FORMAT_VERSION}"
        )
    return settings


def refuse_adapters(path: Path) -> None:
    """A CheckpointError where a folder holds adapters and a model is needed."""
    if (path / SETTINGS).is_file():
        raise CheckpointError(
            f"{path} holds LoRA adapters and no model: commands take them as they are; for `from_pretrained` "
            f"`aizuchi train merge {path} OUTPUT` merges them into their model"
        )


def find_base(folder: Path, find: Callable[[str], Any]) -> Any:
    """What ``find`` gives for the model that a folder of adapters is for."""
    base = read_settings(folder)["base"]
    merge = f"`aizuchi train merge {folder} OUTPUT --base MODEL` makes a model of them and a base that lies elsewhere"
    if base is None:
        raise CheckpointError(f"{folder} holds LoRA adapters and does not say for which model: {merge}")
    try:
        found = find(base)
    except CheckpointError as error:
        raise CheckpointError(f"{folder} holds LoRA adapters for {base} ({error}): {merge}") from error
    found.adapters = folder
    found.tokenizer = own_tokenizer(folder) or found.tokenizer
    return found


def own_tokenizer(folder: Path) -> Path | None:
    """The tokenizer that lies beside adapters."""
    if (folder / "tokenizer.json").is_file():
        return folder
    files = sorted(folder.glob("*.model"))
    return files[0] if len(files) == 1 else None
