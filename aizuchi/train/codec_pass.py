"""One pass through a codec in training, and the optimizer of what takes part in it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .codebooks import CodebookTrainer, Quantized
from .config import check
from .mimi_config import MimiTraining


class CodecPass(nn.Module):
    """The codec and the head of its semantic codebook as one module, so that processes share one backward pass.

    ``train``: all; decoder, nothing that the codes depend on; or semantic, what the semantic codebook depends on.
    """

    def __init__(self, codec: Any, quantizer: CodebookTrainer, head: nn.Module | None, train: str = "all"):
        super().__init__()
        self.codec, self.head = codec, head
        self.quantizer = quantizer
        self.train_part = train
        if train != "all":
            codec.requires_grad_(False)
            semantic = codec.quantizer.semantic_residual_vector_quantizer
            parts = {
                "decoder": (codec.upsample, codec.decoder_transformer, codec.decoder),
                "semantic": (codec.encoder, codec.encoder_transformer, codec.downsample, semantic),
            }
            for part in parts[train]:
                if part is not None:
                    part.requires_grad_(True)

    def forward(
        self,
        wave: Tensor,
        levels: Tensor | None,
        bypass: Tensor | None,
        target: Tensor | None,
        quantize: bool = True,
        decoded: Tensor | None = None,
        codes: Tensor | None = None,
    ) -> tuple[Tensor | None, Quantized | None, Tensor, Tensor]:
        """Waveforms (B, 1, S) -> (output (D, 1, S), what was quantized, semantic loss, how well it is told).

        There is no output where only the semantic part is trained. Where the decoder is, all comes from codes, nothing
        is quantized that learns, and of the arguments wave, decoded and codes count.

        Args:
            levels: (B,) codebooks of each row. bypass: (B,) rows that are decoded from unquantized latents.
            decoded: (B,) the D rows that are decoded; None for all. The others are only heard: they cost a third.
            codes: (B, K, F) that rows are decoded from in place of the codec's own, -1 in rows of which it is these.
        """
        if self.train_part == "decoder":
            quantized_latents = self._of_codes(wave, decoded, codes)
            output = self.codec.decode_latent(quantized_latents)[..., : wave.shape[-1]]
            return output, None, wave.new_zeros(()), wave.new_zeros(())
        latents = self.codec.encode_latent(wave)
        quantized = self.quantizer.quantize(latents, levels, decoded) if quantize else None
        plain = latents if decoded is None else latents[decoded]
        if quantized is None:
            chosen = plain
        elif bypass is None:
            chosen = quantized.latents
        else:
            bypass = bypass if decoded is None else bypass[decoded]
            chosen = torch.where(bypass[:, None, None], plain, quantized.latents)
        output = None
        if self.train_part != "semantic":
            output = self.codec.decode_latent(chosen)[..., : wave.shape[-1]]
        loss = score = latents.new_zeros(())
        if self.head is not None and target is not None:
            loss, score = self.head(self.quantizer.unquantized_semantic(latents), target)
            if quantized is not None:
                # what the entries tell, and what there is for entries to tell: the latter learns sooner
                told, score = self.head(quantized.semantic, target)
                loss = (loss + told) / 2
        return output, quantized, loss, score

    @torch.no_grad()
    def _of_codes(self, wave: Tensor, decoded: Tensor | None, codes: Tensor | None) -> Tensor:
        """Quantized latents (D, H, F) of the rows that are decoded; only those that bring no codes are encoded."""
        if decoded is not None:
            wave, codes = wave[decoded], None if codes is None else codes[decoded]
        if codes is None:
            return self.quantizer.quantize(self.codec.encode_latent(wave)).latents
        brought = codes[:, 0, 0] >= 0
        latents = self.codec.quantizer.decode(codes.clamp(min=0))
        if not brought.all():
            own = self.quantizer.quantize(self.codec.encode_latent(wave[~brought])).latents
            latents[~brought] = own.to(latents.dtype)
        return latents

    def check_codes(self, codes: Tensor) -> None:
        """Raise AizuchiError unless codes (B, K, F) that the data brings can be decoded."""
        sizes = self.codec.config
        check(self.train_part == "decoder", "the data brings codes, which only `train: decoder` decodes")
        known = codes.shape[1] <= sizes.num_quantizers
        check(known, f"the data brings codes of {codes.shape[1]} codebooks; there are {sizes.num_quantizers}")
        check(
            int(codes.max()) < sizes.codebook_size,
            f"the data brings codes that are not below {sizes.codebook_size}",
        )


def make_optimizer(model: CodecPass, config: MimiTraining) -> torch.optim.Optimizer:
    """AdamW; the matrices of the transformers decay, nothing else does."""
    decaying: list[Any] = []
    others: list[Any] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
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
