"""`from_pretrained` of all model classes: both layouts, nothing missing, weights on aligned memory."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from .stored import widen_stored

# Loaders of layouts that transformers does not know. `aizuchi.checkpoints` adds the original's: lower rooms do
# not import higher ones. Each takes (class, name_or_path, kwargs) and returns a model, or None to pass.
FOREIGN_LOADERS: list[Callable[[type, Any, dict[str, Any]], Any]] = []

ALIGNMENT = 64  # bytes; what torch's own allocations have


class LoadingModel(PreTrainedModel):
    """A transformers model that also reads the original's layout, and refuses checkpoints that leave it incomplete."""

    # Where this class's weights stand in a whole model's checkpoint, for classes that are parts of one.
    _part_prefix: ClassVar[str | None] = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a checkpoint: a folder or hub id in transformers' layout, or the original's layout.

        See `transformers.PreTrainedModel.from_pretrained` for the arguments; ``torch_dtype`` and ``dtype`` both
        work.

        Raises:
            ValueError: a weight is missing or has another shape; the message names it.
        """
        for loader in FOREIGN_LOADERS:
            model = loader(cls, pretrained_model_name_or_path, kwargs)
            if model is not None:
                return model
        wants_info = kwargs.pop("output_loading_info", False)
        tolerant = kwargs.pop("ignore_mismatched_sizes", False)
        if cls._part_prefix is not None:
            # A part is loaded from the whole's checkpoint too; its own checkpoint has no such prefix.
            kwargs.setdefault("key_mapping", cls._part_key_mapping(pretrained_model_name_or_path, kwargs))
        loaded: Any = super().from_pretrained(
            pretrained_model_name_or_path,
            *args,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, with the key and both shapes
            **kwargs,
        )
        model, info = loaded
        if not (tolerant and info.get("mismatched_keys")):
            refuse_incomplete(model, info, pretrained_model_name_or_path)
        align_memory(widen_stored(model))
        return (model, info) if wants_info else model

    @classmethod
    def _part_key_mapping(cls, name: Any, kwargs: dict[str, Any]) -> dict[str, str]:
        """What turns a whole model's keys into this part's."""
        asked = ("cache_dir", "force_download", "local_files_only", "revision", "token", "subfolder")
        fields, _ = PreTrainedConfig.get_config_dict(name, **{k: kwargs[k] for k in asked if k in kwargs})
        mapping = {rf"^{re.escape(cls._part_prefix or '')}": ""}
        if (
            fields.get("model_type") == "moshi"
        ):  # its numbered tables must not be taken for the depth decoder's
            mapping = {r"^embed_tokens\.(\d)": r"audio_embed_tokens.\1"} | mapping
        return mapping


def refuse_incomplete(model: Any, info: dict[str, Any], name: Any) -> None:
    """A model that was not wholly loaded would talk noise without a word: say what is missing instead."""
    if mismatched := sorted(info.get("mismatched_keys") or []):
        key, found, expected = mismatched[0]
        raise ValueError(
            f"{name}: {key!r} has shape {tuple(found)}, this configuration expects {tuple(expected)} "
            f"({len(mismatched)} such keys)."
        )
    if missing := sorted(info.get("missing_keys") or []):
        own = model.state_dict()
        shape = tuple(own[missing[0]].shape) if missing[0] in own else "?"
        raise ValueError(
            f"{name} lacks {missing[0]!r} of shape {shape} ({len(missing)} of {len(own)} keys are missing): it is "
            f"not a whole {type(model).__name__} checkpoint."
        )


@torch.no_grad()
def align_memory(model: nn.Module) -> None:
    """Give tensors that lie unaligned in a mapped file memory of their own, one after the other.

    Matmuls take other paths over unaligned rows: slower ones, and such that round otherwise, so that the same
    weights from two files would not give the same samples.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % ALIGNMENT:
            tensor.data = tensor.data.clone()


@contextlib.contextmanager
def without_progress_bar() -> Iterator[None]:
    """In here transformers shows no progress bar of its own, which would break ours."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
