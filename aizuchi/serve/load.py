"""Callers for a running server: they speak in real time, from a process of their own (`aizuchi bench serve`).

  python -m aizuchi.serve.load --url http://127.0.0.1:8998 --callers 4 --seconds 300 --nice 10

Each caller sends a frame of noise every 80 ms, at a phase of its own, and times each answer: from when the frame's
last sample was sent to when the first byte of the answer came. A frame is late when that took more than 80 ms.
--extra callers come on top, and --churn lets one more caller come and go every second. Loopback addresses only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from ..errors import AizuchiError, require
from .security import LOOPBACK
from .terminal import stream_url

FRAME_SECONDS = 0.08
_FRAME = 1920


@dataclass
class Result:
    """What one caller saw: seconds of each answer, frames skipped and unsent, places in the queue, and the end."""

    delays: list[float] = field(default_factory=list)
    skipped: int = 0
    gaps: int = 0
    places: list[int] = field(default_factory=list)
    end: str = ""


async def caller(url: str, seconds: float, phase: float, seed: int) -> Result:
    """One caller, for so many seconds from when it has a row (or from now, in the queue)."""
    websockets = require("websockets", extra="serve")
    noise = np.random.default_rng(seed).standard_normal((16, _FRAME)) * 3000
    frames = [frame.astype("<i2").tobytes() for frame in noise]
    result, sent = Result(), []
    await asyncio.sleep(phase)
    async with websockets.connect(url, max_size=1 << 20, ping_interval=None) as socket:
        await socket.send(json.dumps({"type": "start", "settings": {"seed": seed}}))
        sender: asyncio.Task[None] | None = None
        answered = 0

        async def send() -> None:
            begin = time.monotonic()
            count = round(seconds / FRAME_SECONDS)
            for i in range(count):
                await asyncio.sleep(max(0.0, begin + i * FRAME_SECONDS - time.monotonic()))
                sent.append(time.monotonic())
                await socket.send(frames[i % len(frames)])
            for _ in range(40):  # the last answers
                if answered + result.skipped >= count:
                    break
                await asyncio.sleep(0.1)
            await socket.send(json.dumps({"type": "end"}))

        deadline = time.monotonic() + seconds + 5
        try:
            while True:
                async with asyncio.timeout(max(0.1, deadline - time.monotonic())):
                    message = await socket.recv()
                now = time.monotonic()
                if isinstance(message, bytes):
                    result.delays.append(now - sent[answered + result.skipped])
                    answered += 1
                    continue
                event = json.loads(message)
                match event["type"]:
                    case "started":
                        deadline = now + seconds + 5
                        sender = asyncio.create_task(send())
                    case "queue":
                        result.places.append(event["position"])
                    case "skipped":
                        result.skipped = event["input"] - event["frame"]
                    case "gap":
                        result.gaps += 1
                        answered += 1
                    case "end" | "error":
                        result.end = event["code"]
                        return result
        except TimeoutError:
            result.end = "waiting" if sender is None else "silent"
        except websockets.ConnectionClosed as error:
            result.end = f"closed ({error})"
        finally:
            if sender is not None:
                sender.cancel()
                await asyncio.gather(sender, return_exceptions=True)
    return result


async def load(url: str, callers: int, seconds: float, extra: int = 0, churn: bool = False) -> dict[str, Any]:
    """Run the load; the figures of the ``callers`` first, without the extra ones."""
    stream = stream_url(url)
    phases = np.random.default_rng(0).random(callers) * FRAME_SECONDS
    main = [asyncio.create_task(caller(stream, seconds, phase, i)) for i, phase in enumerate(phases)]
    await asyncio.sleep(1.0)
    rest = [asyncio.create_task(caller(stream, max(1.0, seconds - 3), 0.0, 1000 + i)) for i in range(extra)]
    comers = []
    if churn:
        for i in range(max(1, int(seconds) - 2)):
            comers.append(asyncio.create_task(caller(stream, 0.4, 0.0, 2000 + i)))
            await asyncio.sleep(1.0)
    results = await asyncio.gather(*main)
    others = await asyncio.gather(*rest, *comers)
    delays = np.array([delay for result in results for delay in result.delays])
    figures: dict[str, Any] = {
        "callers": callers,
        "seconds": seconds,
        "answers": len(delays),
        "expected": callers * round(seconds / FRAME_SECONDS),
        "late": int((delays > FRAME_SECONDS).sum()),
        "skipped": sum(result.skipped for result in results),
        "unsent": sum(result.gaps for result in results),
        "ends": sorted({result.end for result in results}),
        "extra_places": sorted({place for result in others for place in result.places}),
        "extra_ends": sorted({result.end for result in others}),
    }
    if len(delays):
        for name, share in (("p50_ms", 50), ("p90_ms", 90), ("p99_ms", 99), ("max_ms", 100)):
            figures[name] = round(1000 * float(np.percentile(delays, share)), 1)
    return figures


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m aizuchi.serve.load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--url", default="http://127.0.0.1:8998")
    parser.add_argument("--callers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--extra", type=int, default=0, help="callers beyond these")
    parser.add_argument("--churn", action="store_true", help="one more caller comes and goes every second")
    parser.add_argument("--nice", type=int, default=0, help="step back for the server by so much")
    args = parser.parse_args(argv)
    try:
        if (urlsplit(args.url).hostname or "") not in LOOPBACK:
            raise AizuchiError("--url must be an address of this machine: this tool is for your own server")
        if not (1 <= args.callers + args.extra <= 256 and 1 <= args.seconds <= 3600):
            raise AizuchiError("at most 256 callers and an hour")
        if args.nice > 0:
            os.nice(args.nice)
        figures = asyncio.run(load(args.url, args.callers, args.seconds, args.extra, args.churn))
    except (AizuchiError, OSError) as error:
        print(f"load: {error}", file=sys.stderr)
        return 2
    print(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
