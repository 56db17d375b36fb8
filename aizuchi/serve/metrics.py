"""Numbers for Prometheus, in a registry of this server alone."""

from __future__ import annotations

import asyncio
import threading

from ..errors import require

# Every 5 ms up to the deadline and a little beyond, where percentiles are wanted.
_SECONDS = (*(round(0.005 * i, 3) for i in range(1, 25)), 0.15, 0.25, 0.5, 1, 2)


class Metrics:
    """All metrics of a server."""

    def __init__(self) -> None:
        prometheus = require("prometheus_client", extra="serve")
        self._prometheus = prometheus
        self.registry = prometheus.CollectorRegistry()

        def make(kind: str, name: str, text: str, labels: tuple[str, ...] = (), **options: object):
            return getattr(prometheus, kind)(
                f"aizuchi_{name}", text, labels, registry=self.registry, **options
            )

        self.step = make("Histogram", "step_seconds", "time of an engine step", buckets=_SECONDS)
        self.delay = make(
            "Histogram", "frame_delay_seconds", "from a frame's last sample to its answer", buckets=_SECONDS
        )
        self.answer = make(
            "Histogram",
            "answer_seconds",
            "from a frame's last sample received to its answer sent",
            ("protocol",),
            buckets=_SECONDS,
        )
        self.late = make("Counter", "late_frames", "frames answered after more than their own length")
        self.late_steps = make(
            "Counter", "late_steps", "engine steps that ended more than a frame's length after they were due"
        )
        self.frames = make("Counter", "frames", "frames heard")
        self.skipped = make("Counter", "skipped_frames", "frames skipped to hold the delay", ("way", "why"))
        self.rows = make("Gauge", "rows", "conversations that fit")
        self.used = make("Gauge", "rows_used", "conversations that run")
        self.queue = make("Gauge", "queue_callers", "callers that wait")
        self.lag = make("Gauge", "lag_frames", "most frames that wait for the engine, of all callers")
        self.parked = make("Gauge", "parked_conversations", "dropped conversations that can be resumed")
        self.bytes = make("Counter", "bytes", "payload", ("protocol", "direction"))
        self.started = make("Counter", "conversations", "conversations begun", ("protocol",))
        self.ended = make("Counter", "conversations_ended", "conversations ended", ("protocol", "code"))
        self.refused = make("Counter", "refused", "requests refused", ("why",))
        self.failures = make("Counter", "step_failures", "steps that raised or gave NaN")
        self.ready = make("Gauge", "ready", "whether callers are let in")
        self.tasks = make("Gauge", "tasks", "tasks of the event loop")
        self.threads = make("Gauge", "threads", "threads of Python")
        prometheus.ProcessCollector(registry=self.registry)  # memory, processor time, open files

    def text(self) -> tuple[bytes, str]:
        """The exposition, and its content type. Called in the event loop, whose tasks are counted."""
        self.tasks.set(len(asyncio.all_tasks()))
        self.threads.set(threading.active_count())
        return self._prometheus.generate_latest(self.registry), self._prometheus.CONTENT_TYPE_LATEST
