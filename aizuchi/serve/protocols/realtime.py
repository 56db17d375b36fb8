"""OpenAI's Realtime protocol (GA event names), `/v1/realtime`, as far as a model without turns can speak it.

The model listens and speaks at once, so there is one response, which begins with the session and ends with it: its
`response.output_audio.delta` events come every 80 ms, silence included. Requests that only make sense in turns are
answered by an `error` event that says so; the session goes on. `session.aizuchi` holds the settings, which
`session.update` changes, and what this server can do.
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket

from ...engine import Sampling
from ...errors import AizuchiError
from ..caller import Caller, Ended, Event, Notice, Queued, Said, Started
from ..intake import Samples
from ..service import Service
from ..settings import NAMES, as_dict, number, random_seed, with_settings
from .session import converse

_PCM = {"type": "audio/pcm", "rate": 24000}
_ECHOED = (
    "capabilities",
    "recording",
    "random_weights",
    "synthetic_voice",
)  # clients send back what they got
_TURNLESS = {
    "input_audio_buffer.commit": "audio is heard as it comes; there is nothing to commit",
    "response.create": "the model speaks when it wants to; its one response runs all the time",
    "response.cancel": "the model can't be stopped, only interrupted: speak to it",
    "conversation.item.truncate": "what was said can't be taken back",
    "conversation.item.delete": "what was said can't be taken back",
    "conversation.item.retrieve": "there are no items to retrieve; deltas carry all that is said",
    "output_audio_buffer.clear": "that is for WebRTC and SIP connections",
}


class RequestError(Exception):
    """An event of the client that can't be done: told to it by an `error` event; the session goes on."""

    def __init__(self, message: str, code: str = "invalid_value", param: str | None = None):
        super().__init__(message)
        self.code, self.param = code, param


def parse(message: str | bytes) -> dict[str, Any]:
    """An event of the client.

    Raises:
        RequestError: it is no event.
    """
    if isinstance(message, bytes):
        raise RequestError("events are JSON text messages", "invalid_json")
    try:
        event = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise RequestError("the message is not valid JSON", "invalid_json") from error
    if not isinstance(event, dict) or not isinstance(event.get("type"), str):
        raise RequestError("an event is a JSON object with a type", "missing_required_parameter", "type")
    return event


def audio_of(event: Mapping[str, Any]) -> Samples:
    """The samples of `input_audio_buffer.append`.

    Raises:
        RequestError: no base64 of whole 16-bit samples.
    """
    audio = event.get("audio")
    if not isinstance(audio, str):
        raise RequestError("audio must be base64", param="audio")
    try:
        data = base64.b64decode(audio, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError("audio is not valid base64", param="audio") from error
    if len(data) % 2:
        raise RequestError("audio must hold whole 16-bit samples", param="audio")
    return np.frombuffer(data, "<i2").astype(np.int16)


def session_changes(session: Any) -> tuple[dict[str, Any], list[RequestError]]:
    """The settings that `session.update` changes, and what it asks for in vain.

    Raises:
        RequestError: `session` is no session of this kind.
    """
    if not isinstance(session, dict):
        raise RequestError("session must be an object", "missing_required_parameter", "session")
    if session.get("type", "realtime") != "realtime":
        raise RequestError("only sessions of type realtime exist here", param="session.type")
    settings = session.get("aizuchi", {})
    settings = settings.get("settings", settings) if isinstance(settings, dict) else None
    if not isinstance(settings, dict) or len(settings) > 32:
        raise RequestError("session.aizuchi must be an object of settings", param="session.aizuchi")
    vain = []

    def refuse(param: str, why: str) -> None:
        vain.append(RequestError(why, "unsupported", f"session.{param}"))

    for name in ("instructions", "tools", "prompt"):
        if session.get(name):
            refuse(name, f"the model takes no {name}")
    if session.get("output_modalities") not in (None, ["audio"], ["text", "audio"], ["audio", "text"]):
        refuse("output_modalities", "the model always speaks: only ['audio'] is possible")
    audio = session.get("audio")
    audio = audio if isinstance(audio, dict) else {}
    for side in ("input", "output"):
        part = audio.get(side)
        part = part if isinstance(part, dict) else {}
        form = part.get("format")
        if form is not None and not (
            isinstance(form, dict) and form.get("type") == "audio/pcm" and form.get("rate", 24000) == 24000
        ):
            refuse(f"audio.{side}.format", "the only format is audio/pcm at 24000")
        if side == "input":
            for name, why in (
                ("turn_detection", "there are no turns: the model hears everything and decides itself"),
                ("transcription", "what the user says is not transcribed"),
            ):
                if part.get(name):
                    refuse(f"audio.input.{name}", why)
        elif part.get("voice") not in (None, "default") or part.get("speed", 1) != 1:
            refuse("audio.output", "the model has one voice at one speed")
    return {name: value for name, value in settings.items() if name not in _ECHOED}, vain


def spoken_by_assistant(event: Mapping[str, Any]) -> str:
    """The text of `conversation.item.create`, which the model is made to say.

    Raises:
        RequestError: it is no text of the assistant.
    """
    item = event.get("item")
    if (
        not isinstance(item, dict)
        or item.get("type") != "message"
        or not isinstance(item.get("content"), list)
    ):
        raise RequestError("item must be a message", param="item")
    if item.get("role") != "assistant":
        raise RequestError(
            "the model hears and does not read: only what the assistant shall say can be given as text",
            "unsupported",
            "item.role",
        )
    parts = [part.get("text") for part in item["content"] if isinstance(part, dict)]
    text = " ".join(part for part in parts if isinstance(part, str))[:2000]
    if not text.strip():
        raise RequestError("the message holds no text", param="item.content")
    return text


class RealtimeSession:
    """One connection."""

    def __init__(self, service: Service, websocket: WebSocket, sampling: Sampling):
        self.service, self.websocket = service, websocket
        self.caller: Caller = service.caller(sampling, "realtime")
        self._ids = {
            "response_id": f"resp_{secrets.token_hex(8)}",
            "item_id": f"item_{secrets.token_hex(8)}",
            "output_index": 0,
            "content_index": 0,
        }
        self._id = f"sess_{secrets.token_hex(8)}"
        self._words: list[str] = []
        self._began = False
        self._sent = service.metrics.bytes.labels("realtime", "out")

    async def run(self) -> None:
        """Hold the conversation."""
        await converse(self.service, self.websocket, self.caller, self.hear, self.tell)

    async def hear(self, message: str | bytes) -> bool:
        """An event of the client."""
        event: dict[str, Any] = {}
        try:
            event = parse(message)
            await self._do(event)
        except RequestError as error:
            await self._error(str(error), error.code, error.param, event.get("event_id"))
        return False

    async def _do(self, event: dict[str, Any]) -> None:
        kind, scheduler = event["type"], self.service.scheduler
        if kind == "input_audio_buffer.append":
            scheduler.push(self.caller, audio_of(event))
        elif kind == "session.update":
            changes, vain = session_changes(event.get("session"))
            try:
                sampling = with_settings(self.caller.sampling, changes)
            except AizuchiError as error:
                raise RequestError(str(error), param="session.aizuchi") from error
            if changes:
                scheduler.configure(self.caller, sampling)
            for refusal in vain:
                await self._error(str(refusal), refusal.code, refusal.param, event.get("event_id"))
            await self._send("session.updated", session=self._session(sampling))
        elif kind == "input_audio_buffer.clear":
            with self.caller.lock:
                self.caller.intake.clear()
            await self._send("input_audio_buffer.cleared")
        elif kind == "conversation.item.create":
            scheduler.inject(self.caller, spoken_by_assistant(event))
        elif kind in _TURNLESS:
            raise RequestError(_TURNLESS[kind], "unsupported", "type")
        else:
            raise RequestError(f"there is no event {kind[:60]!r}", "invalid_value", "type")

    async def tell(self, event: Event) -> None:
        """Send what an event means."""
        match event:
            case Started():
                await self._begin()
            case Said():
                if event.samples is not None:
                    audio = base64.b64encode(event.samples.astype("<i2").tobytes()).decode()
                    await self._send("response.output_audio.delta", delta=audio, **self._ids)
                if event.text:
                    self._words.append(event.text)
                    await self._send("response.output_audio_transcript.delta", delta=event.text, **self._ids)
            case Notice():
                await self._error(event.message, event.code, None, None)
            case Ended():
                if self._began:
                    await self._finish(event)
                if event.is_error or event.code in ("stopping", "idle", "length"):
                    await self._error(event.message, event.code, None, None, "server_error")
            case Queued():
                pass  # `session.created` comes with the row; until then the connection is kept alive by pings

    async def _begin(self) -> None:
        self._began = True
        await self._send("session.created", session=self._session(self.caller.sampling))
        await self._send("response.created", response=self._response("in_progress"))
        place = {key: self._ids[key] for key in ("response_id", "output_index")}
        await self._send("response.output_item.added", item=self._item("in_progress"), **place)
        await self._send("response.content_part.added", part={"type": "audio", "transcript": ""}, **self._ids)

    async def _finish(self, event: Ended) -> None:
        self._began = False
        transcript = "".join(self._words)
        status = "failed" if event.is_error else "completed"
        place = {key: self._ids[key] for key in ("response_id", "output_index")}
        await self._send("response.output_audio.done", **self._ids)
        await self._send("response.output_audio_transcript.done", transcript=transcript, **self._ids)
        await self._send(
            "response.content_part.done", part={"type": "audio", "transcript": transcript}, **self._ids
        )
        await self._send("response.output_item.done", item=self._item("completed", transcript), **place)
        await self._send("response.done", response=self._response(status, transcript))

    def _item(self, status: str, transcript: str | None = None) -> dict[str, Any]:
        content = [] if transcript is None else [{"type": "output_audio", "transcript": transcript}]
        return {
            "id": self._ids["item_id"],
            "object": "realtime.item",
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": content,
        }

    def _response(self, status: str, transcript: str | None = None) -> dict[str, Any]:
        return {
            "id": self._ids["response_id"],
            "object": "realtime.response",
            "status": status,
            "output": [] if transcript is None else [self._item("completed", transcript)],
            "output_modalities": ["audio"],
            "audio": {"output": {"format": _PCM, "voice": "default"}},
        }

    def _session(self, sampling: Sampling) -> dict[str, Any]:
        service = self.service
        return {
            "type": "realtime",
            "object": "realtime.session",
            "id": self._id,
            "model": service.name,
            "output_modalities": ["audio"],
            "instructions": "",
            "tools": [],
            "audio": {
                "input": {"format": _PCM, "turn_detection": None, "transcription": None},
                "output": {"format": _PCM, "voice": "default", "speed": 1.0},
            },
            "aizuchi": {
                "settings": as_dict(sampling),
                "capabilities": {
                    "full_duplex": True,
                    "turns": False,
                    "instructions": False,
                    "tools": False,
                    "input_transcription": False,
                    "assistant_text": service.scheduler.tokenizer is not None,
                },
                "recording": service.recording,
                "random_weights": service.random,
                "synthetic_voice": True,
            },
        }

    async def _error(
        self, message: str, code: str, param: str | None, cause: Any, kind: str = "invalid_request_error"
    ) -> None:
        cause = cause if isinstance(cause, str) else None
        error = {"type": kind, "code": code, "message": message, "param": param, "event_id": cause}
        await self._send("error", error=error)

    async def _send(self, kind: str, **fields: Any) -> None:
        text = json.dumps({"type": kind, "event_id": f"event_{secrets.token_hex(8)}", **fields})
        await self.websocket.send_text(text)
        self._sent.inc(len(text))


async def realtime(websocket: WebSocket) -> None:
    """The endpoint `/v1/realtime`; the query may hold settings by their names."""
    service: Service = websocket.app.state.service
    query = websocket.query_params
    try:
        settings = {name: number(name, query[name]) for name in NAMES if name in query}
        sampling = with_settings(service.sampling, {"seed": random_seed(), **settings})
    except AizuchiError as error:
        await websocket.send_denial_response(
            JSONResponse({"error": {"code": "query", "message": str(error)}}, 400)
        )
        return
    offered = websocket.scope.get("subprotocols", [])
    await websocket.accept(subprotocol="realtime" if "realtime" in offered else None)
    await RealtimeSession(service, websocket, sampling).run()
