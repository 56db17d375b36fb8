"""The load tool: what it measures on a real server, how it judges that, and how it looks for the largest number."""

import asyncio
import json
import math
import time

import pytest

from aizuchi.cli import main
from aizuchi.serve import bench, load
from tests.serve.house import house, plain, speech


def test_a_run_counts_answers_places_and_what_is_left(here):
    result = bench.measure(here.url, callers=2, seconds=2.0, extra=2, nice=0)
    outside = result["outside"]
    assert outside["expected"] == 50 and outside["answers"] + outside["skipped"] + outside["unsent"] >= 50
    assert result["lost"] == 50 - outside["answers"] + outside["unsent"] and outside["ends"] == ["bye"]
    assert outside["p50_ms"] <= outside["p99_ms"] <= outside["max_ms"]
    assert {1, 2} <= set(outside["extra_places"])
    assert result["rows"] == 2 and result["conversations"] >= 2 and result["ticks"] >= 20
    assert result["answers"] >= outside["answers"] > 10 and 0 < result["p50_ms"] <= result["p99_ms"]
    assert result["rows_used"]["most"] == 2 and result["rows_used"]["after"] == 0
    assert result["tasks"]["after"] == result["tasks"]["before"] >= 1 and result["memory_mb"]["first"] > 10
    assert result["held"] is not bool(bench.verdict(result))


def test_late_ticks_are_counted(here, monkeypatch):
    real = here.scheduler.engine.step

    async def talk():
        async with plain(here) as client:
            await client.start()
            for frame in speech(6):
                await client.send(frame)
                await client.until_frames(len(client.audio) + 1)

    def slow(*args, **options):
        time.sleep(0.1)
        return real(*args, **options)

    monkeypatch.setattr(here.scheduler.engine, "step", slow)
    before = bench.scrape(here.url)
    asyncio.run(talk())
    change = bench.scrape(here.url) - before
    assert change.values["aizuchi_late_steps_total"] == change.values["aizuchi_step_seconds_count"] == 6
    assert change.answers[0.08] == 0 and change.answers[math.inf] == 6
    assert 0.1 < bench.percentile(change.answers, 0.5) < 0.5


GOOD = {
    "p99_ms": 60.0,
    "ticks": 4000,
    "late_ticks": 4,
    "lost": 1,
    "outside": {"ends": ["bye"], "expected": 1000},
}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"p99_ms": 80.0}, "p99"),
        ({"p99_ms": math.nan}, "p99"),
        ({"late_ticks": 5}, "5 of 4000 ticks"),
        ({"lost": 2}, "2 of 1000 frames"),
        ({"outside": {"ends": ["bye", "waiting"], "expected": 1000}}, "waiting"),
    ],
)
def test_the_bounds_are_those_that_were_promised(change, reason):
    broken = bench.verdict(GOOD | change)
    assert broken == [] if reason is None else reason in broken[0]


def test_percentiles_of_a_histogram():
    buckets = {0.01: 0.0, 0.02: 50.0, 0.04: 99.0, 0.08: 99.0, math.inf: 100.0}
    assert bench.percentile(buckets, 0.25) == pytest.approx(0.015)
    assert bench.percentile(buckets, 0.5) == pytest.approx(0.02)
    assert bench.percentile(buckets, 0.745) == pytest.approx(0.03)
    assert bench.percentile(buckets, 0.99) == pytest.approx(0.04)
    assert bench.percentile(buckets, 0.995) == math.inf
    assert math.isnan(bench.percentile({0.01: 0.0, math.inf: 0.0}, 0.5))


@pytest.mark.parametrize("limit", range(12))
def test_the_largest_number_is_found_in_few_tries(limit):
    tries = []

    def held(count):
        tries.append(count)
        return count <= limit

    assert bench.largest(held, 10) == min(limit, 10)
    assert len(tries) <= 7 and len(set(tries)) == len(tries) and max(tries) <= 10


def test_the_command(monkeypatch, capsys, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "scrape", lambda url: pytest.fail("nothing may be called"))
        for arguments, word in (
            (["--url", "http://192.0.2.1:1", "--callers", "1"], "this machine"),
            (["--url", "file://localhost/etc", "--callers", "1"], "this machine"),
            (["--url", "http://127.0.0.1:1"], "--callers"),
            (["--callers", "2,x"], "--callers"),
            (["--callers", "0"], "--callers"),
            (["--seconds", "1"], "--seconds"),
            (["--extra", "-1"], "--extra"),
        ):
            assert main(["bench", "serve", *arguments]) == 2 and word in capsys.readouterr().err
    course = {"before": 1.0, "first": 1.0, "last": 1.0, "after": 1.0, "most": 1.0, "a_minute": 0.0}
    given = []

    def measure(url, callers, seconds, extra, churn, nice, on_second):
        given.append((url, callers, seconds, extra, churn, nice))
        result = GOOD | {"callers": callers, "extra": extra, "churn": churn, "p50_ms": 30.0, "step_ms": 20.0}
        result |= {"memory_mb": course, "tasks": course, "files": course, "rows_used": course}
        result |= {"conversations": 9, "load_average": 0.5, "held": callers < 3, "broken": ["p99 90 ms"]}
        result["outside"] = GOOD["outside"] | {"extra_places": [1, 2], "extra_ends": ["waiting"]}
        return result

    monkeypatch.setattr(bench, "measure", measure)
    arguments = ["--url", "http://127.0.0.1:9/", "--callers", "2,3", "--extra", "5", "--churn"]
    assert main(["bench", "serve", *arguments, "--json", str(tmp_path / "figures.json")]) == 0
    assert given == [("http://127.0.0.1:9", callers, 20.0, 5, True, 10) for callers in (2, 3)]
    said = capsys.readouterr().out
    assert "Held: 2 callers" in said and "no: p99 90 ms" in said and "places [1, 2]" in said
    record = json.loads((tmp_path / "figures.json").read_text())
    assert record["held"] == 2 and [t["callers"] for t in record["tries"]] == [2, 3]


def test_a_server_that_is_not_there_is_said(capsys):
    assert main(["bench", "serve", "--url", "http://127.0.0.1:9", "--callers", "1"]) == 2
    assert "can't be read" in capsys.readouterr().err
    assert load.main(["--url", "http://192.0.2.1:1"]) == 2 and "this machine" in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_command_with_churn(model, tmp_path, capsys):
    """A server of its own is started, called, and stopped; nothing is left in it."""
    model.save_pretrained(tmp_path / "tiny")
    arguments = [
        "--model",
        str(tmp_path / "tiny"),
        "--threads",
        "1",
        "--callers",
        "2",
        "--churn",
        "--seconds",
        "8",
    ]
    assert main(["bench", "serve", *arguments, "--json", str(tmp_path / "figures.json")]) == 0
    (result,) = json.loads((tmp_path / "figures.json").read_text())["tries"]
    assert result["rows"] == 3 and result["conversations"] > 5 and result["outside"]["ends"] == ["bye"]
    assert result["tasks"]["after"] == result["tasks"]["before"]
    assert result["files"]["after"] == result["files"]["before"] and result["rows_used"]["after"] == 0


@pytest.mark.slow
def test_callers_come_and_go_beside_others_without_a_trace(model):
    """A minute of joins and leaves: no task, file or row stays, and memory stops growing."""
    with house(model, rows=3) as here:
        here.keeps = False  # what it hears would be most of what grows
        bench.measure(here.url, callers=1, seconds=10.0, churn=True)  # caches fill
        result = bench.measure(here.url, callers=2, seconds=60.0, churn=True)
    assert result["conversations"] >= 50 and result["outside"]["ends"] == ["bye"]
    for name in ("tasks", "files", "rows_used"):
        assert result[name]["after"] == result[name]["before"]
    assert result["memory_mb"]["a_minute"] < 2
