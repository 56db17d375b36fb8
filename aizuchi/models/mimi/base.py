"""Initialisation of Mimi's weights."""

from __future__ import annotations

import torch
from torch import nn
from transformers import initialization as init

from ..loading import LoadingModel
from .configuration import MimiConfig
from .quantization import MimiEuclideanCodebook
from .transformer import MimiLayerScale


class MimiPreTrainedModel(LoadingModel):
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
