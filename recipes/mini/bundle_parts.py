"""Bundles: contents end to end in files of a bounded size, for places that take or give back no larger ones.

    bundle.json     what it holds, and the size and hash of every part; written last
    part-000.bin    the contents' blobs, one after the other, cut wherever a part is full

A bundle with a part that is missing, cut or changed is refused before anything is unpacked.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from aizuchi.errors import AizuchiError
from aizuchi.files import write_text

FORMAT = "aizuchi-mini-bundle"
VERSION = 1
INDEX = "bundle.json"
_PART = re.compile(r"part-\d{3,}\.bin")


class BundleError(AizuchiError):
    """A bundle is missing, damaged, or does not hold what was asked for."""


@dataclass(frozen=True)
class Item:
    """One content of a bundle.

    Attributes:
        name: a relative path, with slashes.
        coding: how `blob` was made of the content, see `recipes.mini.bundle_codings` and `bundle_clips`.
        blob: what the parts hold of it.
        about: what decoding needs, and what it is checked against.
    """

    name: str
    coding: str
    blob: bytes
    about: dict[str, Any] = field(default_factory=dict)


def write_bundle(
    folder: Path, kind: str, items: Iterable[Item], part_bytes: int, about: dict[str, Any] | None = None
) -> int:
    """Write items to a folder, in the place of the bundle that it may hold; returns the bytes of all its files.

    Args:
        kind: of the bundle; reading asks for it. items: taken one by one, so that no more than one of them and a
            part are in memory. part_bytes: of a part, at most. about: the bundle, in a few values.

    Raises:
        BundleError: part_bytes is not above 0, or there are no items. What stood in the folder is then as it was.
    """
    if part_bytes < 1:
        raise BundleError("a part of a bundle holds at least one byte: give a larger --part-mib")
    scratch = folder / ".tmp-bundle"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        writer = _PartWriter(scratch, part_bytes)
        rows = []
        for item in items:
            _check_name(item.name)
            writer.add(item.blob)
            rows.append({"name": item.name, "coding": item.coding, "blob": len(item.blob), **item.about})
        if not rows:
            raise BundleError("there is nothing to pack")
        parts = writer.close()
        (folder / INDEX).unlink(missing_ok=True)
        for old in folder.iterdir():
            if _PART.fullmatch(old.name):
                old.unlink()
        for part in parts:
            os.replace(scratch / part["file"], folder / part["file"])
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        with contextlib.suppress(OSError):  # it is kept if there is anything in it
            folder.rmdir()
    content = {
        "format": FORMAT,
        "version": VERSION,
        "kind": kind,
        "about": about or {},
        "parts": parts,
        "items": rows,
    }
    write_text(folder / INDEX, json.dumps(content, indent=0) + "\n")
    return sum(part["bytes"] for part in parts) + (folder / INDEX).stat().st_size


class _PartWriter:
    """Cuts a stream of bytes into files."""

    def __init__(self, folder: Path, part_bytes: int) -> None:
        self.folder, self.limit = folder, part_bytes
        self.held = bytearray()
        self.parts: list[dict[str, Any]] = []

    def add(self, blob: bytes) -> None:
        self.held += blob
        while len(self.held) >= self.limit:
            self._write(self.limit)

    def close(self) -> list[dict[str, Any]]:
        """The parts: their file, bytes and sha256."""
        if self.held or not self.parts:
            self._write(len(self.held))
        return self.parts

    def _write(self, size: int) -> None:
        content = bytes(self.held[:size])
        del self.held[:size]
        name = f"part-{len(self.parts):03d}.bin"
        (self.folder / name).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        self.parts.append({"file": name, "bytes": size, "sha256": digest})


class Bundle:
    """A bundle, opened to unpack; all of its parts are checked here.

    Attributes:
        about: the bundle, in a few values.
        names: of the items, in their order.

    Raises:
        BundleError: it is not there, of another kind or version, or a part is missing, cut or changed.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = folder
        try:
            content = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        except OSError as error:
            raise BundleError(
                f"{folder} holds no bundle: {INDEX} can't be read ({error.strerror})"
            ) from error
        except ValueError as error:
            raise BundleError(f"{folder / INDEX} is damaged ({error}): copy it again") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise BundleError(f"{folder / INDEX} is not the index of a bundle")
        if content.get("version") != VERSION:
            raise BundleError(f"{folder} has version {content.get('version')}; this recipe reads {VERSION}")
        if content.get("kind") != kind:
            raise BundleError(f"{folder} is a bundle of {content.get('kind')}, not of {kind}")
        try:
            self.about: dict[str, Any] = content["about"]
            self._parts = [(part["file"], part["bytes"], part["sha256"]) for part in content["parts"]]
            self._rows = [dict(row) for row in content["items"]]
            self.names = [_check_name(row["name"]) for row in self._rows]
            if strange := [name for name, _, _ in self._parts if not _PART.fullmatch(name)]:
                raise ValueError(f"a part named {strange[0]!r}")
            whole = sum(row["blob"] for row in self._rows) == sum(size for _, size, _ in self._parts)
        except BundleError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"{folder / INDEX} is damaged ({error!r}): copy it again") from error
        if not whole:
            raise BundleError(f"{folder / INDEX} is damaged: its parts are not what its items add up to")
        self._check_parts()

    def items(self) -> Iterator[Item]:
        """The items, in the order in which they were packed."""
        stream = self._stream()
        held = bytearray()
        for row in self._rows:
            about = dict(row)
            name, coding, size = (about.pop(key) for key in ("name", "coding", "blob"))
            while len(held) < size:
                held += next(stream)
            yield Item(name, coding, bytes(held[:size]), about)
            del held[:size]

    def _stream(self) -> Iterator[bytes]:
        for name, _, _ in self._parts:
            yield (self.folder / name).read_bytes()

    def _check_parts(self) -> None:
        missing = [name for name, _, _ in self._parts if not (self.folder / name).is_file()]
        if missing:
            count = f"{len(missing)} of {len(self._parts)} parts"
            raise BundleError(f"{self.folder / missing[0]} is missing ({count} are): copy what is missing")
        for name, size, digest in self._parts:
            path = self.folder / name
            if (found := path.stat().st_size) != size:
                raise BundleError(f"{path} is cut: {found} bytes of {size}; copy it again")
            with open(path, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    raise BundleError(f"{path} is damaged: its hash is not the recorded one; copy it again")


@contextlib.contextmanager
def new_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Give a folder to write to that becomes `path` when the block ends well, and is gone otherwise.

    Args:
        replace: what is at `path`.

    Raises:
        BundleError: there is something at `path`, and it is not to be replaced.
    """
    if not replace and path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise BundleError(f"{path} is there already: remove it, or name another folder")
    temporary = path.with_name(f".tmp-{path.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if replace:
            shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_file(folder: Path, name: str, content: bytes) -> Path:
    """Write a content under its name; the folders on the way are made."""
    path = folder / _check_name(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _check_name(name: str) -> str:
    """A name that stays inside of the folder that it is unpacked to; BundleError for others."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in name:
        raise BundleError(f"a bundle can't hold the name {name!r}: it leads out of the folder")
    return name
