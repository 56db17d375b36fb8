"""The `aizuchi` command: finds the module of a sub-command, runs it, and turns errors into one line.

A command is a module with

    def add_arguments(parser: argparse.ArgumentParser) -> None
    def run(args: argparse.Namespace) -> int

and a row in COMMANDS. Only the module of the command that was asked for is imported, so that help and
usage errors stay quick however heavy the commands are; a command imports torch inside `run`, so that its
own `--help` is quick too. Its docstring is shown by `aizuchi COMMAND --help`.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import select
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from aizuchi.errors import AizuchiError

# name -> (module, one line of help). One row a command, in the order in which help lists them.
COMMANDS: dict[str, tuple[str, str]] = {
    "reply": ("aizuchi.cli.reply", "hold a conversation with a recording"),
    "serve": ("aizuchi.cli.serve", "serve conversations in the browser and to programs"),
    "talk": ("aizuchi.cli.talk", "talk with a model from the terminal"),
    "transcribe": ("aizuchi.cli.transcribe", "write down speech as it comes, with the time of each word"),
    "speak": ("aizuchi.cli.speak", "speak a text, and tell when each word is said"),
    "data": ("aizuchi.cli.data", "check, measure, draw, align and tokenize training data"),
    "train": ("aizuchi.cli.train", "train Moshi, adapters, or the codec"),
    "eval": ("aizuchi.cli.eval", "measure turn-taking, speech, codec and latency, and show it as a page"),
    "convert": ("aizuchi.cli.convert", "convert a checkpoint between Kyutai's layout and transformers'"),
    "models": ("aizuchi.cli.models", "say what a checkpoint is"),
    "bench": ("aizuchi.cli.bench", "time the engine against the memory's floor"),
}

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line that points to the help."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status.

    0: done. 2: the command line or the input was wrong, said in one line on stderr. 130: interrupted.
    141: whoever read the output went away. An error that is a bug of ours keeps its traceback.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments  # needed before anything is parsed: importing a command may fail too
    try:
        status = _dispatch(arguments)
        sys.stdout.flush()  # a reader that left is noticed here and not at exit, where nothing could catch it
        return status
    except SystemExit as stop:  # argparse's way to end help and usage errors
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else _fail(str(stop.code))
    except KeyboardInterrupt:
        if debug:
            traceback.print_exc()
        print("aizuchi: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError as error:
        if _stdout_is_open():  # another pipe broke: a server that hung up, not the reader of our output
            return _fail_with(error, debug)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # keeps Python's exit quiet
        return EXIT_BROKEN_PIPE
    except (ValueError, OSError) as error:
        return _fail_with(error, debug)


def _dispatch(arguments: list[str]) -> int:
    """Split the command line at the command's name and run that command."""
    position = next((i for i, word in enumerate(arguments) if not word.startswith("-")), len(arguments))
    top = _top_parser()
    args = top.parse_args(arguments[: position + 1])
    if args.command is None:
        top.print_help()
        return 0
    if args.command not in COMMANDS:
        near = difflib.get_close_matches(args.command, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "see aizuchi --help"
        return _fail(f"unknown command {args.command!r}: {hint}")
    module_name, summary = COMMANDS[args.command]
    module = importlib.import_module(module_name)
    parser = _Parser(
        prog=f"aizuchi {args.command}",
        description=(module.__doc__ or summary).strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return module.run(parser.parse_args(arguments[position + 1 :])) or 0


def _top_parser() -> argparse.ArgumentParser:
    from aizuchi import __version__

    width = max(map(len, COMMANDS), default=0)
    rows = [f"  {name:<{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    parser = _Parser(
        prog="aizuchi",
        description="Full-duplex speech-text models of the Moshi family: run, serve and train them.",
        epilog="\n".join(["commands:", *rows, "", "aizuchi COMMAND --help explains a command."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"aizuchi {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("command", nargs="?", metavar="COMMAND", help="one of the commands below")
    return parser


def _fail_with(error: Exception, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    message = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        message = f"{error.strerror}: {error.filename}"  # without the errno that str() would put first
    if not debug and not isinstance(error, AizuchiError):
        message += " (--debug shows where)"
    return _fail(message)


def _fail(message: str) -> int:
    print(f"aizuchi: {' '.join(message.splitlines())}", file=sys.stderr)
    return EXIT_USAGE


def _stdout_is_open() -> bool:
    """Whether somebody still reads our output (a second flush after a failed one need not fail again)."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):  # replaced by something in memory, which can't break
        return True
    poller = select.poll()
    poller.register(descriptor, select.POLLOUT)
    return not any(event & (select.POLLERR | select.POLLHUP) for _, event in poller.poll(0))
