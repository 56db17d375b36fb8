"""One face for the text tokenizers that people have: SentencePiece, transformers, or any `encode(str)`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

from aizuchi.errors import AizuchiError

_WORD_MARKS = ("▁", "Ġ")  # how SentencePiece and byte-level BPE write the space before a word


class TextTokenizer:
    """Encodes one word at a time, with no special tokens around it.

    Args:
        tokenizer: a `sentencepiece.SentencePieceProcessor`, a transformers tokenizer, the path of a
            SentencePiece `.model` file or of a folder with `tokenizer.json`, or anything with
            `encode(str) -> list[int]`. To turn ids back into words it also needs
            `decode(list[int]) -> str`.

    Raises:
        AizuchiError: it is none of these, or nothing lies at the path.
    """

    def __init__(self, tokenizer: Any):
        if isinstance(tokenizer, (str, os.PathLike)):
            from aizuchi.checkpoints.tokenizer import load_tokenizer  # brings transformers: not at import

            if not os.path.exists(tokenizer):
                raise AizuchiError(f"tokenizer {tokenizer} does not exist")
            tokenizer = load_tokenizer(tokenizer)
        if not callable(getattr(tokenizer, "encode", None)):
            raise AizuchiError(
                f"tokenizer must have encode(str) -> list[int]; a {type(tokenizer).__name__} has none"
            )
        self._tokenizer = tokenizer
        self._special_tokens_flag = hasattr(tokenizer, "convert_ids_to_tokens")  # transformers
        self._to_piece: Callable[[int], str] | None = getattr(
            tokenizer, "id_to_piece", getattr(tokenizer, "convert_ids_to_tokens", None)
        )

    def encode(self, text: str) -> list[int]:
        """The ids of a text, white space around it dropped, without BOS or EOS."""
        if self._special_tokens_flag:
            ids = self._tokenizer.encode(text.strip(), add_special_tokens=False)
        else:
            ids = self._tokenizer.encode(text.strip())
        return [int(i) for i in ids]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids, white space around it dropped."""
        if not callable(getattr(self._tokenizer, "decode", None)):
            raise AizuchiError(
                f"a {type(self._tokenizer).__name__} has no decode: ids can't be turned into words"
            )
        silent = {"skip_special_tokens": True} if self._special_tokens_flag else {}  # as SentencePiece has it
        return str(self._tokenizer.decode([int(i) for i in ids], **silent)).strip()

    def piece(self, token: int) -> str:
        """How the vocabulary writes an id; the id itself for a tokenizer that can't tell."""
        return str(token) if self._to_piece is None else str(self._to_piece(int(token)))

    @property
    def size(self) -> int | None:
        """How many ids there are, None for a tokenizer that can't tell."""
        count = getattr(self._tokenizer, "get_piece_size", None)
        if count is not None:
            return int(count())
        return len(self._tokenizer) if hasattr(self._tokenizer, "__len__") else None

    @property
    def marks_words(self) -> bool:
        """Whether an id tells if it begins a word."""
        return self._to_piece is not None

    def starts_word(self, token: int) -> bool:
        """Whether this id begins a word; always False for a tokenizer that can't tell."""
        return self._to_piece is not None and str(self._to_piece(int(token))).startswith(_WORD_MARKS)

    def heard_word(self, token: int) -> str | None:
        """The user's word that an id stands for, None for all other ids: a piece "▁[word]" that decodes to nothing."""
        piece = self.piece(token)
        if not piece.startswith("▁[") or not piece.endswith("]") or self.decode([token]):
            return None
        return piece[2:-1]

    @property
    def end(self) -> int | None:
        """The id that ends a text, None for a tokenizer that has none."""
        tokenizer = self._tokenizer
        found = (
            tokenizer.eos_id() if hasattr(tokenizer, "eos_id") else getattr(tokenizer, "eos_token_id", None)
        )
        return int(found) if found is not None and found >= 0 else None

    def fingerprint(self) -> str:
        """A short hash of the vocabulary, which says if two sets of ids mean the same."""
        tokenizer = self._tokenizer
        if hasattr(tokenizer, "id_to_piece") and hasattr(tokenizer, "get_piece_size"):  # SentencePiece
            vocabulary = {tokenizer.id_to_piece(i): i for i in range(tokenizer.get_piece_size())}
        elif hasattr(tokenizer, "get_vocab"):
            vocabulary = tokenizer.get_vocab()
        else:
            vocabulary = {type(tokenizer).__qualname__: 0}
        material = json.dumps(sorted(vocabulary.items()), ensure_ascii=False)
        return hashlib.sha256(material.encode()).hexdigest()[:16]
