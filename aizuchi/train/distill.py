"""Learning from other models' text: their mean distribution beside the one token that the data has.

Models of separate runs err in different places, and their mean mostly errs less than each; a student that learns what
the mean gives comes nearer to it (Hinton et al., 2015, arXiv 1503.02531). Padding is left out: when to speak is told
by the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from aizuchi.errors import AizuchiError


@dataclass
class DistillConfig:
    """teachers: models with the streams and the vocabulary of the one in training. weight: of their mean; what the
    data says has the rest.
    """

    teachers: list[str] = field(default_factory=list)
    weight: float = 0.5


class Teachers:
    """Models that a student learns the text of.

    Args:
        models: `MoshiForConditionalGeneration`; they are frozen. config: of the student.

    Raises:
        AizuchiError: one of them has other streams, or another vocabulary.
    """

    def __init__(self, models: Sequence[Any], config: Any, weight: float):
        self.models, self.weight = list(models), weight
        for number, model in enumerate(self.models):
            for name in ("text_output_size", "audio_vocab_size", "num_input_codebooks", "delays"):
                ours, theirs = getattr(config, name), getattr(model.config, name)
                if ours != theirs:
                    raise AizuchiError(
                        f"distill.teachers: the {name} of number {number + 1} is {theirs}, the model's is {ours}"
                    )
            model.eval().requires_grad_(False)
            model.config.use_cache = False
        self.padding = (config.text_padding_token_id, config.text_end_padding_token_id)

    @torch.no_grad()
    def means(self, inputs: Any, words: Tensor, never: Tensor | None = None) -> Tensor:
        """Mean probabilities (N, V) of what comes behind the columns of ``words`` (B, T - 1) in a micro-batch.

        Args:
            never: (V,) ids that can't be said here.
        """
        given = {name: x for name, x in inputs.items() if not name.endswith("labels")}
        total: Any = 0.0
        for model in self.models:
            logits = model(**given).logits[:, :-1][words].float()
            if never is not None:
                logits = logits.masked_fill(never, -torch.inf)
            total = total + logits.softmax(-1)
        return total / len(self.models)

    def change(self, logits: Tensor, inputs: Any, never: Tensor | None = None) -> Tensor:
        """What turns a sum of text losses to labels into one to the mixture: add it to that sum.

        The cross-entropies to a label and to a distribution have the same normaliser, so their difference is one of
        logits alone.

        Args:
            logits: (B, T, V) of the student. inputs: the micro-batch, with its ``text_labels`` (B, T).
        """
        labels = inputs["text_labels"][:, 1:]
        words = (labels >= 0) & (labels < logits.shape[-1])
        for token in self.padding:
            words &= labels != token
        ours = logits[:, :-1][words].float()  # (N, V)
        towards = self.means(inputs, words, never)
        told = ours.gather(1, labels[words][:, None])[:, 0]
        return self.weight * (told - (towards * ours).sum(-1)).sum()


def load_teachers(config: DistillConfig, student: Any, device: Any, dtype: torch.dtype) -> Teachers:
    """The teachers of a run, on its device and in what its layers compute in. student: the model's configuration."""
    from aizuchi.models.moshi import MoshiForConditionalGeneration
    from aizuchi.models.quantized import dequantize_model

    from .start import pretrained

    models = []
    for path in config.teachers:
        teacher = dequantize_model(pretrained(MoshiForConditionalGeneration, path, "distill.teachers"))
        teacher.audio_encoder, teacher.depth_decoder = None, None  # what only codes need
        models.append(teacher.to(device=device, dtype=dtype))
    return Teachers(models, student, config.weight)
