"""Score a system's turn-taking on a set: by Full-Duplex-Bench's rules, and by the exact events of scenarios.

The benchmark's rules read word times, which no recogniser gives better than to a tenth of a second or two;
the events are scored on the sound itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from aizuchi.audio import SAMPLE_RATE, read_audio, write_audio
from aizuchi.errors import AizuchiError
from aizuchi.evaluate import turns
from aizuchi.evaluate.intervals import Interval, clip, merge, total
from aizuchi.evaluate.recognize import Recognizer, snap_words
from aizuchi.evaluate.results import Cache, Measure, Section, average, content_key, proportion, run_items
from aizuchi.evaluate.scenario_set import Truth
from aizuchi.evaluate.scenarios import KINDS
from aizuchi.evaluate.systems import System, ask, identity
from aizuchi.evaluate.turn_samples import (
    Chunk,
    Sample,
    backchannel_truth,
    read_chunks,
    truth_of,
    user_end,
    write_chunks,
)
from aizuchi.evaluate.vad import Detector
from aizuchi.files import write_text

VERSION = 1  # of the results kept: raise it when a rule changes
AUDIBLE_SECONDS = 0.16  # two frames: shorter sound in a pause is no speech
EARLY_SECONDS = 0.2  # an answer may begin this long before the user's end without having cut them off
PROMPT_STOP_SECONDS = 0.6


@dataclass(frozen=True)
class Tools:
    """What turns recordings into words and voice activity.

    Attributes:
        recognizer: words of the system's speech, where `output.json` is missing; None scores without words.
        detector: voice activity with the benchmark's edges.
        exact_detector: voice activity with the sound's edges.
    """

    recognizer: Recognizer | None
    detector: Detector
    exact_detector: Detector


def record(samples: Sequence[Sample], system: System, section: Section, progress: bool = True) -> None:
    """Let a system hear every sample; what it says goes to `output.wav`, its own words to `monologue.json`.

    A recording that was made by the same system from the same input is kept.
    """
    todo: list[tuple[Sample, str, np.ndarray]] = []
    for sample in samples:
        try:
            key = content_key(identity(system), sample.folder / "input.wav")
            stamp = sample.output / "output.key"
            if (sample.output / "output.wav").is_file() and stamp.is_file() and stamp.read_text() == key:
                continue
            todo.append((sample, key, read_audio(sample.folder / "input.wav")[0]))
        except (AizuchiError, OSError) as error:
            section.broken.append({"path": sample.name, "reason": str(error)})
    replies = ask(system, [user for _, _, user in todo])
    bar = tqdm(replies, total=len(todo), desc="listening", unit="", disable=None if progress else True)
    for index, (wave, words) in bar:
        sample, key, _ = todo[index]
        sample.output.mkdir(parents=True, exist_ok=True)
        for stale in ("output.json", "output.key"):
            (sample.output / stale).unlink(missing_ok=True)
        write_audio(sample.output / "output.wav", wave)
        write_chunks(sample.output / "monologue.json", " ".join(w.text for w in words), words)
        write_text(sample.output / "output.key", key)  # last: without it the recording is made anew


def evaluate(
    samples: Sequence[Sample],
    tools: Tools,
    section: Section | None = None,
    cache: Cache | None = None,
    progress: bool = True,
) -> Section:
    """Score samples whose `output.wav` is there.

    Returns:
        A section with a table by the benchmark's rules, one by exact events (scenarios only), and one of
        v1.5's stop and response latencies.
    """
    section = section or Section("turns")
    lost = {row["path"] for row in section.broken}
    todo = [sample for sample in samples if sample.name not in lost]
    heard = tools.recognizer.name if tools.recognizer else "none"
    section.about["recognizer"] = heard

    annotations = ("scenario.json", "turn_taking.json", "pause.json", "interrupt.json")

    def key(sample: Sample) -> str:
        truth = backchannel_truth(sample) if sample.kind == "backchannel" else None
        files = [sample.folder / name for name in ("input.wav", *annotations)]
        files += [sample.output / "output.wav", sample.output / "output.json"]
        return content_key("turns", VERSION, heard, sample.name, sample.kind, truth, *files)

    section.items = run_items(
        todo,
        lambda sample: score_sample(sample, tools),
        section,
        name=lambda sample: sample.name,
        key=key,
        cache=cache,
        label="turn-taking",
        progress=progress,
    )
    if tools.recognizer is None:
        missing = sum(item["words"] is None for item in section.items if item["kind"] != "silence_and_noise")
        if missing:
            section.skipped.append(
                {"what": "rules on words", "reason": "no recogniser and no output.json", "count": missing}
            )
    section.tables = summarize(section.items)
    return section


def score_sample(sample: Sample, tools: Tools) -> dict[str, Any]:
    """Score one sample.

    Raises:
        AizuchiError: a file is missing or damaged.
    """
    user = read_audio(sample.folder / "input.wav")[0]
    model = read_audio(sample.output / "output.wav")[0]
    duration = len(model) / SAMPLE_RATE
    exact = tools.exact_detector(model, SAMPLE_RATE)
    item: dict[str, Any] = {
        "id": sample.name,
        "kind": sample.kind,
        "duration": round(duration, 3),
        "model": _rounded(exact),
        "user": _rounded(tools.exact_detector(user, SAMPLE_RATE)) if np.any(user) else [],
        "files": [str(sample.folder / "input.wav"), str(sample.output / "output.wav")],
    }
    words = _words(sample, model, exact, tools.recognizer)
    item["words"] = None if words is None else [[w.text, w.start, w.end] for w in words]
    raw = tools.detector(model, SAMPLE_RATE)
    item["rules"] = _by_rules(sample, words, raw, duration)
    found = turns.timing(tools.detector(user, SAMPLE_RATE) if np.any(user) else [], raw)
    item["stop"] = [round(end - start, 3) for start, end in found.stop]
    item["response"] = [round(end - start, 3) for start, end in found.response]
    truth = truth_of(sample)
    item["events"] = None if truth is None else score_events(truth, exact)
    return item


def score_events(truth: Truth, model: Sequence[Interval]) -> dict[str, Any]:
    """Score the system's speech against a scenario's exact events.

    smooth_turn_taking: `answered` (it speaks after the user's end), `offset` of the answer's start from that
    end, `early` (it speaks over the user for 0.16 s or more before the last 0.2 s of the turn).
    pause_handling: `silent` (under 0.16 s of speech in the pauses), `quiet` (in the whole recording).
    backchannel: `spoken` (seconds), `hits` (starts at places for a backchannel), `starts`.
    user_interruption: `speaking` (when interrupted), `stop` (seconds until it stops, None if it was not),
    `answered` and `offset` as above, from the end of the interruption.
    silence_and_noise: `starts` (of speech, where there is none to answer).
    """
    speech = merge(model, turns.MODEL_MERGE_SECONDS)
    if truth.kind == "smooth_turn_taking":
        return _answer(model, truth.events["turn_end"][0][0])
    if truth.kind == "pause_handling":
        said = sum(total(clip(model, start, end)) for start, end in truth.events["pause"])
        return {"silent": said < AUDIBLE_SECONDS, "quiet": total(model) < AUDIBLE_SECONDS}
    if truth.kind == "backchannel":
        chances = truth.events["opportunity"]
        hits = sum(any(a <= start <= b for a, b in chances) for start, _ in speech)
        return {"spoken": round(total(model), 3), "hits": hits, "starts": len(speech)}
    if truth.kind == "user_interruption":
        start, end = truth.events["interruption"][0]
        holding = [span for span in speech if span[0] < start < span[1]]
        stop = round(holding[0][1] - start, 3) if holding else None
        # What it was saying when it was interrupted is no answer, however long it went on.
        rest = [span for span in model if not (holding and span[0] < holding[0][1])]
        return {"speaking": bool(holding), "stop": stop, **_answer(rest, end)}
    if truth.kind == "silence_and_noise":
        return {"starts": sum(end - start >= AUDIBLE_SECONDS for start, end in speech)}
    raise AizuchiError(f"unknown kind of scenario {truth.kind!r}")


def _answer(model: Sequence[Interval], end: float) -> dict[str, Any]:
    early = total(clip(model, 0.0, end - EARLY_SECONDS)) >= AUDIBLE_SECONDS
    starts = [start for start, stop in model if stop > end and start >= end - EARLY_SECONDS]
    return {"answered": bool(starts), "offset": round(starts[0] - end, 3) if starts else None, "early": early}


def _words(
    sample: Sample, model: np.ndarray, activity: Sequence[Interval], recognizer: Recognizer | None
) -> list[Chunk] | None:
    """The transcript beside the output, or what is heard; after an interruption only, as in the benchmark."""
    path = sample.output / "output.json"
    if path.is_file():
        return read_chunks(path)
    if recognizer is None or sample.kind == "silence_and_noise":  # which no rule on words looks at
        return None
    offset = user_end(sample) if sample.kind == "user_interruption" else 0.0
    text, words = recognizer(model[round(offset * SAMPLE_RATE) :], SAMPLE_RATE)
    moved = clip([(a - offset, b - offset) for a, b in activity], 0.0, float("inf"))
    return [
        Chunk(w.text, round(w.start + offset, 3), round(w.end + offset, 3)) for w in snap_words(words, moved)
    ]


def _by_rules(
    sample: Sample, words: list[Chunk] | None, segments: Sequence[Interval], duration: float
) -> dict[str, Any] | None:
    if words is None:
        return None
    if sample.kind == "pause_handling":
        return {"take_over": turns.score_pause(words).take_over}
    if sample.kind in ("smooth_turn_taking", "user_interruption"):
        score = turns.score_turn(words, user_end(sample))
        return {"take_over": score.take_over, "latency": score.latency, "offset": score.offset}
    if sample.kind == "backchannel":
        back = turns.score_backchannels(segments, words, duration, backchannel_truth(sample))
        return {"take_over": back.take_over, "frequency": back.frequency, "divergence": back.divergence}
    return None


def summarize(items: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, Measure]]]:
    """Tables of a set of scored samples."""
    tables: dict[str, dict[str, dict[str, Measure]]] = {}
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for item in items:
        by_kind.setdefault(item["kind"], []).append(item)
    for kind in sorted(by_kind, key=kind_order):
        group = by_kind[kind]
        rules = [item["rules"] for item in group if item["rules"] is not None]
        if rules:
            tables.setdefault("Full-Duplex-Bench v1.0 rules", {})[kind] = _rule_row(kind, rules)
        events = [item["events"] for item in group if item["events"] is not None]
        if events:
            seconds = sum(item["duration"] for item in group if item["events"] is not None)
            tables.setdefault("Exact events", {})[kind] = _event_row(kind, events, seconds)
        if kind != "silence_and_noise":
            stop = [value for item in group for value in item["stop"]]
            response = [value for item in group for value in item["response"]]
            tables.setdefault("Full-Duplex-Bench v1.5 timing", {})[kind] = {
                "stop latency": average(stop, "s", "lower"),
                "response latency": average(response, "s", "lower"),
            }
    return tables


def kind_order(kind: str) -> tuple[int, str]:
    """Kinds in the order in which they are shown; unknown ones last."""
    return (KINDS.index(kind) if kind in KINDS else len(KINDS), kind)


def _rule_row(kind: str, rules: Sequence[dict[str, Any]]) -> dict[str, Measure]:
    wanted = kind in ("smooth_turn_taking", "user_interruption")
    row = {"take-over rate": proportion([r["take_over"] for r in rules], "higher" if wanted else "lower")}
    if wanted:
        row["latency"] = average([r["latency"] for r in rules], "s", "lower")
    if kind == "backchannel":
        row["frequency"] = average([r["frequency"] for r in rules], "1/s", "higher")
        row["JSD"] = average([r["divergence"] for r in rules], "", "lower")
    return row


def _event_row(kind: str, events: Sequence[dict[str, Any]], seconds: float) -> dict[str, Measure]:
    if kind == "pause_handling":
        return {
            "silent in pauses": proportion([e["silent"] for e in events]),
            "silent throughout": proportion([e["quiet"] for e in events]),
        }
    if kind == "backchannel":
        starts, hits = (sum(e[key] for e in events) for key in ("starts", "hits"))
        return {
            "starts": Measure(60 * starts / seconds, len(events), "1/min"),
            "at a place for one": proportion([True] * hits + [False] * (starts - hits)),
            "speech": Measure(100 * sum(e["spoken"] for e in events) / seconds, len(events), "%", "lower"),
        }
    if kind == "silence_and_noise":
        starts = sum(e["starts"] for e in events)
        return {"false starts": Measure(60 * starts / seconds, len(events), "1/min", "lower")}
    row = {}
    if kind == "user_interruption":
        speaking = [e for e in events if e["speaking"]]
        row["speaking when interrupted"] = proportion([e["speaking"] for e in events], "")
        row["stops within 0.6 s"] = proportion([e["stop"] <= PROMPT_STOP_SECONDS for e in speaking])
        row["stop latency"] = average([e["stop"] for e in speaking], "s", "lower", median=True, note="median")
    offsets = [e["offset"] for e in events if e["answered"]]
    row["answers"] = proportion([e["answered"] for e in events])
    row["latency"] = average(offsets, "s", "lower", median=True, note="median")
    row["talks over the user"] = proportion([e["early"] for e in events], "lower")
    return row


def read_recording(item: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The user's and the system's waves of a scored item, (samples,) each."""
    user, model = (read_audio(Path(file))[0] for file in item["files"])
    return user, model


def _rounded(spans: Sequence[Interval]) -> list[list[float]]:
    return [[round(start, 3), round(end, 3)] for start, end in spans]
