"""A conversation from a terminal: sound cards or files on one side, `/v1/stream` on the other."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np

from ..audio import SAMPLE_RATE, read_audio, write_audio
from ..errors import AizuchiError, require
from .intake import Samples
from .opus import as_int16

if TYPE_CHECKING:
    from .loading import Served  # which imports torch: a call to a server elsewhere needs none

FRAME = 1920
_HELD = 2  # frames that the loudspeaker holds before it plays
_MOST = 6  # and at most: the oldest are dropped
_TAIL = 4.0  # seconds of silence after a file, to hear the end of the answer


def answers(url: str) -> bool:
    """Whether an aizuchi server is ready there."""
    try:
        with urllib.request.urlopen(url + "/v1/info", timeout=1) as answer:  # noqa: S310 - on this machine
            return json.load(answer).get("name") == "aizuchi"
    except (OSError, ValueError):
        return False


class FileSound:
    """A file for a microphone, paced in real time; what the model says is kept.

    Raises:
        AizuchiError: the file can't be read.
    """

    def __init__(self, path: str, output: str | None):
        wave = as_int16(read_audio(path, rate=SAMPLE_RATE)[0])
        wave = np.concatenate([wave, np.zeros(round(_TAIL * SAMPLE_RATE), np.int16)])
        self._frames = np.pad(wave, (0, -len(wave) % FRAME)).reshape(-1, FRAME)
        self._tape = Tape(output)
        self._wanted = len(self._frames)

    async def frames(self) -> Any:
        """The frames of the microphone, each when it is due."""
        begin = time.monotonic()
        for i, frame in enumerate(self._frames):
            await asyncio.sleep(max(0.0, begin + i * FRAME / SAMPLE_RATE - time.monotonic()))
            yield frame
        deadline = time.monotonic() + 5
        while self._tape.count < self._wanted and time.monotonic() < deadline:
            await asyncio.sleep(0.05)

    def play(self, frame: Samples) -> None:
        """A frame for the loudspeaker."""
        self._tape.add(frame)

    def close(self) -> None:
        """Write what was kept."""
        self._tape.write()


class SoundCard:
    """The machine's microphone and loudspeaker.

    Raises:
        AizuchiError: there is no such device.
    """

    def __init__(self, microphone: str | None, speaker: str | None, output: str | None):
        sounddevice = require("sounddevice", extra="talk")
        self._tape = Tape(output)
        self._waiting: collections.deque[Samples] = collections.deque()
        self._playing = False
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._heard: asyncio.Queue[Samples] = asyncio.Queue(maxsize=50)
        options = {"samplerate": SAMPLE_RATE, "channels": 1, "dtype": "int16", "blocksize": FRAME}
        try:
            self._streams = [
                sounddevice.InputStream(device=_device(microphone), callback=self._on_input, **options),
                sounddevice.OutputStream(device=_device(speaker), callback=self._on_output, **options),
            ]
        except (sounddevice.PortAudioError, ValueError) as error:
            raise AizuchiError(
                f"the sound device can't be opened: {error}; aizuchi talk --list shows them, and --input FILE "
                "needs none"
            ) from error

    async def frames(self) -> Any:
        """The frames of the microphone."""
        self._loop = asyncio.get_running_loop()
        for stream in self._streams:
            stream.start()
        while True:
            yield await self._heard.get()

    def _on_input(self, data: Any, frames: int, when: Any, status: Any) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._put, data[:, 0].copy())

    def _put(self, frame: Samples) -> None:
        if self._heard.full():
            self._heard.get_nowait()
        self._heard.put_nowait(frame)

    def _on_output(self, data: Any, frames: int, when: Any, status: Any) -> None:
        with self._lock:
            self._playing = bool(self._waiting) and (self._playing or len(self._waiting) >= _HELD)
            data[:, 0] = self._waiting.popleft() if self._playing else 0

    def play(self, frame: Samples) -> None:
        """A frame for the loudspeaker."""
        self._tape.add(frame)
        with self._lock:
            self._waiting.append(frame)
            while len(self._waiting) > _MOST:
                self._waiting.popleft()

    def close(self) -> None:
        """Let go of the devices, and write what was kept."""
        for stream in self._streams:
            stream.close()
        self._tape.write()


class Tape:
    """Keeps the model's voice where a file was asked for."""

    def __init__(self, path: str | None):
        self.path, self.count = path, 0
        self._frames: list[Samples] = []

    def add(self, frame: Samples) -> None:
        """A frame."""
        self.count += 1
        if self.path:
            self._frames.append(frame)

    def write(self) -> None:
        """Write the file."""
        if self.path and self._frames:
            write_audio(self.path, np.concatenate(self._frames).astype(np.float32) / 32768)
            print(f"wrote {self.path}", file=sys.stderr)


def _device(name: str | None) -> int | str | None:
    return int(name) if name and name.isdigit() else name


async def talk(url: str, sound: Any, settings: dict[str, Any], key: str | None = None) -> int:
    """Hold a conversation with the server at ``url``; words go to standard output. Returns the exit status.

    Raises:
        AizuchiError: the server can't be reached, refuses, or ends the conversation with an error.
    """
    websockets = require("websockets", extra="talk")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        async with websockets.connect(
            stream_url(url), additional_headers=headers, max_size=1 << 20, open_timeout=20
        ) as socket:
            return await _converse(socket, sound, settings)
    except websockets.InvalidStatus as error:
        status = error.response.status_code
        why = "an API key is needed: --api-key-file names it" if status == 401 else f"status {status}"
        raise AizuchiError(f"{url} refuses: {why}") from error
    except websockets.ConnectionClosed as error:
        raise AizuchiError(f"the connection to {url} was lost ({error})") from error
    except (OSError, TimeoutError, websockets.InvalidURI, websockets.InvalidMessage) as error:
        raise AizuchiError(f"{url} can't be reached: {error}") from error


def stream_url(url: str) -> str:
    """The WebSocket address of a server's address."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    scheme = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}.get(parts.scheme)
    if scheme is None or not parts.netloc:
        raise AizuchiError(f"{url} is no address such as http://localhost:8998")
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") + "/v1/stream", "", ""))


async def _converse(socket: Any, sound: Any, settings: dict[str, Any]) -> int:
    await socket.send(json.dumps({"type": "start", "settings": settings}))
    sender: asyncio.Task[None] | None = None

    async def send() -> None:
        async for frame in sound.frames():
            await socket.send(frame.astype("<i2").tobytes())
        await socket.send(json.dumps({"type": "end"}))

    try:
        while True:
            if sender is not None and sender.done() and sender.exception() is not None:
                sender.result()
            message = await socket.recv()
            if isinstance(message, bytes):
                sound.play(np.frombuffer(message, "<i2"))
                continue
            event = json.loads(message)
            kind = event["type"]
            if kind == "started":
                print(f"connected (seed {event['settings']['seed']}); Ctrl-C hangs up", file=sys.stderr)
                if event["recording"]:
                    print("this server records conversations", file=sys.stderr)
                if event["random"]:
                    print("this model has random weights: it babbles", file=sys.stderr)
                sender = asyncio.create_task(send())
            elif kind == "text":
                print(event["text"], end="", flush=True)
            elif kind == "queue":
                wait = event["expected_wait"]
                about = "" if wait is None else f", about {wait:.0f} s"
                print(f"in the queue: place {event['position']}{about}", file=sys.stderr)
            elif kind == "notice":
                print(f"\n{event['message']}", file=sys.stderr)
            elif kind == "end":
                print(file=sys.stdout)
                if event["code"] != "bye":
                    print(event["message"], file=sys.stderr)
                return 0
            elif kind == "error":
                raise AizuchiError(event["message"])
    finally:
        if sender is not None:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)


@contextlib.contextmanager
def local_server(served: Served, threads: int | None = None) -> Iterator[str]:
    """A server for one caller on a free port of this machine; gives its address."""
    from .limits import Limits
    from .scheduler import Scheduler
    from .security import LOOPBACK, Doors, Keys
    from .server import listen, make_server
    from .service import Service

    scheduler = Scheduler(
        served.model, served.tokenizer, 1, Limits(session_seconds=24 * 3600.0), threads=threads
    )
    service = Service(
        scheduler,
        Doors(Keys(), LOOPBACK),
        served.name,
        served.description,
        served.random,
        sampling=scheduler.engine.sampling,
    )
    sock = listen("127.0.0.1", 0)
    server = make_server(service)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    try:
        while not scheduler.ready:
            if not thread.is_alive() or not scheduler.alive:
                raise AizuchiError("the model can't run here; --debug shows more")
            time.sleep(0.02)
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        sock.close()
