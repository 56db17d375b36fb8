"""The model's text as it comes, one token a frame: what to show, and where words begin."""

from __future__ import annotations

from typing import Any

from ..data.tokenizer import TextTokenizer

_SYLLABLES = (
    "ba be bi bo bu da de di do du ka ke ki ko ku la le li lo lu ma me mi mo mu na ne ni no nu".split()
)


class Babble:
    """A tokenizer of syllables, so that a model with random weights has something to show."""

    def id_to_piece(self, token: int) -> str:
        """Two syllables in three go on with the word before."""
        syllable = _SYLLABLES[token % len(_SYLLABLES)]
        return ("▁" if token % 3 == 0 else "") + syllable

    def encode(self, text: str) -> list[int]:
        """One syllable a letter."""
        return [3 + 3 * (ord(letter) % 97) for letter in text if letter.strip()][:64]

    def decode(self, ids: list[int]) -> str:
        """The syllables of some ids."""
        return "".join(self.id_to_piece(i) for i in ids).replace("▁", " ").strip()


class TextStream:
    """Turns one conversation's text ids into text, a frame at a time.

    Characters that span several tokens are held back until they are whole.
    """

    def __init__(self, tokenizer: Any, pad: int, epad: int):
        self.tokenizer = None if tokenizer is None else TextTokenizer(tokenizer)
        self._quiet = (pad, epad)
        self._ids: list[int] = []
        self._shown = ""
        self._spoken = False  # whether anything was said before

    def feed(self, token: int) -> tuple[str, bool]:
        """The text that this frame's id adds, and whether it begins a word."""
        if self.tokenizer is None or token < 0 or token in self._quiet:
            self._ids = []
            return "", False
        begins = not self._ids or self.tokenizer.starts_word(token)
        if begins:
            self._ids, self._shown = [], ""
        self._ids.append(token)
        whole = self.tokenizer.decode(self._ids)
        if whole.endswith("\ufffd") and len(self._ids) < 8:
            return "", False
        begins = self._shown == ""
        new = whole[len(self._shown) :] if whole.startswith(self._shown) else self.tokenizer.decode([token])
        self._shown = whole
        if not new:
            return "", False
        if begins and self._spoken:
            new = " " + new
        self._spoken = True
        return new, begins

    def script(self, text: str, limit: int = 400) -> list[int]:
        """Ids, one a frame, that make the model say ``text``: its tokens, and padding that leaves time to speak.

        Speech runs at some twelve letters a second, about one a frame.
        """
        if self.tokenizer is None:
            return []
        pad, epad = self._quiet
        ids: list[int] = []
        for word in text.split():
            tokens = [token for token in self.tokenizer.encode(word) if token not in self._quiet]
            rest = max(0, round(0.8 * len(word)) - len(tokens))
            ids += tokens + [pad] * max(0, rest - 1) + [epad] * (rest > 0)
            if len(ids) >= limit:
                break
        return ids[:limit]
