"""What a caller said and the engine has not heard yet, and what is done when that grows.

Audio comes in pieces of any length and leaves in whole frames. The engine hears frames as fast as it can, so a
burst after a stall of the network is usually heard in full. Where frames still pile up (a caller that sends faster
than real time, a machine that can't keep up), delay must not grow, so frames are skipped: above ``soft`` waiting
frames the silent ones, oldest first, and above ``hard`` the oldest whatever they hold. Both are counted.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.int16]


@dataclass(frozen=True)
class LagPolicy:
    """When frames are skipped.

    Args:
        soft: waiting frames above which silent ones are skipped.
        hard: waiting frames above which the oldest is skipped.
        silence_db: a frame whose level (RMS) lies below this many dB of full scale is silent.
    """

    soft: int = 4
    hard: int = 12
    silence_db: float = -45.0

    def __post_init__(self) -> None:
        if not 1 <= self.soft <= self.hard:
            raise ValueError(f"`soft` and `hard` must be 1 <= soft <= hard, got {self.soft} and {self.hard}.")


def level_db(samples: Samples) -> float:
    """The RMS of 16-bit samples in dB of full scale; -100 for digital silence."""
    power = float(np.mean(np.square(samples, dtype=np.float32))) / 2**30
    return max(-100.0, 10 * np.log10(power)) if power > 0 else -100.0


@dataclass(slots=True)
class Frame:
    """A frame of the caller: 16-bit samples, when its last sample came (monotonic seconds), its number among all
    that came, and whether it is silent."""

    samples: Samples
    came: float
    number: int
    silent: bool


class Intake:
    """Frames of one caller that wait for the engine. Not thread-safe: its owner holds a lock.

    Args:
        size: samples of a frame. policy: when frames are skipped; None keeps all (the owner bounds what it pushes).
    """

    def __init__(self, size: int, policy: LagPolicy | None):
        self.size, self.policy = size, policy
        self.frames: deque[Frame] = deque()
        self._rest = np.zeros(0, np.int16)
        self.received = 0  # samples
        self.count = 0  # frames that came, skipped ones included
        self.skipped_silent = 0  # frames
        self.skipped_oldest = 0

    def __len__(self) -> int:
        return len(self.frames)

    def push(self, samples: Samples, now: float) -> int:
        """Take samples of any number; returns how many frames became complete."""
        self.received += len(samples)
        joined = np.concatenate([self._rest, samples]) if len(self._rest) else samples
        whole = len(joined) // self.size
        for i in range(whole):
            frame = joined[i * self.size : (i + 1) * self.size]
            silent = self.policy is not None and level_db(frame) < self.policy.silence_db
            self.frames.append(Frame(frame, now, self.count, silent))
            self.count += 1
            self._trim()
        self._rest = joined[whole * self.size :].copy()
        return whole

    def flush(self, now: float) -> int:
        """Complete a begun frame with silence; returns how many samples were begun."""
        begun = len(self._rest)
        if begun:
            self.push(np.zeros(self.size - begun, np.int16), now)
        return begun

    def clear(self) -> None:
        """Forget what waits."""
        self.frames.clear()
        self._rest = np.zeros(0, np.int16)

    def pop(self) -> Frame:
        """The oldest frame."""
        return self.frames.popleft()

    def _trim(self) -> None:
        policy = self.policy
        if policy is None or len(self.frames) <= policy.soft:
            return
        for i, frame in enumerate(self.frames):
            if frame.silent:
                del self.frames[i]
                self.skipped_silent += 1
                return
        if len(self.frames) > policy.hard:
            self.frames.popleft()
            self.skipped_oldest += 1
