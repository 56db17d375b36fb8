"""Headless Chromium over its DevTools protocol, with a wav file for a microphone."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import websockets

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --mute-audio --remote-debugging-port=0 "
    "--autoplay-policy=no-user-gesture-required"
).split()
FAKE = ["--use-fake-device-for-media-stream"]


class Tab:
    """One page."""

    def __init__(self, connection: Any):
        self._connection = connection
        self._ids = itertools.count(1)
        self.errors: list[str] = []

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A DevTools command."""
        number = next(self._ids)
        await self._connection.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(await asyncio.wait_for(self._connection.recv(), 60))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            if message.get("method") == "Runtime.exceptionThrown":
                self.errors.append(str(message["params"]["exceptionDetails"]))
            if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                self.errors.append(str(message["params"]["entry"]))

    async def run(self, code: str) -> Any:
        """The value of a JavaScript expression (promises are awaited), run as if the user had clicked."""
        result = await self.call(
            "Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, code: str, seconds: float = 60) -> Any:
        """Wait until an expression is true."""
        deadline = time.monotonic() + seconds
        while not (value := await self.run(code)):
            assert time.monotonic() < deadline, f"{code} never came true"
            await asyncio.sleep(0.1)
        return value

    async def look(
        self, path: Path, width: int = 1100, height: int = 900, dark: bool = False, phone: bool = False
    ) -> None:
        """Take a screenshot."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        await asyncio.sleep(0.4)
        shot = await self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))


@contextlib.asynccontextmanager
async def browse(url: str, microphone: Path | None = None, allowed: bool = True, more: Sequence[str] = ()):
    """A page in a new browser with an empty profile. ``microphone``: a wav file that is played once as it."""
    assert CHROMIUM is not None
    flags = [*FLAGS, *FAKE, *more]
    if allowed:
        flags.append("--use-fake-ui-for-media-stream")
    else:
        flags.append("--deny-permission-prompts")
    if microphone is not None:
        flags.append(f"--use-file-for-fake-audio-capture={microphone}%noloop")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [CHROMIUM, *flags, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            port_file = Path(profile) / "DevToolsActivePort"
            deadline = time.monotonic() + 60
            while not (port_file.exists() and len(port_file.read_text().split()) == 2):
                assert process.poll() is None and time.monotonic() < deadline, "the browser does not start"
                await asyncio.sleep(0.1)
            port, path = port_file.read_text().split()
            async with websockets.connect(f"ws://127.0.0.1:{port}{path}", max_size=None) as connection:
                root = Tab(connection)
                target = (await root.call("Target.createTarget", url="about:blank"))["targetId"]
            page = f"ws://127.0.0.1:{port}/devtools/page/{target}"
            async with websockets.connect(page, max_size=None) as connection:
                tab = Tab(connection)
                for domain in ("Page", "Runtime", "Log"):
                    await tab.call(f"{domain}.enable")
                await tab.call("Page.navigate", url=url)
                await tab.until("document.readyState === 'complete'")
                yield tab
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
