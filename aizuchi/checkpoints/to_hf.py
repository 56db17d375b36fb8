"""The original's layout to transformers': weights, configuration, generation defaults, tokenizer, feature extractor."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models.moshi.configuration import MoshiConfig
from .find import Checkpoint
from .generation_config import generation_config, lm_gen_config, read_lm_gen_config
from .kyutai_config import kyutai_config
from .kyutai_mimi import check_mimi, read_mimi
from .kyutai_mimi_config import mimi_config
from .load import feature_extractor, open_moshi
from .moshi_layout import FLOAT32_PARTS, Group, moshi_groups
from .tensors import SafetensorsFiles, open_tensors
from .tokenizer import save_tokenizer
from .writing import INDEX, Bar, Part, constant, write_json, write_shards

CARRIED_FOLDER = "transformers"  # beside the original's files: what its layout has no place for


def moshi_to_hf(found: Checkpoint, out: Path, dtype: torch.dtype | None, shard_bytes: int, bar: Bar) -> None:
    config, weights = open_moshi(found)
    codec = read_mimi(found.need("mimi"), config.audio_encoder_config)
    check_mimi(found.need("mimi"), codec, config.audio_encoder_config)
    if any(".in_projs." in name for name in open_tensors(found.need("mimi")).infos):
        config.kyutai = {**config.kyutai, "mimi_split": True}
    tokenizer = found.need("tokenizer")
    carried = _carried(found.folder, config)
    parts: list[Part] = []
    for group in moshi_groups(config):
        kept = weights.dtype(next(iter(group.theirs)))
        kind = kept if dtype is None or next(iter(group.ours)).startswith(FLOAT32_PARTS) else dtype

        def make(group: Group = group, kind: torch.dtype = kind) -> Iterator[tuple[str, Tensor]]:
            values = group.to_ours([weights.read(name) for name in group.theirs])
            yield from ((name, value.to(kind)) for name, value in zip(group.ours, values, strict=True))

        parts.append(({name: (kind, shape) for name, shape in group.ours.items()}, make))
    parts += [constant(f"audio_encoder.{name}", value) for name, value in codec.items()]
    write_shards(out, parts, shard_bytes, bar)
    config.architectures = ["MoshiForConditionalGeneration"]
    config.dtype = dtype or weights.dtype("text_emb.weight")
    _save_config(config, out)
    generation_config(config).save_pretrained(out)
    feature_extractor(config.audio_encoder_config).save_pretrained(out)
    save_tokenizer(tokenizer, out)
    if carried is not None:
        for path in sorted(carried.iterdir()):
            changed = path.name == "config.json" and dtype is not None
            if path.name == "generation_config.json":
                # The original's defaults may have been edited since.
                changed = read_lm_gen_config(carried) != lm_gen_config(generation_config(config).to_dict())
            if not changed:
                shutil.copyfile(path, out / path.name)


def _save_config(config: Any, out: Path) -> None:
    config.name_or_path = ""
    config.save_pretrained(out)


def _carried(folder: Path, config: MoshiConfig) -> Path | None:
    """The folder of transformers' files beside the original's, as long as it describes the same model."""
    path = folder / CARRIED_FOLDER
    if not (path / "config.json").is_file():
        return None
    same = MoshiConfig.from_pretrained(path)
    same.kyutai = config.kyutai
    return path if kyutai_config(same) == kyutai_config(config) else None


def mimi_to_hf(found: Checkpoint, out: Path, dtype: torch.dtype | None, shard_bytes: int, bar: Bar) -> None:
    config = mimi_config(found.mimi_config)
    tensors = read_mimi(found.need("mimi"), config)
    check_mimi(found.need("mimi"), tensors, config)
    parts = [
        constant(n, v if dtype is None or not v.is_floating_point() else v.to(dtype))
        for n, v in tensors.items()
    ]
    write_shards(out, parts, shard_bytes, bar)
    config.architectures = ["MimiModel"]
    _save_config(config, out)
    feature_extractor(config).save_pretrained(out)


def recast_hf(found: Checkpoint, out: Path, dtype: torch.dtype | None, shard_bytes: int, bar: Bar) -> None:
    source = SafetensorsFiles(found.weights)
    parts: list[Part] = []
    for name, info in source.infos.items():
        kept = not info.dtype.is_floating_point or name.startswith(FLOAT32_PARTS)
        kind = info.dtype if kept or dtype is None else dtype

        def make(name: str = name, kind: torch.dtype = kind) -> Iterator[tuple[str, Tensor]]:
            yield name, source.read(name).to(kind)

        parts.append(({name: (kind, info.shape)}, make))
    write_shards(out, parts, shard_bytes, bar)
    for path in sorted(found.folder.iterdir()):
        if path.is_file() and path.suffix in (".json", ".model", ".txt") and path.name != INDEX:
            shutil.copyfile(path, out / path.name)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    config["dtype"] = str(dtype).removeprefix("torch.")
    write_json(out / "config.json", config)
