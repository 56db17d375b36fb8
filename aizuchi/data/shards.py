"""Token shards: dialogues as codes and text tokens, in files that say what they are.

A folder of shards holds

    index.json                 what the shards are made of; at the end, every shard's size and hash
    shard-00000.safetensors    text (N,) int32; model (N, K) int16; user (N, V, K) int16, N frames in all;
                               heard (N,) int32, where it is known what the user says
    shard-00000.json           its record: written after the shard, so that a shard without one is redone

Dialogues lie one after the other along N; where each begins is in the shard's metadata. V counts the
variants of the user's side: 0 as recorded, then augmented ones. Frames come first in every tensor: a stretch
of a dialogue is one contiguous read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from aizuchi.data.alignments import TextConditions
from aizuchi.errors import AizuchiError
from aizuchi.files import atomic_path, write_text

FORMAT = "aizuchi-tokens"
VERSION = 1
INDEX = "index.json"
_METADATA = "aizuchi"  # key of the JSON in a shard's safetensors header

_Int16 = npt.NDArray[np.int16]


class ShardError(AizuchiError):
    """A shard or its index is missing, cut, changed, or of a format that this version does not know."""


@dataclass(frozen=True)
class DialogueTokens:
    """One dialogue as tokens.

    Attributes:
        name: of its sound file, as the list has it.
        text: (F,) int32; -1 where no text is known.
        model: (F, K) codes of the model's side.
        user: (F, V, K) codes of the variants of the user's side.
        text_conditions: named conditions, if any.
        heard: (F,) int32 classes of the user's words on the frames that they end in: 0 none, -1 not known. All
            dialogues of a folder have them, and its settings then tell their number as "heard_classes"; or none has.
    """

    name: str
    text: npt.NDArray[np.int32]
    model: _Int16
    user: _Int16
    text_conditions: TextConditions = field(default_factory=dict)
    heard: npt.NDArray[np.int32] | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a dialogue lies in its shard."""

    name: str
    start: int
    frames: int
    text_conditions: TextConditions = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a finished shard; `key` is a hash of all that went into it."""

    file: str
    key: str
    bytes: int
    sha256: str
    frames: int
    dialogues: int


def write_shard(path: Path, dialogues: Sequence[DialogueTokens], key: str) -> Record:
    """Write a shard and then its record, each atomically.

    Raises:
        ShardError: no dialogues, or arrays that do not fit together.
        OSError: the disk is full, or can't be written.
    """
    _check_dialogues(path, dialogues)
    starts = np.cumsum([0, *(len(d.text) for d in dialogues)])
    entries = [
        Entry(d.name, int(start), len(d.text), d.text_conditions) for d, start in zip(dialogues, starts)
    ]
    # One key of metadata: safetensors writes several in random order, and the bytes would differ each time.
    about = json.dumps({"format": FORMAT, "version": VERSION, "dialogues": [asdict(e) for e in entries]})
    tensors = {
        "text": np.concatenate([d.text for d in dialogues]).astype(np.int32),
        "model": np.concatenate([d.model for d in dialogues]),
        "user": np.concatenate([d.user for d in dialogues]),
    }
    heard = [d.heard for d in dialogues if d.heard is not None]
    if heard:
        tensors["heard"] = np.concatenate(heard).astype(np.int32)
    # concatenated columns lie in memory as columns, and safetensors would write them as if they were rows
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    content = safetensors.numpy.save(tensors, {_METADATA: about})
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    record = Record(path.name, key, len(content), digest, int(starts[-1]), len(dialogues))
    write_text(record_path(path), json.dumps({"format": FORMAT, "version": VERSION, **asdict(record)}) + "\n")
    return record


def record_path(shard: Path) -> Path:
    """Where the record of a shard lies."""
    return shard.with_suffix(".json")


def finished(path: Path, key: str) -> Record | None:
    """The record of a shard if it was made from the same things and is whole; None if it has to be redone.

    Raises:
        ShardError: its format is newer than this version knows.
    """
    try:
        content = json.loads(record_path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    _check_version(content, record_path(path))
    try:
        record = Record(**{name: content[name] for name in Record.__dataclass_fields__})
    except KeyError:
        return None
    good = record.key == key and record.file == path.name and not damage(path, record)
    return record if good else None


def damage(path: Path, record: Record, full: bool = True) -> str | None:
    """What is wrong with a shard's file, or None: its size, and with `full` its hash too."""
    try:
        size = path.stat().st_size
    except OSError:
        return f"{path} is missing"
    if size != record.bytes:
        return f"{path} is {'cut' if size < record.bytes else 'changed'}: {size} bytes of {record.bytes}"
    if full:
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != record.sha256:
                return f"{path} is damaged: its hash is not the recorded one"
    return None


def write_index(folder: Path, settings: dict[str, Any], records: Sequence[Record], complete: bool) -> None:
    """Write the index, which says what the shards are made of, and whether the folder is complete."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "complete": complete,
        "settings": settings,
        "shards": [asdict(record) for record in records],
    }
    write_text(folder / INDEX, json.dumps(content, indent=1) + "\n")


def read_settings(folder: Path) -> dict[str, Any] | None:
    """What the shards in a folder are made of, complete or not; None if there is no index.

    Raises:
        ShardError: the index is malformed, or of a format that this version does not know.
    """
    return _read_index(folder).get("settings") if is_shard_folder(folder) else None


def is_shard_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a folder of shards, complete or not."""
    return (Path(path) / INDEX).is_file()


def remove_shards(folder: Path, keep: Collection[str] = ()) -> None:
    """Remove the shards that are not to be kept, with their records; the index too if none is kept."""
    if not keep:
        (folder / INDEX).unlink(missing_ok=True)
    for path in folder.glob("shard-*.safetensors"):
        if path.name not in keep:
            record_path(path).unlink(missing_ok=True)
            path.unlink()


class ShardFolder:
    """A finished folder of shards, opened to read.

    Sizes are checked here, which finds a file that was cut; `verify` checks the hashes too. Files are opened
    when they are first read, in each process for itself.

    Attributes:
        folder: where it lies.
        settings: what the tokens are: codec, codebooks, tokenizer, options.
        records: of the shards.
        codebooks: K.
        variants: V.
        heard_classes: of the user's words; 0 where they are not known.

    Raises:
        ShardError: the folder is not complete, cut, or of an unknown format.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder)
        content = _read_index(self.folder)
        if content.get("complete") is not True:
            raise ShardError(f"{self.folder} is not finished: run aizuchi data tokenize again")
        try:
            self.settings: dict[str, Any] = content["settings"]
            self.records = [Record(**record) for record in content["shards"]]
            self.codebooks = int(self.settings["codebooks"])
            self.variants = int(self.settings["variants"])
            self.heard_classes = int(self.settings.get("heard_classes", 0))
        except (KeyError, TypeError, ValueError) as error:
            raise ShardError(f"{self.folder / INDEX} is no index of token shards ({error!r})") from error
        for record in self.records:
            if problem := damage(self.folder / record.file, record, full=False):
                raise ShardError(f"{problem}; run aizuchi data tokenize again, it redoes this shard only")
        self._handles: dict[int, Any] = {}
        self.dialogues: list[tuple[int, Entry]] = []  # (shard, where in it)
        for shard, record in enumerate(self.records):
            self.dialogues += [(shard, entry) for entry in self._entries(shard, record)]

    def fingerprint(self) -> str:
        """A hash of all tokens."""
        return hashlib.sha256("".join(r.sha256 for r in self.records).encode()).hexdigest()[:16]

    def verify(self) -> list[str]:
        """Hash every shard; what is wrong, if anything."""
        found = (damage(self.folder / record.file, record) for record in self.records)
        return [problem for problem in found if problem]

    def read(
        self, dialogue: int, start: int = 0, frames: int | None = None, variant: int = 0
    ) -> tuple[npt.NDArray[np.int32], _Int16, _Int16]:
        """A stretch of a dialogue: text (T,), model (T, K), user (T, K); T is less than `frames` at the end.

        Raises:
            ShardError: the file changed since it was opened.
            IndexError: there is no such dialogue, start or variant.
        """
        shard, entry = self.dialogues[dialogue]
        if not 0 <= variant < self.variants or not 0 <= start < entry.frames:
            raise IndexError(
                f"start {start} of {entry.frames} frames, variant {variant} of {self.variants}: out of range"
            )
        stop = entry.frames if frames is None else min(entry.frames, start + frames)
        first, last = entry.start + start, entry.start + stop
        handle = self._open(shard)
        return (
            handle.get_slice("text")[first:last],
            handle.get_slice("model")[first:last],
            handle.get_slice("user")[first:last, variant],
        )

    def read_heard(
        self, dialogue: int, start: int = 0, frames: int | None = None
    ) -> npt.NDArray[np.int32] | None:
        """Classes of the user's words (T,) in a stretch of a dialogue; None where the folder has none."""
        if not self.heard_classes:
            return None
        shard, entry = self.dialogues[dialogue]
        stop = entry.frames if frames is None else min(entry.frames, start + frames)
        return self._open(shard).get_slice("heard")[entry.start + start : entry.start + stop]

    def close(self) -> None:
        """Close the files; the next read opens them again."""
        self._handles.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": {}}  # open files do not cross to other processes

    def _open(self, shard: int) -> Any:
        if shard not in self._handles:
            path = self.folder / self.records[shard].file
            try:
                self._handles[shard] = safe_open(path, framework="numpy")
            except (SafetensorError, OSError) as error:
                raise ShardError(f"{path} can't be read ({error})") from error
        return self._handles[shard]

    def _entries(self, shard: int, record: Record) -> list[Entry]:
        path = self.folder / record.file
        about = json.loads((self._open(shard).metadata() or {}).get(_METADATA, "{}"))
        self.close()  # thousands of shards are not all read by every process
        _check_version(about, path)
        entries = [Entry(**entry) for entry in about["dialogues"]]
        if sum(entry.frames for entry in entries) != record.frames:
            raise ShardError(f"{path} does not hold the {record.frames} frames that the index says")
        return entries


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    if not path.is_file():
        if not folder.exists():
            raise ShardError(f"{folder} does not exist")
        raise ShardError(
            f"{folder} holds no token shards (it has no {INDEX}); aizuchi data tokenize makes them"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ShardError(f"{path} is malformed ({error})") from error
    _check_version(content, path)
    return content


def _check_version(content: Any, path: Path) -> None:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ShardError(f"{path} is not in the format {FORMAT}")
    version = content.get("version")
    if version != VERSION:
        raise ShardError(f"{path} has format version {version}; this aizuchi reads {VERSION}: update it")


def _check_dialogues(path: Path, dialogues: Sequence[DialogueTokens]) -> None:
    if not dialogues:
        raise ShardError(f"{path}: a shard needs at least one dialogue")
    codebooks, variants = dialogues[0].model.shape[-1], dialogues[0].user.shape[1]
    for d in dialogues:
        shapes = d.text.shape, d.model.shape, d.user.shape
        frames = len(d.text)
        if shapes != ((frames,), (frames, codebooks), (frames, variants, codebooks)):
            raise ShardError(f"{d.name}: text, model and user do not fit together: {shapes}")
        if (
            (d.heard is None) != (dialogues[0].heard is None)
            or d.heard is not None
            and len(d.heard) != frames
        ):
            raise ShardError(f"{d.name}: all dialogues of a shard have `heard` on every frame, or none has")
        if d.model.dtype != np.int16 or d.user.dtype != np.int16:
            raise ShardError(f"{d.name}: codes must be int16, not {d.model.dtype} and {d.user.dtype}")
