"""Measuring the engine against the floor: the bytes a step has to move over the bandwidth there is.

Absolute times mean little on a shared machine. A figure is read beside the bandwidth that was measured in the same
run, and beside a peer's that was timed in between.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .duplex import DuplexEngine
from .sampling import Sampling


@dataclass
class Floor:
    """Bytes that one step has to read: ``weights`` (once for all rows), ``keys_values`` of the filled windows."""

    weights: int
    keys_values: int

    @property
    def total(self) -> int:
        return self.weights + self.keys_values


@dataclass
class StepFigures:
    """Times of steps in milliseconds, and what they are measured against."""

    rows: int
    steps: int
    median: float
    p95: float
    p99: float
    longest: float
    floor_bytes: int
    bandwidth: float  # bytes a second, measured in the same run
    floor: float  # milliseconds
    of_floor: float  # floor / median: 1 is as fast as memory allows
    real_time_factor: float
    memory: int  # bytes of the model and of all rows' state

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_bandwidth(
    device: torch.device | str = "cpu",
    megabytes: int = 256,
    repeats: int = 7,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Bytes a second that a matrix-vector product reads from memory: the best of ``repeats`` runs.

    ``clock``: `time.process_time` leaves out the time for which other processes had the processor. The matrix is
    larger than the caches, and the product does nothing but read it once, as a step reads weights.
    """
    device = torch.device(device)
    side = int((megabytes * 2**20 / 4) ** 0.5)
    matrix, vector = torch.ones(side, side, device=device), torch.ones(side, device=device)
    best = float("inf")
    for _ in range(repeats):
        _synchronise(device)
        begin = clock()
        torch.mv(matrix, vector)
        _synchronise(device)
        best = min(best, clock() - begin)
    return matrix.numel() * matrix.element_size() / best


def read_bytes(module: nn.Module | None) -> int:
    """Bytes of all weights of a module that are read whole: everything but embedding tables."""
    if module is None:
        return 0
    tables = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    tensors = [t for t in (*module.parameters(), *module.buffers()) if id(t) not in tables]
    return sum(t.numel() * t.element_size() for t in tensors)


def step_floor(engine: DuplexEngine, filled: int | None = None) -> Floor:
    """What one step of all rows reads, with ``filled`` frames in each window (None: full windows)."""
    model, config = engine.model, engine.config
    depth = model.depth_decoder
    written = 1.0 if depth is None else config.num_model_codebooks / config.num_generated_codebooks
    codec = read_bytes(model.audio_encoder)
    if engine.codec_weights == torch.bfloat16 and model.audio_encoder.dtype == torch.float32:
        codec //= 2
    weights = read_bytes(model.decoder) + round(read_bytes(depth) * written) + codec
    ring = engine.state.tokens.ring
    share = 1.0 if filled is None else min(1.0, filled / ring.capacity)
    return Floor(weights, round(ring.kv_bytes * share))


def time_steps(
    engine: DuplexEngine, steps: int, warm_up: int = 3, on_step: Callable[[], None] | None = None
) -> list[float]:
    """Seconds of each of ``steps`` steps of all rows, after ``warm_up`` others; rows join where free."""
    device = engine.model.device
    for row in engine.free_rows():
        engine.join(row, Sampling(seed=row))
    generator = torch.Generator().manual_seed(0)
    wave = torch.randn(engine.rows, engine.channels, engine.frame_size, generator=generator).to(device) * 0.1
    seconds = []
    for step in range(warm_up + steps):
        _synchronise(device)
        begin = time.perf_counter()
        engine.step(wave)
        _synchronise(device)
        if step >= warm_up:
            seconds.append(time.perf_counter() - begin)
            if on_step is not None:
                on_step()
    return seconds


def figures(
    engine: DuplexEngine, seconds: list[float], bandwidth: float, filled: int | None = None
) -> StepFigures:
    """Summarise the times of `time_steps`."""
    times = torch.tensor(seconds, dtype=torch.float64) * 1000

    def quantile(q: float) -> float:
        return float(times.quantile(q))

    floor_bytes = step_floor(engine, filled).total
    floor = floor_bytes / bandwidth * 1000
    frame = 1000 * engine.frame_size / engine.config.sampling_rate
    return StepFigures(
        rows=engine.rows,
        steps=len(seconds),
        median=quantile(0.5),
        p95=quantile(0.95),
        p99=quantile(0.99),
        longest=float(times.max()),
        floor_bytes=floor_bytes,
        bandwidth=bandwidth,
        floor=floor,
        of_floor=floor / quantile(0.5),
        real_time_factor=quantile(0.5) / frame,
        memory=sum(_size(t) for t in (*engine.model.parameters(), *engine.model.buffers()))
        + engine.state.nbytes(),
    )


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
