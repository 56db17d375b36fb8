"""Statistics of a dialogue: inter-pausal units, pauses, gaps and overlaps.

After dGSLM (Nguyen et al., arXiv 2203.16502, section 4.3), as the Moshi paper reports them: an
inter-pausal unit (IPU) is speech of one speaker with at least 0.2 s of their silence around it; a pause is
silence between two IPUs of one speaker, a gap is silence between IPUs of different speakers, and an overlap
is a stretch where both speak. Amounts are seconds a minute of dialogue, IPUs summed over both speakers, so
that IPU + pause + gap - overlap + the silence at both ends = 60.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aizuchi.errors import AizuchiError
from aizuchi.evaluate.intervals import Interval, clip, complement, intersect, merge, total

IPU_SILENCE = 0.2


@dataclass(frozen=True)
class Dialogue:
    """The events of one two-party dialogue; speakers are 0 and 1, intervals are in seconds.

    Attributes:
        duration: seconds.
        ipus: of each speaker.
        pauses: of each speaker.
        gaps: with the speaker who takes the floor after each.
        overlaps: stretches where both speak.
    """

    duration: float
    ipus: tuple[list[Interval], list[Interval]]
    pauses: tuple[list[Interval], list[Interval]]
    gaps: list[tuple[Interval, int]]
    overlaps: list[Interval]


def find_events(first: Sequence[Interval], second: Sequence[Interval], duration: float) -> Dialogue:
    """Turn the voice activity of two channels into IPUs, pauses, gaps and overlaps.

    The floor before a silence belongs to the speaker who stopped last, after it to the one who starts
    first; where both do so at once, the silence is a pause if it can be one.

    Args:
        first, second: (start, end) of speech on each channel.
        duration: of the recording in seconds; what lies outside is cut off.

    Raises:
        AizuchiError: duration is not positive.
    """
    if not duration > 0:
        raise AizuchiError(f"duration is {duration}: it must be positive")
    ipus = tuple(clip(merge(channel, IPU_SILENCE), 0.0, duration) for channel in (first, second))
    pauses: tuple[list[Interval], list[Interval]] = ([], [])
    gaps: list[tuple[Interval, int]] = []
    for silence in complement(merge(ipus[0] + ipus[1]), 0.0, duration):
        before = [speaker for speaker in (0, 1) if any(end == silence[0] for _, end in ipus[speaker])]
        after = [speaker for speaker in (0, 1) if any(start == silence[1] for start, _ in ipus[speaker])]
        if not before or not after:
            continue  # the silence at an end of the recording
        same = [speaker for speaker in before if speaker in after]
        if same:
            pauses[same[0]].append(silence)
        else:
            gaps.append((silence, after[0]))
    return Dialogue(duration, (ipus[0], ipus[1]), pauses, gaps, intersect(ipus[0], ipus[1]))


def statistics(dialogues: Sequence[Dialogue]) -> dict[str, Any]:
    """Amounts over dialogues: seconds a minute, events a minute, and the offsets at changes of speaker.

    An offset is the time from the end of one speaker's speech to the start of the other's: positive for a
    gap, negative for an overlap that ends with the other one speaking.

    Raises:
        AizuchiError: there is no dialogue.
    """
    if not dialogues:
        raise AizuchiError("no dialogue to take statistics of")
    minutes = sum(d.duration for d in dialogues) / 60

    def amounts(events: list[list[Interval]]) -> dict[str, float]:
        return {
            "seconds_per_minute": sum(map(total, events)) / minutes,
            "per_minute": sum(map(len, events)) / minutes,
        }

    offsets = [offset for d in dialogues for offset, _ in floor_transfers(d)]
    return {
        "dialogues": len(dialogues),
        "minutes": minutes,
        "ipu": amounts([d.ipus[s] for d in dialogues for s in (0, 1)]),
        "pause": amounts([d.pauses[s] for d in dialogues for s in (0, 1)]),
        "gap": amounts([[silence for silence, _ in d.gaps] for d in dialogues]),
        "overlap": amounts([d.overlaps for d in dialogues]),
        "speech_share": [sum(total(d.ipus[s]) for d in dialogues) / (60 * minutes) for s in (0, 1)],
        "offset_median": float(np.median(offsets)) if offsets else None,
        "offsets": [round(offset, 3) for offset in offsets],
    }


def floor_transfers(dialogue: Dialogue) -> list[tuple[float, int]]:
    """Each change of speaker: (offset in seconds, who speaks after it), in order.

    A backchannel inside the other's speech is no change of speaker.
    """
    transfers = [(silence[0], silence[1] - silence[0], speaker) for silence, speaker in dialogue.gaps]
    for start, end in dialogue.overlaps:
        for speaker in (0, 1):
            yields = any(a < start and b == end for a, b in dialogue.ipus[1 - speaker])
            goes_on = any(a == start and b > end for a, b in dialogue.ipus[speaker])
            if yields and goes_on:
                transfers.append((start, start - end, speaker))
    return [(offset, speaker) for _, offset, speaker in sorted(transfers)]
