"""Files as a bundle, bit by bit: a folder such as a codec or a model, or the newest checkpoint of a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from aizuchi.files import atomic_path
from recipes.mini.bundle_codings import exact_content, exact_item
from recipes.mini.bundle_parts import Bundle, BundleError, Item, new_folder, write_bundle, write_file

FILES, STATE = "files", "state"
_LOG = "log.csv"
_SMALL = 1 << 20  # bytes; what is smaller is text, or not worth the trouble


def file_item(name: str, path: Path) -> Item:
    """A file as an item: large ones hold weights."""
    content = path.read_bytes()
    return exact_item(name, content, "lzma" if len(content) < _SMALL else "planes")


def file_items(folder: Path, prefix: str = "") -> Iterator[Item]:
    """All files of a folder and below, by name.

    Raises:
        BundleError: it is no folder.
    """
    if not folder.is_dir():
        raise BundleError(f"{folder} is no folder")
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        yield file_item(prefix + path.relative_to(folder).as_posix(), path)


def pack_files(folder: Path, out: Path, part_bytes: int) -> int:
    """Pack a folder's files; returns the bundle's bytes."""
    return write_bundle(out, FILES, file_items(folder), part_bytes)


def unpack_files(bundle: Path, out: Path) -> None:
    """Write what `pack_files` packed to a new folder; AizuchiError if anything is not what was packed."""
    opened = Bundle(bundle, FILES)
    with new_folder(out) as folder:
        for item in opened.items():
            write_file(folder, item.name, exact_content(item))


def pack_state(run: Path, out: Path, part_bytes: int) -> tuple[int, str]:
    """Pack the newest complete checkpoint of a run and its log; returns the bundle's bytes and the checkpoint's name.

    Raises:
        BundleError: the run has no checkpoint.
    """
    from aizuchi.train.checkpoints import CheckpointFolder

    newest = CheckpointFolder(run / "checkpoints").latest()
    if newest is None:
        raise BundleError(f"{run} has no checkpoint yet: is it the folder of a run (its `output`)?")

    def items() -> Iterator[Item]:
        yield from file_items(newest, "checkpoint/")
        if (run / _LOG).is_file():
            yield file_item(_LOG, run / _LOG)

    return write_bundle(out, STATE, items(), part_bytes, {"checkpoint": newest.name}), newest.name


def unpack_state(bundle: Path, run: Path) -> str:
    """Put a packed checkpoint into a run's folder, where the run goes on from it; returns the checkpoint's name.

    A checkpoint of the same step is replaced. The log becomes that of the packed run.

    Raises:
        BundleError: the run has a newer checkpoint, which it would go on from; or the bundle is damaged.
    """
    from aizuchi.train.checkpoints import CheckpointFolder

    opened = Bundle(bundle, STATE)
    name = str(opened.about.get("checkpoint"))
    if Path(name).name != name or not name.startswith("step_"):
        raise BundleError(f"{bundle} does not tell a checkpoint's name, but {name!r}")
    target = run / "checkpoints" / name
    newest = CheckpointFolder(target.parent).latest()
    if newest is not None and newest.name > name:
        raise BundleError(f"{run} has {newest.name} already, newer than {name}: give another folder")
    log: bytes | None = None
    with new_folder(target, replace=True) as folder:
        for item in opened.items():
            content = exact_content(item)
            if item.name == _LOG:
                log = content
            else:
                write_file(folder, item.name.removeprefix("checkpoint/"), content)
    if log is not None:
        with atomic_path(run / _LOG) as temporary:
            temporary.write_bytes(log)
    return name
