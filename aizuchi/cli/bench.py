"""Time the engine's step against the floor: the bytes it has to move over the bandwidth measured in the same run.

  aizuchi bench                            the mini preset, 1 to 8 rows, on one thread
  aizuchi bench --preset 1b --rows 1,2 --dtype bfloat16 --threads 2
  aizuchi bench --model ./moshiko --device cuda --rows 1,8,32 --json bench.json --plot bench.png
  aizuchi bench serve                      how many callers a server holds (aizuchi bench serve --help)

Presets have random weights, made on the fly: nothing is downloaded. A step is 80 ms of all rows: codec, language
model, codec. "of floor" is the share of the measured memory bandwidth that the step reaches.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from typing import Any

from aizuchi.cli import bench_serve
from aizuchi.cli.options import add_quantize, add_ring, ring_of
from aizuchi.errors import AizuchiError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--preset", default="mini", help="mini (default), 1b or 7b, with random weights")
    what.add_argument("--model", help="a checkpoint: folder or hub name")
    parser.add_argument(
        "--rows", default="1,2,4,8", help="numbers of conversations, e.g. 1,2,4 (default: 1,2,4,8)"
    )
    parser.add_argument("--steps", type=int, default=50, help="steps to time for each (default: 50)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    add_quantize(parser)
    add_ring(parser)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--json", metavar="FILE", help="write all figures")
    parser.add_argument("--plot", metavar="FILE", help="write a picture (needs matplotlib)")
    what_else = parser.add_subparsers(dest="sub", metavar="serve", title="other benchmarks")
    serve = what_else.add_parser(
        "serve",
        help="how many callers a server holds",
        description=bench_serve.HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    bench_serve.add_arguments(serve)
    serve.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    if args.sub == "serve":
        return bench_serve.run(args)
    rows = _rows(args.rows)
    if args.steps < 2:
        raise AizuchiError(f"--steps must be at least 2, not {args.steps}")
    if args.threads < 1:
        raise AizuchiError(f"--threads must be at least 1, not {args.threads}")
    ring = ring_of(args)
    begin = time.perf_counter()
    import torch
    from tqdm import tqdm

    from aizuchi.engine import DuplexEngine
    from aizuchi.engine.measure import figures, measure_bandwidth, time_steps

    torch.set_num_threads(args.threads)
    _check_device(args.device)
    model, name = _model(args, max(rows))
    table, first = [], None
    _heading(name, args)
    for count in rows:
        engine = DuplexEngine(model, count, **ring)
        if first is None:
            time_steps(engine, 1, warm_up=0)
            first = time.perf_counter() - begin
            del engine  # rows are never there twice
            engine = DuplexEngine(model, count, **ring)
        bandwidth = measure_bandwidth(args.device)
        with tqdm(total=args.steps, desc=f"{count} rows", leave=False, disable=None, file=sys.stderr) as bar:
            seconds = time_steps(engine, args.steps, on_step=bar.update)
        # The floor is that of the windows as they were: filled up to the steps run.
        result = figures(engine, seconds, max(bandwidth, measure_bandwidth(args.device)), filled=args.steps)
        table.append(result)
        del engine
        print(
            f"{count:5d} {result.median:9.1f} {result.p95:8.1f} {result.p99:8.1f} {result.longest:8.1f} "
            f"{result.floor_bytes / 1e6:9.1f} {result.bandwidth / 1e9:7.1f} {result.of_floor:8.0%} "
            f"{result.real_time_factor:7.2f} {result.memory / 1e6:9.0f}",
            flush=True,
        )
    held = [result.rows for result in table if result.p99 < 80]
    print(f"Rows held in real time (p99 under 80 ms): {max(held) if held else 0} of those tried.")
    print(f"From start to the first frame: {first:.1f} s.")
    record = {
        "model": name,
        "dtype": args.dtype,
        "quantize": args.quantize,
        **ring,
        "device": args.device,
        "threads": args.threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.processor() or platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "first_frame_seconds": first,
        "rows": [result.as_dict() for result in table],
    }
    if args.json:
        from aizuchi.files import write_text

        write_text(args.json, json.dumps(record, indent=2) + "\n")
    if args.plot:
        _plot(record, args.plot)
    return 0


def _rows(text: str) -> list[int]:
    try:
        rows = [int(part) for part in text.split(",")]
    except ValueError:
        rows = []
    if not rows or min(rows) < 1:
        raise AizuchiError(f"--rows must be numbers such as 1,2,4, not {text!r}")
    return rows


def _check_device(name: str) -> None:
    import torch

    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise AizuchiError(f"--device {name!r} is no device: use cpu, cuda, cuda:1, ...") from error
    if device.type not in ("cpu", "cuda"):
        raise AizuchiError(f"--device {name}: known are cpu, cuda, cuda:1, ...")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise AizuchiError("--device cuda: this torch sees no GPU; known here: cpu")


def _model(args: argparse.Namespace, rows: int) -> tuple[Any, str]:
    import torch

    from aizuchi.engine.memory import check_checkpoint, check_preset

    dtype = getattr(torch, args.dtype)
    if args.model:
        from aizuchi.checkpoints import load

        check_checkpoint(args.model, rows, dtype, args.quantize, args.device, ring_of(args))
        loaded = load(args.model, dtype=dtype, device=args.device, quantize=args.quantize)
        return loaded.model, loaded.description
    from aizuchi.models.presets import random_model

    check_preset(args.preset, rows, dtype, args.quantize, args.device, **ring_of(args))
    model = random_model(args.preset, dtype=dtype).to(args.device)
    if args.quantize is not None:
        from aizuchi.models.quantized import quantize_model

        quantize_model(model, args.quantize)
    return model, f"preset {args.preset}, random weights"


def _heading(name: str, args: argparse.Namespace) -> None:
    weights = args.dtype if args.quantize is None else f"{args.dtype}, matrices {args.quantize}"
    weights += "" if args.kv is None else f", keys and values {args.kv}"
    print(f"{name}; {weights}, {args.device}, {args.threads} thread{'s' if args.threads > 1 else ''}")
    print(" rows median ms   p95 ms   p99 ms   max ms  MB/step    GB/s of floor     RTF  MB memory")


def _plot(record: dict[str, Any], path: str) -> None:
    from aizuchi.errors import require
    from aizuchi.files import atomic_path

    require("matplotlib", extra="data")
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = record["rows"]
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    counts = [row["rows"] for row in rows]
    for key, label, style in (("median", "median", "o-"), ("p99", "p99", "s--"), ("floor", "floor", "k:")):
        axes.plot(counts, [row[key] for row in rows], style, label=label)
    axes.axhline(80, color="tab:red", linewidth=1, label="real time: 80 ms")
    axes.set(xlabel="conversations", ylabel="milliseconds a step", title=record["model"][:70], xticks=counts)
    axes.set_ylim(bottom=0)
    axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)
