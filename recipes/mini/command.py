"""What the recipe's commands share."""

from __future__ import annotations

import argparse
import sys

from aizuchi.errors import AizuchiError


def run_command(parser: argparse.ArgumentParser, argv: list[str] | None = None) -> int:
    """Run the action that was chosen (its ``run``); an error of ours is one line, and status 2."""
    args = parser.parse_args(argv)
    try:
        return args.run(args)
    except AizuchiError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
