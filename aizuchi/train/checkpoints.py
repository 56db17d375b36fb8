"""Checkpoints of a run: whole or not there at all.

A checkpoint is written into a folder of a temporary name beside the others, flushed to the disk, and renamed when
it is complete. Whatever ends a run in the middle (a kill, a full disk, NaN), the last good checkpoint is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from aizuchi.errors import AizuchiError

FORMAT_VERSION = 1
STATE = "training.json"
_TEMPORARY = ".tmp-"


class CheckpointFolder:
    """The checkpoints of one run, ``step_00000100`` and so on, the newest ``keep`` of them."""

    def __init__(self, folder: str | os.PathLike[str], keep: int = 2):
        self.folder = Path(folder)
        self.keep = keep

    def latest(self) -> Path | None:
        """The newest complete checkpoint."""
        found = self.all()
        return found[-1] if found else None

    def all(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(p for p in self.folder.glob("step_*") if (p / STATE).is_file())

    def temporary(self, step: int) -> Path:
        """Where checkpoint ``step`` is written until it is complete; the same on every process."""
        return self.folder / f"{_TEMPORARY}step_{step:08d}"

    @contextlib.contextmanager
    def writing(self, step: int, state: dict[str, Any], accelerator: Any) -> Iterator[Path]:
        """Give the folder to write checkpoint ``step`` to; every process enters, the main one renames.

        Raises:
            AizuchiError: it could not be written; says which checkpoint is the last good one.
        """
        temporary = self.temporary(step)
        try:
            if accelerator.is_main_process:
                self.clean()
                temporary.mkdir(parents=True)
            accelerator.wait_for_everyone()
            yield temporary
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                state = {"format_version": FORMAT_VERSION, "step": step, **state}
                (temporary / STATE).write_text(json.dumps(state, indent=1))
                flush(temporary)
                target = self.folder / f"step_{step:08d}"
                if target.exists():  # a run that repeats a step writes the same again
                    shutil.rmtree(target)
                os.replace(temporary, target)
                for old in self.all()[: -self.keep]:
                    shutil.rmtree(old)
        except Exception as error:
            if isinstance(error, AizuchiError):
                raise
            shutil.rmtree(temporary, ignore_errors=True)
            last = self.latest()
            left = f"{last} is the last good one and is untouched" if last else "there is no earlier one"
            raise AizuchiError(
                f"can't write the checkpoint of step {step} to {self.folder} ({_reason(error)}); {left}. "
                "Make room on the disk, then start the same command again: it goes on from there."
            ) from error
        accelerator.wait_for_everyone()

    def clean(self) -> None:
        """Remove what a killed run left half-written."""
        for path in self.folder.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def writing_model(target: Path, accelerator: Any) -> Iterator[Path]:
    """Give the folder to write a finished model to; it takes the place of ``target`` when it is complete.

    Raises:
        AizuchiError: it could not be written; what stood there is as it was.
    """
    temporary = target.with_name(_TEMPORARY + target.name)
    try:
        if accelerator.is_main_process:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        accelerator.wait_for_everyone()
        yield temporary
        if accelerator.is_main_process:
            flush(temporary)
            if target.exists():
                shutil.rmtree(target)
            os.replace(temporary, target)
    except Exception as error:
        if isinstance(error, AizuchiError):
            raise
        shutil.rmtree(temporary, ignore_errors=True)
        raise AizuchiError(
            f"can't write the model to {target} ({_reason(error)}); the checkpoints are untouched. "
            "Make room on the disk, then start the same command again: it writes the model."
        ) from error
    accelerator.wait_for_everyone()


def read_state(checkpoint: Path) -> dict[str, Any]:
    """What `CheckpointFolder.writing` was given, with the step; refuses another format."""
    try:
        state = json.loads((checkpoint / STATE).read_text())
    except (OSError, ValueError) as error:
        raise AizuchiError(f"{checkpoint} is not a checkpoint of a training run ({error})") from error
    if state.get("format_version") != FORMAT_VERSION:
        raise AizuchiError(
            f"{checkpoint} has format version {state.get('format_version')}; this aizuchi knows {FORMAT_VERSION}"
        )
    return state


def save_model(model: Any, folder: Path, **kwargs: Any) -> None:
    """``model.save_pretrained`` without its progress bar, which would break the run's."""
    from aizuchi.models.loading import without_progress_bar

    with without_progress_bar():
        model.save_pretrained(folder, **kwargs)


def random_state() -> dict[str, Any]:
    """The states of the generators that models may draw from (dropout, for instance)."""
    state: dict[str, Any] = {
        "python": random.getstate(),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """The counterpart of `random_state`."""
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        # a machine with fewer GPUs than the one that wrote it has no place for the others'
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])


def flush(folder: Path) -> None:
    """Bring a folder's files to the disk, so that the rename can't come before what it renames."""
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
