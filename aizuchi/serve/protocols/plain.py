"""Plain PCM over a WebSocket, `/v1/stream`: the protocol of the page, and for people who write their own client.

Binary messages are sound: 16-bit little-endian mono PCM, of any length from the client (24 kHz, or the rate given
in `start`), of one frame (80 ms) from the server. Text messages are JSON objects with a `type`; docs/protocols.md
lists them.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import soxr
from starlette.websockets import WebSocket

from ...errors import AizuchiError
from ..caller import Caller, Ended, Event, Notice, Queued, Said, Started
from ..intake import Samples
from ..service import Service
from ..settings import as_dict, random_seed, with_settings
from .session import MessageRate, ProtocolError, converse

RATES = (8000, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_STATS_SECONDS = 1.0
_START_SECONDS = 10.0


@dataclass(frozen=True)
class Start:
    """Begin: settings, the rate of the client's audio, and the token of a conversation to resume."""

    settings: dict[str, Any] = field(default_factory=dict)
    rate: int = 24000
    resume: str | None = None


@dataclass(frozen=True)
class Configure:
    """Change settings."""

    settings: dict[str, Any]


@dataclass(frozen=True)
class Inject:
    """Make the model say this."""

    text: str


@dataclass(frozen=True)
class Ping:
    """To be answered with the same number."""

    t: float


@dataclass(frozen=True)
class End:
    """Good-bye."""


Command = Start | Configure | Inject | Ping | End


def parse(message: str) -> Command:
    """A text message of the client.

    Raises:
        ProtocolError: what is wrong with it.
    """
    try:
        value = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("a text message must be a JSON object") from error
    if not isinstance(value, dict):
        raise ProtocolError("a text message must be a JSON object")
    kind = value.get("type")
    if kind == "start":
        rate, resume = value.get("rate", 24000), value.get("resume")
        if rate not in RATES or isinstance(rate, bool) or not isinstance(rate, (int, float)):
            raise ProtocolError(f"rate must be one of {', '.join(map(str, RATES))}")
        if resume is not None and not (isinstance(resume, str) and len(resume) <= 100 and resume.isascii()):
            raise ProtocolError("resume must be the token of a conversation")
        return Start(_settings(value), int(rate), resume or None)
    if kind == "configure":
        return Configure(_settings(value))
    if kind == "inject":
        text = value.get("text")
        if not isinstance(text, str) or not text.strip() or len(text) > 2000:
            raise ProtocolError("inject needs a text of 1 to 2000 characters")
        return Inject(text)
    if kind == "ping":
        t = value.get("t", 0)
        if isinstance(t, bool) or not isinstance(t, (int, float)) or not math.isfinite(t):
            raise ProtocolError("ping needs a number t")
        return Ping(t)
    if kind == "end":
        return End()
    raise ProtocolError("type must be start, configure, inject, ping or end")


def _settings(value: Mapping[str, Any]) -> dict[str, Any]:
    settings = value.get("settings", {})
    if not isinstance(settings, dict) or len(settings) > 32:
        raise ProtocolError("settings must be an object")
    return settings


class PcmIn:
    """The client's binary messages as samples at the model's rate.

    A resampled stream lags by the length of the filter.
    """

    def __init__(self, rate: int, target: int):
        self._stream = None if rate == target else soxr.ResampleStream(rate, target, 1, dtype="int16")
        self._odd = b""

    def feed(self, data: bytes) -> Samples:
        """Samples of a message; a lone last byte waits for the next."""
        data = self._odd + data
        whole = len(data) & ~1
        self._odd = data[whole:]
        samples = np.frombuffer(data[:whole], dtype="<i2").astype(np.int16)
        return samples if self._stream is None else self._stream.resample_chunk(samples)


class PlainSession:
    """One connection."""

    def __init__(self, service: Service, websocket: WebSocket):
        self.service, self.websocket = service, websocket
        self.caller: Caller | None = None
        self._pcm: PcmIn | None = None
        self._sent = service.metrics.bytes.labels("plain", "out")
        self._told = 0.0
        self._warned = False
        self._skipped = 0

    async def run(self) -> None:
        """Wait for `start`, then hold the conversation."""
        try:
            async with asyncio.timeout(_START_SECONDS):
                start = await self._await_start()
            if start is None:
                return
            sampling = with_settings(self.service.sampling, {"seed": random_seed(), **start.settings})
        except (ProtocolError, AizuchiError, TimeoutError) as error:
            if isinstance(error, TimeoutError):
                error = ProtocolError(f"no start came within {_START_SECONDS:g} s")
            await self._send({"type": "error", "code": "protocol", "message": str(error)})
            await self.websocket.close(1007, str(error)[:100])
            return
        self._pcm = PcmIn(start.rate, self.service.scheduler.rate)
        self.caller = self.service.caller(sampling, "plain", start.resume)
        await converse(self.service, self.websocket, self.caller, self.hear, self.tell, resumable=True)

    async def _await_start(self) -> Start | None:
        """The first message; None when the client went away before it."""
        rate = MessageRate(20)
        while True:
            message = await self.websocket.receive()
            if message["type"] == "websocket.disconnect":
                return None
            command = parse(message.get("text") or "")
            if isinstance(command, Start):
                return command
            if isinstance(command, Ping) and not rate.exceeded():
                await self._send({"type": "pong", "t": command.t})
                continue
            raise ProtocolError("the first message must be start")

    async def hear(self, message: str | bytes) -> bool:
        """A message of the client."""
        assert self.caller is not None and self._pcm is not None
        scheduler = self.service.scheduler
        if isinstance(message, bytes):
            scheduler.push(self.caller, self._pcm.feed(message))
            return False
        command = parse(message)
        if isinstance(command, Configure):
            try:
                scheduler.configure(self.caller, with_settings(self.caller.sampling, command.settings))
            except AizuchiError as error:
                await self._send({"type": "notice", "code": "settings", "message": str(error)})
        elif isinstance(command, Inject):
            scheduler.inject(self.caller, command.text)
        elif isinstance(command, Ping):
            await self._send({"type": "pong", "t": command.t})
        elif isinstance(command, Start):
            raise ProtocolError("start comes once")
        return isinstance(command, End)

    async def tell(self, event: Event) -> None:
        """Send what an event means."""
        match event:
            case Said():
                await self._tell_said(event)
            case Queued():
                wait = event.expected_wait
                await self._send(
                    {"type": "queue", "position": event.position, "expected_wait": wait, "why": event.reason}
                )
            case Started():
                assert self.caller is not None
                await self._send(
                    {
                        "type": "resumed" if event.resumed else "started",
                        "token": event.token,
                        "frame": event.frame,
                        "settings": as_dict(self.caller.sampling),
                        "recording": self.service.recording,
                        "model": self.service.name,
                        "random": self.service.random,
                    }
                )
            case Notice():
                await self._send({"type": "notice", "code": event.code, "message": event.message})
            case Ended():
                kind = "error" if event.is_error else "end"
                await self._send({"type": kind, "code": event.code, "message": event.message})

    async def _tell_said(self, event: Said) -> None:
        skipped = event.answers - event.frame
        if skipped != self._skipped:
            self._skipped = skipped
            await self._send({"type": "skipped", "frame": event.frame, "input": event.answers})
        if event.samples is not None:
            data = event.samples.astype("<i2").tobytes()
            await self.websocket.send_bytes(data)
            self._sent.inc(len(data))
        else:
            await self._send({"type": "gap", "frame": event.frame})
        if event.text:
            await self._send(
                {"type": "text", "frame": event.frame, "text": event.text, "begins": event.begins}
            )
        now = time.monotonic()
        if now - self._told >= _STATS_SECONDS:
            self._told = now
            await self._send(self._stats(event, now))
            await self._warn(now)

    def _stats(self, event: Said, now: float) -> dict[str, Any]:
        caller = self.caller
        assert caller is not None
        intake, counters = caller.intake, caller.counters
        return {
            "type": "stats",
            "frame": event.frame,
            "delay_ms": round(1000 * event.delay),
            "waiting_frames": len(intake),
            "skipped_silent": intake.skipped_silent,
            "skipped_oldest": intake.skipped_oldest,
            "unsent": counters.unsent,
            "late": counters.late,
        }

    async def _warn(self, now: float) -> None:
        """Tell a caller once whose audio comes at another speed than real time."""
        caller = self.caller
        assert caller is not None
        if self._warned or caller.since_start(now) < 10:
            return
        speed = caller.intake.received / self.service.scheduler.rate / caller.since_start(now)
        if not 0.8 < speed < 1.25:
            self._warned = True
            message = f"audio comes at {speed:.1f} times real time: is the rate right, is it paced?"
            await self._send({"type": "notice", "code": "speed", "message": message})

    async def _send(self, value: dict[str, Any]) -> None:
        text = json.dumps(value, ensure_ascii=False)
        self._sent.inc(len(text))
        await self.websocket.send_text(text)


async def stream(websocket: WebSocket) -> None:
    """The endpoint `/v1/stream`."""
    offered = websocket.scope.get("subprotocols", [])
    await websocket.accept(subprotocol="aizuchi" if "aizuchi" in offered else None)
    await PlainSession(websocket.app.state.service, websocket).run()
