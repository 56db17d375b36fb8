"""Layers as compiled kernels: what stands between the matrix products runs in one pass over memory."""

from __future__ import annotations

import os
import shutil
from typing import Any

import torch

from aizuchi.errors import AizuchiError


def compile_layers(model: Any, device: Any) -> None:
    """Let `torch.compile` make kernels of a Moshi's layers when they first run; what is saved stays the same.

    Layer by layer, as all are alike and compile once; lengths and numbers of rows may change from step to step. On a
    CPU and several threads the depth decoder's stay as they are: their kernels corrupt the heap there (seen with
    torch 2.13; pytorch's issue 181618 tells of the like).

    Raises:
        AizuchiError: the device is a CPU and there is no C++ compiler, which kernels of CPUs are made with.
    """
    on_cpu = device.type == "cpu"
    compilers = [os.environ.get("CXX"), "g++", "clang++", "c++", "cl"]
    if on_cpu and not any(name and shutil.which(name) for name in compilers):
        raise AizuchiError(
            "compile: true needs a C++ compiler, and there is none on PATH: install g++ (or name one in CXX), "
            "or leave compile out"
        )
    layers = [*model.decoder.model.layers]
    if model.depth_decoder is not None and not (on_cpu and torch.get_num_threads() > 1):
        layers += model.depth_decoder.layers
    for layer in layers:
        layer.compile(dynamic=True)
