"""Word times for clips of engines that tell none: `python -m recipes.mini.align --help`.

An ear that has learned from other voices hears each clip; where its reader, given what is said, would rather tell each
word is where that word ends. Words that are taught at guessed places are taught badly: of held-out questions in a voice
of such an engine an ear told 40 % of the words, in other voices 67 to 90 %.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from aizuchi.data.frames import FRAME_SAMPLES
from aizuchi.files import write_text
from recipes.mini.clips import Clip, ClipLibrary
from recipes.mini.command import RUNS, add_inputs, run_command
from recipes.mini.ear_model import WORD_DELAY, Ear, load_ear, words_of
from recipes.mini.heard import HeardWords, plain
from recipes.mini.spectrum import log_frames, mel_power
from recipes.mini.timing import RATE, USER_LEVEL, Spoken, level, spread

SHIFTS = 4  # places of a clip on the frames, whose times are averaged
LEAD = 10  # frames of silence before it


def best_places(gains: np.ndarray, expected: np.ndarray, pull: float = 0.02) -> list[int]:
    """Frames of words in their order: the sum of their gains is largest.

    Args:
        gains: (words, F) of each word at each frame. expected: (words,) frames at which they are guessed.
        pull: what is lost for each frame away from there.
    """
    words, frames = gains.shape
    gains = gains - pull * np.abs(np.arange(frames) - expected[:, None])
    total, back = gains[0].copy(), []
    for word in range(1, words):
        before = np.maximum.accumulate(total)
        last = np.where(total == before, np.arange(frames), 0)
        back.append(np.maximum.accumulate(last))
        total = gains[word].copy()
        total[1:] += before[:-1]
        total[:word] = -np.inf
    places = [int(total.argmax())]
    for last in reversed(back):
        places.append(int(last[places[-1] - 1]))
    return places[::-1]


@torch.no_grad()
def word_gains(ear: Ear, audio: np.ndarray, classes: list[int]) -> np.ndarray:
    """(words, F): by how much an ear would rather tell each class than nothing, at the frame where the word ends."""
    given = log_frames(mel_power(audio))
    told: Tensor = ear(given[None], True)["words"][0].log_softmax(-1)[WORD_DELAY:]
    return (told[:, classes] - told[:, :1]).T.numpy()


def ends_of(ear: Ear, clip: Spoken, classes: list[int]) -> np.ndarray:
    """(words,) seconds at which the words of a clip end."""
    guessed = np.array([end for word, _, end in clip.words if plain(word)])
    found = []
    for by in range(SHIFTS):
        lead = LEAD * FRAME_SAMPLES + by * FRAME_SAMPLES // SHIFTS
        length = -(-(lead + len(clip.audio)) // FRAME_SAMPLES) + WORD_DELAY + 4
        audio = np.zeros(length * FRAME_SAMPLES, np.float32)
        audio[lead : lead + len(clip.audio)] = clip.audio
        places = best_places(word_gains(ear, audio, classes), (guessed + lead / RATE) * RATE / FRAME_SAMPLES)
        found.append((np.array(places) + 0.5) * FRAME_SAMPLES / RATE - lead / RATE)
    return np.mean(found, 0).clip(0.02, len(clip.audio) / RATE)


def timed(words: tuple, ends: np.ndarray) -> list[tuple[str, float, float]]:
    """Words with new ends; each begins as long before as it was guessed to, or where the one before it ends."""
    spans, before, told = [], 0.0, iter(ends)
    for word, start, end in words:
        over = max(float(next(told)) if plain(word) else before + 0.01, before + 0.01)
        begin = max(before, over - (end - start)) if over - before > 0.02 else before
        spans.append((word, round(begin, 4), round(over, 4)))
        before = over
    return spans


def align(args: argparse.Namespace) -> int:
    ear, heard = load_ear(args.ear), words_of(args.ear, args.heard)
    clips = [
        c for kinds in ClipLibrary(args.clips).by_voice.values() for found in kinds.values() for c in found
    ]
    if args.check:
        chosen = np.random.default_rng(0).permutation([i for i, c in enumerate(clips) if c.exact])
        _check(ear, heard, [clips[i] for i in chosen[: args.check]])
        return 0
    by_shard: dict[Path, dict[int, Clip]] = {}
    for clip in clips:
        if not clip.exact:
            path = clip.audio.with_suffix(".json")
            by_shard.setdefault(path, {})[int(clip.name.split("#")[1])] = clip
    moved: list[float] = []
    shards = 0
    for path, found in tqdm(by_shard.items(), unit="shard"):
        head = json.loads(path.read_text(encoding="utf-8"))
        if head.get("aligned"):
            continue
        for place, clip in found.items():
            classes = [int(heard.class_of(word)) for word, _, _ in clip.words if plain(word)]
            if classes:
                ends = ends_of(ear, level(clip.read(), USER_LEVEL), classes)
                words = timed(clip.words, ends)
                moved += [abs(new[2] - old[2]) for new, old in zip(words, clip.words)]
                head["clips"][place]["words"] = words
        head["aligned"] = True
        shards += 1
        write_text(path, json.dumps(head, ensure_ascii=False, separators=(",", ":")) + "\n")
    if moved:
        print(f"{len(moved)} words in {shards} shards: moved by {np.median(moved):.3f} s (median)")
    else:
        print("all clips have their times")
    return 0


def _check(ear: Ear, heard: HeardWords, clips: list[Clip]) -> None:
    """Print how far from the truth words of clips with exact times are put whose times are guessed by their letters."""
    missed: dict[str, list[float]] = {"guessed": [], "aligned": []}
    for clip in tqdm(clips, unit="clip"):
        spoken = level(clip.read(), USER_LEVEL)
        known = [span for span in spoken.words if plain(span[0])]
        if len(known) < len(spoken.words) or not known:
            continue
        guess = spread([w for w, _, _ in known], [len(w) for w, _, _ in known], known[0][1], known[-1][2])
        classes = [int(heard.class_of(word)) for word, _, _ in known]
        ends = ends_of(ear, Spoken(spoken.audio, guess), classes)
        for i, (_, _, end) in enumerate(known):
            missed["guessed"].append(abs(guess[i][2] - end))
            missed["aligned"].append(abs(float(ends[i]) - end))
    for name, values in missed.items():
        print(f"{name}: {np.median(values):.3f} s (median), 90 % within {np.percentile(values, 90):.3f} s")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.mini.align",
        description="Put words where an ear hears them, in clips whose engine does not tell (resumable).",
    )
    add_inputs(parser, "ear", "clips")
    parser.add_argument(
        "--heard", type=Path, default=RUNS / "heard.txt",
        help="the ear's words, where its folder has no list (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--check", type=int, metavar="N", help="instead, guess and align N clips whose times are known"
    )
    parser.set_defaults(run=align)
    return parser


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
