"""Loading the original's layout into our classes, and everything a command needs from one name.

A model is built on the meta device and receives its weights one group of tensors at a time, each already in its
final dtype and place: memory peaks at the model's size plus the largest group.
"""

from __future__ import annotations

import contextlib
import copy
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import EncodecFeatureExtractor, GenerationConfig, PreTrainedTokenizerFast

from ..models.adapters import merge_adapters
from ..models.loading import without_progress_bar
from ..models.mimi import MimiConfig, MimiModel
from ..models.moshi.conditional import MoshiForConditionalGeneration
from ..models.moshi.configuration import MoshiConfig
from ..models.moshi.decoder import MoshiForCausalLM, MoshiModel
from ..models.moshi.depth import MoshiDepthDecoder
from ..models.quantized import quantize_model
from .adapters import load_adapters
from .describe import describe
from .find import PART_OPTIONS, Checkpoint, find, find_original
from .generation_config import generation_config
from .kyutai_config import moshi_config
from .kyutai_mimi import check_mimi, read_mimi
from .kyutai_mimi_config import mimi_config
from .kyutai_weights import KyutaiWeights
from .moshi_layout import FLOAT32_PARTS, moshi_groups
from .tensors import CheckpointError, open_tensors
from .tokenizer import load_tokenizer

_HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only", "force_download")
# transformers' options that change nothing here.
_IGNORED = {
    "low_cpu_mem_usage",
    "use_safetensors",
    "trust_remote_code",
    "weights_only",
    "_from_auto",
    "_commit_hash",
}
_BAR_FROM = 1 << 30  # bytes; smaller models load in a moment
_PREFIXES: dict[type, str] = {
    MoshiForConditionalGeneration: "",
    MoshiForCausalLM: "decoder.",
    MoshiModel: "decoder.model.",
    MoshiDepthDecoder: "depth_decoder.",
}


@dataclass
class Loaded:
    """A model and what belongs to it.

    Attributes:
        model: `MoshiForConditionalGeneration`, in evaluation mode.
        tokenizer: the text tokenizer; None when the checkpoint has none.
        feature_extractor: waveforms to the model's input.
        description: what was found, to be printed.
        checkpoint: where it was found.
    """

    model: MoshiForConditionalGeneration
    tokenizer: PreTrainedTokenizerFast | None
    feature_extractor: EncodecFeatureExtractor
    description: str
    checkpoint: Checkpoint


def load(
    name_or_path: str | os.PathLike[str] | None = None,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str = "cpu",
    quantize: str | None = None,
    **options: Any,
) -> Loaded:
    """A model with its tokenizer and feature extractor, from either layout.

    Args:
        name_or_path: folder, file or hub repository, or a folder of LoRA adapters, which are merged into their model;
            None for the embedded default model.
        dtype: of the language model, None for the checkpoint's. Mimi keeps float32.
        device: where the model goes.
        quantize: "int8" or "int4", the language model's matrices (see `aizuchi.models.quantized`).
        options: as for `find`.
    Raises:
        CheckpointError: nothing there, or not a whole model; the message names what is wrong.
    """
    if name_or_path is None:
        name_or_path = default_model()
    checkpoint = find(name_or_path, **options)
    if checkpoint.holds != "moshi":
        raise CheckpointError(
            f"{name_or_path} holds {'a Mimi codec' if checkpoint.holds == 'mimi' else 'a part of a model'}, "
            "a whole Moshi model is needed"
        )
    source = checkpoint.name if checkpoint.layout == "kyutai" else checkpoint.folder
    kwargs: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    if checkpoint.layout == "kyutai":
        kwargs |= {key: value for key, value in options.items() if value is not None} | {"device_map": device}
    small = sum(path.stat().st_size for path in checkpoint.weights) < _BAR_FROM
    with without_progress_bar() if small else contextlib.nullcontext():
        model = MoshiForConditionalGeneration.from_pretrained(source, **kwargs).to(device)
    if checkpoint.adapters is not None:
        load_adapters(model, checkpoint.adapters)
        merge_adapters(model)
    if quantize is not None:
        quantize_model(model, quantize)
    tokenizer = None if checkpoint.tokenizer is None else load_tokenizer(checkpoint.tokenizer)
    extractor = feature_extractor(model.config.audio_encoder_config)
    return Loaded(model.eval(), tokenizer, extractor, describe(checkpoint), checkpoint)


def default_model() -> Path:
    """The folder of the model that comes with the package.

    Raises:
        CheckpointError: it isn't there.
    """
    folder = Path(str(resources.files("aizuchi"))) / "pretrained" / "mini"
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"this installation holds no embedded model ({folder} has none): name one, a folder or a repository such "
            "as kyutai/moshiko-pytorch-bf16"
        )
    return folder


def feature_extractor(config: MimiConfig) -> EncodecFeatureExtractor:
    """The feature extractor of a codec, as the published checkpoints have it."""
    return EncodecFeatureExtractor(
        feature_size=config.audio_channels,
        sampling_rate=config.sampling_rate,
        padding_value=0.0,
        padding_side="right",
        return_attention_mask=True,
    )


def load_kyutai(cls: type, name: Any, kwargs: dict[str, Any]) -> Any:
    """A model of ``cls`` from the original's layout, or None when ``name`` is not in it.

    This is what ``from_pretrained`` of our classes asks first. ``kwargs`` are its arguments; besides transformers'
    ``dtype`` (or ``torch_dtype``), ``device_map`` (one device), ``config``, ``attn_implementation``,
    ``output_loading_info`` and the hub's, there are ``mimi``, ``tokenizer`` and ``lora``: files to use instead of
    what the checkpoint says. Other names have to be fields of the configuration, which they change.

    Raises:
        CheckpointError: a file is missing, cut off, foreign or doesn't fit; the message names file, key and shape.
        ValueError: an unknown argument.
    """
    if name is None or not issubclass(cls, (MimiModel, *_PREFIXES)):
        return None
    options = {key: kwargs[key] for key in (*PART_OPTIONS, *_HUB_OPTIONS) if key in kwargs}
    if kwargs.get("subfolder"):
        name = os.path.join(name, kwargs["subfolder"])
    found = find_original(name, issubclass(cls, MimiModel), **options)
    if found is None:
        for key in PART_OPTIONS:
            if kwargs.get(key) is not None:
                raise ValueError(
                    f"`{key}` is for checkpoints in the original's layout; {name} is in transformers'"
                )
        return None
    rest = {
        key: value
        for key, value in kwargs.items()
        if key not in options and key not in _IGNORED | {"subfolder"}
    }
    settings = {
        key: rest.pop(key, None) for key in ("config", "dtype", "torch_dtype", "device_map", "device")
    }
    attention, wants_info = rest.pop("attn_implementation", None), rest.pop("output_loading_info", False)
    kind = MimiConfig if issubclass(cls, MimiModel) else MoshiConfig
    if settings["config"] is not None and not isinstance(settings["config"], kind):
        raise ValueError(
            f"`config` must be a {kind.__name__} of the whole model, got {settings['config']!r:.80}."
        )
    device = _one_device(settings["device_map"], settings["device"])
    dtype = _dtype(settings["dtype"] if settings["dtype"] is not None else settings["torch_dtype"])

    loader = _load_mimi if issubclass(cls, MimiModel) else _load_moshi
    model = loader(cls, found, settings["config"], rest, attention, dtype, device)
    left = [key for key, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta]
    if left:
        raise RuntimeError(f"{cls.__name__}: {left[0]!r} was not loaded ({len(left)} tensors)")
    model.config.name_or_path = str(name)
    model.eval()
    info: dict[str, Any] = {
        "missing_keys": set(),
        "unexpected_keys": set(),
        "mismatched_keys": set(),
        "error_msgs": [],
    }
    return (model, info) if wants_info else model


def _dtype(value: Any) -> torch.dtype | None:
    if value is None or value == "auto":
        return None
    dtype = getattr(torch, value, None) if isinstance(value, str) else value
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(
            f"`dtype={value!r}` must be a floating-point dtype such as torch.bfloat16, or 'auto'."
        )
    return dtype


def _one_device(device_map: Any, device: Any) -> torch.device:
    if isinstance(device_map, dict) and set(device_map) == {""}:
        device_map = device_map[""]
    if device_map == "auto":
        device_map = "cuda" if torch.cuda.is_available() else "cpu"
    if isinstance(device_map, dict):
        raise ValueError("`device_map` must be one device for a checkpoint in the original's layout.")
    if isinstance(device_map, int):
        device_map = f"cuda:{device_map}"
    return torch.device(device_map or device or "cpu")


def _apply(config: Any, fields: dict[str, Any], attention: str | None) -> Any:
    for name, value in fields.items():
        if not hasattr(config, name):
            raise ValueError(
                f"`{name}` is neither an argument of from_pretrained nor a field of the configuration."
            )
        setattr(config, name, value)
    if attention is not None:
        config._attn_implementation = attention
    return config


def open_moshi(found: Checkpoint, config: MoshiConfig | None = None) -> tuple[MoshiConfig, KyutaiWeights]:
    """The configuration and the checked weights of a model in the original's layout."""
    lora = None if found.lora is None else open_tensors(found.lora)
    raw = found.config or {}
    weights = KyutaiWeights(open_tensors(found.weights[0]), lora, raw.get("lora_scaling", 2.0))
    if config is None:
        codec = mimi_config(found.mimi_config)
        if found.mimi is None and "card" in raw:  # no codec to agree with: only a part will be used
            codec = mimi_config(found.mimi_config, codebook_size=raw["card"])
        config = moshi_config(found.config, codec, weights.depth_steps, weights.extra_heads)
    config = copy.deepcopy(config)
    if isinstance((getattr(config, "kyutai", None) or {}).get("config"), dict):
        # What reading undoes is not written back.
        undone = ("lora", "lora_name", "lora_rank", "lora_scaling") if lora is not None else ()
        for option in (*undone, *(("quantize",) if weights.quantized else ())):
            config.kyutai["config"].pop(option, None)
    if weights.split:
        config.kyutai = {**getattr(config, "kyutai", {}), "split": True}
    groups = moshi_groups(config)
    if "dim" not in raw:  # PersonaPlex names no options
        weights.fill_depth_steps(groups)
    weights.check(groups)
    return config, weights


def _load_moshi(
    cls: type,
    found: Checkpoint,
    config: Any,
    fields: dict[str, Any],
    attention: str | None,
    dtype: torch.dtype | None,
    device: torch.device,
) -> Any:
    if found.holds != "moshi":
        raise CheckpointError(f"{found.name} holds a Mimi codec, not the weights of a {cls.__name__}")
    config, weights = open_moshi(found, config)
    prefix = next(prefix for known, prefix in _PREFIXES.items() if issubclass(cls, known))
    groups = [group for group in moshi_groups(config) if next(iter(group.ours)).startswith(prefix)]
    if issubclass(cls, MoshiDepthDecoder):
        if config.depth_decoder_config is None:
            raise CheckpointError(f"{found.name}: this family has no depth decoder (`dep_q` is 0)")
        config = config.depth_decoder_config
    mimi = found.need("mimi") if not prefix else None
    config = _apply(config, fields, attention)
    config.dtype = dtype or weights.dtype("text_emb.weight")
    with torch.device("meta"):
        model = cls(config)
    total = sum(weights.bytes(name) for group in groups for name in group.theirs)
    with tqdm(
        total=total,
        unit="B",
        unit_scale=True,
        desc="loading weights",
        disable=None if total >= _BAR_FROM else True,
    ) as bar:
        for group in groups:
            values = group.to_ours([weights.read(name) for name in group.theirs])
            for ours, value in zip(group.ours, values, strict=True):
                kept = ours.startswith(FLOAT32_PARTS)
                target = torch.float32 if kept else dtype or value.dtype
                _assign(model, ours.removeprefix(prefix), value.to(device, target))
            bar.update(sum(weights.bytes(name) for name in group.theirs))
            del values
    if mimi is not None:
        _fill_mimi(model.audio_encoder, mimi, None, device)
        model.generation_config = generation_config(model.config)
    elif issubclass(cls, MoshiForCausalLM):
        model.generation_config = GenerationConfig(bos_token_id=model.config.vocab_size)
    return model


def _load_mimi(
    cls: type,
    found: Checkpoint,
    config: Any,
    fields: dict[str, Any],
    attention: str | None,
    dtype: torch.dtype | None,
    device: torch.device,
) -> Any:
    path = found.need("mimi")
    config = mimi_config(found.mimi_config) if config is None else copy.deepcopy(config)
    config = _apply(config, fields, attention)
    config.dtype = dtype or torch.float32
    with torch.device("meta"):
        model = cls(config)
    _fill_mimi(model, path, dtype, device)
    return model


def _fill_mimi(model: nn.Module, path: Path, dtype: torch.dtype | None, device: torch.device) -> None:
    tensors = read_mimi(path, model.config)
    check_mimi(path, tensors, model.config)
    for name, value in tensors.items():
        kept = not value.is_floating_point() or dtype is None
        _assign(model, name, value.to(device) if kept else value.to(device, dtype))


def _assign(model: nn.Module, name: str, value: Tensor) -> None:
    """Put a tensor where a meta tensor is."""
    path, _, attribute = name.rpartition(".")
    module = model.get_submodule(path)
    old = getattr(module, attribute)
    if old.shape != value.shape:
        raise CheckpointError(
            f"{name!r} has shape {tuple(value.shape)}, the model expects {tuple(old.shape)}"
        )
    if attribute in module._parameters:
        module._parameters[attribute] = nn.Parameter(value, requires_grad=old.requires_grad)
    else:
        module._buffers[attribute] = value
