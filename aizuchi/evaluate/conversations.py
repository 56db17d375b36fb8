"""Whole conversations as sound: dialogue statistics of recordings, and latency between two recordings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aizuchi.audio import SAMPLE_RATE, read_audio
from aizuchi.errors import AizuchiError
from aizuchi.evaluate import dialogue, latency
from aizuchi.evaluate.results import Cache, Measure, Section, average, content_key, run_items
from aizuchi.evaluate.vad import Detector

VERSION = 1
Recording = tuple[Path, Path | None]  # a stereo file, or one file a speaker


def dialogue_section(
    recordings: Sequence[Recording],
    detector: Detector,
    name: str = "recordings",
    cache: Cache | None = None,
    progress: bool = True,
) -> Section:
    """Dialogue statistics over recordings: stereo files, or pairs of files of the same length."""
    section = Section("dialogue", about={"recordings": len(recordings)})

    def work(recording: Recording) -> dict[str, Any]:
        first, second = _two_channels(recording)
        seconds = max(len(first), len(second)) / SAMPLE_RATE
        spans = [detector(wave, SAMPLE_RATE) if wave.any() else [] for wave in (first, second)]
        return {"id": str(recording[0]), "seconds": seconds, "activity": spans}

    def key(recording: Recording) -> str:
        files = [path for path in recording if path is not None]
        settings = sorted((k, v) for k, v in vars(detector).items() if isinstance(v, (int, float, bool)))
        return content_key("dialogue", VERSION, type(detector).__name__, settings, str(files[0]), *files)

    section.items = run_items(
        recordings,
        work,
        section,
        name=lambda recording: str(recording[0]),
        key=key,
        cache=cache,
        label="dialogues",
        progress=progress,
    )
    add_statistics(section, name)
    return section


def add_statistics(section: Section, name: str) -> None:
    """Put the statistics of a section's items (`activity` of both channels, `seconds`) into its tables."""
    found = []
    for item in section.items:
        first, second = ([(a, b) for a, b in spans] for spans in item["activity"])
        events = dialogue.find_events(first, second, item["seconds"])
        item["offsets"] = [round(offset, 3) for offset, _ in dialogue.floor_transfers(events)]
        found.append(events)
    if not found:
        return
    stats = dialogue.statistics(found)
    n = len(found)
    row = {
        title: Measure(stats[key]["seconds_per_minute"], n, "s/min")
        for title, key in (("IPU", "ipu"), ("pause", "pause"), ("gap", "gap"), ("overlap", "overlap"))
    }
    section.tables["Dialogue statistics"] = {name: row}
    counts = {
        f"{title}s": Measure(stats[key]["per_minute"], n, "1/min")
        for title, key in (("IPU", "ipu"), ("pause", "pause"), ("gap", "gap"), ("overlap", "overlap"))
    }
    section.tables["Events a minute"] = {
        name: counts | {"offset": average(stats["offsets"], "s", median=True, note="median")}
    }


def dialogue_of_turns(turns: Section) -> Section:
    """Dialogue statistics over scenarios that a turn-taking section has already listened to."""
    section = Section("dialogue", about={"recordings": "the turn-taking set's interruptions and questions"})
    section.items = [
        {"id": item["id"], "seconds": item["duration"], "activity": [item["model"], item["user"]]}
        for item in turns.items
        if item["kind"] in ("smooth_turn_taking", "user_interruption")
    ]
    add_statistics(section, "scenarios")
    return section


def latency_section(
    pairs: Sequence[tuple[Path, Path | None]],
    max_seconds: float = 5.0,
    method: str = "auto",
    window_seconds: float = 3.0,
    progress: bool = True,
) -> Section:
    """Mouth-to-ear latency of (what went in, what came out) recordings, or of stereo files of both."""
    section = Section(
        "latency", about={"recordings": len(pairs), "largest latency looked for": f"{max_seconds:g} s"}
    )

    def work(pair: tuple[Path, Path | None]) -> dict[str, Any]:
        given, heard = _two_channels(pair)
        found = latency.measure(given, heard, SAMPLE_RATE, max_seconds, method)
        if found.agreement < latency.MIN_AGREEMENT:
            raise AizuchiError(
                f"{pair[0]}: the recordings do not agree at any lag up to {max_seconds:g} s "
                f"(best {found.agreement:.2f} at {found.seconds:.3f} s)"
            )
        over_time = latency.track(given, heard, SAMPLE_RATE, window_seconds, max_seconds)
        return {
            "id": str(pair[0]),
            "latency": found.seconds,
            "agreement": found.agreement,
            "method": found.method,
            "track": [
                [start, one.seconds] for start, one in over_time if one.agreement >= latency.MIN_AGREEMENT
            ],
        }

    section.items = run_items(
        pairs, work, section, name=lambda pair: str(pair[0]), label="latency", progress=progress
    )
    rows = {Path(item["id"]).stem: _latency_row([item]) for item in section.items}
    if section.items:
        section.tables["Mouth to ear"] = {
            "all": _latency_row(section.items),
            **(rows if len(rows) > 1 else {}),
        }
    return section


def _latency_row(items: Sequence[dict[str, Any]]) -> dict[str, Measure]:
    windows = [seconds for item in items for _, seconds in item["track"]]
    row = {
        "latency": average([item["latency"] for item in items], "s", "lower", median=True, note="median"),
        "agreement": average([item["agreement"] for item in items], "", "higher"),
    }
    if windows:
        row["95th percentile of windows"] = Measure(
            float(np.percentile(windows, 95)), len(windows), "s", "lower"
        )
        drift = [item["track"][-1][1] - item["track"][0][1] for item in items if item["track"]]
        row["growth from first to last window"] = average(drift, "s", "lower")
    return row


def _two_channels(recording: Recording) -> tuple[np.ndarray, np.ndarray]:
    """Both speakers' waves, (samples,) each."""
    first, second = recording
    if second is not None:
        return read_audio(first)[0], read_audio(second)[0]
    both = read_audio(first, mono=False)
    if both.shape[0] != 2:
        raise AizuchiError(f"{first} has {both.shape[0]} channels: two are needed, one a speaker")
    return both[0], both[1]
