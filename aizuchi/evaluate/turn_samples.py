"""Samples of turn-taking sets: our scenario folders, and folders in Full-Duplex-Bench's own layout.

The benchmark's layout: one folder a task, one a sample, holding `input.wav`, the task's annotation
(`turn_taking.json`, `pause.json`, `interrupt.json`; none for backchannels), the model's `output.wav` beside
it, and the transcript of that as `output.json`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from aizuchi.errors import AizuchiError
from aizuchi.evaluate.scenario_set import TRUTH, Truth, read_truth
from aizuchi.files import write_text
from aizuchi.transcript import Word

ANNOTATIONS = {
    "turn_taking.json": "smooth_turn_taking",
    "pause.json": "pause_handling",
    "interrupt.json": "user_interruption",
}


class Chunk(NamedTuple):
    """A word of `output.json`; its end may be None, as the benchmark's recogniser leaves some open."""

    text: str
    start: float
    end: float | None


@dataclass(frozen=True)
class Sample:
    """One sample of one task.

    Attributes:
        folder: with `input.wav` and the annotation.
        kind: a kind of scenario.
        output: folder of `output.wav` and `output.json`.
    """

    folder: Path
    kind: str
    output: Path

    @property
    def name(self) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}"


def find_samples(root: str | Path, outputs: str | Path | None = None) -> list[Sample]:
    """Every sample below a folder, in order.

    Args:
        root: a set, a task's folder, or one sample's.
        outputs: where recordings of the system lie or will lie, as `task/sample/output.wav`; None takes the
            samples' own folders.

    Raises:
        AizuchiError: the folder does not exist or holds no sample.
    """
    root = Path(root)
    if not root.is_dir():
        raise AizuchiError(f"{root} is no folder of turn-taking samples")
    found = []
    for path in sorted(root.rglob("input.wav"), key=lambda path: _natural(path.relative_to(root))):
        folder = path.parent
        place = folder if outputs is None else Path(outputs) / folder.parent.name / folder.name
        found.append(Sample(folder, _kind(folder), place))
    if not found:
        raise AizuchiError(f"{root} holds no sample: none of its folders has an input.wav")
    return found


def user_end(sample: Sample) -> float:
    """When the user's turn ends: the time from which latencies count.

    Raises:
        AizuchiError: the annotation is missing or malformed.
    """
    if sample.kind == "smooth_turn_taking":
        return float(_annotation(sample, "turn_taking.json")[0])
    return float(_annotation(sample, "interrupt.json")[1])


def truth_of(sample: Sample) -> Truth | None:
    """The exact events, for a scenario of ours; None for a sample of the benchmark's."""
    return read_truth(sample.folder) if (sample.folder / "scenario.json").is_file() else None


def backchannel_truth(sample: Sample) -> list[float] | None:
    """People's histogram of backchannels for this sample, from the task folder; None if there is none.

    Raises:
        AizuchiError: the file is damaged.
    """
    for path in (sample.folder.parent / TRUTH, sample.folder.parent.parent / TRUTH):
        if path.is_file():
            data = _read_json(path)
            if not isinstance(data, dict):
                raise AizuchiError(f"{path} must hold an object of sample -> histogram")
            return data.get(sample.folder.name)
    return None


def read_chunks(path: Path) -> list[Chunk]:
    """The words of `output.json`, those without a start left out.

    Raises:
        AizuchiError: the file is missing or damaged.
    """
    data = _read_json(path)
    try:
        chunks = []
        for row in data["chunks"]:
            start, end = row["timestamp"]
            if start is not None:
                chunks.append(Chunk(str(row["text"]), float(start), None if end is None else float(end)))
        return chunks
    except (KeyError, TypeError, ValueError) as error:
        raise AizuchiError(f"{path} is no transcript with chunks: {type(error).__name__} {error}") from error


def write_chunks(path: Path, text: str, words: list[Word]) -> None:
    """Write words as the benchmark's `output.json`."""
    chunks = [{"text": w.text, "timestamp": [round(w.start, 3), round(w.end, 3)]} for w in words]
    write_text(path, json.dumps({"text": text, "chunks": chunks}, ensure_ascii=False, indent=1) + "\n")


def _kind(folder: Path) -> str:
    if (folder / "scenario.json").is_file():
        try:
            return str(json.loads((folder / "scenario.json").read_text(encoding="utf-8"))["kind"])
        except (OSError, ValueError, KeyError, TypeError):
            return folder.parent.name  # reported as broken when it is scored
    for name, kind in ANNOTATIONS.items():
        if (folder / name).is_file():
            return kind
    return "backchannel"


def _annotation(sample: Sample, name: str) -> Any:
    data = _read_json(sample.folder / name)
    try:
        times = data[0]["timestamp"]
        times[0], times[1]
        return times
    except (KeyError, TypeError, IndexError) as error:
        raise AizuchiError(f"{sample.folder / name} has no [0].timestamp of two times") from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AizuchiError(f"{path} is missing") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise AizuchiError(f"can't read {path}: {error}") from error


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """Sort 2 before 10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in path.parts]
