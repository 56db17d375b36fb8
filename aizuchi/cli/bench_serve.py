"""`aizuchi bench serve`: how many callers a server of this machine holds."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from typing import Any
from urllib.parse import urlsplit

from aizuchi.cli.options import add_ring
from aizuchi.errors import AizuchiError, require

HELP = """How many callers `aizuchi serve` holds in real time on this machine.

  aizuchi bench serve                                  looks for the largest number, 20 s each
  aizuchi bench serve --callers 4 --seconds 300        holds four for five minutes
  aizuchi bench serve --callers 4 --extra 5            five more come: they must wait and disturb nobody
  aizuchi bench serve --callers 4 --churn --seconds 300     one more comes and goes every second

A server is started for each number; the callers speak from a second process that steps back for it (--nice), over
the loopback. A number is held when the 99th percentile from the last input sample received to the first output byte
sent is under 80 ms, at most 1 tick in 1,000 is late, and as few frames are lost. Other work on the machine is in
the figures: the load average is printed beside them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `aizuchi bench serve`."""
    parser.add_argument("-m", "--model", help="as `aizuchi serve` takes it; 'random' is the mini preset")
    parser.add_argument("--quantize", metavar="KIND", help="as `aizuchi serve` takes it")
    add_ring(parser)
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads of the model")
    parser.add_argument(
        "--callers", metavar="N[,N...]", help="numbers to try (default: look for the largest)"
    )
    parser.add_argument("--most", type=int, default=32, help="and no more than these (default: 32)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each try (default: 20)")
    parser.add_argument("--extra", type=int, default=0, help="callers beyond the rows, who have to wait")
    parser.add_argument("--churn", action="store_true", help="one more caller comes and goes every second")
    parser.add_argument("--nice", type=int, default=10, help="how far the callers step back (default: 10)")
    parser.add_argument("--url", help="call a server that runs already, instead of one for each number")
    parser.add_argument("--json", metavar="FILE", help="write all figures")


def run(args: argparse.Namespace) -> int:
    """Try the numbers, print a line for each, and say which was held."""
    tried = _numbers(args)
    for package in ("uvicorn", "websockets", "prometheus_client"):
        require(package, extra="serve")
    from aizuchi.serve.bench import largest

    results: list[dict[str, Any]] = []
    print(
        "callers  answer p50    p99 ms  step ms  late ticks  lost  outside p99  memory MB (a minute)  load  held",
        flush=True,
    )

    def held(callers: int) -> bool:
        results.append(_try(args, callers))
        print(_line(results[-1]), flush=True)
        return results[-1]["held"]

    if tried:
        good = max((callers for callers in tried if held(callers)), default=0)
    else:
        good = largest(held, args.most)
    print(f"Held: {good} callers, for {args.seconds:g} s.")
    if args.json:
        from aizuchi.files import write_text

        write_text(args.json, json.dumps(_record(args, good, results), indent=2) + "\n")
    return 0


def _numbers(args: argparse.Namespace) -> list[int]:
    from aizuchi.serve.security import LOOPBACK

    if not 5 <= args.seconds <= 3600:
        raise AizuchiError(f"--seconds must lie between 5 and 3600, not {args.seconds:g}")
    if not 0 <= args.extra <= 64 or not 1 <= args.most <= 128:
        raise AizuchiError("--extra must be at most 64, and --most between 1 and 128")
    address = urlsplit(args.url or "http://localhost")
    if address.scheme not in ("http", "https") or (address.hostname or "") not in LOOPBACK:
        raise AizuchiError("--url must be an address of this machine: this tool is for your own server")
    if args.url and not args.callers:
        raise AizuchiError("--url needs --callers: rows of a running server can't be changed")
    if not args.callers:
        return []
    try:
        numbers = [int(part) for part in args.callers.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(1 <= number <= 128 for number in numbers):
        raise AizuchiError(f"--callers must be numbers such as 2,4,8, not {args.callers!r}")
    return numbers


def _try(args: argparse.Namespace, callers: int) -> dict[str, Any]:
    from tqdm import tqdm

    from aizuchi.serve.bench import measure, running

    with tqdm(
        total=round(args.seconds), desc=f"{callers} callers", leave=False, disable=None, file=sys.stderr
    ) as bar:

        def call(url: str) -> dict[str, Any]:
            return measure(
                url, callers, args.seconds, args.extra, args.churn, args.nice, lambda: bar.update()
            )

        if args.url:
            return call(args.url.rstrip("/"))
        options = ["--rows", str(callers + args.churn)]
        for name in ("model", "quantize", "threads", "kv", "sinks"):
            if getattr(args, name) is not None:
                options += [f"--{name}", str(getattr(args, name))]
        with running(options) as (url, _):
            return call(url)


def _line(result: dict[str, Any]) -> str:
    memory, outside = result["memory_mb"], result["outside"]
    text = (
        f"{result['callers']:7d}  {result['p50_ms']:10.1f} {result['p99_ms']:9.1f}  {result['step_ms']:7.1f}  "
        f"{result['late_ticks']:4d}/{result['ticks']:<5d}  {result['lost']:4d}  {outside.get('p99_ms', 0):11.1f}  "
        f"{memory['first']:7.0f} -> {memory['last']:.0f} ({memory['a_minute']:+.1f})  {result['load_average']:5.1f}  "
        + ("yes" if result["held"] else "no: " + "; ".join(result["broken"]))
    )
    if result["extra"]:
        text += f"\n         beyond them: places {outside['extra_places']}, ends {outside['extra_ends']}"
    if result["churn"]:
        tasks, files = result["tasks"], result["files"]
        text += (
            f"\n         {result['conversations']} conversations; before and after: rows "
            f"{result['rows_used']['before']:g}, {result['rows_used']['after']:g}; tasks {tasks['before']:g}, "
            f"{tasks['after']:g}; open files {files['before']:g}, {files['after']:g}; memory {memory['before']:.0f}, "
            f"{memory['after']:.0f} MB"
        )
    return text


def _record(args: argparse.Namespace, good: int, results: list[dict[str, Any]]) -> dict[str, Any]:
    import torch

    return {
        "model": args.model or "the default",
        "quantize": args.quantize,
        "kv": args.kv,
        "sinks": args.sinks,
        "threads": args.threads,
        "held": good,
        "cores": os.cpu_count(),
        "machine": platform.processor() or platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "tries": results,
    }
