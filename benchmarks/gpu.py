"""Ticks of the engine on a GPU: how long, how many launches, how idle the device is, how much memory.

    python -m benchmarks.gpu --preset 7b --rows 1,8,32 --dtype bfloat16 --kv none,int8 --json gpu.json
    python -m benchmarks.gpu --preset mini --device cpu --rows 1,2 --ticks 20      (no graph, no idle share)

A tick is 80 ms of all rows: codec, language model, codec. It is captured as a CUDA graph where that works; else it runs
operator by operator, and the reason is told. Every case is measured both ways. Launches and idle share come from
torch's profiler over a few ticks of their own, times from ticks without it. Weights are random.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch

from aizuchi.engine import DuplexEngine, Sampling
from aizuchi.engine.free_memory import free_memory
from aizuchi.engine.measure import measure_bandwidth, step_floor
from aizuchi.engine.memory import check_fits, need
from aizuchi.errors import AizuchiError
from aizuchi.models.presets import preset_config, random_model
from aizuchi.models.quantized import quantize_model

Tick = Callable[[], Any]
# What the host asks the device to do, by the names of CUDA's runtime and driver.
_LAUNCHES = ("cudaLaunch", "cuLaunch", "cudaGraphLaunch", "cudaMemcpy", "cudaMemset")


def eager(engine: DuplexEngine) -> Tick:
    """A tick of all rows, which join where they are free."""
    for row in engine.free_rows():
        engine.join(row, Sampling(seed=row))
    generator = torch.Generator().manual_seed(0)
    wave = 0.1 * torch.randn(engine.rows, engine.channels, engine.frame_size, generator=generator)
    wave = wave.to(engine.model.device)
    return lambda: engine.step(wave)


def captured(tick: Tick, device: torch.device) -> tuple[Tick | None, str]:
    """The tick as a CUDA graph, or None and why not."""
    if device.type != "cuda":
        return None, f"there are no CUDA graphs on {device.type}"
    try:
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(3):  # what is made once is made before
                tick()
        torch.cuda.current_stream(device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            tick()
        graph.replay()
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        return None, str(error).splitlines()[0]
    return graph.replay, ""


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(tick: Tick, ticks: int, device: torch.device, warm_up: int = 3) -> dict[str, float]:
    """Milliseconds of a tick: median, 99th percentile and the longest."""
    seconds = []
    for number in range(warm_up + ticks):
        _wait(device)
        begin = time.perf_counter()
        tick()
        _wait(device)
        if number >= warm_up:
            seconds.append(time.perf_counter() - begin)
    times = torch.tensor(seconds, dtype=torch.float64) * 1000
    return {"p50": float(times.quantile(0.5)), "p99": float(times.quantile(0.99)), "max": float(times.max())}


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of what (begin, end) spans cover together, where they overlap once."""
    total, until = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def profiled(tick: Tick, ticks: int, device: torch.device) -> dict[str, float | None]:
    """Operators and launches of a tick, and the share of the time in which the device does nothing.

    On a CPU there are no launches and no idle share.
    """
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    _wait(device)
    with profile(activities=kinds) as profiler:
        for _ in range(ticks):
            tick()
        _wait(device)
    events = list(profiler.events())
    operators = sum(event.name.startswith("aten::") for event in events)
    result: dict[str, float | None] = {"operators": operators / ticks, "launches": None, "kernels": None}
    result["idle"] = None
    if device.type == "cuda":
        spans = [
            (event.time_range.start, event.time_range.end)
            for event in events
            if event.device_type == DeviceType.CUDA
        ]
        whole = max(end for _, end in spans) - min(begin for begin, _ in spans)
        result["launches"] = sum(event.name.startswith(_LAUNCHES) for event in events) / ticks
        result["kernels"] = len(spans) / ticks
        result["idle"] = 1 - covered(spans) / whole
    return result


def measure(engine: DuplexEngine, ticks: int, bandwidth: float) -> dict[str, Any]:
    """All figures of an engine: operator by operator, and as a graph where there is one."""
    device = engine.model.device
    tick = eager(engine)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    result: dict[str, Any] = {"rows": engine.rows}
    result["eager"] = timed(tick, ticks, device) | profiled(tick, 3, device)
    replay, reason = captured(tick, device)
    result["graph"] = None if replay is None else timed(replay, ticks, device) | profiled(replay, 3, device)
    result["no_graph_because"] = reason
    floor = step_floor(engine)  # of full windows
    result["floor_bytes"], result["bandwidth"] = floor.total, bandwidth
    result["floor"] = floor.total / bandwidth * 1000
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    tensors = (*engine.model.parameters(), *engine.model.buffers())
    result["peak_memory"] = peak
    result["held_memory"] = engine.state.nbytes() + sum(t.numel() * t.element_size() for t in tensors)
    return result


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure every case that fits; a line each."""
    device = torch.device(args.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    bandwidth = measure_bandwidth(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    record: dict[str, Any] = {"device": name, "torch": torch.__version__, "preset": args.preset, "cases": []}
    print(f"{args.preset} on {name}, {bandwidth / 1e9:.0f} GB/s; milliseconds a tick")
    print(
        "dtype      kv    rows  way      p50      p99   floor  operators  launches   idle  peak GB",
        flush=True,
    )
    for dtype in args.dtype.split(","):
        model: Any = None
        wanted, free = getattr(torch, dtype), free_memory(device)
        for kv in (None if kind == "none" else kind for kind in args.kv.split(",")):
            for rows in map(int, args.rows.split(",")):
                case = {"dtype": dtype, "quantize": args.quantize, "kv": kv, "rows": rows}
                try:
                    needed = need(preset_config(args.preset), wanted, args.quantize, device, kv=kv)
                    check_fits(needed, rows, device, free)
                except AizuchiError as error:
                    record["cases"].append(case | {"refused": str(error)})
                    print(f"{dtype:10s} {kv or '-':5s} {rows:4d}  {error}", flush=True)
                    continue
                if model is None:
                    model = random_model(args.preset, dtype=wanted).to(device)
                    if args.quantize is not None:
                        quantize_model(model, args.quantize)
                try:
                    result = measure(DuplexEngine(model, rows, kv=kv), args.ticks, bandwidth)
                except torch.cuda.OutOfMemoryError as error:
                    record["cases"].append(case | {"refused": str(error).splitlines()[0]})
                    continue
                record["cases"].append(case | result)
                _print(case, result)
                gc.collect()  # graphs hold memory until they are gone
        del model
    return record


def _print(case: dict[str, Any], result: dict[str, Any]) -> None:
    for way in ("eager", "graph"):
        if (figures := result[way]) is None:
            print(f"    no graph: {result['no_graph_because']}", flush=True)
            continue
        launches = "-" if figures["launches"] is None else f"{figures['launches']:.0f}"
        idle = "-" if figures["idle"] is None else f"{figures['idle']:.0%}"
        peak = "-" if result["peak_memory"] is None else f"{result['peak_memory'] / 1e9:.2f}"
        print(
            f"{case['dtype']:10s} {case['kv'] or '-':5s} {case['rows']:4d}  {way:5s} {figures['p50']:7.2f} "
            f"{figures['p99']:8.2f} {result['floor']:7.2f} {figures['operators']:10.0f} {launches:>9s} {idle:>6s} "
            f"{peak:>8s}",
            flush=True,
        )


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="mini", help="mini, 1b or 7b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rows", default="1,8", help="numbers of conversations, e.g. 1,8,32")
    parser.add_argument("--dtype", default="bfloat16", help="one or more: float32,bfloat16,float16")
    parser.add_argument("--quantize", choices=["int8", "int4"])
    parser.add_argument("--kv", default="none", help="one or more: none,int8")
    parser.add_argument("--ticks", type=int, default=200)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args(arguments)
    record = run(args)
    if args.json:
        from aizuchi.files import write_text

        write_text(args.json, json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
