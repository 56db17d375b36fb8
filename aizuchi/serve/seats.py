"""Who has a row: callers are given rows as they come, wait in a queue, leave, and come back.

All of this runs in the engine's thread.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from hmac import compare_digest
from typing import Any

from ..engine import DuplexEngine
from ..engine.snapshot import export_row, import_row
from .caller import Caller, Ended, Notice, Queued, Started
from .echo import EchoEngine
from .limits import Limits
from .metrics import Metrics
from .pace import Pace
from .parking import Parked, Parking
from .words import TextStream

log = logging.getLogger("aizuchi.serve")


class Conversation:
    """A row's conversation as the thread sees it; it outlives a dropped connection."""

    def __init__(self, caller: Caller, text: TextStream):
        self.caller, self.text = caller, text
        self.frame = 0  # index of the next frame
        self.began = time.monotonic()
        self.told_skips = (0, 0)
        self.answered = 0.0  # when its last frame was answered


# What a recorder is told: ("begin" | "frame" | "end", caller, ...); see `recording`.
Listener = Callable[..., None]


class Seats:
    """The rows of an engine and those who use them or wait for one; see `Scheduler` for the arguments."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        rows: int,
        limits: Limits | None,
        metrics: Metrics | None,
        listener: Listener | None,
        echo: bool = False,
        engine: dict[str, Any] | None = None,
    ):
        self.limits = limits or Limits()
        self.metrics = metrics or Metrics()
        self.engine = (EchoEngine if echo else DuplexEngine)(model, rows, **(engine or {}))
        self.echo = echo
        self.model, self.tokenizer = model, tokenizer
        self.frame_size, self.rate = self.engine.frame_size, model.config.audio_encoder_config.sampling_rate
        self.frame_seconds = self.frame_size / self.rate
        self.pace = Pace(self.frame_seconds)
        self.ready = False  # warmed up, and neither draining nor broken
        self.draining = False
        self._stopping = False
        self._listener = listener or (lambda *_: None)
        self._rows: list[Conversation | None] = [None] * rows
        self._queue: deque[Caller] = deque()
        self._parking = Parking(self.limits.parked, self.limits.parked_bytes, self.limits.resume_seconds)
        self._lengths: deque[float] = deque(maxlen=32)  # seconds of past conversations
        self._told_queue = self._drain_until = 0.0
        self.metrics.rows.set(rows)

    @property
    def live(self) -> int:
        """Rows in use."""
        return sum(conversation is not None for conversation in self._rows)

    @property
    def waiting(self) -> int:
        """Callers in the queue."""
        return len(self._queue)

    def _conversation(self, caller: Caller) -> Conversation | None:
        row = caller.work.row
        found = self._rows[row] if row >= 0 else None
        return found if found is not None and found.caller is caller else None

    def _enqueue(self, caller: Caller) -> None:
        if caller.ended is not None:
            return
        if self.draining or self._stopping:
            caller.emit(Ended("stopping", "the server is stopping"))
        elif caller.resume and self._resume(caller):
            return
        elif len(self._queue) >= self.limits.queue and self._blocked():
            self.metrics.refused.labels("queue").inc()
            caller.emit(Ended("busy", f"{len(self._queue)} callers are waiting already: try again later"))
        else:
            self._queue.append(caller)
            self._admit()
            self._tell_queue()

    def _blocked(self) -> str:
        """Why nobody can be let in now: "full", "slow", or "" when somebody can."""
        if not self.engine.free_rows():
            return "full"
        return "" if self.pace.admits(self.live) else "slow"

    def _admit(self) -> None:
        """Give rows to those who wait; one a turn, since joining costs a step's time."""
        while self._queue and self._queue[0].ended is not None:
            self._queue.popleft()
        if not self._queue or self._blocked():
            return
        caller = self._queue.popleft()
        if caller.resume and self._resume(caller):
            self._tell_queue()
            return
        if caller.resume:
            caller.emit(Notice("not_resumed", "that conversation is gone; this is a new one"))
        try:
            row = self.engine.join(sampling=caller.sampling)
        except Exception:
            log.exception("joining failed")
            caller.emit(Ended("failed", "the model failed at the start of this conversation"))
            return
        pad, epad = self.engine.loop.quiet
        self._seat(row, Conversation(caller, TextStream(self.tokenizer, pad, epad)), resumed=False)
        self._tell_queue()

    def _seat(self, row: int, conversation: Conversation, resumed: bool) -> None:
        caller = conversation.caller
        now = time.monotonic()
        with caller.lock:
            caller.work.row, caller.work.credited = row, now
            caller.active = caller.started = now
        self._rows[row] = conversation
        self.metrics.used.set(self.live)
        self.metrics.started.labels(caller.protocol).inc()
        self._listener("resume" if resumed else "begin", caller)
        caller.emit(Started(caller.token, conversation.frame, resumed, caller.sampling.seed))
        log.info(
            "conversation begins",
            extra={"caller": caller.id, "protocol": caller.protocol, "row": row, "resumed": resumed},
        )
        if self.pace.cost > self.frame_seconds:
            caller.emit(
                Notice(
                    "too_slow",
                    f"This machine needs {1000 * self.pace.cost:.0f} ms for {1000 * self.frame_seconds:.0f} ms of "
                    "sound: the conversation can't run in real time",
                )
            )

    def _resume(self, caller: Caller) -> bool:
        """Take up a dropped conversation, or one whose connection is not known to be dead yet."""
        token = caller.resume
        assert token is not None
        for row, conversation in enumerate(self._rows):
            if conversation is not None and compare_digest(conversation.caller.token, token):
                old = conversation.caller
                old.work.row = -1
                old.emit(Ended("taken", "the conversation was taken up on another connection"))
                self._hand_over(old, caller, conversation, row)
                return True
        parked = self._parking.get(token)
        free = self.engine.free_rows()
        if parked is None:
            return False
        if not free:  # its place is at the head of the queue
            self._queue.appendleft(caller)
            self._tell_queue()
            return True
        self._parking.take(token)
        device = self.model.device
        import_row(self.engine, free[0], {name: tensor.to(device) for name, tensor in parked.tensors.items()})
        self._hand_over(parked.conversation.caller, caller, parked.conversation, free[0])
        return True

    def _hand_over(self, old: Caller, new: Caller, conversation: Conversation, row: int) -> None:
        new.token, new.id, new.sampling = old.token, old.id, old.sampling
        new.counters, new.work.script = old.counters, old.work.script
        new.came = old.came
        new.intake.count = conversation.frame
        new.intake.skipped_silent, new.intake.skipped_oldest = conversation.told_skips
        conversation.caller = new
        new.resume = None
        self._seat(row, conversation, resumed=True)

    def _depart(self, caller: Caller, keep: bool) -> None:
        if caller in self._queue:
            self._queue.remove(caller)
            self._tell_queue()
        conversation = self._conversation(caller)
        if conversation is None:
            return
        keep = keep and not self.draining and self.limits.resume_seconds > 0 and self.limits.parked > 0
        if keep:
            row = caller.work.row
            tensors = {name: tensor.cpu() for name, tensor in export_row(self.engine, row).items()}
            gone = self._parking.put(caller.token, Parked(conversation, tensors, time.monotonic()))
            for old in gone:
                self._listener("end", old.conversation.caller, "dropped")
            self.metrics.parked.set(len(self._parking))
        self._free(caller, "dropped" if keep else "bye", ends=not keep)

    def _end(self, caller: Caller, why: Ended) -> None:
        """The server ends a conversation."""
        caller.emit(why)
        if self._conversation(caller) is not None:
            self._free(caller, why.code, ends=True)

    def _free(self, caller: Caller, code: str, ends: bool) -> None:
        row = caller.work.row
        conversation = self._rows[row]
        assert conversation is not None
        self._rows[row] = None
        with caller.lock:
            caller.work.row = -1
            caller.intake.clear()
        self.engine.leave(row)
        self._lengths.append(time.monotonic() - conversation.began)
        self.metrics.used.set(self.live)
        self.metrics.ended.labels(caller.protocol, code).inc()
        counters = caller.counters
        log.info(
            "conversation ends",
            extra={
                "caller": caller.id,
                "protocol": caller.protocol,
                "code": code,
                "frames": counters.heard,
                "late": counters.late,
                "skipped": caller.intake.skipped_silent + caller.intake.skipped_oldest,
                "unsent": counters.unsent,
            },
        )
        if ends:
            self._listener("end", caller, code)
        self._tell_queue()

    def _tell_queue(self) -> None:
        self.metrics.queue.set(len(self._queue))
        reason = self._blocked() or "full"
        for place, caller in enumerate(self._queue, start=1):
            caller.emit(Queued(place, self._expected_wait(place), reason))

    def _expected_wait(self, place: int) -> float | None:
        """Seconds until the caller at this place gets a row, if conversations last as they did; None: no idea."""
        if not self._lengths:
            usual = self.limits.session_seconds
        else:
            usual = sum(self._lengths) / len(self._lengths)
        now = time.monotonic()
        ends = sorted(max(1.0, usual - (now - c.began)) for c in self._rows if c is not None)
        if not ends:
            return None
        rounds, index = divmod(place - 1, len(ends))
        return round(ends[index] + rounds * usual, 1)

    # Housekeeping, four times a second.

    def _keep_house(self, now: float) -> None:
        limits = self.limits
        for conversation in list(self._rows):
            if conversation is None:
                continue
            caller = conversation.caller
            if now - conversation.began > limits.session_seconds:
                self._end(caller, Ended("length", f"the limit is {limits.session_seconds:g} s"))
            elif now - caller.active > limits.idle_seconds:
                self._end(caller, Ended("idle", f"no audio came for {limits.idle_seconds:g} s"))
            elif caller.stalled(now) > limits.stall_seconds and caller.live:
                self._end(caller, Ended("stalled", f"nothing was read for {limits.stall_seconds:g} s"))
        for old in self._parking.expire(now):
            self._listener("end", old.conversation.caller, "dropped")
        self.metrics.parked.set(len(self._parking))
        lag = max((len(c.caller.intake) for c in self._rows if c is not None), default=0)
        self.metrics.lag.set(lag)
        self.pace.idle()
        if self._queue and now - self._told_queue > 2.0:
            self._told_queue = now
            self._tell_queue()
        if self.draining and now > self._drain_until:
            self._end_all(Ended("stopping", "the server is stopping"))

    def _drain(self, seconds: float) -> None:
        self.draining, self.ready = True, False
        self.metrics.ready.set(0)
        self._drain_until = time.monotonic() + seconds
        for caller in self._queue:
            caller.emit(Ended("stopping", "the server is stopping"))
        self._queue.clear()
        for conversation in self._rows:
            if conversation is not None:
                conversation.caller.emit(
                    Notice("stopping", f"the server is stopping: the conversation ends within {seconds:g} s")
                )
        for old in self._parking.clear():
            self._listener("end", old.conversation.caller, "dropped")

    def _end_all(self, why: Ended) -> None:
        for caller in self._queue:
            caller.emit(why)
        self._queue.clear()
        for conversation in list(self._rows):
            if conversation is not None:
                self._end(conversation.caller, why)
        for old in self._parking.clear():
            self._listener("end", old.conversation.caller, "dropped")
