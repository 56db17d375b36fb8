"""The load tool: it counts every answer, and callers beyond the rows get a place in the queue."""

import asyncio

from aizuchi.serve.load import load, main


def test_load_counts_answers_and_places(here):
    figures = asyncio.run(load(here.url, callers=2, seconds=2.0, extra=2))
    assert figures["answers"] + figures["skipped"] + figures["unsent"] >= figures["expected"] == 50
    assert figures["answers"] > 10 and figures["ends"] == ["bye"]
    assert figures["p50_ms"] <= figures["p99_ms"] <= figures["max_ms"]
    assert {1, 2} <= set(figures["extra_places"])


def test_only_this_machine_is_loaded(capsys):
    assert main(["--url", "http://192.0.2.1:1"]) == 2 and "this machine" in capsys.readouterr().err
