"""Small stand-ins that several data tests share."""

from __future__ import annotations

from collections.abc import Sequence


class LetterTokenizer:
    """Two letters an id, as SentencePiece would mark them: the first id of a word differs from the others.

    It round-trips any text of a-z; ids start at 10, so that padding ids stay free.
    """

    def __init__(self) -> None:
        letters = "abcdefghijklmnopqrstuvwxyz"
        units = [*letters, *(a + b for a in letters for b in letters)]
        self._pieces = ["▁" + u for u in units] + units
        self._ids = {piece: i + 10 for i, piece in enumerate(self._pieces)}

    def encode(self, text: str) -> list[int]:
        pieces = [text[i : i + 2] for i in range(0, len(text), 2)]
        return [self._ids[("▁" if i == 0 else "") + piece] for i, piece in enumerate(pieces)]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self._pieces[i - 10] for i in ids).replace("▁", " ").strip()

    def id_to_piece(self, token: int) -> str:
        return self._pieces[token - 10]
