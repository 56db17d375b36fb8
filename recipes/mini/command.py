"""What the recipe's commands share: where things lie, and how an error is told."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aizuchi.errors import AizuchiError

RUNS = Path("runs/mini")
# What commands take from each other: where it lies, and what it is.
_INPUTS = {
    "clips": ("clips", "the clip cache"),
    "sound": ("sound", "folder of mixed dialogues"),
    "ear": ("ear", "the ear's folder"),
    "codec": ("codec-bf16", "the codec's folder"),
    "vocabulary": ("tokenizer.model", "the text tokenizer"),
    "heard": ("heard.txt", "the users' words"),
}


def add_inputs(parser: argparse.ArgumentParser, *names: str) -> None:
    """Options for what other stages made, of `_INPUTS`, and "commands", which nobody makes."""
    for name in names:
        if name == "commands":
            parser.add_argument(
                "--commands", help="folder of recorded requests, *.flac; without it there are none"
            )
        else:
            place, what = _INPUTS[name]
            parser.add_argument(
                f"--{name}", type=Path, default=RUNS / place, help=f"{what} (default %(default)s)"
            )


def run_command(parser: argparse.ArgumentParser, argv: list[str] | None = None) -> int:
    """Run the action that was chosen (its ``run``); an error of ours is one line, and status 2."""
    args = parser.parse_args(argv)
    try:
        return args.run(args)
    except AizuchiError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def run_shards(function: Any, work: list, means: Any, jobs: int) -> int:
    """Do what is left, with a bar in seconds of audio; Ctrl-C leaves what is done.

    Args:
        function: (one of the work, what `means` gives) -> its seconds. means: called once a process. jobs: processes.
    """
    from tqdm import tqdm

    from aizuchi.data.workers import in_processes

    results: Iterator[tuple[int, float]]
    if jobs > 1 and len(work) > 1:
        results = in_processes(function, work, means, jobs)
    else:
        shared = means() if work else None
        results = ((i, function(one, shared)) for i, one in enumerate(work))
    with tqdm(total=len(work), unit="shard") as bar:
        try:
            seconds = 0.0
            for _, made in results:
                seconds += made
                bar.set_postfix_str(
                    f"{seconds / 3600:.2f} h, {seconds / bar.format_dict['elapsed']:.0f}x real time"
                )
                bar.update()
        except KeyboardInterrupt:
            print("\nstopped; the same command goes on from here", file=sys.stderr)
            return 130
    return 0
