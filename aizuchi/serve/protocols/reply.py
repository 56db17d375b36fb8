"""A whole file, `POST /v1/reply`: the request's body is a sound file, the answer what the model says to it.

The file takes a row like any caller, and is heard as fast as live callers leave time. Memory is bounded by the
longest file (`reply_bytes`, `reply_seconds`), and time by the number of files (`replies`) and the length of each.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import tempfile
from typing import Any, BinaryIO, cast

import numpy as np
import soundfile
from anyio import to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from ...audio import read_audio
from ...errors import AizuchiError
from ..caller import Caller, Ended, Notice, Said
from ..opus import as_int16
from ..service import Service
from ..settings import NAMES, as_dict, number, with_settings

log = logging.getLogger("aizuchi.serve")

_FORMATS = {"wav": ("WAV", "audio/wav"), "flac": ("FLAC", "audio/flac"), "json": ("", "application/json")}
_AHEAD = 64  # frames that wait for the engine
_SPOOL = 1 << 20


def refuse(status: int, code: str, message: str) -> Response:
    """An error as JSON."""
    return JSONResponse({"error": {"code": code, "message": message}}, status)


async def reply(request: Request) -> Response:
    """The endpoint."""
    service: Service = request.app.state.service
    state = request.app.state
    if not service.scheduler.ready:
        return refuse(503, "not_ready", "the server is starting or stopping")
    if getattr(state, "replies", 0) >= service.limits.replies:
        service.metrics.refused.labels("replies").inc()
        return refuse(429, "busy", "as many files as are allowed are being worked on: try again later")
    query = request.query_params
    form = query.get("format", "wav")
    if form not in _FORMATS:
        return refuse(400, "query", "format must be wav, flac or json")
    try:
        settings = {name: number(name, query[name]) for name in NAMES if name in query}
        sampling = with_settings(service.sampling, settings)
    except AizuchiError as error:
        return refuse(400, "query", str(error))
    stereo = query.get("stereo", "") in ("1", "true", "yes")
    state.replies = getattr(state, "replies", 0) + 1
    try:
        with tempfile.SpooledTemporaryFile(max_size=_SPOOL) as body:
            if not await _receive(request, body, service.limits.reply_bytes):
                return refuse(413, "too_large", f"a file may have {service.limits.reply_bytes} bytes")
            body.seek(0)
            user = await to_thread.run_sync(_decode, body, service)
        caller = Caller(sampling, "reply", service.scheduler.frame_size, policy=None)
        return await _converse(request, service, caller, user, form, stereo)
    except AizuchiError as error:
        return refuse(422, "audio", str(error))
    except ClientDisconnect:
        return Response(status_code=499)
    finally:
        state.replies -= 1


async def _receive(request: Request, body: Any, limit: int) -> bool:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            return False
        await to_thread.run_sync(body.write, chunk)
    return True


class _Upload:
    """An upload as libsndfile reads it: damaged headers send it before the beginning, which would be a traceback
    in the log for each try."""

    def __init__(self, file: Any):
        self.read, self.tell = file.read, file.tell
        self._seek = file.seek

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go there, or stay where that is nowhere."""
        try:
            return self._seek(offset, whence)
        except (OSError, ValueError):
            return self.tell()


def _decode(body: Any, service: Service) -> np.ndarray:
    """16-bit samples at the model's rate, mono."""
    file = cast(BinaryIO, _Upload(body))
    samples = read_audio(file, rate=service.scheduler.rate, max_seconds=service.limits.reply_seconds)
    return as_int16(samples[0])


async def _converse(
    request: Request, service: Service, caller: Caller, user: np.ndarray, form: str, stereo: bool
) -> Response:
    scheduler = service.scheduler
    scheduler.attach(caller)
    voice: list[np.ndarray] = []
    text: list[dict[str, Any]] = []

    async def feed() -> None:
        size = scheduler.frame_size * 16
        while not caller.started:
            await asyncio.sleep(0.02)
        for begin in range(0, len(user), size):
            await caller.room(_AHEAD)
            scheduler.push(caller, user[begin : begin + size])
        # The frame that is said at a step may lie some steps back: so many silent ones complete the last.
        scheduler.push(caller, np.zeros(-len(user) % scheduler.frame_size, np.int16))
        scheduler.push(caller, np.zeros(scheduler.engine.lag * scheduler.frame_size, np.int16))
        scheduler.finish(caller)

    feeder = asyncio.create_task(feed())
    watcher = asyncio.create_task(_gone(request))
    try:
        while True:
            taker = asyncio.create_task(caller.next())
            done, _ = await asyncio.wait({taker, watcher}, return_when=asyncio.FIRST_COMPLETED)
            if taker not in done:
                taker.cancel()
                return Response(status_code=499)
            event = taker.result()
            if isinstance(event, Said):
                if event.samples is not None:
                    voice.append(event.samples)
                if event.text:
                    text.append({"frame": event.frame, "text": event.text, "begins": event.begins})
            elif isinstance(event, Ended):
                if event.code != "done":
                    return refuse(503, event.code, event.message)
                break
            elif isinstance(event, Notice):
                log.info("notice", extra={"caller": caller.id, "code": event.code})
    finally:
        feeder.cancel()
        watcher.cancel()
        scheduler.detach(caller, keep=False)
    said = np.concatenate(voice)[: len(user)] if voice else np.zeros(0, np.int16)
    if form == "json":
        body = {"text": "".join(part["text"] for part in text).strip(), "parts": text}
        return JSONResponse(
            {**body, "settings": as_dict(caller.sampling), "seconds": len(user) / scheduler.rate}
        )
    pcm = np.stack([said, user[: len(said)]], axis=1) if stereo else said
    container, media = _FORMATS[form]
    data = await to_thread.run_sync(_encode, pcm, scheduler.rate, container)
    words = json.dumps("".join(part["text"] for part in text).strip())[:4000]  # ASCII: escapes the rest
    return Response(data, media_type=media, headers={"x-aizuchi-text": words})


def _encode(pcm: np.ndarray, rate: int, container: str) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, pcm, rate, format=container, subtype="PCM_16")
    return out.getvalue()


async def _gone(request: Request) -> None:
    while not await request.is_disconnected():
        await asyncio.sleep(0.5)
