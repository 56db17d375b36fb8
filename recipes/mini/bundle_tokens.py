"""Token shards as a bundle, with the tokenizer and the codec that a model of them is trained with.

Unpacked, it is one folder: train/, valid/ (and what other shard folders there were), tokenizer.model, heard.txt and
codec/. Shards come back byte for byte, so that their own records hold.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from aizuchi.data.frames import FRAME_RATE
from aizuchi.data.shards import INDEX, ShardFolder, is_shard_folder, record_path
from recipes.mini.bundle_codings import exact_content, exact_item
from recipes.mini.bundle_files import file_item, file_items
from recipes.mini.bundle_parts import Bundle, BundleError, Item, new_folder, write_bundle, write_file

KIND = "tokens"
VALID = "valid"


def pack_tokens(
    tokens: Path,
    out: Path,
    part_bytes: int,
    tokenizer: Path,
    codec: Path | None,
    hours: float | None = None,
) -> tuple[int, float]:
    """Pack a folder of shard folders; returns the bundle's bytes and the hours in it.

    Args:
        tokens: holds train/ and valid/. tokenizer: SentencePiece file; heard.txt is looked for beside it.
        codec: folder of the codec that the shards were made with; None leaves it out, for runs that start from a model.
        hours: of every shard folder but valid/, in whole shards from the first on; None takes all.

    Raises:
        AizuchiError: shards are missing, damaged or not complete; tokenizer, words or codec are not theirs.
    """
    found = sorted(p for p in tokens.iterdir() if is_shard_folder(p)) if tokens.is_dir() else []
    if not found:
        raise BundleError(f"{tokens} holds no folders of token shards, such as {tokens / 'train'}")
    folders = [ShardFolder(path) for path in found]
    _check_means(folders, tokenizer, codec)
    counts = [_shards_of(f, None if f.folder.name == VALID else hours) for f in folders]
    frames = sum(r.frames for f, count in zip(folders, counts) for r in f.records[:count])

    def items() -> Iterator[Item]:
        yield file_item("tokenizer.model", tokenizer)
        if (words := tokenizer.with_name("heard.txt")).exists():
            yield file_item("heard.txt", words)
        if codec is not None:
            yield from file_items(codec, "codec/")
        for folder, count in zip(folders, counts):
            yield from _folder_items(folder, count)

    about = {"hours": round(frames / FRAME_RATE / 3600, 3)}
    return write_bundle(out, KIND, items(), part_bytes, about), frames / FRAME_RATE / 3600


def unpack_tokens(bundle: Path, out: Path) -> None:
    """Write what `pack_tokens` packed to a new folder; AizuchiError if anything is not what was packed."""
    opened = Bundle(bundle, KIND)
    with new_folder(out) as folder:
        for item in opened.items():
            write_file(folder, item.name, exact_content(item))
        for path in folder.iterdir():
            if is_shard_folder(path) and (problems := ShardFolder(path).verify()):
                raise BundleError(problems[0])


def _shards_of(folder: ShardFolder, hours: float | None) -> int:
    """How many of the first shards are so long together."""
    if hours is None:
        return len(folder.records)
    seconds = 0.0
    for count, record in enumerate(folder.records):
        if seconds >= hours * 3600:
            return count
        seconds += record.frames / FRAME_RATE
    return len(folder.records)


def _folder_items(folder: ShardFolder, count: int) -> Iterator[Item]:
    """The first shards of a folder, their records, and an index of them alone."""
    name = folder.folder.name
    records = folder.records[:count]
    for record in records:
        path = folder.folder / record.file
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != record.sha256:
            raise BundleError(f"{path} is damaged: its hash is not the recorded one")
        yield exact_item(f"{name}/{record.file}", content, "tokens")
        yield file_item(f"{name}/{record_path(path).name}", record_path(path))
    index = json.loads((folder.folder / INDEX).read_text(encoding="utf-8"))
    index["shards"] = [asdict(record) for record in records]
    content = (json.dumps(index, indent=1) + "\n").encode()
    yield exact_item(f"{name}/{INDEX}", content, "lzma")


def _check_means(folders: list[ShardFolder], tokenizer: Path, codec: Path | None) -> None:
    """Refuse a tokenizer, words or a codec that the shards were not made with."""
    from aizuchi.data.tokenizer import TextTokenizer

    own = TextTokenizer(tokenizer).fingerprint()
    words = tokenizer.with_name("heard.txt")
    told = _words_hash(words) if words.exists() else None
    written = None
    if codec is not None:
        from aizuchi.data.codec import load_codec

        written = load_codec(codec, folders[0].codebooks).fingerprint()
    for folder in folders:
        for what, path, key, mark in (
            ("tokenizer", tokenizer, "tokenizer", own),
            ("list of words", words, "heard_words", told),
            ("codec", codec, "codec", written),
        ):
            made_with = folder.settings.get(key)
            if mark is not None and made_with is not None and made_with != mark:
                raise BundleError(f"{folder.folder} was made with another {what} than {path}: give that one")


def _words_hash(path: Path) -> str:
    """As `recipes.mini.tokens` writes it into a folder's settings."""
    return hashlib.sha256(" ".join(path.read_text(encoding="utf-8").split()).encode()).hexdigest()[:16]
