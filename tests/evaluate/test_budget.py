"""A budget of time: what fits is done, the rest is counted, and any beginning of the work is balanced."""

import numpy as np
import pytest

from aizuchi.evaluate.budget import Budget, alternate
from aizuchi.evaluate.recognize import Heard, RememberingRecognizer
from aizuchi.evaluate.results import Cache, Section
from aizuchi.transcript import Word


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_alternate():
    assert alternate([[1, 2, 3], [], ["a"], ["x", "y"]]) == [1, "a", "x", 2, "y", 3]


@pytest.mark.parametrize(
    ("minutes", "cost", "until", "count"),
    [
        (None, 1000, 0.1, 20),  # no end
        (10, 1, 0.5, 20),  # all fits
        (1, 10, 0.5, 12),  # 30 s: three pieces of 10 s
        (1, 14, 0.5, 8),  # two pieces, since a third would end at 42 s
        (1, 500, 0.5, 4),  # one piece in any case
    ],
)
def test_work_ends_in_time(minutes, cost, until, count):
    clock, section, pieces = Clock(), Section("turns"), []
    budget = Budget(minutes, clock)

    def do(piece):
        pieces.append(list(piece))
        clock.now += cost

    done = budget.work(list(range(20)), do, until, section, "scenarios", size=4, progress=False)
    assert done == list(range(count)) == sum(pieces, [])
    assert budget.spent == cost * len(pieces)
    if count == 20:
        assert section.skipped == []
    else:
        (row,) = section.skipped
        assert (
            row["count"] == 20 - count
            and f"{20 - count} of 20" in row["what"]
            and "--minutes" in row["reason"]
        )


def test_shares_flow_on_to_later_parts():
    clock, section = Clock(), Section("turns")
    budget = Budget(1, clock)

    def do(piece):
        clock.now += 5

    assert len(budget.work([1], do, 0.5, section, "first", 1, False)) == 1
    assert len(budget.work(list(range(99)), do, 0.75, section, "second", 1, False)) == 8  # up to 45 s


def test_nothing_is_heard_twice(tmp_path):
    class Counting:
        name, calls = "counting", 0

        def __call__(self, wave, rate):
            self.calls += 1
            return Heard("well", [Word("well", 0.25, 0.5)])

    inner = Counting()
    waves = [np.zeros(4, np.float32), np.ones(4, np.float32)]
    for _ in range(2):
        ears = RememberingRecognizer(inner, Cache(tmp_path))
        assert [ears(wave, 24000) for wave in waves] == [Heard("well", [Word("well", 0.25, 0.5)])] * 2
    assert inner.calls == 2 and ears.name == "counting"
    ears(waves[0], 16000)
    assert inner.calls == 3
