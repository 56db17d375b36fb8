"""A caller: the one object that the event loop and the engine's thread share, one for each conversation.

The event loop pushes audio and settings and awaits events; the engine's thread takes frames and emits events. Both
directions are bounded. A caller whose events pile up (it reads too slowly) loses the sound of silent frames first,
then of the oldest, is told how much, and is let go when it reads nothing for long.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections import deque
from dataclasses import dataclass, field

from ..engine import Sampling
from .intake import Frame, Intake, LagPolicy, Samples, level_db

OUT_FRAMES = 25  # 2 s of sound may wait to be sent
OUT_EVENTS = 600


@dataclass(slots=True)
class Queued:
    """The caller waits: its place (1 is next), the expected seconds (None: unknown), and why."""

    position: int
    expected_wait: float | None
    reason: str  # "full": all rows are taken; "slow": the machine is at its limit


@dataclass(slots=True)
class Started:
    """The caller has a row. ``token`` takes the conversation up again after a drop; ``frame`` is the next frame."""

    token: str
    frame: int
    resumed: bool
    seed: int


@dataclass(slots=True)
class Said:
    """A frame: 16-bit samples of the model (None: skipped), its text, whether that begins a word, and levels in dB.

    ``came``: when the last sample of the caller's frame came in (monotonic seconds); ``delay``: seconds from then
    until this event. ``answers``: the number of the caller's frame that it answers, which is ahead of ``frame`` by
    the frames that were skipped.
    """

    frame: int
    answers: int
    samples: Samples | None
    text: str
    begins: bool
    heard_db: float
    said_db: float
    delay: float
    came: float = 0.0


@dataclass(slots=True)
class Notice:
    """Something the caller should know; the conversation goes on."""

    code: str
    message: str


@dataclass(slots=True)
class Ended:
    """The conversation is over. ``code``: "bye", "idle", "length", "stalled", "failed", "stopping", "taken", ..."""

    code: str
    message: str

    @property
    def is_error(self) -> bool:
        """Whether the caller should see an error rather than a normal end."""
        return self.code not in ("bye", "length", "idle", "stopping", "done")


Event = Queued | Started | Said | Notice | Ended


@dataclass(slots=True)
class Counters:
    """What was skipped, and how the caller is doing, to be reported to it."""

    heard: int = 0  # frames that the engine heard
    said: int = 0
    unsent: int = 0  # frames whose sound was skipped on the way out
    late: int = 0  # frames answered after more than a frame's time
    delay: float = 0.0  # of the last frame
    first_came: float = 0.0


@dataclass(slots=True)
class Work:
    """What the engine's thread keeps for a caller."""

    row: int = -1
    script: deque[int] = field(default_factory=deque)  # text ids to be said, one a frame
    credit: float = 4.0  # frames that may be heard at once; grows by real time
    credited: float = 0.0


class Caller:
    """One conversation between the event loop and the engine's thread.

    Args:
        sampling: its settings. protocol: for logs and metrics. frame_size: samples of a frame.
        policy: of lag; None for a file, which is heard as fast as the engine has time.
        resume: the token of a conversation to take up.
    """

    def __init__(
        self,
        sampling: Sampling,
        protocol: str,
        frame_size: int,
        policy: LagPolicy | None,
        resume: str | None = None,
    ):
        self.id = secrets.token_hex(4)
        self.token = secrets.token_urlsafe(24)
        self.resume = resume
        self.sampling = sampling
        self.protocol = protocol
        self.live = policy is not None
        self.intake = Intake(frame_size, policy)
        self.counters = Counters()
        self.work = Work()
        self.lock = threading.Lock()
        self.came = self.active = time.monotonic()
        self.started = 0.0  # when it got its row
        self.finished_input = False
        self._out: deque[Event] = deque()
        self._sounds = 0
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._drained = asyncio.Event()
        self._ending = asyncio.Event()
        self.ended: Ended | None = None
        self._waiting_since = self.came  # when the event loop last took an event, or an event came to none

    # Event loop's side.

    async def next(self) -> Event:
        """The next event, in order. After `Ended` there is none."""
        while True:
            with self.lock:
                if self._out:
                    self._waiting_since = time.monotonic()
                    event = self._out.popleft()
                    if isinstance(event, Said) and event.samples is not None:
                        self._sounds -= 1
                    return event
                self._news.clear()
            await self._news.wait()

    async def over(self) -> None:
        """Wait until the conversation has ended (its last events may still wait to be taken)."""
        while self.ended is None:
            self._ending.clear()
            await self._ending.wait()

    def since_start(self, now: float) -> float:
        """Seconds since it has a row; 0 before."""
        return now - self.started if self.started else 0.0

    async def room(self, frames: int) -> None:
        """Wait until fewer than ``frames`` frames wait for the engine (for files, which are not skipped)."""
        while len(self.intake) >= frames and self.ended is None:
            self._drained.clear()
            await self._drained.wait()

    # Engine's side.

    def emit(self, event: Event) -> None:
        """Hand an event to the event loop; callable from any thread."""
        with self.lock:
            if self.ended is not None:
                return
            if isinstance(event, Ended):
                self.ended = event
            elif isinstance(event, Said):
                self._make_room(event)
            elif isinstance(event, Queued) and self._out and isinstance(self._out[-1], Queued):
                self._out.pop()  # only the newest place matters
            if not self._out:
                self._waiting_since = time.monotonic()
            self._out.append(event)
        self.wake()

    def stalled(self, now: float) -> float:
        """Seconds for which events wait and none was taken."""
        return now - self._waiting_since if self._out else 0.0

    def wake(self) -> None:
        """Let the event loop look."""
        try:
            self._loop.call_soon_threadsafe(self._look)
        except RuntimeError:  # the loop is closed: the server is going down
            pass

    def _look(self) -> None:
        self._news.set()
        self._drained.set()
        self._ending.set()

    def _make_room(self, event: Said) -> None:
        self._sounds += 1
        if self.live and self._sounds > OUT_FRAMES:
            sounds = [e for e in self._out if isinstance(e, Said) and e.samples is not None]
            quiet = next((e for e in sounds if e.said_db < -45), sounds[0])
            quiet.samples = None
            self._sounds -= 1
            self.counters.unsent += 1
        if self.live and len(self._out) >= OUT_EVENTS:  # only words are left of these: the oldest go
            old = self._out.popleft()
            if isinstance(old, Said) and old.samples is not None:
                self._sounds -= 1


def said(frame: int, heard: Frame, samples: Samples, text: str, begins: bool, delay: float) -> Said:
    """The event of the model's frame number ``frame``, with its levels."""
    levels = level_db(heard.samples), level_db(samples)
    return Said(frame, heard.number, samples, text, begins, *levels, delay, heard.came)
