"""What the recipe's commands share: where things lie, and how an error is told."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

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
