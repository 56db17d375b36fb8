"""Layers as compiled kernels: what stands between the matrix products runs in one pass over memory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from typing import Any

from aizuchi.errors import AizuchiError


def compile_layers(layers: Iterable[Any], device: Any) -> None:
    """Let `torch.compile` make kernels of each layer when it first runs; names of weights and what is saved stay.

    Layer by layer, as all are alike and compile once; lengths and numbers of rows may change from step to step.

    Raises:
        AizuchiError: the device is a CPU and there is no C++ compiler, which kernels of CPUs are made with.
    """
    compilers = [os.environ.get("CXX"), "g++", "clang++", "c++", "cl"]
    if device.type == "cpu" and not any(name and shutil.which(name) for name in compilers):
        raise AizuchiError(
            "compile: true needs a C++ compiler, and there is none on PATH: install g++ (or name one in CXX), "
            "or leave compile out"
        )
    for layer in layers:
        layer.compile(dynamic=True)
