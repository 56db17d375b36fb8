"""Ctrl-C and SIGTERM: a run ends after the step it is at, with a checkpoint, or at once when told twice."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

REPEATED = 2.0  # seconds: torchrun passes on at once what a terminal has told its processes, too


class Stop:
    """Whether a run was told to end. The first signal is noted, the second one raises KeyboardInterrupt."""

    def __init__(self, main: bool = True):
        self.asked = False
        self._since = 0.0
        self._main = main

    def __call__(self, number: int, frame: Any) -> None:
        if self.asked:
            if time.monotonic() - self._since > REPEATED:
                raise KeyboardInterrupt
            return
        self.asked, self._since = True, time.monotonic()
        if self._main:
            tqdm.write("stopping: this step is finished and a checkpoint written (once more: stop at once)")

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM while inside; signals reach the main thread only, elsewhere nothing is taken."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not Python's

    def everywhere(self, accelerator: Any) -> bool:
        """Whether any of the processes was told; all of them have to ask."""
        if accelerator.num_processes == 1:
            return self.asked
        if self.asked:
            accelerator.set_trigger()
        return bool(accelerator.check_trigger())


def leave_signals_to_the_parent(_: int) -> None:
    """What a worker that reads ahead begins with: terminals and schedulers tell it, too; it ends with its parent."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
