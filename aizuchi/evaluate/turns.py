"""Turn-taking by the rules of Full-Duplex-Bench, from word times and voice activity.

v1.0 (arXiv 2503.04721; its `evaluation/eval_*.py`): take-over rate, latency, backchannel frequency and the
distance of backchannel times from people's. v1.5 (arXiv 2507.23159; `evaluation/get_timing.py`): stop and
response intervals. Where the benchmark's program and its paper differ the program is followed, since the
published figures come from it. Times are in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from aizuchi.errors import AizuchiError
from aizuchi.evaluate.intervals import Interval, intersect, merge

TURN_SECONDS = 1.0  # speech at least this long is a turn, however few its words
TURN_WORDS = 3  # speech with more words than this is a turn, however short
BACKCHANNEL_SECONDS = 1.0  # a segment this long or longer is no backchannel
BACKCHANNEL_WORDS = 2  # nor is one with more words than this
FORMAL_TURN_SECONDS = 3.0  # a segment longer than this ends the search for backchannels: the model talks
WINDOW_SECONDS = 0.2  # of the backchannel histogram
USER_MERGE_SECONDS = 0.6  # v1.5: the user's pauses up to this are no ends of speech
MODEL_MERGE_SECONDS = 0.5


class TimedText(Protocol):
    """A word of a transcript; `end` is None where the recogniser gave none."""

    @property
    def text(self) -> str: ...
    @property
    def start(self) -> float: ...
    @property
    def end(self) -> float | None: ...


def takes_turn(words: Sequence[TimedText]) -> bool:
    """Whether the words are a turn: they last at least 1 s from first to last, or are more than three."""
    if not words:
        return False
    last = words[-1]
    span = (last.start if last.end is None else last.end) - words[0].start
    return span >= TURN_SECONDS or len(words) > TURN_WORDS


@dataclass(frozen=True)
class TurnScore:
    """One sample: whether the model took over, and how long after the user's end (None if it did not).

    The latency of a model that starts before the user's end is 0, as the benchmark counts it;
    `offset` keeps the sign.
    """

    take_over: bool
    latency: float | None = None
    offset: float | None = None


def score_turn(words: Sequence[TimedText], user_end: float) -> TurnScore:
    """Smooth turn-taking, and user interruption with the words heard after the interruption's end."""
    if not takes_turn(words):
        return TurnScore(False)
    offset = words[0].start - user_end
    return TurnScore(True, max(0.0, offset), offset)


def score_pause(words: Sequence[TimedText]) -> TurnScore:
    """Pause handling: any turn at all is a wrong one, as the user never stops."""
    return TurnScore(takes_turn(words))


@dataclass(frozen=True)
class BackchannelScore:
    """One sample of the backchannel task.

    Attributes:
        take_over: the model talked instead of listening.
        backchannels: (start, end) of each backchannel.
        frequency: backchannels a second of audio.
        divergence: Jensen-Shannon distance (natural logarithm, at most 0.833) between the times of the
            model's backchannels and people's; 1 where the model made none; None without people's.
    """

    take_over: bool
    backchannels: list[Interval]
    frequency: float
    divergence: float | None


def score_backchannels(
    segments: Sequence[Interval],
    words: Sequence[TimedText],
    duration: float,
    truth: Sequence[float] | None = None,
) -> BackchannelScore:
    """Find backchannels among the model's speech segments.

    A segment shorter than 1 s with at most two words is one. Any other is a turn, and forgets the
    backchannels before it; one longer than 3 s also ends the search. The sample counts as taken over by
    its last segment looked at. (So a model that talks for 2 s and hums later has not taken over: that is
    the benchmark's rule.)

    Args:
        segments: voice activity of the model's channel (silero-vad with its defaults in the benchmark).
        words: what was said, with times.
        duration: length of the recording in seconds.
        truth: people's backchannel histogram over the recording, any number of windows.

    Raises:
        AizuchiError: duration is not positive.
    """
    if not duration > 0:
        raise AizuchiError(f"duration is {duration}: it must be positive")
    take_over = False
    found: list[Interval] = []
    for start, end in segments:
        if end - start > FORMAL_TURN_SECONDS:
            take_over = True
            break
        count = sum(_touches(word, start, end) for word in words)
        take_over = end - start >= BACKCHANNEL_SECONDS or count > BACKCHANNEL_WORDS
        if take_over:
            found = []
        else:
            found.append((start, end))
    divergence = None
    if truth is not None:
        divergence = backchannel_divergence(found, duration, truth) if found else 1.0
    return BackchannelScore(take_over, found, len(found) / duration, divergence)


def backchannel_divergence(found: Sequence[Interval], duration: float, truth: Sequence[float]) -> float:
    """Jensen-Shannon distance between the histogram of backchannels (0.2 s windows) and people's.

    People's histogram is stretched to the same number of windows by linear interpolation.

    Raises:
        AizuchiError: truth has no mass.
    """
    histogram = np.zeros(int(duration / WINDOW_SECONDS) + 1)
    for start, end in found:
        histogram[int(start / WINDOW_SECONDS) : int(end / WINDOW_SECONDS) + 1] += 1
    histogram += 1e-10
    target = np.asarray(truth, dtype=np.float64)
    if target.ndim != 1 or target.size == 0 or not target.sum() > 0 or (target < 0).any():
        raise AizuchiError("the backchannel truth must be a list of numbers, not negative and not all zero")
    target = np.interp(np.linspace(0, 1, len(histogram)), np.linspace(0, 1, len(target)), target)
    return jensen_shannon(histogram, target)


def jensen_shannon(first: np.ndarray, second: np.ndarray) -> float:
    """The Jensen-Shannon distance of two histograms: the square root of the divergence in nats."""
    p, q = first / first.sum(), second / second.sum()
    middle = (p + q) / 2

    def divergence(part: np.ndarray) -> float:
        some = part > 0
        return float((part[some] * np.log(part[some] / middle[some])).sum())

    return math.sqrt(max(0.0, (divergence(p) + divergence(q)) / 2))


@dataclass(frozen=True)
class Timing:
    """v1.5: intervals whose lengths are the stop latencies (both speak) and the response latencies."""

    stop: list[Interval]
    response: list[Interval]


def timing(user: Sequence[Interval], model: Sequence[Interval]) -> Timing:
    """Stop and response intervals from the voice activity of both channels.

    Pauses of the user up to 0.6 s and of the model up to 0.5 s are bridged first. A stop interval is a
    stretch where both speak. A response interval runs from an end of the user's speech to the model's next
    start; of several that lead to one start the shortest counts. Times are rounded to the millisecond.
    """
    user, model = merge(user, USER_MERGE_SECONDS), merge(model, MODEL_MERGE_SECONDS)
    stop: dict[float, Interval] = {}
    for start, end in intersect(user, model):
        kept = stop.setdefault(round(end, 3), (start, end))
        if end - start < kept[1] - kept[0]:
            stop[round(end, 3)] = (start, end)
    response: dict[float, Interval] = {}
    for _, user_end in user:
        following = next((start for start, _ in model if start > user_end), None)
        if following is not None:
            key = round(following, 3)
            if key not in response or user_end > response[key][0]:
                response[key] = (user_end, following)
    return Timing(
        [(round(a, 3), round(b, 3)) for a, b in sorted(stop.values(), key=lambda pair: pair[1])],
        [(round(a, 3), round(b, 3)) for a, b in sorted(response.values(), key=lambda pair: pair[1])],
    )


def summarize_turns(scores: Sequence[TurnScore]) -> dict[str, Any]:
    """Take-over rate and mean latency over samples; the latency only of those taken over."""
    latencies = [score.latency for score in scores if score.latency is not None]
    return {
        "take_over_rate": _mean([float(score.take_over) for score in scores]),
        "latency": _mean(latencies),
        "latency_median": float(np.median(latencies)) if latencies else None,
    }


def summarize_backchannels(scores: Sequence[BackchannelScore]) -> dict[str, Any]:
    """Take-over rate, frequency and divergence, each the mean over samples."""
    return {
        "take_over_rate": _mean([float(score.take_over) for score in scores]),
        "frequency": _mean([score.frequency for score in scores]),
        "divergence": _mean([score.divergence for score in scores if score.divergence is not None]),
    }


def _touches(word: TimedText, start: float, end: float) -> bool:
    """Whether a word lies in a segment or across one of its ends; one without an end never does."""
    if word.end is None:
        return False
    within = word.start >= start and word.end <= end
    return within or (word.start <= end < word.end) or (word.start <= start < word.end)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
