"""Commands that have actions of their own, such as `aizuchi data check` or `aizuchi train moshi`."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Action(NamedTuple):
    """One action of a command.

    Attributes:
        name: as it is typed.
        summary: one line of help.
        add: adds its arguments to a parser; its docstring is shown by `aizuchi COMMAND ACTION --help`.
        run: does it, and returns the exit status.
    """

    name: str
    summary: str
    add: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def add_actions(parser: argparse.ArgumentParser, actions: Sequence[Action]) -> None:
    """Make a parser of its own for each action, one of which has to be given."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION", title="actions")
    for action in actions:
        sub = commands.add_parser(
            action.name,
            help=action.summary,
            description=inspect.getdoc(action.add),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        action.add(sub)
        # --debug may stand before the action or behind it; only where it is given it is set
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        sub.set_defaults(run_action=action.run)


def run_action(args: argparse.Namespace) -> int:
    """Do the action that the command line named."""
    return args.run_action(args)
