"""What all of Moshi's model classes share: initialisation and capabilities."""

from __future__ import annotations

import math

import torch
from torch import nn
from transformers import initialization as init

from ..layers import LayerNormF32, PerCodebookLinear, RMSNorm
from ..loading import LoadingModel
from .configuration import MoshiConfig

# What a part finds beside itself in a whole model's checkpoint.
REST_OF_THE_WHOLE = [r"^(audio_embed_tokens|audio_encoder|depth_decoder|extra_heads|condition_provider)\."]


class MoshiPreTrainedModel(LoadingModel):
    """Base class of the temporal model, the depth decoder and the whole."""

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

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Normal with ``initializer_range``, for the stacked weights of the depth decoder too.

        A width-aware scale, 1 / sqrt(fan-in), would be the original's; the documented field decides instead,
        except that it never makes a layer's output larger than its input.
        """
        std = self.config.initializer_range
        if isinstance(module, nn.Linear | PerCodebookLinear):
            init.normal_(module.weight, std=min(std, 1 / math.sqrt(module.in_features)))
            if getattr(module, "bias", None) is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=std)
            if module.padding_idx is not None:
                init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, RMSNorm):
            init.ones_(module.weight)
        elif isinstance(module, nn.LayerNorm | LayerNormF32):
            init.ones_(module.weight)
            init.zeros_(module.bias)
