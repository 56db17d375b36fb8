"""When the engine may step: as soon as somebody has said a frame, and never so often that it has no air left.

One step serves every row that has a frame, at about the same cost as one row's. Callers are out of phase, so
stepping for each frame at once would run N steps in 80 ms, and one step in 80 ms would let a frame wait up to
80 ms. Here a step starts when a frame waits, but its start lies at least ``cost / share`` after the one before (at
most a frame's length): a lone caller never waits, and with many the engine is busy for ``share`` of the time and a
frame waits less than two steps. Starts are reckoned from when a step was due, so that waiting too long
once does not shift the clock.
"""

from __future__ import annotations


class Pace:
    """The engine's clock.

    Args:
        frame: seconds of a frame. share: of the time that the engine may be busy.
    """

    def __init__(self, frame: float = 0.08, share: float = 0.7):
        self.frame, self.share = frame, share
        self.cost = 0.0  # seconds of a step, a moving average
        self.peak = 0.0  # seconds of the slower steps: rises at once, falls slowly
        self.delay = 0.0  # seconds from a frame's arrival to its answer, like peak
        self._due = 0.0

    @property
    def interval(self) -> float:
        """The shortest time between the starts of two steps."""
        return min(self.frame, self.cost / self.share)

    @property
    def due(self) -> float:
        """When the next step may start (monotonic seconds)."""
        return self._due

    def stepped(self, started: float, ended: float) -> None:
        """Count a step."""
        cost = ended - started
        self.cost = cost if self.cost == 0 else self.cost + 0.1 * (cost - self.cost)
        self.peak = max(cost, self.peak + 0.02 * (cost - self.peak))
        # Up to one interval late the clock keeps its phase; later than that it starts anew.
        base = self._due if 0 <= started - self._due < self.interval else started
        self._due = base + self.interval

    def answered(self, delay: float) -> None:
        """Count a frame that was answered this many seconds after it came."""
        self.delay = max(delay, self.delay + 0.02 * (delay - self.delay))

    def admits(self, live: int) -> bool:
        """Whether another conversation fits beside ``live`` ones before frames come late.

        The first one is always let in: it can only be slow by itself.
        """
        return live == 0 or (self.peak < 0.8 * self.frame and self.delay < self.frame)

    def idle(self) -> None:
        """Nobody waits: what was slow a while ago says less and less. To be called about four times a second."""
        self.delay *= 0.8
        self.peak += 0.1 * (self.cost - self.peak)
