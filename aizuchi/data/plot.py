"""Pictures of a dialogue and of a reply: both waveforms, the words on them, and the text tokens on their frames."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from aizuchi.audio import SAMPLE_RATE
from aizuchi.data.dialogues import Dialogue, Segment, Side
from aizuchi.data.frames import EPAD, FRAME_RATE, MAIN_SPEAKER, PAD, words_to_frames
from aizuchi.data.frames import frame_count as count_frames
from aizuchi.data.tokenizer import TextTokenizer
from aizuchi.errors import AizuchiError, require
from aizuchi.files import atomic_path
from aizuchi.transcript import Word

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
    check_picture(path)
    segment = Segment(dialogue, start, length)
    waves, words = segment.waves(mono), segment.words()
    figure, axes = _figure(2 if tokenizer is None else 3, length)
    figure.suptitle(f"{dialogue.audio.name}   {start:.2f} to {start + length:.2f} s", fontsize=10)

    for row, (name, color) in enumerate((("model", _MODEL), ("user", _USER))):
        mine = [w for w in words if (w.speaker == MAIN_SPEAKER) == (row == 0)]
        _draw_side(axes[row], waves[row], mine, start, name, color)
    if tokenizer is not None:
        _draw_tokens(axes[2], words, length, start, tokenizer)
    axes[-1].set_xlim(start, start + length)
    _save(figure, path)


def plot_reply(
    path: str | os.PathLike[str],
    user: np.ndarray,
    model: np.ndarray,
    rate: int,
    words: Sequence[Word] = (),
    heard: Sequence[tuple[str, float]] = (),
) -> None:
    """Draw a recording and what a model answered to it, one above the other, atomically.

    Args:
        path: the picture; its suffix sets the format (.png, .svg, .pdf).
        user: (samples,). model: (samples,).
        rate: samples a second.
        words: of the model.
        heard: words of the user that the model wrote down, and the seconds at which it did: drawn over the user.

    Raises:
        AizuchiError: an unknown format, or matplotlib is missing.
    """
    check_picture(path)
    length = max(len(user), len(model)) / rate
    figure, axes = _figure(2, length)
    _draw_side(axes[0], user, [], 0.0, "user", _USER, rate)
    _draw_side(axes[1], model, list(words), 0.0, "model", _MODEL, rate)
    top = axes[0].get_ylim()[1] / 2
    for i, (word, seconds) in enumerate(heard):
        axes[0].text(seconds, (1.2 + 0.4 * (i % 2)) * top, f"[{word}]", fontsize=7, color="#606060", ha="left",
                     va="bottom", clip_on=True, parse_math=False)  # fmt: skip
    axes[-1].set_xlim(0, length)
    _save(figure, path)


def check_picture(path: str | os.PathLike[str]) -> None:
    """Raise AizuchiError if matplotlib is missing or does not write such files."""
    require("matplotlib", extra="data")
    from matplotlib.backend_bases import FigureCanvasBase

    known = FigureCanvasBase.get_supported_filetypes()
    suffix = os.path.splitext(path)[1][1:].lower()
    if suffix not in known:
        raise AizuchiError(f"can't draw {path}: its name must end in one of {', '.join(sorted(known))}")


def _figure(strips: int, length: float) -> tuple[Any, Any]:
    """A figure of so many seconds, and its strips from above."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # no pyplot: nothing global, no display needed

    figure = Figure(figsize=(max(8.0, min(60.0, 1.6 * length)), 1.7 * strips + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(strips, 1, sharex=True, height_ratios=[3, 3, 1.4][:strips])
    axes[-1].set_xlabel("seconds")
    return figure, axes


def _save(figure: Any, path: str | os.PathLike[str]) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _draw_side(
    axis: Any, wave: np.ndarray, words: list, start: float, name: str, color: str, rate: int = SAMPLE_RATE
) -> None:
    """One channel: the envelope of its waveform, and a bar with its text for every word."""
    # Minimum and maximum of short blocks: the picture of all samples at a fraction of the points.
    block = max(1, len(wave) // 6000)
    blocks = wave[: len(wave) // block * block].reshape(-1, block)
    times = start + (np.arange(len(blocks)) + 0.5) * block / rate
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
