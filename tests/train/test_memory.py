"""Freed memory is kept while a run trains on the CPU, and only there."""

import os
import subprocess
import sys

import pytest

from aizuchi.train import memory, run
from tests.train.tiny import config_of, trainer_of

# Page faults of making and freeing a 64 MiB tensor ten times, before and after; and what it holds stays right.
FAULTS = """
import resource, torch
from aizuchi.train.memory import keep_freed_memory

def faults():
    torch.ones(1 << 24)
    start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for i in range(10):
        assert int(torch.full((1 << 24,), i, dtype=torch.int32).min()) == i
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start

before = faults()
print(keep_freed_memory(), before, faults(), faults())  # the first time the heap grows
"""
CALL = "from aizuchi.train.memory import keep_freed_memory; print(keep_freed_memory(), keep_freed_memory())"


def printed(script, **environment):
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1", "PATH": os.defpath, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_large_tensors_no_longer_fault_their_pages_in_each_time():
    changed, before, _, after = printed(FAULTS)
    assert changed == "True"
    assert int(after) < int(before) / 4


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_what_the_environment_says_stands():
    assert printed(CALL) == ["True", "True"]
    assert printed(CALL, MALLOC_TOP_PAD_="1048576") == ["False", "False"]
    assert printed(CALL, GLIBC_TUNABLES="glibc.malloc.mmap_max=100") == ["False", "False"]


def test_elsewhere_it_does_nothing(monkeypatch):
    def nothing(name):
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(memory.os, "confstr", nothing)
    assert memory.keep_freed_memory() is False
    monkeypatch.setattr(memory.os, "confstr", lambda name: "musl 1.2")
    assert memory.keep_freed_memory() is False


def test_a_run_on_the_cpu_asks_for_it(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(run, "keep_freed_memory", lambda: calls.append(1))
    trainer_of(config_of(tmp_path))
    assert calls == [1]
