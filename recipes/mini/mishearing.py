"""What an ear makes of words, or a model: `python -m recipes.mini.mishearing --help`.

The ear's reader writes down rows of known words in ever new company, disturbed as in its training; what it wrote for
each word is counted. Models then learn to answer from words as they are heard (`heard_text.mishearing`). With
`--model` it is counted what a model writes itself, running free on rows of token shards, and what was counted of
others, an ear, can be added.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import torch
from tqdm import trange

from aizuchi.engine.sampling import Sampling
from aizuchi.errors import AizuchiError
from aizuchi.train.mishearing import Mishearing, aligned
from aizuchi.train.rollout import roll_out
from aizuchi.train.tokens import Pieces, TokenSource, collate
from recipes.mini.clips import ClipLibrary
from recipes.mini.command import RUNS, add_inputs, run_command
from recipes.mini.ear import FRAMES, ROUGH
from recipes.mini.ear_model import COMPONENTS, WORD_DELAY, Ear, load_ear, words_of
from recipes.mini.ear_rows import EarRows
from recipes.mini.heard import DELAY, OTHER, HeardWords
from recipes.mini.spectrum import Components, log_frames

BATCH = 12
ROWS = 48  # that a model hears at once
KEPT = 60  # different ways that a word is written, the most frequent ones


def kept(found: dict[int, Counter[tuple[int, ...]]], classes: int) -> Mishearing:
    """Counts as an error model, without what was written most seldom."""
    return Mishearing({word: counts.most_common(KEPT) for word, counts in sorted(found.items())}, classes)


@torch.no_grad()
def written(ear: Ear, given: torch.Tensor, pad: float = 0.0) -> torch.Tensor:
    """Log spectra (B, F, D) -> (B, F) the class that the reader tells on each frame, `WORD_DELAY` frames late.

    Args:
        pad: added to the logit of "no word".
    """
    logits = ear(given, True)["words"]
    logits[..., 0] += pad
    return logits.argmax(-1)


def own_classes(ear: Ear, own: HeardWords, heard: HeardWords) -> torch.Tensor:
    """(W,) for each class that an ear tells, by its own list, the class of that word in another list.

    Raises:
        AizuchiError: the ear was taught other words than those of its list.
    """
    if len(own) != len(ear.words.bias):
        raise AizuchiError(
            f"the ear tells {len(ear.words.bias)} classes, its list of words has {len(own)}: it was taught with another"
        )
    return torch.tensor([0, OTHER, *(heard.class_of(word) for word in own.words)])


def listen(
    ear: Ear,
    components: Components,
    rows: EarRows,
    batches: int,
    pad: float,
    told: torch.Tensor,
    classes: int,
) -> Mishearing:
    """The error model of an ear over so many batches of rows.

    Args:
        told: for each class of the ear that of the rows, see `own_classes`. classes: of the rows.
    """
    found: dict[int, Counter[tuple[int, ...]]] = defaultdict(Counter)
    generator = torch.Generator().manual_seed(rows.seed)
    for step in trange(batches, unit="batch"):
        batch = rows.batch(step, BATCH)
        given = log_frames(batch["power"])
        given = given + components.noise((*given.shape[:2], len(components.scale)), ROUGH, generator)
        wrote = told[written(ear, given, pad)]
        for words, best, own in zip(batch["words"], wrote, batch["own"]):
            if own:
                continue
            said = [(int(words[f]), int(f) + WORD_DELAY) for f in words.nonzero()[:, 0]]
            heard = [(int(best[f]), int(f)) for f in best.nonzero()[:, 0]]
            for word, made in aligned(said, heard):
                found[word][made] += 1
    return kept(found, classes)


def overhear(
    model: Any, first: int, source: TokenSource, batches: int, classes: int, seed: int
) -> Mishearing:
    """The error model of a model over so many batches of 48 rows of 20 s, in which it writes its own text.

    Args:
        first: the id of the first class of words.
    """
    found: dict[int, Counter[tuple[int, ...]]] = defaultdict(Counter)
    pieces = Pieces([(source, 1.0)], FRAMES, seed)
    for step in trange(batches, unit="batch"):
        batch = collate([pieces.draw(step * ROWS + i) for i in range(ROWS)], model.config.num_codebooks)
        if batch.heard is None:
            raise AizuchiError("these tokens know nothing of the user's words: take those of ear_tokens")
        length = int(batch.lengths.min())
        heard = batch.user[:, : model.config.num_user_codebooks, :length]
        sampling = dataclasses.replace(Sampling.of_model(model), seed=step)
        text, _ = roll_out(model, heard, sampling=sampling)
        told = (text - (first - 1)).where(text >= first, 0)
        for words, best in zip(batch.heard[:, :length], told):
            said = [(int(words[f]), int(f) + DELAY) for f in (words > 0).nonzero()[:, 0]]
            wrote = [(int(best[f]), int(f)) for f in best.nonzero()[:, 0]]
            for word, made in aligned(said, wrote):
                found[word][made] += 1
    return kept(found, classes)


def together(first: Mishearing, second: Mishearing) -> Mishearing:
    """Both their counts."""
    found: dict[int, Counter[tuple[int, ...]]] = defaultdict(Counter)
    for listener in (first, second):
        for word, rows in listener.heard.items():
            found[word].update(dict(rows))
    return kept(found, first.classes)


def make_of_model(args: argparse.Namespace) -> int:
    from aizuchi.checkpoints.load import load
    from aizuchi.data.tokenizer import TextTokenizer
    from aizuchi.train.tokens import ShardSource

    loaded, classes = load(args.model, dtype=torch.float32), len(HeardWords(args.heard))
    first = TextTokenizer(loaded.tokenizer).size - classes + 1
    batches = args.batches or 40
    found = overhear(loaded.model, first, ShardSource(args.tokens), batches, classes, args.seed)
    right = 1 - found.rate
    for path in args.add:
        found = together(found, Mishearing.load(path, classes))
    found.save(args.out)
    print(f"{right:.1%} of the words were written down right: {args.out}")
    return 0


def make(args: argparse.Namespace) -> int:
    if args.model is not None:
        return make_of_model(args)
    ear, heard = load_ear(args.ear), HeardWords(args.heard)
    told = own_classes(ear, words_of(args.ear, args.heard), heard)
    rows = EarRows(ClipLibrary(args.clips), [], heard, FRAMES, args.seed)
    components = Components.load(args.ear / COMPONENTS)
    found = listen(ear, components, rows, args.batches or 250, args.no_word, told, len(heard))
    found.save(args.out)
    print(
        f"{1 - found.rate:.1%} of the words of {len(found.heard)} classes were written down right: {args.out}"
    )
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.mini.mishearing", description="Count what an ear makes of words."
    )
    parser.add_argument(
        "--out", type=Path, default=RUNS / "mishearing.json", help="file (default %(default)s)"
    )
    add_inputs(parser, "ear", "clips", "heard")
    parser.add_argument("--batches", type=int, help="of 12 rows of 20 s, of 48 for a model (default 250, 40)")
    parser.add_argument("--model", type=Path, help="a model that writes what it hears, in place of an ear")
    parser.add_argument(
        "--tokens", type=Path, default=RUNS / "tokens/listen", help="what it hears (default %(default)s)"
    )
    parser.add_argument(
        "--add", type=Path, nargs="+", default=[], help="files like this one whose counts are added"
    )
    parser.add_argument(
        "--no-word", type=float, default=1.0,
        help="added to the logit of no word: the ear tells a word too many rather than one too few, a model does not "
        "(default %(default)s)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=5, help="default %(default)s")
    parser.set_defaults(run=make)
    return parser


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
