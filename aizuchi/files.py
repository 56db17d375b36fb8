"""Writing files so that a reader never meets a half-written one."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from aizuchi.errors import AizuchiError


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path to write to; it takes the place of `path` when the block ends well.

    The temporary file lies in the same folder (so that the rename is atomic) and keeps the suffix (since
    writers choose their format by it). When the block raises, it is removed and `path` is left as it was.
    A symbolic link keeps pointing where it did, and its target is replaced. What is no regular file, such
    as `/dev/stdout`, can't be replaced: it receives the bytes instead.

    Raises:
        AizuchiError: the folder does not exist, or `path` is a folder.
    """
    if os.path.isdir(path):
        raise AizuchiError(f"{path} is a folder: give the name of a file to write")
    if os.path.exists(path) and not os.path.isfile(path):
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / f"output{Path(path).suffix}"
            yield temporary
            with open(temporary, "rb") as source, open(path, "wb") as sink:
                shutil.copyfileobj(source, sink)
        return
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise AizuchiError(f"can't write {path}: the folder {target.parent} does not exist")
    temporary = target.with_name(f".{target.stem}.tmp.{secrets.token_hex(4)}{target.suffix}")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write text as UTF-8 with plain newlines, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
