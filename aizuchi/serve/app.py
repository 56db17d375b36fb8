"""The web application: routes, who is let in, health, metrics, and the page."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from .protocols import kyutai, plain, realtime, reply
from .service import Service

log = logging.getLogger("aizuchi.serve")

_OPEN = ("/healthz", "/readyz")  # answered to anybody
_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; connect-src 'self' ws: wss:; media-src 'self' blob:; img-src 'self' data:; "
        "object-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'"
    ),
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
}


class Porter:
    """Middleware: lets a connection in or not, and puts security headers on every answer."""

    def __init__(self, app: ASGIApp, service: Service):
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let through, or refuse."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        refusal = self._refusal(connection)
        if refusal is None:
            await self.app(scope, receive, self._with_headers(send))
            return
        status, code, message = refusal
        self.service.metrics.refused.labels(code).inc()
        log.info("refused", extra={"why": code, "path": scope["path"]})
        response = JSONResponse({"error": {"code": code, "message": message}}, status)
        if status == 401:
            response.headers["www-authenticate"] = "Bearer"
        if scope["type"] == "websocket":
            await receive()  # the connect event
            if "websocket.http.response" not in scope.get("extensions", {}):
                await send({"type": "websocket.close", "code": 1008, "reason": message})
                return
        await response(scope, receive, send)

    def _refusal(self, connection: HTTPConnection) -> tuple[int, str, str] | None:
        path = connection.scope["path"]
        doors = self.service.doors
        if path in _OPEN:
            return None
        static = connection.scope["type"] == "http" and not path.startswith(("/v1/reply", "/metrics"))
        if static:  # the page asks for a key; its files hold no secret
            if not doors.host_allowed(connection):
                return 421, "host", "this server does not answer to that name; see --allow-host"
            return None
        return doors.refusal(connection)

    @staticmethod
    def _with_headers(send: Send) -> Send:
        async def wrapped(message: dict) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                message["headers"] = list(message["headers"]) + [
                    (name.encode(), value.encode())
                    for name, value in _HEADERS.items()
                    if name.encode() not in present
                ]
            await send(message)

        return wrapped  # type: ignore[return-value]


class Page(StaticFiles):
    """The page's files, always checked for newer ones, so that an upgrade is seen."""

    def file_response(self, *args: object, **kwargs: object) -> Response:
        """A file's answer."""
        response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        response.headers["cache-control"] = "no-cache"
        return response


async def healthz(request: Request) -> Response:
    """Whether the process lives."""
    return PlainTextResponse("ok\n")


async def readyz(request: Request) -> Response:
    """Whether callers are let in: the model is warm, and the server is not stopping."""
    scheduler = request.app.state.service.scheduler
    if scheduler.ready:
        return PlainTextResponse("ready\n")
    return PlainTextResponse("stopping\n" if scheduler.draining else "warming up\n", 503)


async def info(request: Request) -> Response:
    """What this server is."""
    return JSONResponse(request.app.state.service.info(), headers={"cache-control": "no-store"})


async def models(request: Request) -> Response:
    """The model's name, as OpenAI's clients list it."""
    name = request.app.state.service.name
    return JSONResponse({"object": "list", "data": [{"id": name, "object": "model", "owned_by": "aizuchi"}]})


async def metrics(request: Request) -> Response:
    """Numbers for Prometheus."""
    body, content_type = request.app.state.service.metrics.text()
    return Response(body, media_type=content_type)


def web_folder() -> Path:
    """Where the page's files lie."""
    return Path(str(resources.files("aizuchi"))) / "serve" / "web"


def create_app(service: Service) -> Starlette:
    """The application around a service. Its scheduler is started and stopped with the application."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.scheduler.start()
        yield
        service.scheduler.stop()

    app = Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
            Route("/v1/info", info),
            Route("/v1/models", models),
            Route("/v1/reply", reply.reply, methods=["POST"]),
            WebSocketRoute("/v1/stream", plain.stream),
            WebSocketRoute("/v1/realtime", realtime.realtime),
            WebSocketRoute("/api/chat", kyutai.chat),
            Mount("/", Page(directory=web_folder(), html=True)),
        ],
        middleware=[Middleware(Porter, service=service)],
        lifespan=lifespan,
    )
    app.state.service = service
    return app
