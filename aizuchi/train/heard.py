"""What the user says as a second target, while training: the last hidden states tell the user's words.

Answers teach a model to listen only through what they have in common with the questions; word by word it learns from
every second of speech. The head is not part of the model: it is left behind when the model is exported.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aizuchi.errors import AizuchiError

QUIET_WEIGHT = 0.1  # of frames in which no word ends: by far the most


class HeardHead(nn.Linear):
    """Hidden states (B, T + 1, H) -> logits (B, T + 1, classes).

    Args:
        hidden: H. classes: of words, 0 being none. delay: frames that pass after the end of a word until it is told.
    """

    def __init__(self, hidden: int, classes: int, delay: int):
        super().__init__(hidden, classes)
        self.delay = delay

    def begin_from(self, checkpoint: str | None) -> None:
        """Take over the head that was left in a checkpoint's folder, if it tells as many classes."""
        path = Path(checkpoint or "", "heard.pt")
        if checkpoint and path.exists():
            weights = torch.load(path, map_location="cpu", weights_only=True)
            if {k: v.shape for k, v in weights.items()} == {k: v.shape for k, v in self.state_dict().items()}:
                self.load_state_dict(weights)

    def targets(self, heard: Tensor, columns: int) -> Tensor:
        """Classes on frames (B, T) -> what each column (B, columns) tells; column 0 has heard nothing yet."""
        late = F.pad(heard, (1 + self.delay, columns), value=-1)
        return late[:, :columns]


def heard_weights(targets: Tensor) -> Tensor:
    """Weights of targets, in their shape; what is not known has none."""
    return torch.where(targets > 0, 1.0, QUIET_WEIGHT) * (targets >= 0)


def heard_sums(logits: Tensor, targets: Tensor) -> Tensor:
    """(4,) weighted loss; and of words alone: loss, hits, count."""
    known = targets >= 0
    logits, targets = logits[known].float(), targets[known]
    losses = F.cross_entropy(logits, targets, reduction="none")
    word = targets > 0
    hits = (logits.argmax(-1) == targets)[word].sum()
    return torch.stack([(losses * heard_weights(targets)).sum(), losses[word].sum(), hits, word.sum()])


def heard_classes(sources: Sequence[Any]) -> int:
    """Classes of the user's words in some sources of tokens.

    Raises:
        AizuchiError: a source does not know them, or two differ.
    """
    found = {int(getattr(source, "heard_classes", 0)) for source in sources}
    if len(found) != 1 or 0 in found:
        raise AizuchiError(
            "loss.heard_weight and heard_text need the user's words, but not all of the data tells them "
            f"(heard_classes of the sources: {sorted(found)})"
        )
    return found.pop()


@torch.no_grad()
def mute_codebooks(model: Any, heard: int) -> None:
    """Let codes of all but the first ``heard`` codebooks of the user embed as zero."""
    config = model.config
    for table in model.embed_tokens[config.num_model_codebooks + heard : config.num_input_codebooks]:
        table.weight[: config.audio_vocab_size] = 0  # but not the initial token
