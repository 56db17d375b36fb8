"""How models are stored: room for quantized weights that are about to be loaded, and codecs in int8.

A codec computes with wide weights, as codes are a matter of nearness. What is large of it may be stored in int8, with a
scale for each row, and is wide again once it is loaded: the matrices of its transformers, and the decoder's
convolutions. Those of the encoder stay as they are.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from .quantized import (
    VERSION,
    check_version,
    quantize_layers,
    quantize_model,
    to_int8,
    widen_layers,
)

# weights of a convolution that is stored in int8; smaller ones, next to the samples, stay as they are
LARGE = 1 << 15


class StoredConvolution(nn.Module):
    """The weight of a convolution in int8 with a scale for each of its first dimension, and its bias as it is."""

    def __init__(self, plain: nn.Conv1d | nn.ConvTranspose1d, fill: bool):
        super().__init__()
        self.shape = plain.weight.shape
        device = plain.weight.device
        self.register_buffer("weight", torch.zeros(self.shape, dtype=torch.int8, device=device))
        self.register_buffer("scale", torch.ones(self.shape[0], device=device))
        self.bias = plain.bias
        if fill:
            weight, scale = to_int8(plain.weight.flatten(1))
            self.weight.copy_(weight.view(self.shape))
            self.scale.copy_(scale)
        # what it was, without its numbers; in a tuple, so that it is no part of what is saved
        self._plain = (copy.deepcopy(plain).to("meta"),)

    def wide(self) -> nn.Module:
        """The convolution, in float32."""
        plain = copy.deepcopy(self._plain[0]).float().to_empty(device=self.weight.device)
        with torch.no_grad():
            plain.weight.copy_(self.weight.float() * self.scale.float()[:, None, None])
        plain.bias = self.bias
        return plain.train(self.training)


def store_codec(codec: Any, fill: bool = True, convolutions: bool = True) -> Any:
    """Put int8 in place of what is large of a codec, in place, for saving; returns the codec.

    Args:
        codec: `MimiModel`. fill: False only makes room for such weights that are to be loaded.
        convolutions: the decoder's, too, not only the transformers' matrices.
    """
    for part in (codec.encoder_transformer, codec.decoder_transformer):
        quantize_layers(part, "int8", fill)
    if convolutions:
        _replace(codec.decoder, _is_large, lambda plain: StoredConvolution(plain, fill))
    codec.config.aizuchi_stored = {"version": VERSION, "kind": "int8", "convolutions": convolutions}
    return codec


def widen_stored(model: Any) -> Any:
    """Put float32 weights in place of those that a codec in a model was stored with; returns the model."""
    for module in list(model.modules()):
        if getattr(getattr(module, "config", None), "aizuchi_stored", None) and hasattr(module, "quantizer"):
            widen_layers(module)
            _replace(
                module.decoder, lambda part: isinstance(part, StoredConvolution), lambda part: part.wide()
            )
            module.config.aizuchi_stored = None
    return model


def make_room(model: Any) -> None:
    """Give a model, or a codec, that is about to be loaded the layers that its configuration says it was saved with."""
    if said := getattr(model.config, "aizuchi_quantization", None):
        check_version(said)
        quantize_model(model, said.get("kind", ""), fill=False)
    if said := getattr(model.config, "aizuchi_stored", None):
        check_version(said)
        store_codec(model, fill=False, convolutions=said.get("convolutions", False))


def _is_large(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv1d | nn.ConvTranspose1d) and module.weight.numel() >= LARGE


def _replace(part: nn.Module, chosen: Any, made: Any) -> None:
    for parent in list(part.modules()):
        for name, child in list(parent.named_children()):
            if chosen(child):
                setattr(parent, name, made(child))
