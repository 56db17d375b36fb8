"""Says what a name or a path is: a checkpoint in which layout, of which model, and where its parts lie."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import errors as hub_errors

from . import mimi_layout
from .adapters import SETTINGS, find_base, refuse_adapters
from .kyutai_options import DEFAULT_NAMES, looks_like_kyutai
from .tensors import CheckpointError, open_tensors, read_header

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HF_FILES = ["*.json", "*.safetensors", "*.model", "*.txt"]
_INDEX = "model.safetensors.index.json"
_TENSOR_SUFFIXES = (".safetensors", ".sft", ".sfts", ".pt", ".pth", ".th", ".bin")
_HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only", "force_download")

# Given by hand instead of what the checkpoint says.
PART_OPTIONS = ("mimi", "tokenizer", "lora")


@dataclass
class Checkpoint:
    """A checkpoint and where its parts lie.

    Attributes:
        name: what the caller wrote.
        layout: "hf" (transformers' names) or "kyutai" (the original's).
        holds: "moshi" (a whole model), "mimi" (the codec alone) or "part" (a part of Moshi in transformers' layout).
        folder: where it is.
        weights: the files of the model's weights; of Mimi's when it holds only that.
        config: config.json, None where there is none.
        mimi, mimi_config: the codec's file and description; Kyutai's layout only.
        tokenizer: a SentencePiece file, or a folder with transformers' tokenizer files.
        lora: a file of LoRA matrices to merge.
        adapters: the folder of a LoRA run of ours, whose base model all the rest is.
        missing: what was looked for and not found: part -> where.
    """

    name: str
    layout: str
    holds: str
    folder: Path
    weights: list[Path]
    config: dict[str, Any] | None = None
    mimi: Path | None = None
    mimi_config: dict[str, Any] | None = None
    tokenizer: Path | None = None
    lora: Path | None = None
    adapters: Path | None = None
    missing: dict[str, str] = field(default_factory=dict)

    def need(self, part: str) -> Path:
        """The path of a part ("mimi", "tokenizer").

        Raises:
            CheckpointError: it was not found; the message says what was looked for and where.
        """
        path = getattr(self, part)
        if path is None:
            raise CheckpointError(
                f"{self.name}: {self.missing.get(part, f'no {part} found in {self.folder}')}"
            )
        return path


def find(name: str | os.PathLike[str], **options: Any) -> Checkpoint:
    """What ``name`` is: a folder, a file, or a repository of the Hugging Face hub ("owner/name").

    Args:
        options: ``mimi``, ``tokenizer``, ``lora``: files to use instead of what the checkpoint says; ``revision``,
            ``cache_dir``, ``token``, ``local_files_only``, ``force_download``: for the hub.
    Raises:
        CheckpointError: nothing there, nothing that is a checkpoint, or the hub could not be asked.
    """
    parts = {key: Path(options[key]) for key in PART_OPTIONS if options.get(key) is not None}
    hub = {key: options[key] for key in _HUB_OPTIONS if options.get(key) is not None}
    if unknown := options.keys() - {*PART_OPTIONS, *_HUB_OPTIONS}:
        raise TypeError(f"find() has no argument {sorted(unknown)[0]!r}")
    for part, path in parts.items():
        if not path.exists():
            raise CheckpointError(f"`{part}`: {path} does not exist")
    path = Path(os.path.expanduser(name))
    if path.is_file():
        found = _in_file(str(name), path, hub)
    elif (path / SETTINGS).is_file():
        return find_base(path, lambda base: find(base, **options))
    elif path.is_dir():
        found = _in_folder(str(name), path, hub)
    elif HUB_ID.fullmatch(str(name)):
        found = _on_hub(str(name), hub)
    else:
        raise CheckpointError(f"{name}: no such file or folder, and no name of a hub repository (owner/name)")
    for part, given in parts.items():
        setattr(found, part, given)
    return found


def find_original(
    name: str | os.PathLike[str], codec_only: bool = False, **options: Any
) -> Checkpoint | None:
    """Like `find`, but None for what transformers loads by itself, of which nothing but config.json is fetched.

    The headers of local weights in transformers' layout are read all the same, so that a file that was cut off is
    refused with the tensor that is hurt.

    Args:
        codec_only: Mimi is all that is needed: the language model is not fetched and need not be there.
    """
    path = Path(os.path.expanduser(name))
    hub = {key: options[key] for key in _HUB_OPTIONS if options.get(key) is not None}
    folder = path if path.is_dir() else None
    refuse_adapters(path)
    if not path.exists() and HUB_ID.fullmatch(str(name)):
        folder = download(str(name), ["config.json"], hub)
    config = None
    if folder is not None and (folder / "config.json").is_file():
        config = _read_json(folder / "config.json")
        if not looks_like_kyutai(config):
            if folder == path:
                _names(_hf_files(folder))
            return None
    if codec_only and folder is not None and (config is not None or folder != path):
        names = DEFAULT_NAMES | (config or {})
        if folder != path:
            wanted = [names["mimi_name"], names.get("mimi_config_name") or names["mimi_name"]]
            download(str(name), [file for file in wanted if "://" not in file], hub)
        found = Checkpoint(str(name), "kyutai", "mimi", folder, [], config)
        _add_mimi(found, names, hub)
        if options.get("mimi") is not None:
            found.mimi = Path(options["mimi"])
        found.weights = [found.need("mimi")]
        return found
    found = find(name, **options)
    if found.layout == "hf" and path.is_file():
        raise CheckpointError(f"{name} is in transformers' layout: give its folder, {found.folder}")
    return found if found.layout == "kyutai" else None


def _on_hub(name: str, hub: dict[str, Any]) -> Checkpoint:
    folder = download(name, ["config.json"], hub)
    config = _read_json(folder / "config.json") if (folder / "config.json").exists() else None
    if config is not None and not looks_like_kyutai(config):
        download(name, _HF_FILES, hub)
    else:
        names = DEFAULT_NAMES | (config or {})
        keys = ("moshi_name", "mimi_name", "mimi_config_name", "tokenizer_name", "lora_name")
        wanted = [names[key] for key in keys if names.get(key)]
        download(name, [file for file in wanted if "://" not in file], hub)
    return _in_folder(name, folder, hub)


def download(repo: str, patterns: list[str], hub: dict[str, Any]) -> Path:
    """The folder of a hub repository with (at least) some of its files."""
    try:
        return Path(huggingface_hub.snapshot_download(repo, allow_patterns=patterns, **hub))
    except (
        hub_errors.HfHubHTTPError,
        hub_errors.HFValidationError,
        hub_errors.OfflineModeIsEnabled,
        OSError,
    ) as error:
        raise hub_error(repo, error) from error


def hub_error(repo: str, error: Exception) -> CheckpointError:
    """What went wrong with the hub, and what to do."""
    if isinstance(error, hub_errors.GatedRepoError):
        message = (
            f"the hub asks you to accept its conditions first: https://huggingface.co/{repo} "
            "(then log in: hf auth login)"
        )
    elif isinstance(error, hub_errors.RepositoryNotFoundError):
        message = "no such folder, and no such repository on the Hugging Face hub"
    elif isinstance(error, hub_errors.HfHubHTTPError | hub_errors.HFValidationError):
        message = f"the Hugging Face hub refused: {_first_line(error)}"
    else:
        message = (
            "no such folder here, it is not in the download cache, and the Hugging Face hub can't be reached "
            f"({_first_line(error)}). Give the path of a folder, or try again online"
        )
    return CheckpointError(f"{repo}: {message}")


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _in_file(name: str, path: Path, hub: dict[str, Any]) -> Checkpoint:
    if path.suffix == ".gguf":
        raise CheckpointError(
            f"{path}: GGUF is not supported; take the bf16 weights of the PyTorch repository"
        )
    if path.suffix not in _TENSOR_SUFFIXES:
        raise CheckpointError(
            f"{path}: not a file of weights ({', '.join(_TENSOR_SUFFIXES)}); give the folder instead"
        )
    kind = classify(open_tensors(path).infos, path)
    folder = path.parent
    config = _read_json(folder / "config.json") if (folder / "config.json").is_file() else None
    if kind == "kyutai-mimi":
        mimi_config = _mimi_config_of(folder, config, path, hub)
        return Checkpoint(name, "kyutai", "mimi", folder, [path], config, path, mimi_config)
    if kind == "kyutai-moshi":
        return _kyutai(
            name, folder, config if config is None or looks_like_kyutai(config) else None, hub, path
        )
    return _hf(name, folder, kind, [path], config)


def _in_folder(name: str, folder: Path, hub: dict[str, Any]) -> Checkpoint:
    config_path = folder / "config.json"
    config = _read_json(config_path) if config_path.is_file() else None
    if config is not None and not looks_like_kyutai(config):
        files = _hf_files(folder)
        if not files:
            raise CheckpointError(
                f"{name}: {config_path} is there, but no weights: looked for model.safetensors and {_INDEX} in {folder}"
            )
        return _hf(name, folder, classify(_names(files), files[0]), files, config)
    candidates = _hf_files(folder) or sorted(p for p in folder.iterdir() if p.suffix in _TENSOR_SUFFIXES)
    kinds = {path: classify(open_tensors(path).infos, path) for path in candidates} if config is None else {}
    if any(kind.startswith("hf-") for kind in kinds.values()):
        files = [path for path, kind in kinds.items() if kind.startswith("hf-")]
        raise CheckpointError(
            f"{name}: {files[0].name} is in transformers' layout, which needs a config.json beside it"
        )
    if config is None and "kyutai-moshi" not in kinds.values():
        mimis = [path for path, kind in kinds.items() if kind == "kyutai-mimi"]
        if len(mimis) == 1:
            return Checkpoint(name, "kyutai", "mimi", folder, mimis, None, mimis[0])
        raise CheckpointError(
            f"{name}: no checkpoint in {folder}: looked for config.json, {DEFAULT_NAMES['moshi_name']} (a Moshi model) "
            f"and {DEFAULT_NAMES['mimi_name']} (Mimi); it holds {_listing(folder)}"
        )
    return _kyutai(
        name, folder, config, hub, next((p for p, k in kinds.items() if k == "kyutai-moshi"), None)
    )


def _kyutai(
    name: str, folder: Path, config: dict[str, Any] | None, hub: dict[str, Any], weights: Path | None
) -> Checkpoint:
    names = DEFAULT_NAMES | (config or {})
    if weights is None:
        weights = _resolve(names["moshi_name"], folder, hub)
        mimi = _resolve(names["mimi_name"], folder, hub)
        if weights is None and mimi is not None and config is not None and "dim" not in config:
            codec = _mimi_config_of(folder, config, mimi, hub)
            return Checkpoint(name, "kyutai", "mimi", folder, [mimi], config, mimi, codec)
        if weights is None:
            raise CheckpointError(
                f"{name}: the weights {names['moshi_name']!r} are not in {folder}; it holds {_listing(folder)}"
            )
    found = Checkpoint(name, "kyutai", "moshi", folder, [weights], config)
    _add_mimi(found, names, hub)
    found.tokenizer = _resolve(names["tokenizer_name"], folder, hub) or _only(folder.glob("*.model"))
    found.missing["tokenizer"] = (
        f"the text tokenizer is not in {folder}: looked for {names['tokenizer_name']} and *.model; give the file by "
        f"`tokenizer`"
    )
    if lora := names.get("lora_name"):
        found.lora = _resolve(lora, folder, hub)
        if found.lora is None:
            raise CheckpointError(
                f"{name}: the LoRA weights {lora!r} that config.json names are not in {folder}"
            )
    return found


def _add_mimi(found: Checkpoint, names: dict[str, Any], hub: dict[str, Any]) -> None:
    """Find the codec's file and its description, or note where they were looked for."""
    folder = found.folder
    found.mimi = _resolve(names["mimi_name"], folder, hub) or _only(
        [
            p
            for pattern in ("tokenizer-*", "mimi*")
            for p in folder.glob(pattern)
            if p.suffix in _TENSOR_SUFFIXES
        ]
    )
    found.missing["mimi"] = (
        f"Mimi's weights are not in {folder}: looked for {names['mimi_name']}, tokenizer-*.safetensors and "
        f"mimi*.safetensors; give the file by `mimi`"
    )
    if found.mimi is not None or _resolve(names.get("mimi_config_name") or "", folder, hub):
        found.mimi_config = _mimi_config_of(folder, found.config, found.mimi or folder, hub)


def _mimi_config_of(folder: Path, config: dict[str, Any] | None, mimi: Path, hub: dict[str, Any]) -> Any:
    """The description of the codec that config.json names, None for the published codec."""
    file = (config or {}).get("mimi_config_name")
    if not file:
        return None
    path = _resolve(file, folder, hub)
    if path is None:
        raise CheckpointError(
            f"{mimi}: its description {file!r}, which config.json names, is not in {folder}"
        )
    return _read_json(path)


def _resolve(file: str, folder: Path, hub: dict[str, Any]) -> Path | None:
    """A file that config.json names: beside it, anywhere ("file://") or in another repository ("hf://")."""
    if file.startswith("hf://"):
        owner, repo, path = file.removeprefix("hf://").split("/", 2)
        target = download(f"{owner}/{repo}", [path], {k: v for k, v in hub.items() if k != "revision"}) / path
    elif file.startswith("file://"):
        target = Path(file.removeprefix("file://"))
    else:
        target = folder / file
    return target if target.is_file() else None


def _only(paths: Iterable[Path]) -> Path | None:
    found = sorted(set(paths))
    return found[0] if len(found) == 1 else None


def _hf(name: str, folder: Path, kind: str, files: list[Path], config: dict[str, Any] | None) -> Checkpoint:
    if config is None:
        raise CheckpointError(f"{name}: no config.json in {folder}; transformers' layout needs one")
    holds = {"hf-moshi": "moshi", "hf-mimi": "mimi", "hf-part": "part"}.get(kind)
    if holds is None:
        raise CheckpointError(f"{name}: {files[0].name} holds neither a Moshi model nor a Mimi codec")
    found = Checkpoint(name, "hf", holds, folder, files, config)
    if (folder / "tokenizer.json").is_file():
        found.tokenizer = folder
    else:
        found.tokenizer = _only(folder.glob("*.model"))
    found.missing["tokenizer"] = (
        f"the text tokenizer is not in {folder}: looked for tokenizer.json and *.model"
    )
    return found


def _hf_files(folder: Path) -> list[Path]:
    if (folder / _INDEX).is_file():
        names = sorted(set(_read_json(folder / _INDEX).get("weight_map", {}).values()))
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise CheckpointError(f"{folder / _INDEX} names {missing[0]}, which is not there")
        return [folder / name for name in names]
    return [folder / "model.safetensors"] if (folder / "model.safetensors").is_file() else []


def _names(files: list[Path]) -> set[str]:
    return {name for file in files for name in read_header(file)[0]}


def classify(names: Iterable[str], path: Path) -> str:
    """What names of tensors tell: "kyutai-moshi", "kyutai-mimi", "hf-moshi", "hf-mimi", "hf-part" or "other".

    Raises:
        CheckpointError: weights in a form that is not supported, with what to take instead.
    """
    names = list(names)
    if any(name.endswith(".scales") for name in names):
        raise CheckpointError(
            f"{path}: quantized for MLX, which is not supported; take the bf16 weights of the PyTorch repository"
        )
    if any(name.endswith("text_emb.weight") for name in names):
        return "kyutai-moshi"
    if mimi_layout.is_kyutai(names):
        return "kyutai-mimi"
    if any(name.startswith("decoder.model.") for name in names):
        return "hf-moshi"
    if any(name.startswith("quantizer.semantic_residual_vector_quantizer") for name in names):
        return "hf-mimi"
    if any(name.startswith(("model.layers.", "layers.", "input_projections.")) for name in names):
        return "hf-part"
    return "other"


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} can't be read as JSON: {error}") from error


def _listing(folder: Path) -> str:
    names = sorted(p.name for p in folder.iterdir())
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "nothing"
