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
from hmac import compare_digest
from typing import Any

import numpy as np
import torch

from ..engine import DuplexEngine, Sampling
from ..engine.snapshot import export_row, import_row
from .caller import Caller, Ended, Notice, Queued, Started, said
from .intake import Frame, Samples
from .limits import Limits
from .metrics import Metrics
from .pace import Pace
from .parking import Parked, Parking
from .words import TextStream

log = logging.getLogger("aizuchi.serve")

BURST = 4.0  # frames that a caller may have heard at once after a stall
FASTER = 1.05  # and then this much faster than real time: clocks differ


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


class Scheduler:
    """Runs a model for many callers.

    Args:
        model: `MoshiForConditionalGeneration`, in eval mode. tokenizer: of its text, or None.
        rows: conversations at once. limits: see there. metrics: None makes their own.
        threads: CPU threads of the model; None leaves torch's choice.
        listener: is called in the engine's thread and must not block.
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
    ):
        self.limits = limits or Limits()
        self.metrics = metrics or Metrics()
        self.engine = DuplexEngine(model, rows)
        self.model, self.tokenizer, self.threads = model, tokenizer, threads
        codec = model.config.audio_encoder_config
        self.frame_size, self.rate = self.engine.frame_size, codec.sampling_rate
        self.frame_seconds = self.frame_size / self.rate
        self.pace = Pace(self.frame_seconds)
        self.ready = False  # warmed up, and neither draining nor broken
        self.draining = False
        self.alive = True  # False when the model can't run
        self._listener = listener or (lambda *_: None)
        self._rows: list[Conversation | None] = [None] * rows
        self._queue: deque[Caller] = deque()
        self._parking = Parking(self.limits.parked, self.limits.parked_bytes, self.limits.resume_seconds)
        self._lengths: deque[float] = deque(maxlen=32)  # seconds of past conversations
        self._commands: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="aizuchi-engine", daemon=True)
        self._told_queue = self._drain_until = self._housekeeping = 0.0
        self._broken = 0  # failures of the scheduler itself, one after the other
        self.metrics.rows.set(rows)

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

    @property
    def live(self) -> int:
        """Rows in use."""
        return sum(conversation is not None for conversation in self._rows)

    @property
    def waiting(self) -> int:
        """Callers in the queue."""
        return len(self._queue)

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
        heard = {}
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
        started = time.monotonic()
        outputs = self._run_engine(torch.from_numpy(wave), active, forced)
        ended = time.monotonic()
        self.pace.stepped(started, ended)
        self.metrics.step.observe(ended - started)
        for conversation in turn:
            row = conversation.caller.work.row
            self._answer(conversation, heard[row], outputs.get(row), ended)

    def _run_engine(
        self, wave: torch.Tensor, active: torch.Tensor, forced: torch.Tensor
    ) -> dict[int, tuple[np.ndarray, int, bool] | None]:
        """Each active row's (samples, text id, valid); None for a row that failed.

        When a step raises, its rows are stepped one by one, so that only those that raise again are lost. (The
        others' codec may then hear that frame twice.)
        """
        device = self.model.device
        masks = [active]
        results: dict[int, tuple[np.ndarray, int, bool] | None] = {}
        force = bool((forced != -2).any())
        while masks:
            mask = masks.pop()
            rows = mask.nonzero()[:, 0].tolist()
            try:
                out = self.engine.step(
                    wave.to(device), mask.to(device), forced=forced.to(device) if force else None
                )
                voice = (
                    np.zeros_like(wave.numpy())
                    if out.waveform is None
                    else out.waveform.float().cpu().numpy()
                )
                text, valid = out.text.tolist(), out.valid.tolist()
            except Exception:
                self.metrics.failures.inc()
                log.exception("a step raised", extra={"rows": rows})
                if len(rows) == 1:
                    results[rows[0]] = None
                else:
                    for row in rows:
                        alone = torch.zeros_like(mask)
                        alone[row] = True
                        masks.append(alone)
                continue
            for row in rows:
                if np.isfinite(voice[row]).all():
                    results[row] = (voice[row].mean(axis=0), text[row], valid[row])
                else:
                    self.metrics.failures.inc()
                    log.error("a row gave NaN", extra={"row": row})
                    results[row] = None
        return results

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

    # Rows and the queue.

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


async def drained(scheduler: Scheduler, seconds: float) -> None:
    """Drain, and wait until nobody is left or the time is over."""
    scheduler.drain(seconds)
    deadline = time.monotonic() + seconds + 1
    await asyncio.sleep(0.05)
    while (scheduler.live or scheduler.waiting) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)


def to_int16(voice: np.ndarray) -> Samples:
    """Float samples, full scale at 1.0, as 16-bit ones, clipped; n / 32768 becomes n again."""
    return np.clip(np.rint(voice * 32768.0), -32768, 32767).astype(np.int16)
