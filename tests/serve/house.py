"""A real server on a free loopback port, with a tiny model, in a thread of the test's process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import websockets

from aizuchi.engine import DuplexEngine, Sampling
from aizuchi.serve.limits import Limits
from aizuchi.serve.scheduler import Scheduler
from aizuchi.serve.security import LOOPBACK, Doors, Keys
from aizuchi.serve.server import Server, listen, make_server
from aizuchi.serve.service import Service
from aizuchi.serve.stepping import to_int16
from aizuchi.serve.words import Babble

FRAME = 1920


@dataclass
class House:
    """A running server; ``heard`` holds, by caller, what the engine was given frame by frame, as long as ``keeps``."""

    service: Service
    server: Server
    port: int
    heard: dict[str, list[np.ndarray]] = field(default_factory=dict)
    ends: list[tuple[str, str]] = field(default_factory=list)
    keeps: bool = True

    @property
    def scheduler(self) -> Scheduler:
        return self.service.scheduler

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ws(self, path: str = "/v1/stream") -> str:
        return f"ws://127.0.0.1:{self.port}{path}"

    def listen(self, what: str, caller: Any, *rest: Any) -> None:
        if what == "frame" and self.keeps:
            self.heard.setdefault(caller.id, []).append(rest[1].copy())
        elif what == "end":
            self.ends.append((caller.id, rest[0]))

    def only_heard(self) -> np.ndarray:
        """What the engine heard of the only caller so far: (frames, FRAME)."""
        (frames,) = self.heard.values()
        return np.stack(frames)


@contextlib.contextmanager
def house(
    model: Any,
    rows: int = 2,
    limits: Limits | None = None,
    keys: Any = (),
    origins: Any = (),
    tls: Any = (),
    echo: bool = False,
    **options: Any,
) -> Iterator[House]:
    """Start a server, wait until it is ready, and stop it at the end. ``tls``: files of a certificate and its key."""
    torch.set_num_threads(1)
    box: dict[str, House] = {}
    scheduler = Scheduler(
        model,
        Babble(),
        rows,
        limits,
        threads=1,
        listener=lambda *event: box["house"].listen(*event),
        echo=echo,
    )
    scheduler.pace.admits = lambda live: True  # a busy test machine may be slow; test_pace tests the rule
    doors = Doors(Keys(keys), LOOPBACK, origins)
    service = Service(scheduler, doors, "tiny", "a tiny model", random=True, **options)
    sock = listen("127.0.0.1", 0)
    server = make_server(service, *tls)
    here = box["house"] = House(service, server, sock.getsockname()[1])
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    try:
        wait_for(lambda: scheduler.ready)
        yield here
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        sock.close()
        assert not thread.is_alive()


def wait_for(condition: Any, seconds: float = 30) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.01)


def speech(frames: int, seed: int = 0) -> np.ndarray:
    """(frames, FRAME) 16-bit noise."""
    generator = np.random.default_rng(seed)
    return (generator.standard_normal((frames, FRAME)) * 3000).astype(np.int16)


def engine_alone(model: Any, heard: np.ndarray, sampling: Sampling, rows: int = 2) -> np.ndarray:
    """What the engine says to these frames (frames, FRAME), with nothing around it."""
    engine = DuplexEngine(model, rows)
    engine.join(0, sampling)
    said = []
    for frame in heard:
        wave = torch.zeros(rows, 1, FRAME)
        wave[0, 0] = torch.from_numpy(frame.astype(np.float32) / 32768)
        active = torch.zeros(rows, dtype=torch.bool)
        active[0] = True
        said.append(to_int16(engine.step(wave, active).waveform[0, 0].numpy()))
    return np.stack(said)


class PlainClient:
    """A client of `/v1/stream` that keeps what comes."""

    def __init__(self, connection: Any):
        self.connection = connection
        self.audio: list[np.ndarray] = []
        self.messages: list[dict[str, Any]] = []

    async def start(self, **fields: Any) -> dict[str, Any]:
        """Send `start` and wait until the conversation runs."""
        await self.connection.send(json.dumps({"type": "start", **fields}))
        return await self.until("started", "resumed")

    async def send(self, frame: np.ndarray) -> None:
        await self.connection.send(frame.astype("<i2").tobytes())

    async def say(self, **message: Any) -> None:
        await self.connection.send(json.dumps(message))

    async def take(self) -> None:
        """One message from the server."""
        message = await asyncio.wait_for(self.connection.recv(), 20)
        if isinstance(message, bytes):
            self.audio.append(np.frombuffer(message, "<i2"))
        else:
            self.messages.append(json.loads(message))

    async def until(self, *kinds: str) -> dict[str, Any]:
        """Take messages until one of these types came; returns it."""
        while True:
            before = len(self.messages)
            await self.take()
            if len(self.messages) > before and self.messages[-1]["type"] in kinds:
                return self.messages[-1]

    async def until_frames(self, count: int) -> None:
        """Take messages until so many frames of sound have come."""
        while len(self.audio) < count:
            await self.take()

    def kinds(self) -> list[str]:
        return [message["type"] for message in self.messages]


@contextlib.asynccontextmanager
async def plain(here: House, **options: Any):
    """A connection to `/v1/stream`."""
    async with websockets.connect(here.ws(), max_size=None, **options) as connection:
        yield PlainClient(connection)
