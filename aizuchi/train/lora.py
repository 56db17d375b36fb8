"""What training adds to LoRA adapters (`aizuchi.models.adapters`): their state, their files, and merging those."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from aizuchi.checkpoints.adapters import (
    ADAPTER,
    FORMAT_VERSION,
    SETTINGS,
    load_adapters,
    own_tokenizer,
    read_settings,
)
from aizuchi.errors import AizuchiError
from aizuchi.models.adapters import merge_adapters, trained


def adapter_state(model: Any) -> dict[str, Tensor]:
    """What is trained, on the CPU."""
    return {name: p.detach().cpu().contiguous() for name, p in trained(model)}


def save_adapters(
    model: Any, folder: str | Path, base: str | None = None, state: dict[str, Tensor] | None = None
) -> None:
    """Write the adapters (``state``, by default the model's own) to a folder; ``base`` is where their model lies."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(adapter_state(model) if state is None else state, folder / ADAPTER)
    settings = {"format_version": FORMAT_VERSION, "base": base, **model.lora_settings}
    (folder / SETTINGS).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def merge_folder(adapter: str | Path, output: str | Path, base: str | None = None) -> Path:
    """Merge a folder of adapters into its base model and write that, in its dtype; see `aizuchi train merge`."""
    from aizuchi.models.moshi import MoshiForConditionalGeneration

    from .checkpoints import save_model
    from .start import KeptTokenizer, find_tokenizer_files, pretrained

    base = base or read_settings(adapter)["base"]
    if base is None:
        raise AizuchiError(f"{adapter} does not say which model it adapts: give --base")
    model = pretrained(MoshiForConditionalGeneration, base, "base", "auto")
    load_adapters(model, adapter)
    target = Path(output)
    save_model(merge_adapters(model), target)
    kept = own_tokenizer(Path(adapter)) or find_tokenizer_files(base)
    if kept is not None:
        KeptTokenizer(kept, None).save(target)
    return target
