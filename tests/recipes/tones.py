"""A voice whose every word is a tone of its own: clips for tests of the ear."""

import numpy as np

from recipes.mini.timing import RATE, Spoken

VOICE = "kokoro:af_sky"
TEXTS = ["one two three", "blue cat sings", "monday is gone", "what rains today", "seven old horses"]
WORDS = sorted({word for text in TEXTS for word in text.split()})
FRAMES = 64


def tone(word: str) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * (400 + 300 * WORDS.index(word)) * np.arange(RATE // 5) / RATE)).astype(
        np.float32
    )


def spoken(text: str) -> Spoken:
    """Every word is a tone of its own, 0.2 s long."""
    words = tuple((word, 0.05 + 0.2 * k, 0.25 + 0.2 * k) for k, word in enumerate(text.split()))
    edge = np.zeros(RATE // 20, np.float32)
    return Spoken(
        np.concatenate([edge, *(tone(word) for word, _, _ in words), edge]), words, (("a", 0.05, 0.2),)
    )


def word_list(words, folder):
    """A file of words, a line each."""
    path = folder / "heard.txt"
    path.write_text("\n".join(words))
    return path
