"""Numbers for Prometheus, in a registry of this server alone."""

from __future__ import annotations

from ..errors import require

_STEP = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.1, 0.15, 0.25, 0.5, 1, 2)


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

        self.step = make("Histogram", "step_seconds", "time of an engine step", buckets=_STEP)
        self.delay = make(
            "Histogram", "frame_delay_seconds", "from a frame's last sample to its answer", buckets=_STEP
        )
        self.late = make("Counter", "late_frames", "frames answered after more than their own length")
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

    def text(self) -> tuple[bytes, str]:
        """The exposition, and its content type."""
        return self._prometheus.generate_latest(self.registry), self._prometheus.CONTENT_TYPE_LATEST
