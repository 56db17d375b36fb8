"""Mouth to ear through a whole server: a sound is spoken into one that echoes, and looked for in what comes back.

`aizuchi serve --echo` runs the model in full and says what it hears. The caller here keeps two tracks on one clock:
the mouth's, in which a sample lies where it was spoken, and the ear's, in which it lies where a loudspeaker with a
buffer of its own would have played it. What lies between is everything: pieces and frames that fill, the network,
the queue, the model's step, and that buffer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import urllib.request
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from aizuchi.audio import SAMPLE_RATE, read_audio, write_audio
from aizuchi.errors import AizuchiError, require
from aizuchi.evaluate.conversations import latency_section
from aizuchi.evaluate.results import Section, average

PIECE = 480  # samples that the microphone gives at a time: 20 ms
HOLD = 0.08  # seconds that the loudspeaker holds before it plays
_TAIL = 3.0  # seconds to wait for what is on its way
_PAUSE = 0.5  # between repetitions


@dataclass
class Tracks:
    """What was spoken and what was heard, (samples,) at 24 kHz on one clock, and the server's own figures.

    ``starts``: samples at which the ear's loudspeaker began to play: once, and again whenever it had run dry.
    """

    mouth: np.ndarray
    ear: np.ndarray
    starts: list[int] = field(default_factory=list)
    skipped: int = 0  # frames, either way
    server_ms: list[float] = field(default_factory=list)


def server_section(
    url: str,
    wave: np.ndarray,
    folder: Path,
    max_seconds: float = 5.0,
    hold: float = HOLD,
    key: str | None = None,
) -> Section:
    """Latency through a server, with both tracks kept as ``folder``/server.wav (left the mouth, right the ear).

    Raises:
        AizuchiError: see `call`; or nothing comes back that is like what was spoken.
    """
    tracks = asyncio.run(call(url, wave, hold, key))
    path = folder / "server.wav"
    folder.mkdir(parents=True, exist_ok=True)
    length = len(tracks.mouth) + round(max_seconds * SAMPLE_RATE)
    both = [np.pad(track[:length], (0, max(0, length - len(track)))) for track in (tracks.mouth, tracks.ear)]
    write_audio(path, np.stack(both))
    section = latency_section([(path, None)], max_seconds, "auto", progress=False)
    if section.broken:
        raise AizuchiError(section.broken[0]["reason"])
    section.about |= {
        "through": f"the whole server at {url}, which echoes",
        "of that": f"a frame that fills, 80 ms; the loudspeaker's buffer, {1000 * hold:.0f} ms; the server's own "
        "time, as it reports it, stands beside the latency",
    }
    row = section.tables["Mouth to ear"]["all"]
    row["in the server"] = average(
        [ms / 1000 for ms in tracks.server_ms], "s", "lower", median=True, note="median"
    )
    row["frames skipped"] = average([float(tracks.skipped)], "", "lower")
    row["times run dry"] = average([len(tracks.starts) - 1.0], "", "lower")
    return section


def sample_speech(seconds: float, path: str | Path | None = None) -> np.ndarray:
    """A recording (None: the page's sample question), repeated to so many seconds.

    Raises:
        AizuchiError: it can't be read.
    """
    if path is None:
        path = Path(str(resources.files("aizuchi"))) / "serve" / "web" / "sample.flac"
    once = np.pad(read_audio(path, rate=SAMPLE_RATE)[0], (0, round(_PAUSE * SAMPLE_RATE)))
    count = round(seconds * SAMPLE_RATE)
    return np.resize(once, count - count % PIECE)


async def call(url: str, wave: np.ndarray, hold: float = HOLD, key: str | None = None) -> Tracks:
    """Speak into an echoing server in real time, and listen.

    Args:
        url: of the server, such as http://127.0.0.1:8998. wave: (samples,) at 24 kHz.
        hold: seconds that the ear's loudspeaker holds before it plays. key: an API key.
    Raises:
        AizuchiError: it can't be reached, is no echo, or ends the conversation.
    """
    websockets = require("websockets", extra="serve")
    base = url.rstrip("/")
    await asyncio.to_thread(_check_echo, base)
    pcm = np.clip(np.rint(wave * 32768), -32768, 32767).astype("<i2")
    ear = np.zeros(len(pcm) + round((_TAIL + 5) * SAMPLE_RATE), np.float32)
    tracks = Tracks(wave.astype(np.float32), ear)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    address = "ws" + base.removeprefix("http") + "/v1/stream"
    try:
        async with websockets.connect(address, additional_headers=headers, max_size=1 << 20) as socket:
            await socket.send(json.dumps({"type": "start"}))
            await _started(socket)
            begin = time.monotonic()
            speaker = asyncio.create_task(_speak(socket, pcm, begin))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(len(pcm) / SAMPLE_RATE + _TAIL):
                    await _listen(socket, tracks, begin, hold)
            await speaker
    except (OSError, websockets.WebSocketException) as error:
        raise AizuchiError(f"the call to {url} failed: {error}") from error
    return tracks


def _check_echo(base: str) -> None:
    try:
        if not base.startswith(("http://", "https://")):
            raise AizuchiError(f"{base} is no address such as http://localhost:8998")
        with urllib.request.urlopen(base + "/v1/info", timeout=5) as answer:  # noqa: S310 - checked above
            if json.load(answer).get("echo"):
                return
    except (OSError, ValueError) as error:
        raise AizuchiError(f"{base} can't be reached: {error}") from error
    raise AizuchiError(f"{base} is no echo: start it with aizuchi serve --echo")


async def _started(socket: Any) -> None:
    while (event := json.loads(await socket.recv()))["type"] != "started":
        if event["type"] in ("end", "error"):
            raise AizuchiError(event["message"])


async def _speak(socket: Any, pcm: np.ndarray, begin: float) -> None:
    """Send each piece when a microphone would have it: after its last sample."""
    for start in range(0, len(pcm), PIECE):
        end = start + PIECE
        await asyncio.sleep(max(0.0, begin + end / SAMPLE_RATE - time.monotonic()))
        await socket.send(pcm[start:end].tobytes())


async def _listen(socket: Any, tracks: Tracks, begin: float, hold: float) -> None:
    """Lay each frame on the ear's track where it would be played, until as much was heard as was spoken."""
    free, heard = 0, 0  # where the loudspeaker has nothing to play yet; samples that came
    frame = 0
    while not frame or heard + frame <= len(tracks.mouth):
        message = await socket.recv()
        now = round((time.monotonic() - begin) * SAMPLE_RATE)
        if isinstance(message, bytes):
            samples = np.frombuffer(message, "<i2").astype(np.float32) / 32768
            at = free
            if free < now:  # nothing is left to play: it holds anew
                at = now + round(hold * SAMPLE_RATE)
                tracks.starts.append(at)
            tracks.ear[at : at + len(samples)] = samples[: max(0, len(tracks.ear) - at)]
            free, frame = at + len(samples), len(samples)
            heard += len(samples)
            continue
        event = json.loads(message)
        if event["type"] == "stats":
            tracks.server_ms.append(float(event["delay_ms"]))
        elif event["type"] == "gap":
            tracks.skipped += 1
            heard += frame
        elif event["type"] == "skipped":
            tracks.skipped = event["input"] - event["frame"]
            heard = max(heard, event["input"] * frame)
        elif event["type"] in ("end", "error"):
            raise AizuchiError(event["message"])
