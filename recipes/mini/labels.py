"""Phone times to labels on codec frames: what the semantic codebook is taught, for nothing.

One frame of 80 ms holds one to three phones, so a label is a share of each phone, not one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from recipes.mini.timing import Span

FRAME_RATE = 12.5
SILENCE = 0
# Phones of the neural voices' American and British front ends; diphthongs have letters of their own.
PHONES: tuple[str, ...] = (
    *("", "A", "I", "O", "Q", "W", "Y", "b", "d", "f", "h", "i", "j", "k", "l", "m", "n", "p", "s", "t", "u"),
    *(
        "v",
        "w",
        "z",
        "\u00e6",
        "\u00f0",
        "\u014b",
        "\u0251",
        "\u0252",
        "\u0254",
        "\u0259",
        "\u025b",
        "\u025c",
    ),
    *("\u0261", "\u026a", "\u0279", "\u027e", "\u0283", "\u028a", "\u028c", "\u0292", "\u02a4", "\u02a7"),
    *("\u03b8", "\u1d4a", "\u1d7b", "a", "e", "\u0250", "T", "\u02d0"),
)
_NUMBER = {phone: i for i, phone in enumerate(PHONES)}
OTHER = len(PHONES)  # a phone that is not in the list
CLASSES = len(PHONES) + 1


def frame_shares(phones: Iterable[Span], frames: int, frame_rate: float = FRAME_RATE) -> np.ndarray:
    """Share of each phone in each frame.

    Args:
        phones: (phone, start, end) in seconds.
        frames: how many frames to label.
        frame_rate: frames a second.

    Returns:
        (frames, CLASSES) float32, rows summing to 1; column 0 is silence, the last one unknown phones.
    """
    shares = np.zeros((frames, CLASSES), np.float32)
    for phone, start, end in phones:
        first, last = start * frame_rate, min(end * frame_rate, frames)
        column = _NUMBER.get(phone, OTHER)
        for frame in range(max(0, int(first)), int(np.ceil(last))):
            shares[frame, column] += max(0.0, min(last, frame + 1) - max(first, frame))
    total = shares.sum(1, keepdims=True)
    shares /= np.maximum(total, 1.0)  # overlapping phones share the frame
    shares[:, SILENCE] += 1 - shares.sum(1)
    return shares


def frame_labels(phones: Sequence[Span], frames: int, frame_rate: float = FRAME_RATE) -> np.ndarray:
    """(frames,) int64: the phone with the largest share of each frame, SILENCE where nobody speaks."""
    return frame_shares(phones, frames, frame_rate).argmax(1)
