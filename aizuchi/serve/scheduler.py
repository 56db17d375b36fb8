"""The thread that owns the engine: gives rows to callers, steps when frames wait, and keeps its promises.

Nothing else touches the engine. The event loop reaches the thread through `attach`, `detach` and the callers' own
methods; the thread reaches the event loop through `Caller.emit`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ..engine import Sampling
from .caller import Caller, Ended, said
from .intake import Frame, Samples
from .limits import Limits
from .metrics import Metrics
from .seats import Conversation, Listener, Seats
from .stepping import step_rows, to_int16

log = logging.getLogger("aizuchi.serve")

BURST = 4.0  # frames that a caller may have heard at once after a stall
FASTER = 1.05  # and then this much faster than real time: clocks differ


class Scheduler(Seats):
    """Runs a model for many callers.

    Args:
        model: `MoshiForConditionalGeneration`, in eval mode. tokenizer: of its text, or None.
        rows: conversations at once. limits: see there. metrics: None makes their own.
        threads: CPU threads of the model; None leaves torch's choice.
        listener: is called in the engine's thread and must not block.
        echo: callers hear themselves, after the model's own time; see `echo`.
        engine: options of `DuplexEngine`, such as ``kv`` and ``sinks``.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        rows: int = 1,
        limits: Limits | None = None,
        metrics: Metrics | None = None,
        threads: int | None = None,
        listener: Listener | None = None,
        echo: bool = False,
        engine: dict[str, Any] | None = None,
    ):
        super().__init__(model, tokenizer, rows, limits, metrics, listener, echo, engine)
        self.threads = threads
        self.alive = True  # False when the model can't run
        self._commands: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="aizuchi-engine", daemon=True)
        self._housekeeping = 0.0
        self._broken = 0  # failures of the scheduler itself, one after the other

    # Called from the event loop.

    def start(self) -> None:
        """Start the thread; it warms the model up and then is `ready`."""
        self._thread.start()

    def attach(self, caller: Caller) -> None:
        """Let a caller in: it is given a row now or when one is free, and told which by events."""
        self._do(lambda: self._enqueue(caller))

    def detach(self, caller: Caller, keep: bool) -> None:
        """A caller is gone. ``keep``: the conversation can be resumed for a while."""
        self._do(lambda: self._depart(caller, keep))

    def push(self, caller: Caller, samples: Samples) -> None:
        """Audio of a caller: 16-bit samples at the model's rate, any number."""
        with caller.lock:
            now = time.monotonic()
            caller.active = now
            if caller.work.row < 0:
                return  # still in the queue: nobody listens yet
            if caller.intake.push(samples, now) == 0:
                return
        self._notify()

    def finish(self, caller: Caller) -> None:
        """A file has come to its end: when all of it was heard, the conversation ends."""
        with caller.lock:
            caller.intake.flush(time.monotonic())
            caller.finished_input = True
        self._notify()

    def configure(self, caller: Caller, sampling: Sampling) -> None:
        """Change a caller's settings from its next frame on."""

        def change() -> None:
            caller.sampling = sampling
            if caller.work.row >= 0:
                self.engine.configure(caller.work.row, sampling)

        self._do(change)

    def inject(self, caller: Caller, text: str) -> None:
        """Make the model say a text, from the next frame on."""

        def put() -> None:
            conversation = self._conversation(caller)
            if conversation is not None and len(caller.work.script) < 2000:
                caller.work.script.extend(conversation.text.script(text))

        self._do(put)

    def drain(self, seconds: float) -> None:
        """Let nobody in any more; running conversations are told and end within ``seconds``."""
        self._do(lambda: self._drain(seconds))

    def stop(self) -> None:
        """End everything and wait for the thread."""
        self._do(lambda: self._end_all(Ended("stopping", "the server is stopping")))
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(timeout=30)

    def _do(self, command: Callable[[], None]) -> None:
        with self._wake:
            self._commands.append(command)
            self._wake.notify()

    def _notify(self) -> None:
        with self._wake:
            self._wake.notify()

    # The thread.

    def _run(self) -> None:
        if self.threads:
            torch.set_num_threads(self.threads)
        try:
            self._warm_up()
        except Exception:
            log.exception("the model can't run")
            self._refuse_all()
            return
        self.ready = True
        self.metrics.ready.set(1)
        self._housekeeping = 0.0
        while not self._stopping or self._commands:
            try:
                self._round()
                self._broken = 0
            except Exception:  # a fault of ours: nobody may be left waiting for a thread that is gone
                log.exception("the scheduler failed")
                self._broken += 1
                self._end_all(Ended("failed", "the server failed; its log says why"))
                if self._broken > 5:
                    self._refuse_all()
        self.ready = False

    def _round(self) -> None:
        """Do what was asked for, let somebody in, and step or wait."""
        for command in self._take_commands():
            command()
        now = time.monotonic()
        if now >= self._housekeeping:
            self._housekeeping = now + 0.25
            self._keep_house(now)
        self._admit()
        turn, again = self._turn(time.monotonic())
        if turn and self.pace.due <= time.monotonic():
            self._step(turn)
            return
        until = min(self._housekeeping, again, self.pace.due if turn else self._housekeeping)
        with self._wake:
            if not self._commands and not self._stopping:
                self._wake.wait(max(0.0, until - time.monotonic()))

    def _take_commands(self) -> list[Callable[[], None]]:
        with self._wake:
            commands = list(self._commands)
            self._commands.clear()
        return commands

    def _warm_up(self) -> None:
        """Steps with all rows taken: caches fill, kernels are chosen, and the pace is known before anybody calls."""
        for row in range(self.engine.rows):
            self.engine.join(row)
        silence = torch.zeros(self.engine.rows, self.engine.channels, self.frame_size)
        for i in range(6):
            started = time.monotonic()
            self.engine.step(silence.to(self.model.device))
            if i >= 2:
                self.pace.stepped(started, time.monotonic())
        for row in range(self.engine.rows):
            self.engine.leave(row)
        log.info(
            "warm",
            extra={"rows": self.engine.rows, "step_ms": round(1000 * self.pace.cost, 1)},
        )

    def _refuse_all(self) -> None:
        self.ready = self.alive = False
        self.metrics.ready.set(0)
        while not self._stopping:
            for command in self._take_commands():
                command()
            self._end_all(Ended("failed", "the model can't run on this server; its log says why"))
            with self._wake:
                self._wake.wait(0.25)

    def _turn(self, now: float) -> tuple[list[Conversation], float]:
        """Conversations that have a frame to be heard now, and when the next of the others may."""
        turn, again = [], float("inf")
        for conversation in self._rows:
            if conversation is None:
                continue
            caller, work = conversation.caller, conversation.caller.work
            if not len(caller.intake):
                continue
            if caller.live:
                grown = (now - work.credited) / self.frame_seconds * FASTER
                work.credit, work.credited = min(BURST, work.credit + grown), now
                if work.credit < 1:
                    again = min(again, now + (1 - work.credit) * self.frame_seconds / FASTER)
                    continue
            turn.append(conversation)
        return turn, again

    def _step(self, turn: list[Conversation]) -> None:
        """Hear one frame of each conversation of this turn, and emit what the model says."""
        engine = self.engine
        wave = np.zeros((engine.rows, engine.channels, self.frame_size), np.float32)
        active = torch.zeros(engine.rows, dtype=torch.bool)
        forced = torch.full((engine.rows, engine.loop.said), -2)
        heard: dict[int, Frame] = {}
        for conversation in turn:
            caller, row = conversation.caller, conversation.caller.work.row
            with caller.lock:
                frame = caller.intake.pop()
            caller.work.credit -= 1
            heard[row] = frame
            wave[row] = frame.samples.astype(np.float32) / 32768
            active[row] = True
            if caller.work.script:
                forced[row, 0] = caller.work.script.popleft()
        due = max(self.pace.due, min(frame.came for frame in heard.values()))
        started = time.monotonic()
        outputs = step_rows(engine, torch.from_numpy(wave), active, forced, failed=self.metrics.failures.inc)
        ended = time.monotonic()
        self.pace.stepped(started, ended)
        self.metrics.step.observe(ended - started)
        if ended - due > self.frame_seconds:
            self.metrics.late_steps.inc()
        for conversation in turn:
            row = conversation.caller.work.row
            self._answer(conversation, heard[row], outputs.get(row), ended)

    def _answer(
        self,
        conversation: Conversation,
        heard: Frame,
        result: tuple[np.ndarray, int, bool] | None,
        now: float,
    ) -> None:
        caller = conversation.caller
        if result is None:
            self._end(caller, Ended("failed", "the model failed in this conversation; start a new one"))
            return
        voice, token, valid = result
        samples = to_int16(voice)
        text, begins = conversation.text.feed(token) if valid else ("", False)
        counters = caller.counters
        counters.heard += 1
        counters.delay = now - heard.came
        self.metrics.frames.inc()
        self.metrics.delay.observe(counters.delay)
        if caller.live:  # a frame behind others of a burst can't be answered before them
            delay = now - max(heard.came, conversation.answered)
            self.pace.answered(delay)
            if delay > self.frame_seconds:
                counters.late += 1
                self.metrics.late.inc()
        conversation.answered = now
        if valid:
            counters.said += 1
            caller.emit(
                said(conversation.frame - self.engine.lag, heard, samples, text, begins, counters.delay)
            )
        self._listener("frame", caller, conversation.frame, heard.samples, samples if valid else None, text)
        conversation.frame += 1
        self._count_skips(conversation)
        if not caller.live:
            caller.wake()
            if caller.finished_input and not len(caller.intake):
                self._end(caller, Ended("done", "all was heard"))

    def _count_skips(self, conversation: Conversation) -> None:
        intake = conversation.caller.intake
        silent, oldest = conversation.told_skips
        if (silent, oldest) == (intake.skipped_silent, intake.skipped_oldest):
            return
        self.metrics.skipped.labels("in", "silent").inc(intake.skipped_silent - silent)
        self.metrics.skipped.labels("in", "oldest").inc(intake.skipped_oldest - oldest)
        conversation.told_skips = (intake.skipped_silent, intake.skipped_oldest)


async def drained(scheduler: Scheduler, seconds: float) -> None:
    """Drain, and wait until nobody is left or the time is over."""
    scheduler.drain(seconds)
    deadline = time.monotonic() + seconds + 1
    await asyncio.sleep(0.05)
    while (scheduler.live or scheduler.waiting) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
