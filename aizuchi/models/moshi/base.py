"""What all of Moshi's model classes share: initialisation, loading, capabilities."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel

from ..layers import LayerNormF32, PerCodebookLinear, RMSNorm
from .configuration import MoshiConfig

# Loaders of layouts that transformers does not know. `aizuchi.checkpoints` adds the original's: lower rooms do
# not import higher ones. Each takes (class, name_or_path, kwargs) and returns a model, or None to pass.
FOREIGN_LOADERS: list[Callable[[type, Any, dict[str, Any]], Any]] = []


class MoshiPreTrainedModel(PreTrainedModel):
    """Base class: initialisation of weights, and loading of published and original checkpoints."""

    config_class = MoshiConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _no_split_modules = ["MoshiDecoderLayer", "MimiTransformerLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flash_attn_2 = True
    _can_compile_fullgraph = True
    _part_prefix: ClassVar[str | None] = None  # of this class's weights in a whole model's checkpoint

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Normal with ``initializer_range``, for the stacked weights of the depth decoder too.

        A width-aware scale, 1 / sqrt(fan-in), would be the original's; the documented field decides instead,
        except that it never makes a layer's output larger than its input.
        """
        std = self.config.initializer_range
        if isinstance(module, nn.Linear | PerCodebookLinear):
            module.weight.normal_(0.0, min(std, 1 / math.sqrt(module.in_features)))
            if getattr(module, "bias", None) is not None:
                module.bias.zero_()
        elif isinstance(module, nn.Embedding):
            module.weight.normal_(0.0, std)
            if module.padding_idx is not None:
                module.weight[module.padding_idx].zero_()
        elif isinstance(module, RMSNorm):
            module.weight.fill_(1.0)
        elif isinstance(module, nn.LayerNorm | LayerNormF32):
            module.weight.fill_(1.0)
            module.bias.zero_()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a checkpoint: a folder or hub id in transformers' layout, or the original's layout.

        See `transformers.PreTrainedModel.from_pretrained` for the arguments; ``torch_dtype`` and ``dtype`` both
        work.

        Raises:
            ValueError: no weight of the checkpoint fits this class, or one is missing or has another shape.
        """
        for loader in FOREIGN_LOADERS:
            model = loader(cls, pretrained_model_name_or_path, kwargs)
            if model is not None:
                return model
        wants_info = kwargs.pop("output_loading_info", False)
        if cls._part_prefix is not None:
            # A part is loaded from the whole's checkpoint too; its own checkpoint has no such prefix.
            kwargs.setdefault("key_mapping", {rf"^{re.escape(cls._part_prefix)}": ""})
        model, info = super().from_pretrained(
            pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
        )
        _refuse_incomplete(model, info, pretrained_model_name_or_path)
        return (model, info) if wants_info else model


def _refuse_incomplete(model: Any, info: dict[str, Any], name: Any) -> None:
    """A model that was not wholly loaded would talk noise without a word: say what is missing instead."""
    if mismatched := sorted(info.get("mismatched_keys") or []):
        key, found, expected = mismatched[0]
        raise ValueError(
            f"{name}: {key!r} has shape {tuple(found)}, this configuration expects {tuple(expected)} "
            f"({len(mismatched)} such keys)."
        )
    if missing := sorted(info.get("missing_keys") or []):
        expected = (
            tuple(model.get_parameter(missing[0]).shape)
            if missing[0] in dict(model.named_parameters())
            else "?"
        )
        raise ValueError(
            f"{name} lacks {missing[0]!r} of shape {expected} ({len(missing)} of {len(model.state_dict())} keys "
            f"are missing): it is not a whole {type(model).__name__} checkpoint."
        )
