"""What a set of dialogues holds: durations, speech, overlap, words, padding."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from aizuchi.audio import SAMPLE_RATE, FloatArray
from aizuchi.data.alignments import Alignment, alignment_path
from aizuchi.data.dialogues import Dialogue, Side
from aizuchi.data.frames import (
    EPAD,
    FRAME_SAMPLES,
    MAIN_SPEAKER,
    PAD,
    frame_count,
    words_to_frames,
)
from aizuchi.data.tokenizer import TextTokenizer

BoolArray = npt.NDArray[np.bool_]

# A frame counts as speech above both: 30 dB below the loud frames of its channel, and -55 dBFS.
_BELOW_LOUD_DB = 30.0
_FLOOR_DB = -55.0


def active_frames(wave: FloatArray) -> BoolArray:
    """Which 80 ms frames of a channel hold sound; see `sounding`."""
    return sounding(wave, FRAME_SAMPLES)


def sounding(wave: FloatArray, block: int) -> BoolArray:
    """Which blocks of a channel hold sound, by their level.

    Args:
        wave: (samples,).
        block: samples in a block.

    Returns:
        (blocks,) booleans; the last block may be short. It hears level, not speech: noise counts too.
    """
    blocks = math.ceil(len(wave) / block)
    padded = np.zeros(blocks * block, np.float64)
    padded[: len(wave)] = wave
    power = (padded.reshape(blocks, block) ** 2).mean(axis=1)
    level = 10 * np.log10(power + 1e-20)
    if not blocks:
        return np.zeros(0, np.bool_)
    return level > max(_FLOOR_DB, float(np.percentile(level, 95)) - _BELOW_LOUD_DB)


@dataclass
class DialogueStats:
    """What one dialogue adds; see `summarize` for the names."""

    seconds: float
    model_seconds: float
    user_seconds: float
    overlap_seconds: float
    silence_seconds: float
    words: Counter[str]
    conditions: Counter[str] = field(default_factory=Counter)
    frames: int = 0
    pad: int = 0
    epad: int = 0
    text_tokens: int = 0
    cut_tokens: int = 0


def dialogue_stats(
    dialogue: Dialogue,
    tokenizer: TextTokenizer | None = None,
    mono: Side | None = None,
    need_words: bool = True,
) -> DialogueStats:
    """Measure one dialogue; padding is measured only with a tokenizer.

    Raises:
        DataError: its files are missing or wrong.
    """
    waves = dialogue.waves(mono)
    model, user = active_frames(waves[0]), active_frames(waves[1])
    frame = FRAME_SAMPLES / SAMPLE_RATE
    alignment = Alignment([])
    if need_words or alignment_path(dialogue.audio).exists():
        alignment = dialogue.alignment()
    words = alignment.words
    stats = DialogueStats(
        seconds=waves.shape[1] / SAMPLE_RATE,
        model_seconds=float(model.sum()) * frame,
        user_seconds=float(user.sum()) * frame,
        overlap_seconds=float((model & user).sum()) * frame,
        silence_seconds=float((~model & ~user).sum()) * frame,
        words=Counter(word.speaker for word in words),
        conditions=Counter(f"{name}={value}" for name, value in alignment.text_conditions.items()),
    )
    if tokenizer is not None and words:
        stats.frames = frame_count(stats.seconds)
        tokens = words_to_frames(words, stats.frames, tokenizer)
        stats.pad, stats.epad = int((tokens == PAD).sum()), int((tokens == EPAD).sum())
        stats.text_tokens = stats.frames - stats.pad - stats.epad
        main = [word for word in words if word.speaker == MAIN_SPEAKER]
        whole = sum(token not in (PAD, EPAD) for word in main for token in tokenizer.encode(word.text))
        stats.cut_tokens = whole - stats.text_tokens
    return stats


def summarize(parts: Iterable[DialogueStats]) -> dict[str, Any]:
    """Add dialogues up: a plain dict for JSON. Shares are of the time, or of the frames, of all dialogues."""
    stats = list(parts)
    seconds = np.array([s.seconds for s in stats])
    total = float(seconds.sum())
    words, conditions = Counter[str](), Counter[str]()
    for s in stats:
        words += s.words
        conditions += s.conditions

    def share(name: str) -> float:
        return sum(getattr(s, name) for s in stats) / total if total else math.nan

    out: dict[str, Any] = {
        "dialogues": len(stats),
        "hours": total / 3600,
        "seconds": {
            "shortest": float(seconds.min(initial=math.inf)) if stats else math.nan,
            "median": float(np.median(seconds)) if stats else math.nan,
            "longest": float(seconds.max(initial=0.0)) if stats else math.nan,
        },
        "share": {
            "model_speaks": share("model_seconds"),
            "user_speaks": share("user_seconds"),
            "both_speak": share("overlap_seconds"),
            "nobody_speaks": share("silence_seconds"),
        },
        "words": dict(words.most_common()),
        "words_per_minute_of_main": 60 * words[MAIN_SPEAKER] / total if total else math.nan,
    }
    if conditions:
        out["text_conditions"] = dict(conditions.most_common(20))
    frames = sum(s.frames for s in stats)
    if frames:
        tokens, cut = sum(s.text_tokens for s in stats), sum(s.cut_tokens for s in stats)
        out["text"] = {
            "frames": frames,
            "padding": sum(s.pad for s in stats) / frames,
            "end_of_padding": sum(s.epad for s in stats) / frames,
            "tokens": tokens / frames,
            "tokens_cut_off": cut / (tokens + cut) if tokens + cut else 0.0,
        }
    return out


def format_summary(summary: dict[str, Any]) -> str:
    """The summary as lines for people."""
    seconds, share = summary["seconds"], summary["share"]
    lines = [
        f"dialogues      {summary['dialogues']}",
        f"duration       {summary['hours']:.2f} h; shortest {seconds['shortest']:.1f} s, median "
        f"{seconds['median']:.1f} s, longest {seconds['longest']:.1f} s",
        f"model speaks   {share['model_speaks']:.1%} of the time",
        f"user speaks    {share['user_speaks']:.1%}",
        f"both speak     {share['both_speak']:.1%}",
        f"nobody speaks  {share['nobody_speaks']:.1%}",
        "words          "
        + (", ".join(f"{name} {count}" for name, count in summary["words"].items()) or "none")
        + f"; the main speaker says {summary['words_per_minute_of_main']:.0f} a minute",
    ]
    if text := summary.get("text"):
        lines.append(
            f"text frames    {text['padding'] + text['end_of_padding']:.1%} padding "
            f"(PAD {text['padding']:.1%}, "
            f"EPAD {text['end_of_padding']:.1%}), {text['tokens']:.1%} tokens; "
            f"{text['tokens_cut_off']:.1%} of all tokens cut off by the next word"
        )
    if conditions := summary.get("text_conditions"):
        lines.append("conditions     " + ", ".join(f"{name} ({n})" for name, n in conditions.items()))
    return "\n".join(lines)
