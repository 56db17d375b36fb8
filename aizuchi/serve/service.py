"""What the protocols share: the scheduler, the model's description, and the rules of the house."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .. import __version__
from ..engine import Sampling
from .caller import Caller
from .intake import LagPolicy
from .limits import Limits
from .metrics import Metrics
from .scheduler import Scheduler
from .security import Doors
from .settings import as_dict


@dataclass
class Service:
    """A running server, as protocols and the page see it.

    Args:
        name, description: of the model. random: it has random weights. recording: the operator records.
        sampling: settings of callers that ask for none; their seed is drawn anew each time.
    """

    scheduler: Scheduler
    doors: Doors
    name: str
    description: str = ""
    random: bool = False
    recording: bool = False
    sampling: Sampling = field(default_factory=Sampling)
    policy: LagPolicy = field(default_factory=LagPolicy)

    @property
    def limits(self) -> Limits:
        """Bounds of this server."""
        return self.scheduler.limits

    @property
    def metrics(self) -> Metrics:
        """Numbers of this server."""
        return self.scheduler.metrics

    def caller(self, sampling: Sampling, protocol: str, resume: str | None = None) -> Caller:
        """A new live caller, not attached yet."""
        return Caller(sampling, protocol, self.scheduler.frame_size, self.policy, resume)

    def info(self) -> dict[str, Any]:
        """What a client may want to know before it calls."""
        scheduler, limits = self.scheduler, self.limits
        return {
            "name": "aizuchi",
            "version": __version__,
            "model": {
                "name": self.name,
                "description": self.description,
                "random": self.random,
                "text": scheduler.tokenizer is not None,
            },
            "audio": {
                "rate": scheduler.rate,
                "frame": scheduler.frame_size,
                "format": "s16le",
                "channels": 1,
            },
            "settings": {k: v for k, v in as_dict(self.sampling).items() if k != "seed"},
            "limits": {
                "session_seconds": limits.session_seconds,
                "idle_seconds": limits.idle_seconds,
                "resume_seconds": limits.resume_seconds,
                "message_bytes": limits.message_bytes,
                "reply_seconds": limits.reply_seconds,
            },
            "recording": self.recording,
            "echo": scheduler.echo,
            "keys": bool(self.doors.keys),
            "synthetic_voice": True,
            "ready": scheduler.ready,
            "rows": {"all": scheduler.engine.rows, "used": scheduler.live, "queue": scheduler.waiting},
            "step_ms": round(1000 * scheduler.pace.cost, 1),
            "real_time": scheduler.pace.cost < scheduler.frame_seconds,
        }
