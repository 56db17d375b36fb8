"""Scripts of dialogues: who says what, and when relative to whom. Absolute times come from the synthesis.

A script is a list of events. Each starts at a place of an earlier event: `gap` seconds (negative: overlapping)
after its end, after its start, or after a fraction of it. Starts and ends are those of the spoken words, not of
the clips. In JSON it carries a format number and refuses others.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Literal

FORMAT = 1

Side = Literal["model", "user", "room"]


@dataclass
class Event:
    """One turn, backchannel or sound.

    Attributes:
        id: its place in the script.
        side: "model", "user", or "room" (a sound that reaches the user's microphone).
        text: the words; for "room" the name of a sound; empty for a recording without a transcript.
        kind: kind of the utterance, or of the model's line: "answer", "backchannel", "still_there".
        after: id of an earlier event, or None for the start of the audio.
        fraction: where in that event the gap begins: 0 its start, 1 its end.
        gap: seconds from there to the start of this one.
        pauses: hesitations of the user, (number of the word they come before, seconds).
        cut_by: id of the later event that makes the model stop, and
        cut_lag: seconds from that event's start to the model's silence.
        clip: where the clip library keeps the audio, if it comes from there.
        speed: pace given to the voice.
        gain: dB on the clip.
    """

    id: int
    side: Side
    text: str
    kind: str
    after: int | None = None
    fraction: float = 1.0
    gap: float = 0.0
    pauses: list[tuple[int, float]] = field(default_factory=list)
    cut_by: int | None = None
    cut_lag: float = 0.0
    clip: str | None = None
    speed: float = 1.0
    gain: float = 0.0


@dataclass
class Script:
    """A dialogue before it is spoken.

    Attributes:
        seed: what it was drawn from.
        voice: of the user; "recorded" for real recordings.
        factor: resampling of the user's clips.
        tail: seconds after the last event.
        events: in an order in which each refers to earlier ones only (but for `cut_by`).
    """

    seed: str
    voice: str
    factor: float
    tail: float = 1.0
    events: list[Event] = field(default_factory=list)

    def check(self) -> None:
        """Raise ValueError if an event refers to one that is not there before it, or ids are out of place."""
        for place, event in enumerate(self.events):
            if event.id != place:
                raise ValueError(f"event {place} has id {event.id}")
            if event.after is not None and not 0 <= event.after < place:
                raise ValueError(f"event {place} starts after event {event.after}, which is not before it")
            if event.cut_by is not None and (
                event.side != "model" or not place < event.cut_by < len(self.events)
            ):
                raise ValueError(f"event {place} is cut by event {event.cut_by}, which is not after it")
            if event.gap < 0 and event.after is None:
                raise ValueError(f"event {place} starts before the audio")

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, ensure_ascii=False)

    @staticmethod
    def from_json(text: str) -> Script:
        """Raises ValueError for another format."""
        row = json.loads(text)
        if row.pop("format", None) != FORMAT:
            raise ValueError(f"this script is not of format {FORMAT}; write the dialogues again")
        events = [Event(**{**e, "pauses": [tuple(p) for p in e["pauses"]]}) for e in row.pop("events")]
        script = Script(**row, events=events)
        script.check()
        return script
