"""Sample dialogues of a report: a timeline and a player each."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import soundfile

from aizuchi.audio import SAMPLE_RATE, read_audio
from aizuchi.errors import AizuchiError
from aizuchi.evaluate.report.svg import timeline
from aizuchi.evaluate.turn_taking import kind_order

TITLES = {
    "smooth_turn_taking": "Taking the turn",
    "pause_handling": "Waiting through a pause",
    "backchannel": "Listening to a story",
    "user_interruption": "Being interrupted",
    "silence_and_noise": "Silence and noise",
}
Span = tuple[float, float]


def pick(items: Sequence[dict[str, Any]], per_kind: int = 2) -> list[dict[str, Any]]:
    """Items worth seeing: of each kind the first that went well, then the first that did not, and so on."""
    chosen = []
    for kind in sorted({item["kind"] for item in items}, key=kind_order):
        mine = [item for item in items if item["kind"] == kind]
        good = [item for item in mine if went_well(item)]
        bad = [item for item in mine if not went_well(item)]
        chosen += (good[: max(1, per_kind - len(bad[:1]))] + bad)[:per_kind]
    return chosen


def went_well(item: dict[str, Any]) -> bool:
    """Whether the system did what its kind of scenario asks for."""
    events, rules, kind = item.get("events") or {}, item.get("rules"), item["kind"]
    if kind == "smooth_turn_taking":
        return events["answered"] and not events["early"] if events else bool(rules and rules["take_over"])
    if kind == "pause_handling":
        return events["silent"] if events else bool(rules and not rules["take_over"])
    if kind == "user_interruption":
        if events:
            prompt = events["stop"] is None or events["stop"] <= 0.6
            return events["answered"] and prompt
        return bool(rules and rules["take_over"])
    if kind == "silence_and_noise":
        return bool(events) and events["starts"] == 0
    return bool(rules and not rules["take_over"])


def describe(item: dict[str, Any]) -> str:
    """What was measured in one item, in words."""
    events, kind = item.get("events"), item["kind"]
    if not events:
        rules = item.get("rules") or {}
        return "takes over" if rules.get("take_over") else "does not take over"
    if kind in ("smooth_turn_taking", "user_interruption"):
        answer = f"answers after {events['offset']:.2f} s" if events["answered"] else "does not answer"
        if kind == "smooth_turn_taking":
            return answer + (", having talked over the user" if events["early"] else "")
        if not events["speaking"]:
            return f"was not speaking; {answer}"
        return f"stops after {events['stop']:.2f} s; {answer}"
    if kind == "pause_handling":
        return "silent in the pause" if events["silent"] else "speaks in the pause"
    if kind == "silence_and_noise":
        starts = events["starts"]
        return f"{starts} false start{'s' if starts > 1 else ''}" if starts else "stays silent"
    if not events["starts"]:
        return "listens without a sound"
    return f"speaks {events['starts']} times, {events['hits']} of them at a place for it"


def sample_html(
    item: dict[str, Any], marks: Sequence[tuple[str, str, float, float]], with_audio: bool
) -> str:
    """One item as a figure: what happened, the timeline, and a player."""
    words = [(text, start, end if end is not None else start) for text, start, end in item.get("words") or []]
    lanes = [("user", "user", item["user"]), ("model", "model", item["model"])]
    drawing = timeline(item["duration"], lanes, [item.get("user_words", []), words], marks)
    state = "good" if went_well(item) else "bad"
    title = escape(TITLES.get(item["kind"], item["kind"]))
    head = f'<b>{title}</b> <span class="{state}">{escape(describe(item))}</span> <code>{escape(item["id"])}</code>'
    player = _player(item) if with_audio else ""
    return f'<figure class="sample"><figcaption>{head}</figcaption>{drawing}{player}</figure>'


def marks_of(item: dict[str, Any], truth: Any) -> list[tuple[str, str, float, float]]:
    """The events of a scenario as marks on its timeline."""
    if truth is None:
        return []
    names = {
        "pause": "pause",
        "interruption": "interruption",
        "opportunity": "place for mm-hm",
        "noise": "noise",
    }
    found = [
        (names[kind], kind, start, end)
        for kind, spans in truth.events.items()
        for start, end in spans
        if kind in names
    ]
    if item["kind"] == "smooth_turn_taking":
        end = truth.events["turn_end"][0][0]
        found.append(("", "turn_end", end, end))
        offset = (item.get("events") or {}).get("offset")
        if offset is not None and offset > 0.12:
            found.append((f"{offset:.2f} s", "wait", end, end + offset))
    return found


def _player(item: dict[str, Any]) -> str:
    try:
        user, model = (read_audio(file)[0] for file in item["files"])
    except (AizuchiError, OSError):
        return '<p class="small">the recording is gone</p>'
    size = max(len(user), len(model))
    user, model = (np.pad(wave, (0, size - len(wave))) for wave in (user, model))
    # the user a little to the left, the model to the right: both can be heard in either ear
    both = np.stack([0.8 * user + 0.3 * model, 0.3 * user + 0.8 * model])
    both /= max(1.0, float(np.abs(both).max()))
    kind, data = encode_audio(both)
    return f'<audio controls preload="metadata" src="data:{kind};base64,{base64.b64encode(data).decode()}"></audio>'


def encode_audio(wave: np.ndarray, rate: int = SAMPLE_RATE) -> tuple[str, bytes]:
    """A wave (channels, samples) as a small sound file: its media type and bytes; MP3, which every browser plays."""
    buffer = io.BytesIO()
    if "MP3" in soundfile.available_formats():
        soundfile.write(buffer, wave.T, rate, format="MP3", subtype="MPEG_LAYER_III")
        return "audio/mpeg", buffer.getvalue()
    soundfile.write(buffer, wave.T, rate, format="FLAC", subtype="PCM_16")
    return "audio/flac", buffer.getvalue()
