"""How many callers a server holds: it is started, called from a second process, and watched from a third.

What is measured lies in the server itself: `aizuchi_answer_seconds`, from the last input sample received to the
first output byte sent, and `aizuchi_late_steps_total`, ticks that ended more than a frame after they were due. The
callers (`load`) time their answers too, as a check from outside.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import AizuchiError, require

FRAME = 0.08  # seconds; also the deadline of an answer
LATE_SHARE = 0.001  # of the ticks, and of the frames that may be lost
_WARM = 2.0  # seconds of a run that do not count for its course


@dataclass(frozen=True)
class Scrape:
    """What `/metrics` said at one moment: sums over all labels, and the buckets of `aizuchi_answer_seconds`."""

    at: float
    values: dict[str, float]
    answers: dict[float, float] = field(default_factory=dict)  # upper edge -> count up to it

    def __sub__(self, other: Scrape) -> Scrape:
        values = {name: value - other.values.get(name, 0.0) for name, value in self.values.items()}
        answers = {edge: count - other.answers.get(edge, 0.0) for edge, count in self.answers.items()}
        return Scrape(self.at - other.at, values, answers)


def scrape(url: str) -> Scrape:
    """Read a server's `/metrics`.

    Raises:
        AizuchiError: it does not answer.
    """
    parser = require("prometheus_client.parser", extra="serve")
    try:
        with urllib.request.urlopen(url + "/metrics", timeout=10) as got:  # noqa: S310 - on this machine
            text = got.read().decode()
    except OSError as error:
        raise AizuchiError(f"{url}/metrics can't be read: {error}") from error
    values: dict[str, float] = {}
    answers: dict[float, float] = {}
    for family in parser.text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "aizuchi_answer_seconds_bucket":
                edge = float(sample.labels["le"])
                answers[edge] = answers.get(edge, 0.0) + sample.value
            elif not sample.name.endswith("_bucket"):
                values[sample.name] = values.get(sample.name, 0.0) + sample.value
    return Scrape(time.monotonic(), values, answers)


def percentile(buckets: dict[float, float], share: float) -> float:
    """The value below which ``share`` of a histogram lies, on a line within its bucket; inf beyond the last.

    Args:
        buckets: upper edge to the count up to it. share: between 0 and 1.
    """
    edges = sorted(buckets)
    total = buckets[edges[-1]] if edges else 0.0
    if total <= 0:
        return float("nan")
    below, count = 0.0, 0.0
    for edge in edges:
        if buckets[edge] >= share * total:
            if edge == float("inf"):
                return edge
            inside = buckets[edge] - count
            return below + (edge - below) * ((share * total - count) / inside if inside else 1.0)
        below, count = edge, buckets[edge]
    return float("inf")


@contextlib.contextmanager
def running(arguments: Sequence[str], patience: float = 300.0) -> Iterator[tuple[str, int]]:
    """A server of its own for the time of a measurement: `aizuchi serve` with these arguments; (address, pid).

    Raises:
        AizuchiError: it does not start, or does not end with status 0 when told to stop.
    """
    command = [sys.executable, "-m", "aizuchi", "serve", "--port", "0", *arguments]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert process.stdout is not None
            line = next((line for line in process.stdout if line.startswith("serving on")), None)
            if line is None:
                log.seek(0)
                raise AizuchiError(f"the server did not start: {log.read()[-500:].strip()}")
            url = f"http://127.0.0.1:{line.split()[2].rsplit(':', 1)[1]}"
            _until_ready(url, process, time.monotonic() + patience)
            yield url, process.pid
            process.send_signal(signal.SIGTERM)
            if process.wait(timeout=60) != 0:
                log.seek(0)
                raise AizuchiError(f"the server ended badly: {log.read()[-500:].strip()}")
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def _until_ready(url: str, process: subprocess.Popen[str], deadline: float) -> None:
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(url + "/readyz", timeout=5).close()  # noqa: S310 - an address of ours
            return
        time.sleep(0.2)
    raise AizuchiError("the server did not get ready")


def measure(
    url: str,
    callers: int,
    seconds: float,
    extra: int = 0,
    churn: bool = False,
    nice: int = 10,
    on_second: Callable[[], Any] = lambda: None,
) -> dict[str, Any]:
    """Let callers call a running server that nobody else uses, and say how it went.

    Args:
        url: its address, on this machine. callers: that speak in real time for so many ``seconds``.
        extra: callers beyond these. churn: one more comes and goes every second.
        nice: how far the callers' process steps back for the server's. on_second: called about once a second.
    Returns:
        figures by name; ``held`` says whether the bounds of `verdict` were kept.
    Raises:
        AizuchiError: the server is not there, or the callers' process failed.
    """
    before = scrape(url)
    command = [sys.executable, "-m", "aizuchi.serve.load", "--url", url, "--callers", str(callers)]
    command += ["--seconds", str(seconds), "--extra", str(extra), "--nice", str(nice)]
    loader = subprocess.Popen(
        command + ["--churn"] * churn, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    seen = [before]
    try:
        while True:
            try:
                out, err = loader.communicate(timeout=1.0)
                break
            except subprocess.TimeoutExpired:
                seen.append(scrape(url))
                on_second()
    finally:
        loader.kill()
        loader.wait()
    if loader.returncode:
        raise AizuchiError(f"the callers failed: {err.strip()[-300:]}")
    after = _at_rest(url)
    outside = json.loads(out)
    change = after - before
    ticks, late = change.values["aizuchi_step_seconds_count"], change.values["aizuchi_late_steps_total"]
    result: dict[str, Any] = {
        "callers": callers,
        "seconds": seconds,
        "extra": extra,
        "churn": churn,
        "rows": int(before.values["aizuchi_rows"]),
        "conversations": int(change.values["aizuchi_conversations_total"]),
        "ticks": int(ticks),
        "late_ticks": int(late),
        "step_ms": round(1000 * change.values["aizuchi_step_seconds_sum"] / max(ticks, 1), 2),
        "answers": int(change.answers.get(float("inf"), 0)),
        "p50_ms": _ms(percentile(change.answers, 0.5)),
        "p99_ms": _ms(percentile(change.answers, 0.99)),
        "within_deadline": round(_share_within(change.answers, FRAME), 5),
        "lost": outside["expected"] - outside["answers"] + outside["unsent"],
        "outside": outside,
        "memory_mb": _course(seen, after, "process_resident_memory_bytes", 2**20),
        "tasks": _course(seen, after, "aizuchi_tasks", 1),
        "files": _course(seen, after, "process_open_fds", 1),
        "rows_used": _course(seen, after, "aizuchi_rows_used", 1),
        "load_average": round(os.getloadavg()[0], 1),
    }
    result["broken"] = verdict(result)
    result["held"] = not result["broken"]
    return result


def verdict(result: dict[str, Any]) -> list[str]:
    """The bounds that a run broke, in words: p99 under 80 ms, at most 1 tick in 1,000 late, as few frames lost."""
    outside = result["outside"]
    broken = []
    if outside["ends"] != ["bye"]:
        broken.append(f"callers ended as {', '.join(outside['ends'])}")
    if not result["p99_ms"] < 1000 * FRAME:
        broken.append(f"p99 {result['p99_ms']} ms")
    if result["late_ticks"] > LATE_SHARE * result["ticks"]:
        broken.append(f"{result['late_ticks']} of {result['ticks']} ticks late")
    if result["lost"] > LATE_SHARE * outside["expected"]:
        broken.append(f"{result['lost']} of {outside['expected']} frames lost")
    return broken


def largest(held: Callable[[int], bool], most: int) -> int:
    """The largest number up to ``most`` that holds, where more never hold if fewer do not: doubled, then halved."""
    good, bad = 0, most + 1
    trial = 1
    while good < most and trial < bad:
        if held(trial):
            good = trial
        else:
            bad = trial
            break
        trial = min(2 * trial, most)
    while bad - good > 1:
        middle = (good + bad) // 2
        if held(middle):
            good = middle
        else:
            bad = middle
    return good


def _at_rest(url: str, patience: float = 5.0) -> Scrape:
    """`/metrics` when nobody has a row any more, and connections have had the time to close."""
    deadline = time.monotonic() + patience
    while (now := scrape(url)).values["aizuchi_rows_used"] and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    return scrape(url) if now.values["aizuchi_rows_used"] == 0 else now


def _share_within(buckets: dict[float, float], edge: float) -> float:
    total = buckets.get(float("inf"), 0.0)
    return buckets.get(edge, 0.0) / total if total else 0.0


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 1)


def _course(seen: Sequence[Scrape], after: Scrape, name: str, unit: float) -> dict[str, float]:
    """A figure before the callers, at their beginning and end, after them, and how fast it grew between."""
    used = [s for s in seen if s.values["aizuchi_rows_used"]] or list(seen)
    during = [s for s in used if s.at - used[0].at >= _WARM] or used
    values = [s.values.get(name, 0.0) / unit for s in during]
    minutes = [(s.at - during[0].at) / 60 for s in during]
    slope = statistics.linear_regression(minutes, values).slope if len(values) > 2 else 0.0
    course = {
        "before": seen[0].values.get(name, 0.0) / unit,
        "first": values[0],
        "last": values[-1],
        "after": after.values.get(name, 0.0) / unit,
        "most": max(values),
        "a_minute": slope,
    }
    return {key: round(value, 2) for key, value in course.items()}
