"""Running the application under uvicorn: sockets, TLS, signals, and a drain before the end."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import sys
import time
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from ..errors import AizuchiError
from .app import create_app
from .scheduler import drained
from .service import Service

log = logging.getLogger("aizuchi.serve")

CLOSE_SECONDS = 3.0
PING_SECONDS, PONG_SECONDS = 10.0, 20.0  # a peer that does not answer pings is gone
SEND_BUFFER = (
    1 << 16
)  # bytes the kernel and asyncio may each hold of what a caller did not read: 1.4 s of PCM


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket with small buffers, which lets go of a peer that reads nothing more."""

    def connection_made(self, transport: Any) -> None:
        """A connection."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=SEND_BUFFER)

    async def run_asgi(self) -> None:
        """Run the application; a peer that has not taken the close by then is cut off."""
        await super().run_asgi()
        self.loop.call_later(CLOSE_SECONDS, self.transport.abort)


class Server(uvicorn.Server):
    """uvicorn's server, which lets conversations end before it stops."""

    def __init__(self, config: uvicorn.Config, service: Service):
        super().__init__(config)
        self.service = service
        self._drain: asyncio.Task[None] | None = None
        self._running: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told to stop."""
        self._running = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First SIGTERM: drain, then stop. SIGINT, or a second signal: stop at once."""
        if sig == signal.SIGTERM and self._running is not None and self._drain is None and self.started:
            self._running.call_soon_threadsafe(self.drain)
        elif self.should_exit:
            self.force_exit = True
        else:
            self.should_exit = True

    def drain(self) -> None:
        """Let running conversations end, then stop."""
        if self._drain is None:
            self._drain = asyncio.ensure_future(self._drain_and_exit())

    async def _drain_and_exit(self) -> None:
        seconds = self.service.limits.drain_seconds
        log.info("stopping", extra={"conversations": self.service.scheduler.live, "within_s": seconds})
        await drained(self.service.scheduler, seconds)
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """A listening socket (port 0: any free one).

    Raises:
        AizuchiError: the address can't be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # what accept() gives inherits it
    try:
        sock.bind((host, port))
        sock.listen(128)
    except OSError as error:
        sock.close()
        raise AizuchiError(
            f"can't listen on {host} port {port}: {error.strerror}; --port names another"
        ) from error
    sock.set_inheritable(True)
    return sock


def make_server(
    service: Service, cert: str | None = None, key: str | None = None, proxy: bool = False
) -> Server:
    """A server around a service. ``proxy``: believe a local proxy's X-Forwarded-* headers."""
    limits = service.limits
    config = uvicorn.Config(
        create_app(service),
        ws=WebSocketProtocol,
        ws_max_size=limits.message_bytes,
        ws_per_message_deflate=False,  # sound does not shrink, and a bomb would grow
        ws_ping_interval=PING_SECONDS,
        ws_ping_timeout=PONG_SECONDS,
        h11_max_incomplete_event_size=1 << 16,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=5,
        limit_concurrency=service.scheduler.engine.rows + limits.queue + 64,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=proxy,
        ssl_certfile=cert,
        ssl_keyfile=key,
        lifespan="on",
    )
    return Server(config, service)


class JsonLines(logging.Formatter):
    """A log record as one JSON object. What callers say is never logged."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        value = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **extras(record),
        }
        if record.exc_info:
            value["trace"] = self.formatException(record.exc_info)
        return json.dumps(value, default=str)


class PlainLines(logging.Formatter):
    """A log record for people."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the trace of an error."""
        more = " ".join(f"{name}={value}" for name, value in extras(record).items())
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{clock} {record.getMessage()}{'  ' + more if more else ''}"
        return line + ("\n" + self.formatException(record.exc_info) if record.exc_info else "")


_USUAL = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}


def extras(record: logging.LogRecord) -> dict[str, Any]:
    """What was logged beside the message."""
    return {name: value for name, value in vars(record).items() if name not in _USUAL}


def set_up_logs(style: str, level: str = "info") -> None:
    """Send our logs and uvicorn's warnings to standard error, as "json" or "text"."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if style == "json" else PlainLines())
    for name, least in (("aizuchi.serve", level.upper()), ("uvicorn", "WARNING")):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(least)
        logger.propagate = False
