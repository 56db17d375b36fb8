"""The life of a WebSocket caller, the same for every protocol: read and write at once until either ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

from starlette.websockets import WebSocket, WebSocketDisconnect

from ..caller import Caller, Ended, Event, Said
from ..service import Service

log = logging.getLogger("aizuchi.serve")

CLOSE_CODES = {
    "busy": 1013,
    "failed": 1011,
    "protocol": 1007,
    "flood": 1008,
    "stalled": 1008,
    "stopping": 1012,
}
TAKEN = 4000  # the conversation goes on on another connection
LAST_WORDS = 2.0  # seconds that a caller has to take the reason of the end


class ProtocolError(Exception):
    """A message that the protocol does not know; the text is for the caller."""


class MessageRate:
    """Counts a caller's messages: on average at most ``per_second``, over two seconds."""

    def __init__(self, per_second: float):
        self._per_second = per_second
        self._credit = 2 * per_second
        self._at = time.monotonic()

    def exceeded(self) -> bool:
        """Count a message."""
        now = time.monotonic()
        grown = (now - self._at) * self._per_second
        self._credit, self._at = min(2 * self._per_second, self._credit + grown) - 1, now
        return self._credit < 0


def close_code(event: Ended) -> int:
    """The WebSocket's close code for an end."""
    return TAKEN if event.code == "taken" else CLOSE_CODES.get(event.code, 1000)


async def converse(
    service: Service,
    websocket: WebSocket,
    caller: Caller,
    hear: Callable[[str | bytes], Awaitable[bool]],
    tell: Callable[[Event], Awaitable[None]],
    resumable: bool = False,
) -> None:
    """Run a conversation over an accepted WebSocket until it ends, and close it.

    Args:
        hear: takes a message; True ends the conversation. Raises `ProtocolError` for a bad one.
        tell: sends what an event means. resumable: a caller that vanishes can come back.
    """
    scheduler = service.scheduler
    rate = MessageRate(service.limits.messages_per_second)
    received = service.metrics.bytes.labels(caller.protocol, "in")
    answer = service.metrics.answer.labels(caller.protocol)

    async def read() -> bool:
        """Whether the caller said good-bye (and did not just vanish)."""
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                return message.get("code") == 1000
            data = message.get("bytes")
            data = message.get("text") or "" if data is None else data
            received.inc(len(data))
            if rate.exceeded():
                caller.emit(Ended("flood", "too many messages a second: put more audio into each"))
                return True
            try:
                if await hear(data):
                    return True
            except ProtocolError as error:
                caller.emit(Ended("protocol", str(error)))
                return True

    async def write() -> None:
        while True:
            event = await caller.next()
            await tell(event)
            if isinstance(event, Said):
                answer.observe(time.monotonic() - event.came)
            if isinstance(event, Ended):
                await websocket.close(close_code(event), event.message[:100])
                return

    scheduler.attach(caller)
    reader, writer = asyncio.create_task(read()), asyncio.create_task(write())
    bye = False
    try:
        ended = asyncio.create_task(caller.over())
        await asyncio.wait({reader, writer, ended}, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        bye = reader.done() and not reader.cancelled() and reader.exception() is None and reader.result()
        if bye:
            caller.emit(Ended("bye", "good-bye"))
        if caller.ended is not None:  # let the reason be sent, to those who still read
            await asyncio.wait({writer}, timeout=LAST_WORDS)
    finally:
        scheduler.detach(caller, keep=resumable and not bye and caller.ended is None)
        for task in (reader, writer):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, WebSocketDisconnect, RuntimeError, OSError):
                await task
