"""Work shared among processes, each with means of its own (a model), ended cleanly on errors and Ctrl-C."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from aizuchi.errors import AizuchiError

Item = TypeVar("Item")
Means = TypeVar("Means")
Result = TypeVar("Result")

_means: Any  # of a worker process


def in_processes(
    function: Callable[[Item, Means], Result],
    items: Sequence[Item],
    make_means: Callable[[], Means],
    jobs: int,
) -> Iterator[tuple[int, Result]]:
    """Apply a function to items in several processes.

    Args:
        function: called with an item and the means of its process.
        items: what is worked on; they and the function must pickle.
        make_means: called once in every process.
        jobs: how many processes.

    Yields:
        The number of an item and its result, as they get done.

    Raises:
        AizuchiError: a process died.
        Exception: what the function raised; the other processes are then ended at once.
    """
    others = set(multiprocessing.active_children())
    # Spawned and not forked: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, _start, (make_means,))
    try:
        futures = {pool.submit(_call, function, item): i for i, item in enumerate(items)}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise AizuchiError(
            "a worker process died, perhaps of too little memory: try fewer jobs. What was done is kept"
        ) from error
    except BaseException:  # an error, or Ctrl-C: nobody waits for what is under way
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start(make_means: Callable[[], Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C and ends the workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    global _means
    _means = make_means()


def _end_with_parent() -> None:
    """A parent that was killed can't end its workers, which would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(function: Callable[[Any, Any], Any], item: Any) -> Any:
    return function(item, _means)
