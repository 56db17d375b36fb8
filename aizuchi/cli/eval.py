"""Measure how good a system is: turn-taking, speech, codec, latency; then show it as a page.

  aizuchi eval                                   everything, on the model that comes with aizuchi
  aizuchi eval all --model ./my-model --quick    the same on another model, on a tenth of the material
  aizuchi eval scenarios ./set                   write a set of scenarios (recordings of a user, with exact events)
  aizuchi eval turns ./set --model ./my-model    let a model hear a set, and score how it takes turns
  aizuchi eval turns ./data --recorded           score output.wav files in Full-Duplex-Bench's own layout
  aizuchi eval codec ./speech --codec opus:12    what a codec does to speech, beside Opus and the recordings
  aizuchi eval speech --questions set.jsonl      answers to spoken questions; see --help for word errors and pairs
  aizuchi eval dialogue talk.wav                 pauses, gaps and overlaps of two-channel recordings
  aizuchi eval latency --server                  mouth-to-ear latency through a whole server, which echoes
  aizuchi eval latency sent.wav received.wav     the same of two recordings made together
  aizuchi eval report                            one HTML page and one JSON file of all results
  aizuchi eval compare old/report.json new/report.json

Nothing needs a network. Each keeps its results in --out and goes on where it was stopped. The metrics and Whisper
are optional packages: pip install 'aizuchi[eval]'. `aizuchi eval SUB --help` explains each.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from typing import Any

OUT = "eval-results"
OWN_SERVER = "own"
MINUTES = 20.0
METRIC_HELP = "pesq, stoi, si-sdr, mel, dnsmos, distillmos, visqol, speaker"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(
        sub="all", model=None, out=OUT, seed=0, quiet=False, whisper=None, quick=False, questions=None
    )
    parser.set_defaults(judge=None, voices=None, user="hibari:0.9", clips=None, threads=None, minutes=MINUTES)
    subs = parser.add_subparsers(dest="sub", metavar="SUB", title="what to measure")
    _add_all(_sub(subs, "all", "everything, then the report (the default)"))
    _add_scenarios(_sub(subs, "scenarios", "write a set of scenarios"))
    _add_turns(_sub(subs, "turns", "turn-taking, after Full-Duplex-Bench"))
    _add_codec(_sub(subs, "codec", "codec quality, beside Opus"))
    _add_speech(_sub(subs, "speech", "answers, word errors, likelihood pairs"))
    _add_dialogue(_sub(subs, "dialogue", "statistics of two-channel recordings"))
    _add_latency(_sub(subs, "latency", "mouth-to-ear latency of recordings"))
    _add_report(_sub(subs, "report", "one page and one JSON file of all results"))
    _add_compare(_sub(subs, "compare", "two reports side by side"))


def run(args: argparse.Namespace) -> int:
    import torch

    from aizuchi.errors import AizuchiError
    from aizuchi.evaluate import commands

    threads = getattr(args, "threads", None)
    if threads is not None:
        if threads < 1:
            raise AizuchiError(f"--threads is {threads}: it must be at least 1")
        torch.set_num_threads(threads)
    with _echo(args):
        lines = getattr(commands, f"run_{args.sub or 'all'}")(args)
    for line in lines:
        print(line)
    if not args.quiet and args.sub in ("turns", "codec", "speech", "dialogue", "latency"):
        print(
            f"Kept in {args.out}; `aizuchi eval report --out {args.out}` makes a page of it.", file=sys.stderr
        )
    return 0


@contextlib.contextmanager
def _echo(args: argparse.Namespace) -> Iterator[None]:
    """A server of our own that echoes, where --server names none."""
    if getattr(args, "server", None) != OWN_SERVER:
        yield
        return
    from aizuchi.serve.bench import running

    options = ["--echo", "--rows", "1"]
    for name in ("model", "threads"):
        if getattr(args, name) is not None:
            options += [f"--{name}", str(getattr(args, name))]
    with running(options) as (args.server, _):
        yield


def _sub(subs: Any, name: str, summary: str) -> argparse.ArgumentParser:
    from aizuchi.evaluate.command_help import HELP

    parser = subs.add_parser(
        name,
        help=summary,
        description=HELP[name],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bars")
    return parser


def _out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default=OUT, metavar="DIR", help=f"results and recordings (default: {OUT})")


def _model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-m",
        "--model",
        help="folder or hub name (for `codec` also the folder of a codec alone); 'random'; or "
        "package.module:factory of a system of one's own",
    )
    parser.add_argument("--seed", type=int, default=0, help="of sampling and synthesis (default: 0)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all)")


def _whisper(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--whisper",
        metavar="DIR",
        help="Whisper in CTranslate2's format (default: $AIZUCHI_WHISPER, else an installed package that holds one)",
    )


USER = "hibari:0.9"


def _voices(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--user",
        default=USER,
        metavar="SPEC",
        help="the user's voice: hibari, hibari:SHIFT, package.module:factory",
    )


def _questions(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--questions",
        metavar="FILE",
        nargs="?",
        const="built-in",
        help="ask a question set, JSON lines (docs/evaluation.md); without FILE the one that comes with aizuchi",
    )
    parser.add_argument(
        "--judge", metavar="SPEC", help="package.module:function of (question, heard) that judges"
    )
    parser.add_argument(
        "--voices",
        metavar="SPEC",
        help="package.module:factory of the voices that questions name",
    )


def _add_all(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    _voices(parser)
    _questions(parser)
    parser.add_argument(
        "--clips", nargs="+", metavar="FILE", help="speech for the codec (default: the voice)"
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the material, for a first look")
    parser.add_argument(
        "--minutes",
        type=float,
        default=MINUTES,
        metavar="N",
        help=f"leave out, and count, material for which there is no time (default: {MINUTES:g})",
    )
    _whisper(parser)
    _out(parser)


def _add_scenarios(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="where to write the set")
    parser.add_argument("--kinds", nargs="+", metavar="KIND", help="some kinds only")
    parser.add_argument(
        "--count", type=int, metavar="N", help="at most so many of each kind (default: one a text)"
    )
    parser.add_argument("--texts", metavar="FILE", help="texts of your own (JSON; see docs/evaluation.md)")
    parser.add_argument("--seed", type=int, default=0, help="of every choice (default: 0)")
    parser.add_argument(
        "--user",
        nargs="+",
        default=[USER],
        metavar="SPEC",
        help="the user's voice: hibari, hibari:SHIFT, package.module:factory; of several, scenarios take turns",
    )


def _add_turns(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="a set, a task's folder, or Full-Duplex-Bench's data")
    parser.add_argument(
        "--recorded", action="store_true", help="score the output.wav files that are there; ask no model"
    )
    parser.add_argument(
        "--no-words", action="store_true", help="no Whisper: score exact events and timing only"
    )
    parser.add_argument(
        "--detector", choices=["silero", "energy"], default="silero", help="voice activity (default: silero)"
    )
    _model(parser)
    _whisper(parser)
    _out(parser)


def _add_codec(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("clips", nargs="+", metavar="FILE", help="recordings of speech, or folders of them")
    parser.add_argument(
        "--codec",
        nargs="+",
        metavar="SPEC",
        default=["original", "opus:6", "opus:12", "opus:24"],
        help="rows beside the model's codec: original, opus:KBPS, package.module:factory (default: original and Opus "
        "at 6, 12 and 24 kb/s)",
    )
    parser.add_argument(
        "--codebooks", nargs="+", type=int, metavar="K", help="numbers of them (default: 1 2 4 8)"
    )
    parser.add_argument("--no-model", action="store_true", help="the rows of --codec only")
    parser.add_argument("--metrics", nargs="+", metavar="NAME", help=f"some metrics only: {METRIC_HELP}")
    parser.add_argument("--no-wer", action="store_true", help="no Whisper: leave out the words lost")
    parser.add_argument("--limit", type=int, metavar="N", help="at most so many recordings, evenly spread")
    _model(parser)
    _whisper(parser)
    _out(parser)


def _add_speech(parser: argparse.ArgumentParser) -> None:
    _questions(parser)
    parser.add_argument(
        "--noise", type=float, metavar="DB", help="ask the questions again in noise at this SNR"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="at most so many questions, evenly spread")
    parser.add_argument(
        "--speak", metavar="FILE", help="WER of the texts in FILE, a line each, as --model speaks them"
    )
    parser.add_argument(
        "--spoken",
        nargs="+",
        metavar="FILE",
        help="WER of recordings that speak known texts",
    )
    parser.add_argument(
        "--transcribe",
        nargs="+",
        metavar="FILE",
        help="WER of --model (one that writes down speech) or --recognizer on such recordings",
    )
    parser.add_argument(
        "--recognizer",
        metavar="SPEC",
        help="package.module:factory of a recogniser (default: --model, else Whisper)",
    )
    parser.add_argument(
        "--pairs", metavar="FILE", help="likelihood pairs (JSON lines), scored by --model or --nll"
    )
    parser.add_argument(
        "--nll", metavar="SPEC", help="package.module:factory of text or file -> (nats, tokens)"
    )
    _voices(parser)
    _model(parser)
    _whisper(parser)
    _out(parser)


def _add_dialogue(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="two-channel recordings, or folders of them")
    parser.add_argument("--pair", action="store_true", help="the files are pairs: one file a speaker")
    parser.add_argument("--name", default="recordings", help="of the row")
    parser.add_argument("--detector", choices=["silero", "energy"], default="silero", help="voice activity")
    _out(parser)


def _add_latency(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="*", metavar="FILE", help="pairs: what went in, what came out")
    parser.add_argument(
        "--server",
        nargs="?",
        const=OWN_SERVER,
        metavar="URL",
        help="speak into a server that echoes: this one (aizuchi serve --echo), or one started for it",
    )
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="how long to speak into the server (default: 20)"
    )
    parser.add_argument("-m", "--model", help="of a server that is started here")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads of that model")
    parser.add_argument("--stereo", action="store_true", help="each file holds both: left in, right out")
    parser.add_argument(
        "--max", type=float, default=5.0, metavar="SECONDS", help="the largest latency looked for"
    )
    parser.add_argument(
        "--method", choices=["auto", "wave", "envelope"], default="auto", help="what is correlated"
    )
    _out(parser)


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--system", help="name in the heading (default: what was measured)")
    parser.add_argument("--no-audio", action="store_true", help="no players: a small page")
    parser.add_argument(
        "--samples", type=int, default=2, metavar="N", help="dialogues of each kind (default: 2)"
    )
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    _out(parser)


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("before", help="a report.json, or its folder")
    parser.add_argument("after", help="a report.json, or its folder")
    parser.add_argument(
        "--page", default="comparison.html", metavar="FILE", help="the page; its JSON lies beside it"
    )
