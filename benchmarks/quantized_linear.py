"""Our quantized products beside torchao's and torch's own: one row through square matrices, in CPU time.

    pip install --no-deps torchao
    python -m benchmarks.quantized_linear [--size 2048] [--layers 16] [--rounds 5] [--compile]

What is compared is what a step of conversation does: every weight is read once for one row. Systems take turns; the
best of each is printed beside the megabytes of weights that it has to read.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Case = tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor, float]  # net, input, megabytes


def systems(size: int, layers: int, compiled: bool) -> dict[str, Case]:
    """Nets of the same shape by name; torchao's where it is installed."""
    from aizuchi.models.quantized import QuantizedLinear

    def net(dtype: torch.dtype = torch.float32) -> nn.Sequential:
        return nn.Sequential(*[nn.Linear(size, size, bias=False) for _ in range(layers)]).to(dtype)

    def ours(kind: str) -> nn.Sequential:
        return nn.Sequential(*[QuantizedLinear.of(layer, kind) for layer in net()])

    x = torch.randn(1, size)
    weights = layers * size * size / 1e6
    found: dict[str, Case] = {
        "ours, int8": (ours("int8"), x, weights),
        "ours, int4": (ours("int4"), x, weights * 0.5625),
        "torch, bfloat16": (net(torch.bfloat16), x.bfloat16(), 2 * weights),
    }
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_  # type: ignore[import-not-found]
    except ImportError:
        print("torchao is not installed: left out")
        return found
    theirs: Any = net(torch.bfloat16)
    quantize_(theirs, Int8WeightOnlyConfig())
    found["torchao, int8"] = (theirs, x.bfloat16(), weights)
    if compiled:
        found["torchao, int8, compiled"] = (torch.compile(theirs), x.bfloat16(), weights)
    return found


def best(case: Case, turns: int = 5) -> float:
    """The least CPU time of a pass, in ms."""
    run, x, _ = case
    times = []
    for _ in range(turns):
        began = time.process_time()
        run(x)
        times.append(1000 * (time.process_time() - began))
    return min(times)


@torch.no_grad()
def main(argv: list[str] | None = None) -> dict[str, float]:
    """Print the best CPU time of each system; returns them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=2048, help="of the matrices (default %(default)s)")
    parser.add_argument("--layers", type=int, default=16, help="default %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default %(default)s")
    parser.add_argument("--compile", action="store_true", help="torch.compile torchao's net, too")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    cases = systems(args.size, args.layers, args.compile)
    for case in cases.values():
        best(case, 2)  # warm
    figures = {name: float("inf") for name in cases}
    for _ in range(args.rounds):
        for name, case in cases.items():
            figures[name] = min(figures[name], best(case))
    for name, (_, _, megabytes) in cases.items():
        print(f"{name:26} {figures[name]:8.2f} ms for {megabytes:.0f} MB")
    return figures


if __name__ == "__main__":
    main()
