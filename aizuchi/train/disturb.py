"""Against knowing few hours of speech by heart: hide frames of the user, let his stream halt or skip, drop out updates.

The first two work on tokens, cost nothing, and follow from a generator alone: no clip sounds twice the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

FARTHEST = 2  # frames that a warped stream may run ahead or behind


def hide_frames(user: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Codes (K, T) with a share of the frames unknown (-1): they embed as nothing."""
    return np.where(rng.random(user.shape[1]) < share, -1, user)


def warp_frames(
    user: np.ndarray, heard: np.ndarray | None, share: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray | None]:
    """Let the user's stream halt or skip a frame at a share of the frames, never farther than `FARTHEST` from its time.

    Args:
        user: (K, T) codes. heard: (T,) classes of the words that end on each frame, 0 none, -1 unknown.

    Returns:
        Both in their shapes. No word is lost but one that the row's end cuts off: it moves to the frame on which the
        stream reaches its end, or the next free one.
    """
    frames = user.shape[1]
    place = _walk(frames, share, rng)
    user = user[:, place]
    if heard is None or not (heard > 0).any():
        return user, heard
    moved = np.where(heard < 0, heard, 0)
    for word in np.flatnonzero(heard > 0):
        at = int(np.searchsorted(place, word))
        while at < frames and moved[at] > 0:
            at += 1
        if at < frames:
            moved[at] = heard[word]
    return user, moved


def _walk(frames: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """(T,) never falling frame numbers, each within FARTHEST of its own."""
    steps = np.where(rng.random(frames) < share, rng.integers(0, 2, frames) * 2 - 1, 0)
    ahead = 0
    place = np.empty(frames, np.int64)
    for t, step in enumerate(steps):
        if abs(ahead + step) <= FARTHEST:
            ahead += int(step)
        place[t] = min(max(t + ahead, 0), frames - 1)
    return place


def drop_updates(layers: Iterable[Any], share: float) -> None:
    """Let transformer layers drop a share of what they add to their input, wherever they are in training mode.

    The model itself knows nothing of it: neither its configuration nor what is saved changes.
    """

    def drop(module: Any, _: Any, output: Any) -> Any:
        return F.dropout(output, share, module.training)

    for layer in layers:
        layer.self_attn.o_proj.register_forward_hook(drop)
        layer.mlp.register_forward_hook(drop)


@torch.no_grad()
def mute_codebooks(model: Any, heard: int) -> None:
    """Let codes of all but the first ``heard`` codebooks of the user embed as zero."""
    config = model.config
    for table in model.embed_tokens[config.num_model_codebooks + heard : config.num_input_codebooks]:
        table.weight[: config.audio_vocab_size] = 0  # but not the initial token
