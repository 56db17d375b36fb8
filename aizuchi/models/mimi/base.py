"""Initialisation and loading of Mimi's weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .configuration import MimiConfig
from .quantization import MimiEuclideanCodebook
from .transformer import MimiLayerScale


class MimiPreTrainedModel(PreTrainedModel):
    """Initialisation and loading, as transformers wants them."""

    config_class = MimiConfig
    config: MimiConfig
    base_model_prefix = "mimi"
    main_input_name = "input_values"
    input_modalities = "audio"
    supports_gradient_checkpointing = True
    _no_split_modules = ["MimiTransformerLayer", "MimiSplitResidualVectorQuantizer"]
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=self.config.initializer_range)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)):
            # An output of a transposed convolution sums over kernel / stride taps of its group's inputs only.
            fan_in = module.in_channels // module.groups * module.kernel_size[0]
            if isinstance(module, nn.ConvTranspose1d):
                fan_in //= module.stride[0]
            init.normal_(module.weight, std=fan_in**-0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, MimiLayerScale):
            init.constant_(module.scale, self.config.layer_scale_initial_scale)
        elif isinstance(module, MimiEuclideanCodebook):
            # Entries are drawn, not zero: a model with zero codebooks gives code 0 for everything.
            init.ones_(module.initialized)
            init.ones_(module.cluster_usage)
            init.normal_(module.embed_sum, std=self.config.codebook_dim**-0.5)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a checkpoint: a folder or hub id in transformers' layout, or Kyutai's file.

        See `transformers.PreTrainedModel.from_pretrained` for the arguments.

        Raises:
            ValueError: a weight is missing or has another shape; the message names it.
        """
        # Not at the top: Moshi's modules are built on Mimi's.
        from ..moshi.base import FOREIGN_LOADERS, _refuse_incomplete

        for loader in FOREIGN_LOADERS:
            model = loader(cls, pretrained_model_name_or_path, kwargs)
            if model is not None:
                return model
        wants_info = kwargs.pop("output_loading_info", False)
        tolerant = kwargs.pop("ignore_mismatched_sizes", False)
        loaded: Any = super().from_pretrained(
            pretrained_model_name_or_path,
            *args,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, with the key and both shapes
            **kwargs,
        )
        model, info = loaded
        if not (tolerant and info.get("mismatched_keys")):
            _refuse_incomplete(model, info, pretrained_model_name_or_path)
        return (model, info) if wants_info else model
