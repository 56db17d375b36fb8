"""From a configuration file to a trainer: what `aizuchi train moshi` does before the first step."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from aizuchi.data.tokenizer import TextTokenizer
from aizuchi.errors import AizuchiError

from .moshi_config import MoshiTraining, apply_losses, model_config
from .tokens import ShardSource, TokenSource, open_sources


@dataclasses.dataclass
class KeptTokenizer:
    """A tokenizer and where it came from, so that it can be kept with the model."""

    path: Path
    tokenizer: TextTokenizer | None

    def save(self, folder: Path) -> None:
        """Copy the tokenizer's files beside a model's."""
        if self.path.is_file():
            shutil.copyfile(self.path, folder / "tokenizer_spm.model")
        else:
            for file in [
                *self.path.glob("tokenizer*"),
                *self.path.glob("special_tokens_map.json"),
                *self.path.glob("*.model"),
            ]:
                shutil.copyfile(file, folder / file.name)


def make_model(config: MoshiTraining) -> Any:
    """The model that a run starts from: drawn from the seed, or a checkpoint; LoRA adapters are put in."""
    from aizuchi.models.mimi import MimiModel
    from aizuchi.models.moshi import MoshiForConditionalGeneration
    from aizuchi.models.quantized import dequantize_model

    torch.manual_seed(config.seed)
    if config.checkpoint is not None:
        # weights that never change are kept in bf16; there is no need to have them larger for a while
        small = config.lora is not None and not config.lora.embeddings and config.precision == "bf16"
        dtype = torch.bfloat16 if small else torch.float32
        model = pretrained(MoshiForConditionalGeneration, config.checkpoint, "checkpoint", dtype)
        if config.lora is None:  # quantized matrices do not learn
            dequantize_model(model)
        apply_losses(model.config, config)
    else:
        codec = None if config.codec is None else pretrained(MimiModel, config.codec, "codec")
        size = None if config.tokenizer is None else TextTokenizer(config.tokenizer).size
        given = None if codec is None else codec.config
        model = MoshiForConditionalGeneration(model_config(config, given, size))
        if codec is not None:
            model.audio_encoder.load_state_dict(codec.state_dict())
    if config.lora is not None:
        from aizuchi.models.adapters import add_adapters

        add_adapters(model, config.lora.rank, config.lora.scale, config.lora.dropout, config.lora.embeddings)
    return model


def make_trainer(config: MoshiTraining) -> Any:
    """A `MoshiTrainer` for a run of the command line."""
    from .moshi import MoshiTrainer

    if not config.data.train:
        raise AizuchiError(
            "data.train must be given: a folder of token shards (aizuchi data tokenize writes one)"
        )
    train = open_sources(config.data.train)
    valid = open_sources(config.data.valid) if config.data.valid else []
    texts = []
    if config.text_only is not None:
        if not config.text_only.train:
            raise AizuchiError("text_only.train must be given: token shards of text (aizuchi data text)")
        texts = open_sources(config.text_only.train)
    model = make_model(config)
    tokenizer = find_tokenizer(config, [source for source, _ in [*train, *valid, *texts]])
    return MoshiTrainer(config, model, train, valid, tokenizer, texts)


def find_tokenizer(config: MoshiTraining, sources: list[TokenSource]) -> KeptTokenizer | None:
    """The run's tokenizer: given, or beside the checkpoint; refused if the shards were made with another."""
    path: str | Path | None = config.tokenizer
    if path is None and config.checkpoint is not None:
        path = find_tokenizer_files(config.checkpoint)
    if path is None:
        return None
    tokenizer = TextTokenizer(path)
    kept = KeptTokenizer(Path(path), tokenizer)
    for source in sources:
        made_with = source.shards.settings.get("tokenizer") if isinstance(source, ShardSource) else None
        if isinstance(made_with, str) and made_with != tokenizer.fingerprint():
            raise AizuchiError(
                f"{source.shards.folder} was tokenized with another tokenizer than {path}: "  # type: ignore[attr-defined]
                "give that one, or tokenize again"
            )
    return kept


def find_tokenizer_files(checkpoint: str | os.PathLike[str]) -> Path | None:
    """The tokenizer of a checkpoint: a SentencePiece file, or a folder; None where there is none."""
    from aizuchi.checkpoints import CheckpointError, find

    try:
        return find(checkpoint).tokenizer
    except CheckpointError:  # what is wrong with it is told when its weights are loaded
        return None


def pretrained(cls: Any, path: str, name: str, dtype: Any = torch.float32) -> Any:
    """Load a model; ``name`` is the configuration's key for messages, ``dtype`` may be "auto", the checkpoint's own."""
    import aizuchi

    aizuchi.MoshiConfig  # noqa: B018  # teaches `from_pretrained` the original's layout
    try:
        return cls.from_pretrained(path, dtype=dtype)
    except AizuchiError:
        raise
    except (OSError, ValueError) as error:
        raise AizuchiError(f"{name}: {' '.join(str(error).split())}") from error
