"""Processes that share work, and how they end: well, by an error, by Ctrl-C, with a killed parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aizuchi.data.workers import in_processes
from aizuchi.errors import AizuchiError

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys, time, os
from pathlib import Path
from tests.data.test_workers import wait, folder
from aizuchi.data.workers import in_processes
if __name__ == "__main__":
    for _ in in_processes(wait, [sys.argv[1]] * 2, folder, 2):
        pass
"""


def folder():
    return 7


def wait(path, means):
    """Say that this process works, and go on for long."""
    (Path(path) / str(os.getpid())).touch()
    time.sleep(600)


def square(x, means):
    return x * x + means


def fail(x, means):
    if x == 1:
        raise AizuchiError("number one is wrong")
    time.sleep(600)


def die(x, means):
    os._exit(3)


def alive(pid):
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return status != "Z"
    except FileNotFoundError:
        return False


def test_results_come_with_their_numbers_and_errors_end_the_rest():
    assert dict(in_processes(square, [3, 4, 5], folder, 2)) == {0: 16, 1: 23, 2: 32}
    with pytest.raises(AizuchiError, match="number one is wrong"):
        list(in_processes(fail, [0, 1], folder, 2))  # does not wait for number zero
    with pytest.raises(AizuchiError, match="a worker process died"):
        list(in_processes(die, [0], folder, 1))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks processes up in /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_its_parent(tmp_path, how):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    pids = tmp_path / "pids"
    pids.mkdir()
    child = subprocess.Popen(
        [sys.executable, str(script), str(pids)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
        # a suite that a shell runs in the background ignores SIGINT, and its children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while len(workers := [int(p.name) for p in pids.iterdir()]) < 2:
        assert child.poll() is None
        time.sleep(0.05)
    child.send_signal(how)
    child.wait()
    patience = time.monotonic() + 300  # not a measure of speed: one that stays, stays for 600 s
    while any(alive(pid) for pid in workers) and time.monotonic() < patience:
        time.sleep(0.05)
    left = [pid for pid in workers if alive(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left
