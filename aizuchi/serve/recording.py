"""Recordings of conversations, where the operator asked for them: stereo sound and words, in a folder each.

`sound.flac` holds the model on the left and, on the right, exactly what the engine heard: 16-bit samples, frame by
frame, after anything that was skipped. With the seed and settings of `conversation.json` the engine alone gives
the left channel again.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from ..errors import AizuchiError
from ..files import write_text
from .caller import Caller
from .settings import as_dict

log = logging.getLogger("aizuchi.serve")


@dataclass
class _Open:
    folder: Path
    sound: soundfile.SoundFile
    info: dict[str, Any]
    words: list[dict[str, Any]] = field(default_factory=list)


class Recorder:
    """Writes conversations below ``folder``, in a thread of its own.

    Raises:
        AizuchiError: the folder can't be written to.
    """

    def __init__(self, folder: str | os.PathLike[str], rate: int, frame_size: int):
        self.folder, self.rate, self.frame_size = Path(folder), rate, frame_size
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe = self.folder / ".probe"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise AizuchiError(f"recordings can't be written to {folder}: {error}") from error
        self._todo: queue.Queue[tuple[Any, ...] | None] = queue.Queue(maxsize=4096)
        self._open: dict[str, _Open] = {}
        self._thread = threading.Thread(target=self._run, name="aizuchi-recorder", daemon=True)
        self._thread.start()

    def __call__(self, what: str, caller: Caller, *rest: Any) -> None:
        """Listen to a scheduler: never blocks."""
        if what == "begin":
            rest = (caller.protocol, as_dict(caller.sampling))
        elif what == "resume":
            return
        try:
            self._todo.put_nowait((what, caller.id, *rest))
        except queue.Full:  # a disk that hangs must not stop conversations
            log.error("a recording lost a frame: the disk is too slow", extra={"caller": caller.id})

    def close(self) -> None:
        """Finish all recordings."""
        self._todo.put(None)
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while (item := self._todo.get()) is not None:
            what, caller, *rest = item
            try:
                getattr(self, f"_{what}")(caller, *rest)
            except Exception:
                log.exception("recording failed", extra={"caller": caller})
        for caller in list(self._open):
            self._end(caller, "stopping")

    def _begin(self, caller: str, protocol: str, settings: dict[str, float]) -> None:
        began = time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime())
        folder = self.folder / f"{began}-{caller}"
        folder.mkdir(mode=0o700)
        sound = soundfile.SoundFile(folder / "sound.part", "w", self.rate, 2, subtype="PCM_16", format="FLAC")
        info = {"format": 1, "began": began, "protocol": protocol, "rate": self.rate, "settings": settings}
        self._open[caller] = _Open(folder, sound, info)

    def _frame(self, caller: str, index: int, heard: Any, spoken: Any, text: str) -> None:
        recording = self._open.get(caller)
        if recording is None:
            return
        model = np.zeros_like(heard) if spoken is None else spoken
        recording.sound.write(np.stack([model, heard], axis=1))
        if text:
            recording.words.append({"frame": index, "text": text})

    def _end(self, caller: str, code: str) -> None:
        recording = self._open.pop(caller, None)
        if recording is None:
            return
        recording.sound.close()
        os.replace(recording.folder / "sound.part", recording.folder / "sound.flac")
        content = {**recording.info, "ended": code, "text": recording.words}
        write_text(
            recording.folder / "conversation.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        )
