"""What is measured of a model on tokens: losses, accuracies, and how fast it learns."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor

from aizuchi.models.moshi.losses import weighted_cross_entropy


class TokenMeasures:
    """Sums over batches of losses and hits, each with its count; a tensor, so that processes can add them up.

    Text is counted apart for padding (and its end), for what is said and for what is heard, which are the ids from
    ``heard_from`` on; audio apart for every codebook.
    """

    def __init__(self, config: Any, device: Any = None, heard_from: int | None = None):
        self.config, self.heard_from = config, heard_from
        self.text = config.text_padding_token_id, config.text_end_padding_token_id
        # rows: text said, text padding, text heard, codebooks; columns: loss, hits, count
        self.sums = torch.zeros(3 + config.num_generated_codebooks, 3, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, outputs: Any, text_labels: Tensor, audio_labels: Tensor | None) -> None:
        """Count one forward pass: labels are columns, as `forward` takes them."""
        if outputs.text_loss is not None:
            targets = text_labels[:, 1:].flatten()
            padding = torch.zeros_like(targets, dtype=torch.bool)
            for token in self.text:
                padding |= targets == token
            known = (targets >= 0) & (targets < self.config.text_output_size)
            logits = outputs.logits[:, :-1].flatten(0, 1)
            heard = targets >= (self.config.vocab_size if self.heard_from is None else self.heard_from)
            self._count(0, logits, targets, known & ~padding & ~heard)
            self._count(1, logits, targets, known & padding)
            self._count(2, logits, targets, known & heard)
        if outputs.audio_logits is not None and audio_labels is not None:
            targets = audio_labels[:, :, 1:].transpose(1, 2).flatten(0, 1)  # (B * (T - 1), K)
            known = (targets >= 0) & (targets < self.config.audio_vocab_size)
            for k in range(targets.shape[1]):
                self._count(3 + k, outputs.audio_logits[:, k], targets[:, k], known[:, k])

    def _count(self, row: int, logits: Tensor, targets: Tensor, chosen: Tensor) -> None:
        logits, targets = logits[chosen], targets[chosen]
        loss, count = weighted_cross_entropy(logits, targets, torch.ones_like(targets, dtype=torch.float32))
        hits = (logits.argmax(-1) == targets).sum()
        self.sums[row] += torch.stack([loss.double(), hits.double(), count.double()])

    def result(self) -> dict[str, float]:
        """Means: text loss, perplexity and accuracy with padding and without, and the same of each codebook."""
        sums = self.sums.tolist()
        values: dict[str, float] = {}

        def put(name: str, row: list[float], perplexity: bool = False) -> None:
            loss, hits, count = row
            if count:
                values[f"{name}_loss"] = loss / count
                if perplexity:
                    values[f"{name}_perplexity"] = math.exp(min(loss / count, 80))
                values[f"{name}_accuracy"] = hits / count

        put("text", [sum(row) for row in zip(*sums[:3])], perplexity=True)
        put("words", sums[0], perplexity=True)
        put("padding", sums[1])
        put("heard", sums[2])
        audio = sums[3:]
        if audio:
            put("audio", [sum(column) for column in zip(*audio)])
        for k, row in enumerate(audio):
            put(f"codebook{k}", row)
        return values


def flops_per_frame(model: Any, frames: int) -> float:
    """Multiply-adds times two of a training step (forward and backward) for one frame of one row.

    A matrix costs 6 a weight, 4 where it is not trained; attention 12 * layers * width * half the frames that it
    sees. Embeddings are looked up, which costs nothing here.
    """
    config = model.config
    matrices = 0.0
    for name, parameter in model.named_parameters():
        if not name.startswith("audio_encoder") and "embed_tokens" not in name and parameter.dim() > 1:
            matrices += parameter.numel() * (6.0 if parameter.requires_grad else 4.0)
    width = config.num_attention_heads * config.head_dim
    seen = min(frames, config.sliding_window)
    return matrices + 12.0 * config.num_hidden_layers * width * seen / 2


def measured_matmul_rate(device: Any, dtype: torch.dtype, seconds: float = 0.2) -> float:
    """Floating-point operations a second that a large product of matrices reaches here."""
    size = 1024 if torch.device(device).type == "cpu" else 8192
    a = torch.ones(size, size, device=device, dtype=dtype)
    b = torch.ones(size, size, device=device, dtype=dtype)
    best = 0.0
    end = time.perf_counter() + seconds
    for _ in range(50):
        start = time.perf_counter()
        a @ b
        if a.is_cuda:
            torch.cuda.synchronize()
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
        if time.perf_counter() > end:
            break
    return best
