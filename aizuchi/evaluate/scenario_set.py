"""Build a folder of scenarios, and read one back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from aizuchi.errors import AizuchiError
from aizuchi.evaluate.scenario_texts import BUILT_IN
from aizuchi.evaluate.scenarios import (
    FORMAT,
    KINDS,
    make_scenario,
    opportunity_histogram,
    save_scenario,
    write_json,
)
from aizuchi.evaluate.synthesize import Synthesizer
from aizuchi.transcript import Word

MANIFEST = "scenarios.json"
TRUTH = "icc_gt_distribution.json"  # the benchmark's name for people's backchannel histograms
NOISE_COUNT = 12


def read_texts(path: str | Path) -> dict[str, list[Any]]:
    """Read scenario texts: a JSON object of kind -> list, as in `scenario_texts`.

    Raises:
        AizuchiError: it can't be read, or names an unknown kind.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise AizuchiError(f"can't read the scenario texts {path}: {error}") from error
    if not isinstance(data, dict) or not all(isinstance(value, list) for value in data.values()):
        raise AizuchiError(f"{path} must hold an object of kind -> list of texts")
    unknown = sorted(set(data) - set(KINDS))
    if unknown:
        raise AizuchiError(f"{path} names unknown kinds {', '.join(unknown)}: choose from {', '.join(KINDS)}")
    return data


def build(
    folder: str | Path,
    synthesizer: Synthesizer | Sequence[Synthesizer],
    kinds: Sequence[str] = KINDS,
    count: int | None = None,
    seed: int = 0,
    texts: Mapping[str, Sequence[Any]] | None = None,
    progress: bool = True,
) -> int:
    """Write a scenario set.

    Args:
        folder: created if need be; scenarios in it with the same names are replaced.
        synthesizer: the user's voice; of several, each kind's first scenario has the first, the next the second.
        kinds: which to make.
        count: of each kind at most; None makes one of each text (and 12 without words).
        seed: of every choice.
        texts: kind -> texts; None takes those that come with aizuchi.
        progress: show a bar.

    Returns:
        How many scenarios were written.

    Raises:
        AizuchiError: a kind is unknown, count is not positive, a text is malformed, or there is no voice.
    """
    speakers = list(synthesizer) if isinstance(synthesizer, Sequence) else [synthesizer]
    if not speakers:
        raise AizuchiError("no voice for the user: give at least one synthesizer")
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise AizuchiError(f"unknown kinds {', '.join(unknown)}: choose from {', '.join(KINDS)}")
    if count is not None and count < 1:
        raise AizuchiError(f"count is {count}: it must be at least 1")
    root = Path(folder)
    jobs = []
    for kind in kinds:
        source = (texts if texts is not None else BUILT_IN).get(kind, [])
        items = list(source) if kind != "silence_and_noise" else [None] * (count or NOISE_COUNT)
        jobs += [(kind, i, text) for i, text in enumerate(items[:count])]
    if not jobs:
        raise AizuchiError("no scenario to make: the texts hold nothing for the kinds asked for")
    truth: dict[str, list[float]] = {}
    for kind, i, text in tqdm(jobs, desc="scenarios", unit="", disable=None if progress else True):
        name = str(i)
        scenario = make_scenario(kind, text, name, seed, speakers[i % len(speakers)])
        save_scenario(scenario, root / kind / name)
        if kind == "backchannel":
            truth[name] = opportunity_histogram(scenario)
    if truth:
        write_json(root / "backchannel" / TRUTH, truth)
    manifest = {
        "format": FORMAT,
        "seed": seed,
        "synthesizer": ", ".join(speaker.name for speaker in speakers),
        "scenarios": {kind: [str(i) for k, i, _ in jobs if k == kind] for kind in kinds},
    }
    write_json(root / MANIFEST, manifest)
    return len(jobs)


@dataclass(frozen=True)
class Truth:
    """What `scenario.json` says: see `scenarios.Scenario` for the fields."""

    id: str
    kind: str
    duration: float
    speech: list[tuple[float, float, str]]
    words: list[Word]
    events: dict[str, list[tuple[float, float]]]
    context: dict[str, Any]


def read_truth(folder: str | Path) -> Truth:
    """Read a scenario's events.

    Raises:
        AizuchiError: the file is missing, damaged, or of a newer format.
    """
    path = Path(folder) / "scenario.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise AizuchiError(f"{path} has format {data['format']}; this version of aizuchi reads {FORMAT}")
        return Truth(
            id=data["id"],
            kind=data["kind"],
            duration=float(data["duration"]),
            speech=[(row["start"], row["end"], row["text"]) for row in data["speech"]],
            words=[Word(row["text"], row["start"], row["end"]) for row in data["words"]],
            events={kind: [(a, b) for a, b in spans] for kind, spans in data["events"].items()},
            context=data.get("context", {}),
        )
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise AizuchiError(f"can't read the scenario {path}: {type(error).__name__} {error}") from error
