"""One training as several whose weights are averaged: `python -m recipes.mini.branches --help`.

A run on two threads is hardly faster than on one, two runs on one thread each are twice as fast. They begin alike, see
their data in different orders, and every few minutes each gets the mean of their weights (local SGD, arXiv
1805.09767); their optimizers keep their own states. Each branch is a run of `aizuchi train moshi` in a folder of its
own, so that all can be killed at any time: the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from safetensors.torch import load_file, save_file
from torch import Tensor

from aizuchi.errors import AizuchiError
from aizuchi.files import atomic_path, write_text
from aizuchi.train.checkpoints import CheckpointFolder, read_state, writing_model
from recipes.mini.command import run_command

WEIGHTS = "model.safetensors"
SPENT = "branches.json"
LAST = 1.5  # times the minutes between averages: so near the end one stretch leads there


def average(files: Sequence[Path]) -> dict[str, Tensor]:
    """The mean of the same tensors of several files; whole numbers are those of the first.

    Raises AizuchiError if the files don't hold the same tensors.
    """
    found = [load_file(path) for path in files]
    for path, tensors in zip(files[1:], found[1:]):
        if {k: v.shape for k, v in tensors.items()} != {k: v.shape for k, v in found[0].items()}:
            raise AizuchiError(
                f"{files[0]} and {path} are not of one model: branches need the same configuration"
            )
    mean = {}
    for name, first in found[0].items():
        if first.is_floating_point():
            mean[name] = (sum(tensors[name].float() for tensors in found) / len(found)).to(first.dtype)
        else:
            mean[name] = first
    return mean


def share_average(runs: Sequence[Path]) -> None:
    """Write the mean of the weights of all runs' newest checkpoints into each of these."""
    files = [_newest(run) / WEIGHTS for run in runs]
    mean = average(files)
    for file in files:
        with atomic_path(file) as temporary:
            save_file(mean, temporary, {"format": "pt"})


def write_average(runs: Sequence[Path], out: Path) -> None:
    """Write the model of finished runs, with the mean of their weights, to a folder."""
    mean = average([run / "model" / WEIGHTS for run in runs])

    alone = SimpleNamespace(is_main_process=True, wait_for_everyone=lambda: None)
    with writing_model(out, alone) as folder:
        shutil.copytree(runs[0] / "model", folder, dirs_exist_ok=True)
        save_file(mean, folder / WEIGHTS, {"format": "pt"})


def steps_of(run: Path) -> int:
    """Steps of a run's newest checkpoint; 0 if it has none."""
    found = CheckpointFolder(run / "checkpoints").latest()
    return 0 if found is None else int(read_state(found)["step"])


def _newest(run: Path) -> Path:
    found = CheckpointFolder(run / "checkpoints").latest()
    if found is None:
        raise AizuchiError(f"{run} has no checkpoint yet")
    return found


def train_together(
    commands: Sequence[list[str]], runs: Sequence[Path], threads: int, steps: int, seconds: float | None
) -> None:
    """Train all branches until they have done `steps`, or for so long; then they have a checkpoint.

    Raises AizuchiError if one fails; the others are stopped.
    """
    stop = None if seconds is None else time.monotonic() + seconds
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for command, run in zip(commands, runs):
            with open(run.with_suffix(".log"), "ab") as log:
                # a group of its own: Ctrl-C reaches it through us, when all have begun
                process = subprocess.Popen(
                    [*command, "--set", f"steps={steps}"],
                    stdout=log,
                    stderr=log,
                    env=environment,
                    start_new_session=True,
                )
            processes.append(process)
        while any(p.poll() is None for p in processes):
            if any(p.returncode for p in processes) or (stop is not None and time.monotonic() > stop):
                break
            time.sleep(0.5)
    finally:
        failed = [run for p, run in zip(processes, runs) if p.poll() not in (None, 0)]
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)  # it writes a checkpoint
        for process in processes:
            process.wait()
    if failed:
        raise AizuchiError(f"{failed[0]} ended with an error, see {failed[0].with_suffix('.log')}")


def train(args: argparse.Namespace) -> int:
    args.out.mkdir(parents=True, exist_ok=True)
    runs = [args.out / f"branch-{number}" for number in range(args.branches)]
    commands = []
    for number, run in enumerate(runs):
        sets = [*args.set, f"output={run}", f"seed={args.seed + number}"]
        begin = [sys.executable, "-m", "aizuchi", "train", "moshi", str(args.config)]
        commands.append(begin + [part for value in sets for part in ("--set", value)])
    file = args.out / SPENT
    spent = json.loads(file.read_text())["seconds"] if file.is_file() else 0.0
    steps, stretch = args.steps, args.minutes * 60
    while (done := min(map(steps_of, runs))) < steps:
        before = time.monotonic()
        left = None if args.hours is None else args.hours * 3600 - spent
        if left is not None and done and spent:  # annealed when the time is over
            steps = done + max(1, int(done / spent * left))
        final = left is not None and left < LAST * stretch
        print(f"{time.strftime('%H:%M')} {done} of {steps} steps", flush=True)
        train_together(commands, runs, args.threads, steps, None if final else stretch)
        if min(map(steps_of, runs)) == done:
            raise AizuchiError(
                f"no step in {args.minutes} min: give more --minutes, or see {runs[0].with_suffix('.log')}"
            )
        if min(map(steps_of, runs)) < steps:
            share_average(runs)
        spent += time.monotonic() - before
        write_text(file, json.dumps({"seconds": spent}) + "\n")
    write_average(runs, args.out / "model")
    print(f"{args.out / 'model'}: the mean of {len(runs)} branches after {steps} steps")
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.mini.branches",
        description="Train a model as branches whose weights are averaged (resumable).",
    )
    parser.add_argument(
        "config", type=Path, help="of `aizuchi train moshi`, e.g. recipes/mini/configs/moshi.yaml"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the branches and of their model")
    parser.add_argument("--branches", type=int, default=2, help="default %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="of each branch (default %(default)s)")
    parser.add_argument("--minutes", type=float, default=10, help="between averages (default %(default)s)")
    parser.add_argument("--steps", type=int, default=8000, help="of each branch (default %(default)s)")
    parser.add_argument(
        "--hours", type=float, help="as many steps as fit into this time, however often it is stopped"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the first branch (default %(default)s)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a value of the file"
    )
    parser.set_defaults(run=train)
    return parser


def main(argv: list[str] | None = None) -> int:
    try:
        return run_command(build_parser(), argv)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the branches end with us
    raise SystemExit(main())
