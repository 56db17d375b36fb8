"""One pass through a codec in training, and the optimizer of what takes part in it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .codebooks import CodebookTrainer, Quantized
from .mimi_config import MimiTraining


class CodecPass(nn.Module):
    """The codec and the head of its semantic codebook as one module, so that processes share one backward pass."""

    def __init__(self, codec: Any, quantizer: CodebookTrainer, head: nn.Module | None):
        super().__init__()
        self.codec, self.head = codec, head
        self.quantizer = quantizer

    def forward(
        self,
        wave: Tensor,
        levels: Tensor | None,
        bypass: Tensor | None,
        target: Tensor | None,
        quantize: bool = True,
    ) -> tuple[Tensor, Quantized | None, Tensor, Tensor]:
        """Waveforms (B, 1, S) -> (output (B, 1, S), what was quantized, semantic loss, how well it is told).

        Args:
            levels: (B,) codebooks of each row. bypass: (B,) rows that are decoded from unquantized latents.
        """
        latents = decoded = self.codec.encode_latent(wave)
        quantized = self.quantizer.quantize(latents, levels) if quantize else None
        if quantized is not None:
            decoded = quantized.latents
            if bypass is not None:
                decoded = torch.where(bypass[:, None, None], latents, decoded)
        output = self.codec.decode_latent(decoded)[..., : wave.shape[-1]]
        loss = score = latents.new_zeros(())
        if self.head is not None and target is not None:
            told = self.quantizer.unquantized_semantic(latents) if quantized is None else quantized.semantic
            loss, score = self.head(told, target)
        return output, quantized, loss, score


def make_optimizer(model: CodecPass, config: MimiTraining) -> torch.optim.Optimizer:
    """AdamW; the matrices of the transformers decay, nothing else does."""
    decaying: list[Any] = []
    others: list[Any] = []
    for name, parameter in model.named_parameters():
        (decaying if "transformer" in name and parameter.dim() > 1 else others).append(parameter)
    groups = [
        {"params": decaying, "weight_decay": config.optimizer.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]],
        lr=config.optimizer.learning_rate,
        betas=tuple(config.optimizer.betas),
    )
