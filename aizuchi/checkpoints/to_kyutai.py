"""transformers' layout to the original's: weights, config.json, Mimi's file, SentencePiece."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aizuchi import __version__

from ..models.mimi import MimiConfig
from ..models.moshi.configuration import MoshiConfig
from . import mimi_layout
from .find import Checkpoint
from .generation_config import generation_config, lm_gen_config, read_lm_gen_config
from .kyutai_config import kyutai_config
from .kyutai_mimi import check_mimi
from .kyutai_mimi_config import kyutai_mimi_config
from .kyutai_options import DEFAULT_NAMES
from .load import open_moshi
from .moshi_layout import FLOAT32_PARTS, Group, moshi_groups
from .tensors import CheckpointError, SafetensorsFiles
from .to_hf import CARRIED_FOLDER
from .tokenizer import save_sentencepiece
from .writing import Bar, Entries, Part, constant, count_bytes, write_file, write_json

_JSON_FILES = ("config.json", "generation_config.json", "preprocessor_config.json")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def moshi_to_kyutai(found: Checkpoint, out: Path, dtype: torch.dtype | None, _: int, bar: Bar) -> None:
    config = MoshiConfig.from_pretrained(found.folder)
    raw, codec_raw = kyutai_config(config), kyutai_mimi_config(config.audio_encoder_config)
    source = SafetensorsFiles(found.weights)
    groups = moshi_groups(config)
    _check_hf(source, groups, config.audio_encoder_config, found.name)
    tokenizer = found.need("tokenizer")
    names, raw = _file_names(config, raw, codec_raw)
    split = (getattr(config, "kyutai", None) or {}).get("split", False)
    parts: list[Part] = []
    for group in groups:
        kept = source.infos[next(iter(group.ours))].dtype
        kind = kept if dtype is None or next(iter(group.ours)).startswith(FLOAT32_PARTS) else dtype

        def make(group: Group = group, kind: torch.dtype = kind) -> Iterator[tuple[str, Tensor]]:
            values = group.to_theirs([source.read(name) for name in group.ours])
            for name, value in zip(group.theirs, values, strict=True):
                yield from _blocks(name, value.to(kind), _count(name, config) if split else 0)

        entries: Entries = {}
        for name, shape in group.theirs.items():
            blocks = _blocks(
                name, torch.empty(shape, dtype=kind, device="meta"), _count(name, config) if split else 0
            )
            entries |= {block: (value.dtype, tuple(value.shape)) for block, value in blocks}
        parts.append((entries, make))
    codec = {n.removeprefix("audio_encoder."): n for n in source.infos if n.startswith("audio_encoder.")}
    bar.reset(total=sum(count_bytes(entries) for entries, _ in parts))
    write_file(out / names["moshi_name"], parts, bar)
    _write_mimi(out / names["mimi_name"], {n: source.read(full) for n, full in codec.items()}, config, bar)
    save_sentencepiece(tokenizer, out / names["tokenizer_name"])
    if codec_raw is not None:
        write_json(out / names["mimi_config_name"], codec_raw)
    if raw is not None:
        _with_generation(raw, found.folder, config)
        write_json(out / "config.json", raw)
    carried = out / CARRIED_FOLDER
    carried.mkdir()
    for name in (*_JSON_FILES, *_TOKENIZER_FILES):
        if (found.folder / name).is_file():
            shutil.copyfile(found.folder / name, carried / name)


def _count(name: str, config: MoshiConfig) -> int:
    """Blocks of a packed tensor in the form that today's `moshi` package saves."""
    return config.depth_decoder_config.num_step_weights if name.startswith("depformer.") else 1


def _blocks(name: str, value: Tensor, count: int) -> list[tuple[str, Tensor]]:
    match = re.fullmatch(r"(.*)\.(in|out)_proj(?:_weight|\.weight)", name)
    if match is None or not count:
        return [(name, value)]
    steps = value.unflatten(0, (count, -1))
    return [(f"{match[1]}.{match[2]}_projs.{i}.weight", steps[i]) for i in range(count)]


def _check_hf(source: SafetensorsFiles, groups: list[Group], codec: MimiConfig, label: str) -> None:
    expected = {name: shape for group in groups for name, shape in group.ours.items()}
    found = {n: i.shape for n, i in source.infos.items() if not n.startswith("audio_encoder.")}
    for name, shape in expected.items():
        if name not in found:
            count = len(expected.keys() - found.keys())
            raise CheckpointError(
                f"{label} lacks {name!r} of shape {shape} ({count} of {len(expected)} are missing)"
            )
        if found[name] != shape:
            raise CheckpointError(
                f"{label}: {name!r} has shape {found[name]}, the configuration expects {shape}"
            )
    if more := sorted(found.keys() - expected.keys()):
        raise CheckpointError(
            f"{label} holds {more[0]!r} of shape {found[more[0]]}, which the configuration lacks"
        )
    codec_shapes = {
        n.removeprefix("audio_encoder."): i.shape
        for n, i in source.infos.items()
        if n.startswith("audio_encoder.")
    }
    check_mimi(f"{label} (audio_encoder)", codec_shapes, codec)


def _file_names(
    config: MoshiConfig, raw: dict[str, Any] | None, codec_raw: dict[str, Any] | None
) -> tuple[dict[str, str], dict[str, Any] | None]:
    """The names of the files, and the config.json that gives them; None where the default names do."""
    kept = getattr(config, "kyutai", None) or {}
    if kept.get("config", False) is None and raw is None:  # read from a folder without config.json
        return dict(DEFAULT_NAMES), None
    raw = dict(raw or {})
    if "config" not in kept:  # a model that never was in the original's layout
        raw |= {"moshi_name": "model.safetensors", "mimi_name": "mimi.safetensors"}
        raw |= {"tokenizer_name": "tokenizer.model", "model_id": {"made_by": f"aizuchi {__version__}"}}
    if codec_raw is not None:
        raw.setdefault("mimi_config_name", "mimi_config.json")
    for key in ("moshi_name", "mimi_name", "tokenizer_name", "mimi_config_name"):
        if "://" in raw.get(key, ""):  # it was in another place; now it lies beside the rest
            raw[key] = raw[key].rsplit("/", 1)[-1]
    return DEFAULT_NAMES | raw, raw


def _with_generation(raw: dict[str, Any], folder: Path, config: MoshiConfig) -> None:
    """Put the sampling defaults into ``lm_gen_config``, unless they are what the original's own say."""
    present = read_lm_gen_config(folder)
    if present is not None and present != lm_gen_config(generation_config(config).to_dict()):
        raw["lm_gen_config"] = {**raw.get("lm_gen_config", {}), **present}


def _write_mimi(path: Path, tensors: dict[str, Tensor], config: Any, bar: Bar) -> None:
    codec = getattr(config, "audio_encoder_config", config)
    theirs = mimi_layout.hf_to_kyutai(tensors, codec.num_attention_heads, codec.num_key_value_heads)
    if (getattr(config, "kyutai", None) or {}).get("mimi_split"):
        theirs = {
            block: value for name, tensor in theirs.items() for block, value in _blocks(name, tensor, 1)
        }
    write_file(path, [constant(name, value) for name, value in theirs.items()], bar)


def mimi_to_kyutai(found: Checkpoint, out: Path, dtype: torch.dtype | None, _: int, bar: Bar) -> None:
    config = MimiConfig.from_pretrained(found.folder)
    raw = kyutai_mimi_config(config)
    source = SafetensorsFiles(found.weights)
    check_mimi(found.name, {n: i.shape for n, i in source.infos.items()}, config)
    tensors = {name: source.read(name) for name in source.infos}
    if dtype is not None:
        tensors = {n: v.to(dtype) if v.is_floating_point() else v for n, v in tensors.items()}
    name = DEFAULT_NAMES["mimi_name"] if raw is None else "mimi.safetensors"
    _write_mimi(out / name, tensors, config, bar)
    if raw is not None:
        write_json(out / "config.json", {"mimi_name": name, "mimi_config_name": "mimi_config.json"})
        write_json(out / "mimi_config.json", raw)


def recast_kyutai(found: Checkpoint, out: Path, dtype: torch.dtype | None, _: int, bar: Bar) -> None:
    config, weights = open_moshi(found)
    names, raw = _file_names(config, found.config, found.mimi_config)
    parts: list[Part] = []
    for name, shape in weights.shapes.items():
        kind = weights.dtype(name) if dtype is None or name.startswith(FLOAT32_PARTS) else dtype

        def make(name: str = name, kind: torch.dtype = kind) -> Iterator[tuple[str, Tensor]]:
            yield name, weights.read(name).to(kind)

        parts.append(({name: (kind, shape)}, make))
    bar.reset(total=sum(count_bytes(entries) for entries, _ in parts))
    write_file(out / names["moshi_name"], parts, bar)
    shutil.copyfile(found.need("mimi"), out / names["mimi_name"])
    shutil.copyfile(found.need("tokenizer"), out / names["tokenizer_name"])
    if found.mimi_config is not None:
        write_json(out / names["mimi_config_name"], found.mimi_config)
    if raw is not None:
        write_json(
            out / "config.json", {k: v for k, v in raw.items() if k not in ("quantize", "lora", "lora_name")}
        )
