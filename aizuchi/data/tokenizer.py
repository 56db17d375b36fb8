"""One face for the text tokenizers that people have: SentencePiece, transformers, or any `encode(str)`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from aizuchi.errors import AizuchiError

_WORD_MARKS = ("▁", "Ġ")  # how SentencePiece and byte-level BPE write the space before a word


class TextTokenizer:
    """Encodes one word at a time, with no special tokens around it.

    Args:
        tokenizer: a `sentencepiece.SentencePieceProcessor`, a transformers tokenizer, a path that
            `load_tokenizer` understands, or anything with `encode(str) -> list[int]`. To turn ids back into
            words it also needs `decode(list[int]) -> str`.
    """

    def __init__(self, tokenizer: Any):
        if isinstance(tokenizer, (str, os.PathLike)):
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
        return str(self._tokenizer.decode([int(i) for i in ids])).strip()

    def piece(self, token: int) -> str:
        """How the vocabulary writes an id; the id itself for a tokenizer that can't tell."""
        return str(token) if self._to_piece is None else str(self._to_piece(int(token)))

    @property
    def marks_words(self) -> bool:
        """Whether an id tells if it begins a word."""
        return self._to_piece is not None

    def starts_word(self, token: int) -> bool:
        """Whether this id begins a word; always False for a tokenizer that can't tell."""
        return self._to_piece is not None and str(self._to_piece(int(token))).startswith(_WORD_MARKS)

    def fingerprint(self) -> str:
        """A short hash of the vocabulary, which says if two sets of ids mean the same."""
        tokenizer = self._tokenizer
        if hasattr(tokenizer, "serialized_model_proto"):  # SentencePiece
            material = tokenizer.serialized_model_proto()
        elif hasattr(tokenizer, "get_vocab"):
            material = json.dumps(sorted(tokenizer.get_vocab().items()), ensure_ascii=False).encode()
        else:
            material = type(tokenizer).__qualname__.encode()
        return hashlib.sha256(material).hexdigest()[:16]


def load_tokenizer(path: str | os.PathLike[str]) -> Any:
    """Load a SentencePiece `.model` file, or a folder that holds one or a transformers tokenizer.

    Raises:
        AizuchiError: nothing there, or nothing that is a tokenizer.
    """
    path = Path(path)
    if not path.exists():
        raise AizuchiError(f"tokenizer {path} does not exist")
    if path.is_dir():
        if (path / "tokenizer.json").exists() or (path / "tokenizer_config.json").exists():
            from transformers import AutoTokenizer

            return AutoTokenizer.from_pretrained(str(path), local_files_only=True)
        models = sorted(path.glob("*.model"))
        if len(models) != 1:
            raise AizuchiError(
                f"tokenizer {path}: expected tokenizer.json or one SentencePiece .model file, found "
                f"{len(models)} .model files"
            )
        path = models[0]
    import sentencepiece

    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        raise AizuchiError(f"tokenizer {path} is not a SentencePiece model ({error})") from error
