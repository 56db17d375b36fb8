"""Plain text as token shards, for the steps of a training that learn from text alone.

The shards are those of dialogues without any codebook. Documents lie one after the other with the tokenizer's end of
sequence between them, in stretches that a row of training is cut from.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aizuchi.data.frames import EPAD, PAD
from aizuchi.data.shards import (
    DialogueTokens,
    Record,
    ShardFolder,
    is_shard_folder,
    remove_shards,
    write_index,
    write_shard,
)
from aizuchi.data.tokenizer import TextTokenizer
from aizuchi.errors import AizuchiError

STRETCH = 1 << 16  # tokens
SHARD_STRETCHES = 64


def read_documents(paths: Sequence[str | os.PathLike[str]]) -> Iterator[str]:
    """Documents of .txt files (each is one) and .jsonl files (a line each: text, or an object with "text").

    Raises:
        AizuchiError: a file is missing, not UTF-8, or a line holds no text; file and line are named.
    """
    for path in map(Path, paths):
        if path.suffix not in (".txt", ".jsonl"):
            raise AizuchiError(f"{path}: text comes as .txt or .jsonl files")
        try:
            with open(path, encoding="utf-8-sig") as file:
                if path.suffix == ".txt":
                    yield file.read()
                    continue
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield _text_of(line, f"{path}:{number}")
        except FileNotFoundError as error:
            raise AizuchiError(f"{path} does not exist") from error
        except UnicodeDecodeError as error:
            raise AizuchiError(f"{path} is not UTF-8 text ({error})") from error


def text_settings(tokenizer: TextTokenizer) -> dict[str, Any]:
    """What shards of text say that they were made with."""
    return {
        "content": "text",
        "codec": None,
        "codebooks": 0,
        "codebook_size": 0,
        "variants": 1,
        "tokenizer": tokenizer.fingerprint(),
    }


def tokenize_texts(
    documents: Iterator[str],
    folder: str | os.PathLike[str],
    tokenizer: TextTokenizer,
    overwrite: bool = False,
    report: Callable[[int], None] = lambda tokens: None,
) -> ShardFolder:
    """Write documents as token shards.

    Args:
        overwrite: take the place of shards that lie in the folder.
        report: is told how many tokens were written.

    Raises:
        AizuchiError: there is no text, or shards are there already.
        OSError: the disk is full; the folder then counts as unfinished.
    """
    folder = Path(folder)
    if is_shard_folder(folder) and not overwrite:
        raise AizuchiError(f"{folder} holds token shards already: give another folder, or --overwrite")
    folder.mkdir(parents=True, exist_ok=True)
    remove_shards(folder)
    settings = text_settings(tokenizer)
    write_index(folder, settings, [], complete=False)
    records: list[Record] = []
    waiting: list[DialogueTokens] = []
    count = 0

    def write() -> None:
        if waiting:
            path = folder / f"shard-{len(records):05d}.safetensors"
            records.append(write_shard(path, waiting, "text"))
            report(records[-1].frames)
            waiting.clear()

    for stretch in _stretches(documents, tokenizer):
        codes = np.zeros((len(stretch), 0), np.int16)
        waiting.append(DialogueTokens(f"text {count}", stretch, codes, codes[:, None]))
        count += 1
        if len(waiting) == SHARD_STRETCHES:
            write()
    write()
    if not records:
        raise AizuchiError("there is no text in these files")
    write_index(folder, settings, records, complete=True)
    return ShardFolder(folder)


def _stretches(documents: Iterator[str], tokenizer: TextTokenizer) -> Iterator[np.ndarray]:
    """All tokens, STRETCH at a time. Ids that mean padding are left out, as in the text of dialogues."""
    end = [] if tokenizer.end in (None, PAD, EPAD) else [tokenizer.end]
    ids: list[int] = []
    for document in documents:
        tokens = [token for token in tokenizer.encode(document) if token not in (PAD, EPAD)]
        ids += tokens + end if tokens else []
        while len(ids) >= STRETCH:
            yield np.array(ids[:STRETCH], np.int32)
            ids = ids[STRETCH:]
    if ids:
        yield np.array(ids, np.int32)


def _text_of(line: str, where: str) -> str:
    try:
        content = json.loads(line)
    except ValueError as error:
        raise AizuchiError(f"{where}: malformed JSON ({error})") from error
    text = content.get("text") if isinstance(content, dict) else content
    if not isinstance(text, str):
        raise AizuchiError(f'{where}: expected {{"text": "..."}} or a string')
    return text
