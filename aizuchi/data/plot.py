"""A picture of a dialogue: both waveforms, the words on them, and the text tokens on their frames."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from aizuchi.audio import SAMPLE_RATE
from aizuchi.data.dialogues import Dialogue, Segment, Side
from aizuchi.data.frames import EPAD, FRAME_RATE, MAIN_SPEAKER, PAD, words_to_frames
from aizuchi.data.frames import frame_count as count_frames
from aizuchi.data.tokenizer import TextTokenizer
from aizuchi.errors import AizuchiError, require
from aizuchi.files import atomic_path

_MODEL, _USER, _EPAD = "#1f5fa8", "#c2571a", "#9a9a9a"


def plot_dialogue(
    dialogue: Dialogue,
    path: str | os.PathLike[str],
    tokenizer: TextTokenizer | None = None,
    start: float = 0.0,
    seconds: float | None = None,
    mono: Side | None = None,
) -> None:
    """Draw a stretch of a dialogue and write it as a picture (.png, .svg, .pdf), atomically.

    Args:
        dialogue: what to draw.
        path: the picture; its suffix sets the format.
        tokenizer: draws the text tokens on their frames; without one, that strip is left out.
        start: seconds.
        seconds: how long a stretch; None draws to the end.
        mono: as in `Dialogue.waves`.

    Raises:
        AizuchiError: nothing lies there, an unknown format, or matplotlib is missing.
        DataError: the files of the dialogue are missing or wrong.
    """
    if not 0 <= start < dialogue.duration:
        raise AizuchiError(f"start is {start:g} s; {dialogue.audio} lasts {dialogue.duration:g} s")
    length = min(seconds or dialogue.duration, dialogue.duration - start)
    if not length > 0:
        raise AizuchiError(f"seconds is {seconds}; it must be above 0")
    require("matplotlib", extra="data")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # no pyplot: nothing global, no display needed

    segment = Segment(dialogue, start, length)
    waves, words = segment.waves(mono), segment.words()
    strips = 2 if tokenizer is None else 3
    figure = Figure(figsize=(max(8.0, min(60.0, 1.6 * length)), 1.7 * strips + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(strips, 1, sharex=True, height_ratios=[3, 3, 1.4][:strips])
    figure.suptitle(f"{dialogue.audio.name}   {start:.2f} to {start + length:.2f} s", fontsize=10)

    for row, (name, color) in enumerate((("model", _MODEL), ("user", _USER))):
        mine = [w for w in words if (w.speaker == MAIN_SPEAKER) == (row == 0)]
        _draw_side(axes[row], waves[row], mine, start, name, color)
    if tokenizer is not None:
        _draw_tokens(axes[2], words, length, start, tokenizer)
    axes[-1].set_xlim(start, start + length)
    axes[-1].set_xlabel("seconds")
    with atomic_path(path) as temporary:
        try:
            figure.savefig(temporary, dpi=110)
        except ValueError as error:
            raise AizuchiError(f"can't draw {path}: {error}") from error


def _draw_side(axis: Any, wave: np.ndarray, words: list, start: float, name: str, color: str) -> None:
    """One channel: the envelope of its waveform, and a bar with its text for every word."""
    # Minimum and maximum of short blocks: the picture of all samples at a fraction of the points.
    block = max(1, len(wave) // 6000)
    blocks = wave[: len(wave) // block * block].reshape(-1, block)
    times = start + (np.arange(len(blocks)) + 0.5) * block / SAMPLE_RATE
    axis.fill_between(times, blocks.min(axis=1), blocks.max(axis=1), color=color, linewidth=0.4)
    top = max(0.05, float(np.abs(wave).max(initial=0.0)))
    axis.set_ylim(-1.1 * top, 2.0 * top)
    axis.set_ylabel(name)
    for i, word in enumerate(words):
        height = (1.2 + 0.4 * (i % 2)) * top  # two levels, so that neighbors do not run into each other
        left, right = start + word.start, start + word.end
        axis.plot([left, right], [height, height], color="black", linewidth=1.2)
        axis.plot([left, left], [-top, height], color="black", linewidth=0.4, alpha=0.4)
        axis.text(left, height, word.text, fontsize=7, ha="left", va="bottom", clip_on=True, parse_math=False)


def _draw_tokens(axis: Any, words: list, length: float, start: float, tokenizer: TextTokenizer) -> None:
    """One box a frame: colored where a token lies, gray for the end of padding, empty for padding."""
    tokens = words_to_frames(words, count_frames(length), tokenizer)
    for frame, token in enumerate(tokens.tolist()):
        if token == PAD:
            continue
        left = start + frame / FRAME_RATE
        color, label = (_EPAD, "E") if token == EPAD else (_MODEL, tokenizer.piece(token))
        axis.axvspan(left, left + 1 / FRAME_RATE, color=color, alpha=0.35, linewidth=0.5, ec="white")
        axis.text(left + 0.5 / FRAME_RATE, 0.5, label, fontsize=6, rotation=90, ha="center", va="center",
                  clip_on=True, parse_math=False)  # fmt: skip
    axis.set_ylim(0, 1)
    axis.set_yticks([])
    axis.set_ylabel("text")
