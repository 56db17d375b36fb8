"""Ours and the peers, interleaved in one run, on the same weights and threads; ratios are what to read.

  python -m benchmarks.peers --threads 1 --runs 7 --out benchmarks/results/NAME

Every system takes its turn in every run, so that what else the machine does meets all of them; a figure is the median
over the runs. Beside each of ours stands its floor: the bytes that the step has to read over the bandwidth measured in
the same run.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.systems import quiet_peers


def systems(parts: list[str]) -> tuple[dict[str, Any], dict[str, int], dict[str, int]]:
    """Steps by name, the frames that a step runs where they are several, and bytes that ours have to read."""
    import torch

    from aizuchi.engine.measure import read_bytes
    from aizuchi.models.quantized import quantize_model
    from benchmarks import systems as all_systems

    steps: dict[str, Any] = {}
    frames: dict[str, int] = {}
    floors: dict[str, int] = {}

    def ours(name: str, model: Any, rows: int = 1) -> None:
        steps[name] = all_systems.our_lm(model, rows)
        floors[name] = read_bytes(model.decoder) + read_bytes(model.depth_decoder)

    if "lm" in parts:
        model = all_systems.duplex_model()
        ours("lm: ours, float32", model)
        ours("lm: ours, bfloat16", copy.deepcopy(model).to(torch.bfloat16))
        ours("lm: ours, int8", quantize_model(copy.deepcopy(model), "int8"))
        ours("lm: ours, int4", quantize_model(copy.deepcopy(model), "int4"))
        steps["lm: moshi LMGen, float32"] = all_systems.moshi_lm(model, torch.float32)
        steps["lm: moshi LMGen, bfloat16"] = all_systems.moshi_lm(model, torch.bfloat16)
        steps["lm: transformers generate"] = all_systems.transformers_lm(model, 12)
        frames["lm: transformers generate"] = 12
    if "mimi" in parts:
        codec = all_systems.codec_model()
        used = read_bytes(codec) * 1.0
        books = codec.quantizer.codebooks()
        used -= sum(book.embed_sum.nbytes for book in books[all_systems.CODEBOOKS :])
        for name, kind, share in (("float32", torch.float32, 1), ("bfloat16 weights", torch.bfloat16, 2)):
            steps[f"mimi: ours, {name}"] = all_systems.our_mimi(codec, weights=kind)
            floors[f"mimi: ours, {name}"] = int(used / share)
        steps["mimi: moshi"] = all_systems.moshi_mimi(codec)
        steps["mimi: rustymimi"] = all_systems.rust_mimi(codec)
    if "rows" in parts:
        from aizuchi.models.presets import random_model

        mini = random_model("mini")
        for rows in (1, 8):
            ours(f"mini lm: {rows} rows", mini, rows)
            steps[f"mini mimi: {rows} rows"] = all_systems.our_mimi(mini.audio_encoder, rows)
    if "1b" in parts:
        for kind in (None, "int8", "int4"):
            ours(f"1b lm: {kind or 'bfloat16'}", all_systems.large_model("1b", kind))
    return steps, frames, floors


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5, help="turns of every system (default: 5)")
    parser.add_argument("--parts", default="lm,mimi,rows", help="of lm, mimi, rows, 1b")
    parser.add_argument("--out", help="write NAME.json and NAME.md")
    args = parser.parse_args()
    quiet_peers(args.threads)
    import torch

    from aizuchi.engine.measure import measure_bandwidth

    torch.set_num_threads(args.threads)
    steps, frames, floors = systems(args.parts.split(","))
    for step in steps.values():
        step()
    wall: dict[str, list[float]] = {name: [] for name in steps}
    busy: dict[str, list[float]] = {name: [] for name in steps}
    bandwidths = []
    for _ in range(args.runs):
        # One thread's processor time, or of several the time that passes: as the share of the floor is taken.
        clock = time.process_time if args.threads == 1 else time.perf_counter
        bandwidths.append(measure_bandwidth(megabytes=256, repeats=3, clock=clock))
        for name, step in steps.items():
            count = 1 if name in frames else 3
            begin, work = time.perf_counter(), time.process_time()
            for _ in range(count):
                step()
            share = 1000 / (count * frames.get(name, 1))
            wall[name].append((time.perf_counter() - begin) * share)
            busy[name].append((time.process_time() - work) * share)
    bandwidth = max(bandwidths)
    figures = {
        name: {
            "median_ms": round(statistics.median(times), 2),
            "best_ms": round(min(times), 2),
            "cpu_median_ms": round(statistics.median(busy[name]), 2),
            "cpu_best_ms": round(min(busy[name]), 2),
            "floor_ms": round(floors[name] / bandwidth * 1000, 2) if name in floors else None,
        }
        for name, times in wall.items()
    }
    record = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": _processor(),
        "threads": args.threads,
        "runs": args.runs,
        "load": os.getloadavg(),
        "bandwidth_gb_s": {"best": round(bandwidth / 1e9, 1), "all": [round(b / 1e9, 1) for b in bandwidths]},
        "torch": torch.__version__,
        "python": platform.python_version(),
        "figures": figures,
    }
    text = _table(record)
    print(text)
    if args.out:
        path = Path(args.out)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        path.with_suffix(".md").write_text(text + "\n", encoding="utf-8")


def _table(record: dict[str, Any]) -> str:
    load = ", ".join(f"{value:.1f}" for value in record["load"])
    lines = [
        f"{record['date']}, {record['machine']}, {record['threads']} thread(s), {record['runs']} interleaved runs, "
        f"torch {record['torch']}, load average {load}, bandwidth {record['bandwidth_gb_s']['best']} GB/s (best).",
        "",
        "| system | median ms | best ms | CPU median ms | CPU best ms | floor ms | floor / best |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, figure in record["figures"].items():
        floor = figure["floor_ms"]
        spent = figure["cpu_best_ms" if record["threads"] == 1 else "best_ms"]
        share = "" if floor is None else f"{floor / spent:.0%}"
        lines.append(
            f"| {name} | {figure['median_ms']} | {figure['best_ms']} | {figure['cpu_median_ms']} | "
            f"{figure['cpu_best_ms']} | {floor or ''} | {share} |"
        )
    return "\n".join(lines)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
        return f"{names[0]} x {len(names)}"
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
