"""What the server allows: every bound on time, memory and number that an operator may want to change."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of a server.

    Args:
        queue: callers that may wait for a row; more are refused.
        idle_seconds: a conversation without any audio from its caller ends after this.
        session_seconds: the longest conversation.
        resume_seconds: how long a dropped conversation can be taken up again.
        parked, parked_bytes: dropped conversations, and bytes of their states, that are kept at most (the oldest
            is given up).
        stall_seconds: a caller that reads nothing for this long is let go.
        message_bytes: the longest message from a caller.
        messages_per_second: of one caller, averaged over two seconds; a caller above it is let go.
        reply_bytes, reply_seconds: the largest file, and the longest audio, that `/v1/reply` takes.
        replies: files that are worked on or wait at the same time.
        drain_seconds: how long running conversations may go on after SIGTERM.
    """

    queue: int = 64
    idle_seconds: float = 60.0
    session_seconds: float = 3600.0
    resume_seconds: float = 60.0
    parked: int = 16
    parked_bytes: int = 8 << 30
    stall_seconds: float = 10.0
    message_bytes: int = 1 << 20
    messages_per_second: float = 400.0
    reply_bytes: int = 64 << 20
    reply_seconds: float = 600.0
    replies: int = 4
    drain_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0 or (
                value == 0 and name not in ("queue", "resume_seconds", "parked", "drain_seconds")
            ):
                raise ValueError(f"`{name}` must be above 0, got {value}.")
