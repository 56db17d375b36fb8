"""Kyutai's protocol, `/api/chat`, as its Python server speaks it, so that its clients connect unchanged.

Binary messages whose first byte is their kind: 0 handshake, 1 sound (Ogg/Opus, 24 kHz mono), 2 text (UTF-8),
3 control, 4 metadata (JSON), 5 error (UTF-8), 6 ping. The server sends the handshake (one zero byte) when the
caller has a row, then metadata, then sound and text. What the original ignores is honoured here: the query's
temperatures, top-k, seeds, padding bonus and repetition penalty. Text from the client is said by the model.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse
from starlette.websockets import WebSocket

from ... import __version__
from ...engine import Sampling
from ...errors import AizuchiError
from ..caller import Caller, Ended, Event, Notice, Queued, Said, Started
from ..opus import OpusError, OpusIn, OpusOut
from ..service import Service
from ..settings import number, random_seed, with_settings
from .session import ProtocolError, converse

HANDSHAKE, AUDIO, TEXT, CONTROL, METADATA, ERROR, PING = range(7)
MESSAGE_BYTES = 1 << 16
_QUERY = {  # the query's names, and ours
    "text_temperature": "text_temperature",
    "text_topk": "text_top_k",
    "audio_temperature": "temperature",
    "audio_topk": "top_k",
    "pad_mult": "padding_bonus",
    "repetition_penalty": "repetition_penalty",
    "repetition_penalty_context": "repetition_context",
}
_PAUSE, _GO_ON = 2, (0, 3)


def sampling_of(query: Mapping[str, str], base: Sampling) -> tuple[Sampling, int | None]:
    """The settings that a query asks for, and the longest conversation in frames.

    Text and voice share one seed here: `seed` (what PersonaPlex's clients send), `audio_seed`, or `text_seed`, or
    the latter two mixed; without any, or below zero, it is drawn. `voice_prompt` and `text_prompt` mean nothing to
    a model that takes no prompts, and are passed over.

    Raises:
        AizuchiError: a value that is no number, or out of range.
    """
    values: dict[str, Any] = {}
    for theirs, ours in _QUERY.items():
        if query.get(theirs, "") != "":
            values[ours] = number(theirs, query[theirs])
    seeds = [int(number(name, query[name])) for name in ("audio_seed", "text_seed") if query.get(name)]
    if query.get("seed"):
        seeds = [int(number("seed", query["seed"]))]
    if len(seeds) == 2 and seeds[0] != seeds[1]:
        seeds = [(seeds[0] * 2654435761 + seeds[1]) % (1 << 62)]
    values["seed"] = seeds[0] if seeds and seeds[0] >= 0 else random_seed()
    steps = query.get("max_steps")
    limit = int(number("max_steps", steps)) if steps else None
    if limit is not None and limit < 1:
        raise AizuchiError("max_steps must be at least 1")
    return with_settings(base, values), limit


def parse(message: str | bytes) -> tuple[int, bytes]:
    """(kind, payload) of a message.

    Raises:
        ProtocolError: what is wrong with it.
    """
    if isinstance(message, str):
        raise ProtocolError("messages must be binary: a byte for the kind, then the payload")
    if not message:
        raise ProtocolError("a message must begin with its kind")
    if len(message) > MESSAGE_BYTES:
        raise ProtocolError(f"a message must not be longer than {MESSAGE_BYTES} bytes")
    return message[0], message[1:]


class KyutaiSession:
    """One connection."""

    def __init__(self, service: Service, websocket: WebSocket, sampling: Sampling, limit: int | None):
        self.service, self.websocket, self.limit = service, websocket, limit
        self.caller: Caller = service.caller(sampling, "kyutai")
        rate = service.scheduler.rate
        self._opus_in, self._opus_out = OpusIn(rate), OpusOut(rate)
        self._sent = service.metrics.bytes.labels("kyutai", "out")
        self._paused = False

    async def run(self) -> None:
        """Hold the conversation."""
        pinger = asyncio.create_task(self._ping())
        try:
            await converse(self.service, self.websocket, self.caller, self.hear, self.tell)
        finally:
            pinger.cancel()

    async def hear(self, message: str | bytes) -> bool:
        """A message of the client."""
        kind, payload = parse(message)
        if kind == AUDIO:
            try:
                pieces = self._opus_in.feed(payload)
            except OpusError as error:
                raise ProtocolError(str(error)) from error
            for piece in pieces if not self._paused else ():
                self.service.scheduler.push(self.caller, piece)
        elif kind == TEXT:
            text = payload.decode("utf-8", "replace")[:2000]
            if text.strip():
                self.service.scheduler.inject(self.caller, text)
        elif kind == CONTROL and payload:
            if payload[0] == _PAUSE:
                self._paused = True
            elif payload[0] in _GO_ON:
                self._paused = False
        elif kind == PING:
            await self._send(PING, b"")
        return False  # other kinds mean nothing to a server, and are no fault: newer clients may send them

    async def tell(self, event: Event) -> None:
        """Send what an event means."""
        match event:
            case Started():
                await self._send(HANDSHAKE, b"")
                await self._send(METADATA, json.dumps(self._metadata()).encode())
            case Said():
                if event.samples is not None:
                    pages = self._opus_out.feed(event.samples)
                    if pages:
                        await self._send(AUDIO, pages)
                if event.text:
                    await self._send(TEXT, event.text.encode())
                if self.limit is not None and event.frame + 1 >= self.limit:
                    self.caller.emit(Ended("length", "max_steps"))
            case Ended():
                if event.is_error or event.code in ("stopping", "idle"):
                    await self._send(ERROR, event.message.encode())
            case Queued() | Notice():
                pass  # the original lets callers wait without a word, and its clients expect nothing else

    async def _send(self, kind: int, payload: bytes) -> None:
        await self.websocket.send_bytes(bytes([kind]) + payload)
        self._sent.inc(1 + len(payload))

    async def _ping(self) -> None:
        """Kyutai's page hangs up when nothing comes for ten seconds after the handshake."""
        while True:
            await asyncio.sleep(5)
            if self.caller.started and self.caller.ended is None:
                await self._send(PING, b"")

    def _metadata(self) -> dict[str, Any]:
        sampling = self.caller.sampling
        unknown = dict.fromkeys(
            (
                "build_timestamp",
                "build_date",
                "git_branch",
                "git_timestamp",
                "git_date",
                "git_hash",
                "git_describe",
                "rustc_host_triple",
                "rustc_version",
                "llvm_version",
            ),
            "",
        )
        return {
            "text_temperature": sampling.text_temperature,
            "text_topk": sampling.text_top_k,
            "audio_temperature": sampling.temperature,
            "audio_topk": sampling.top_k,
            "pad_mult": sampling.padding_bonus,
            "repetition_penalty": sampling.repetition_penalty,
            "repetition_penalty_context": sampling.repetition_context,
            "seed": sampling.seed,
            "lm_model_file": self.service.name,
            "mimi_model_file": self.service.name,
            "instance_name": f"aizuchi {__version__}",
            "build_info": unknown,
        }


async def chat(websocket: WebSocket) -> None:
    """The endpoint `/api/chat`."""
    service: Service = websocket.app.state.service
    try:
        sampling, limit = sampling_of(websocket.query_params, service.sampling)
    except AizuchiError as error:
        await websocket.send_denial_response(
            JSONResponse({"error": {"code": "query", "message": str(error)}}, 400)
        )
        return
    await websocket.accept()
    await KyutaiSession(service, websocket, sampling, limit).run()
