"""Teachers of the semantic codebook: what the first codebook of a frame should let one tell.

The paper distils WavLM's features. Anything that knows about frames will do: phone labels from alignments or from a
synthesiser, features of some recogniser's encoder, or, when there is nothing at all, clusters of log-mel spectra in
their context, which no download is needed for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aizuchi.audio import SAMPLE_RATE

from .codebooks import kmeans
from .mimi_config import MimiTraining
from .order import keyed_generator
from .spectral import log_mel
from .waves import WaveSteps, load_object

_FRAME = 1920


class LabelHead(nn.Module):
    """Predicts a label of each frame from the semantic part of the latents (B, H, T)."""

    def __init__(self, hidden: int, classes: int):
        super().__init__()
        self.linear = nn.Linear(hidden, classes)

    def forward(self, semantic: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy with labels (B, T), -1 = unknown; and the accuracy."""
        logits = self.linear(semantic.transpose(1, 2)).flatten(0, 1)
        labels = target.flatten()
        known = labels >= 0
        count = known.sum().clamp(min=1)
        loss = F.cross_entropy(logits, labels.clamp(min=0), reduction="none")
        accuracy = ((logits.argmax(-1) == labels) & known).sum() / count
        return (loss * known).sum() / count, accuracy


class FeatureHead(nn.Module):
    """Predicts a feature vector of each frame; the loss is one minus the cosine (paper, section 3.3.3)."""

    def __init__(self, hidden: int, dim: int):
        super().__init__()
        self.linear = nn.Linear(hidden, dim)

    def forward(self, semantic: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Distance to features (B, T, D), and the mean cosine."""
        cosine = F.cosine_similarity(self.linear(semantic.transpose(1, 2)), target, dim=-1).mean()
        return 1 - cosine, cosine.detach()


class ClusterTeacher:
    """Labels frames by clusters of the log-mel spectrum around them, future included (the codec itself is causal).

    Args:
        waves: (N, 1, S) to find the clusters in.
    """

    def __init__(self, waves: Tensor, classes: int, rate: int, generator: np.random.Generator):
        self.rate = rate
        features = self._features(waves).flatten(0, 1)
        self.mean, self.scale = features.mean(0), features.std(0).clamp(min=1e-3)
        self.centres = kmeans((features - self.mean) / self.scale, classes, generator)

    def __call__(self, waves: Tensor) -> Tensor:
        """(B, 1, S) -> (B, S / 1920) labels."""
        features = (self._features(waves) - self.mean.to(waves)) / self.scale.to(waves)
        centres = self.centres.to(waves)
        return (features @ centres.T - centres.square().sum(-1) / 2).argmax(-1)

    def _features(self, waves: Tensor) -> Tensor:
        """(B, 1, S) -> (B, F, 3 * 40): four log-mel spectra a frame, averaged in halves, and the next frame's."""
        mel = log_mel(waves[:, 0], self.rate, _FRAME // 4)  # (B, 4 F, 40)
        # loudness is not what is said
        mel = mel - mel.mean(-1, keepdim=True)
        halves = mel.unflatten(1, (-1, 2)).mean(2).unflatten(1, (-1, 2)).flatten(2)  # (B, F, 80)
        after = torch.cat([halves[:, 1:, :40], halves[:, -1:, :40]], 1)
        return torch.cat([halves, after], -1)

    def state_dict(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "scale": self.scale, "centres": self.centres}

    @classmethod
    def from_state(cls, state: dict[str, Tensor], rate: int) -> ClusterTeacher:
        teacher = cls.__new__(cls)
        teacher.rate = rate
        teacher.mean, teacher.scale, teacher.centres = state["mean"], state["scale"], state["centres"]
        return teacher


Teacher = Callable[[Tensor], Any]


def make_teacher(config: MimiTraining, given: Any, steps: WaveSteps) -> Any:
    """What `semantic.teacher` names, where nothing else is ``given``; None where the data brings labels."""
    kind = config.semantic.teacher
    if given is not None or kind in ("none", "labels"):
        return given
    if kind == "clusters":
        generator = keyed_generator(config.seed, "clusters")
        # from all processes' rows: everyone finds the same clusters
        count = max(8, min(64, 4 * config.semantic.classes // 16))
        waves = steps.rows(range(count)).wave
        return ClusterTeacher(waves, config.semantic.classes, SAMPLE_RATE, generator)
    return load_object(kind, "semantic.teacher")


def make_head(config: MimiTraining, teacher: Any, hidden: int, steps: WaveSteps) -> nn.Module | None:
    """What tells the teacher's targets from semantic latents of ``hidden`` channels; None where there is no teacher."""
    kind = config.semantic.teacher
    if teacher is None and kind == "none":
        return None
    if kind in ("labels", "clusters"):
        return LabelHead(hidden, config.semantic.classes)
    return FeatureHead(hidden, teacher(steps.rows(range(1)).wave).shape[-1])


def delayed(target: Tensor, frames: int) -> Tensor:
    """Targets (B, T, ...) so many frames later, with nothing asked (labels of -1, features of 0) before."""
    if not frames:
        return target
    none = torch.full_like(target[:, :frames], 0 if target.is_floating_point() else -1)
    return torch.cat([none, target[:, :-frames]], 1)
