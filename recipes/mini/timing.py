"""A spoken clip with the times of its words and phones, and what one does to it: trim, join, resample, cut.

All audio is float32 mono at 24 kHz; times are seconds from the start of the clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import soxr

RATE = 24_000
LEAD = 0.05  # kept before the first word when a clip is trimmed
TAIL = 0.12  # kept after the last one
USER_LEVEL = -24.0  # dBFS, RMS of the words of each of the user's clips

Span = tuple[str, float, float]  # word or phone, start, end


@dataclass(frozen=True)
class Spoken:
    """Audio of one text.

    Attributes:
        audio: (samples,) float32 at 24 kHz.
        words: (word as written, start, end), one per whitespace-separated word of the text.
        phones: (phone, start, end) without silences; empty where the engine does not tell.
        exact: whether the times come from the engine's own durations, not from an estimate.
    """

    audio: np.ndarray
    words: tuple[Span, ...]
    phones: tuple[Span, ...] = ()
    exact: bool = True

    @property
    def duration(self) -> float:
        return len(self.audio) / RATE

    @property
    def end(self) -> float:
        """End of the last word."""
        return self.words[-1][2] if self.words else 0.0


def shift(
    spans: Sequence[Span], by: float, scale: float = 1.0, limit: float = float("inf")
) -> tuple[Span, ...]:
    """Spans moved by `by` seconds after scaling, held inside [0, limit]."""
    return tuple(
        (
            name,
            round(min(max(start * scale + by, 0.0), limit), 4),
            round(min(max(end * scale + by, 0.0), limit), 4),
        )
        for name, start, end in spans
    )


def check_times(clip: Spoken) -> None:
    """Raise ValueError unless words and phones have a length, lie in the clip and start in order."""
    for spans in (clip.words, clip.phones):
        before = 0.0
        for name, start, end in spans:
            if not (before <= start < end <= clip.duration + 1e-3):
                raise ValueError(f"{name!r} has no valid times: {start} to {end} s in {clip.duration:.3f} s")
            before = start


def trim(clip: Spoken, lead: float = LEAD, tail: float = TAIL) -> Spoken:
    """The clip from `lead` seconds before its first word to `tail` after its last, with short fades."""
    if not clip.words:
        return clip
    first = max(0, round((clip.words[0][1] - lead) * RATE))
    last = min(len(clip.audio), round((clip.end + tail) * RATE))
    audio = fade(clip.audio[first:last].copy())
    by, limit = -first / RATE, len(audio) / RATE
    return replace(
        clip,
        audio=audio,
        words=shift(clip.words, by, limit=limit),
        phones=shift(clip.phones, by, limit=limit),
    )


def fade(audio: np.ndarray, seconds: float = 0.005, ends: tuple[bool, bool] = (True, True)) -> np.ndarray:
    """Ramp the two ends of `audio` in place, so that a cut does not click; returns it."""
    n = min(round(seconds * RATE), len(audio) // 2)
    if n:
        ramp = np.linspace(0.0, 1.0, n, dtype=np.float32)
        if ends[0]:
            audio[:n] *= ramp
        if ends[1]:
            audio[-n:] *= ramp[::-1]
    return audio


def join(clips: Sequence[Spoken], gap: float = 0.0) -> Spoken:
    """One clip after the other, `gap` seconds of silence between them."""
    parts: list[np.ndarray] = []
    words: list[Span] = []
    phones: list[Span] = []
    at = 0.0
    for i, clip in enumerate(clips):
        if i and gap > 0:
            parts.append(np.zeros(round(gap * RATE), np.float32))
            at += len(parts[-1]) / RATE
        parts.append(clip.audio)
        words += shift(clip.words, at)
        phones += shift(clip.phones, at)
        at += clip.duration
    audio = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    return Spoken(audio, tuple(words), tuple(phones), all(c.exact for c in clips))


def level(clip: Spoken, db: float) -> Spoken:
    """The clip with the RMS of its sounding parts at `db` below full scale, peaks held below it."""
    parts = [clip.audio[round(s * RATE) : round(e * RATE)] for _, s, e in clip.words]
    power = float(np.mean(np.concatenate(parts) ** 2)) if parts else 0.0
    if power <= 0:
        return clip
    gain = 10 ** (db / 20) / power**0.5
    gain = min(gain, 0.98 / max(float(np.abs(clip.audio).max()), 1e-6))
    return Spoken((clip.audio * gain).astype(np.float32), clip.words, clip.phones, clip.exact)


def resample(clip: Spoken, factor: float) -> Spoken:
    """Play the clip `factor` times faster, pitch and formants with it: another speaker.

    Raises ValueError unless 0.5 <= factor <= 2.
    """
    if not 0.5 <= factor <= 2:
        raise ValueError(f"factor: 0.5 to 2, got {factor}")
    if factor == 1:
        return clip
    audio = soxr.resample(clip.audio, RATE * factor, RATE).astype(np.float32)
    return replace(
        clip,
        audio=audio,
        words=shift(clip.words, 0, 1 / factor, len(audio) / RATE),
        phones=shift(clip.phones, 0, 1 / factor, len(audio) / RATE),
    )


def insert_pause(clip: Spoken, word: int, seconds: float) -> Spoken:
    """Silence of about `seconds` before word number `word`: the clip is cut at the quietest place between the words.

    The gap between the end of the word before and the start of `word` grows to `seconds` if it was shorter.
    Raises ValueError if there is no word before `word`.
    """
    if not 0 < word < len(clip.words):
        raise ValueError(f"word: 1 to {len(clip.words) - 1}, got {word}")
    before, after = clip.words[word - 1][2], clip.words[word][1]
    add = max(0.0, seconds - max(0.0, after - before))
    at = quietest(
        clip.audio, max(before - 0.03, clip.words[word - 1][1]), min(after + 0.03, clip.words[word][2])
    )
    left = fade(clip.audio[:at].copy(), 0.015, (False, True))
    right = fade(clip.audio[at:].copy(), 0.008, (True, False))
    silence = np.zeros(round(add * RATE), np.float32)
    cut, add = at / RATE, len(silence) / RATE

    def moved(span: Span, later: bool) -> Span:
        name, start, end = span
        if later:
            return name, round(max(start, cut) + add, 4), round(max(end, cut) + add, 4)
        return name, round(min(start, cut), 4), round(min(end, cut), 4)

    return replace(
        clip,
        audio=np.concatenate([left, silence, right]),
        words=tuple(moved(span, i >= word) for i, span in enumerate(clip.words)),
        phones=tuple(moved(span, (span[1] + span[2]) / 2 >= cut) for span in clip.phones),
    )


def quietest(audio: np.ndarray, start: float, end: float, window: float = 0.01) -> int:
    """Sample in the middle of the quietest `window` seconds between two times."""
    n = max(1, round(window * RATE))
    first = max(0, round(start * RATE))
    last = min(len(audio), max(round(end * RATE), first + n))
    if last - first <= n:
        return min(first + n // 2, len(audio))
    energy = np.convolve(audio[first:last] ** 2, np.ones(n, np.float32), "valid")
    return first + int(energy.argmin()) + n // 2


def cut_short(clip: Spoken, at: float, ramp: float = 0.04) -> Spoken:
    """The clip as far as `at` seconds, faded out; a word or phone under way ends there, later ones are gone."""
    n = max(0, min(round(at * RATE), len(clip.audio)))
    audio = fade(clip.audio[:n].copy(), ramp, (False, True))
    limit = n / RATE

    def kept(spans: tuple[Span, ...]) -> tuple[Span, ...]:
        return tuple((name, start, min(end, limit)) for name, start, end in spans if start < limit - 0.02)

    return replace(clip, audio=audio, words=kept(clip.words), phones=kept(clip.phones))


def spread(words: Sequence[str], weights: Sequence[float], start: float, end: float) -> tuple[Span, ...]:
    """Estimated times: `words` share [start, end] in proportion to `weights`."""
    total = sum(weights) or 1.0
    spans, at = [], start
    for word, weight in zip(words, weights, strict=True):
        stop = at + (end - start) * weight / total
        spans.append((word, round(at, 4), round(stop, 4)))
        at = stop
    return tuple(spans)


def tighten(clip: Spoken, threshold: float = 0.02) -> Spoken:
    """End each word and phone where its sound ends: engines count the silence after a last phone with it."""
    n = RATE // 100
    frames = len(clip.audio) // n
    level = np.sqrt((clip.audio[: frames * n].reshape(frames, n) ** 2).mean(1))
    loud = level > threshold * max(float(level.max(initial=0.0)), 1e-6)

    def ended(spans: tuple[Span, ...]) -> tuple[Span, ...]:
        out = []
        for name, start, end in spans:
            first, last = int(start * 100), min(int(np.ceil(end * 100)), frames)
            heard = np.flatnonzero(loud[first:last])
            if len(heard):
                end = min(end, (first + int(heard[-1]) + 1) / 100)
            out.append((name, start, max(round(end, 4), start + 0.01)))
        return tuple(out)

    return replace(clip, words=ended(clip.words), phones=ended(clip.phones))


def sound_edges(audio: np.ndarray, threshold: float = 0.02) -> tuple[float, float]:
    """First and last time at which 10 ms of the audio reach `threshold` of its peak level."""
    n = RATE // 100
    frames = len(audio) // n
    if frames == 0:
        return 0.0, 0.0
    level = np.sqrt((audio[: frames * n].reshape(frames, n) ** 2).mean(1))
    loud = np.flatnonzero(level > threshold * max(float(level.max()), 1e-6))
    return float(loud[0]) * n / RATE, float(loud[-1] + 1) * n / RATE
