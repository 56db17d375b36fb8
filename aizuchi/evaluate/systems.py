"""The system under test: something that hears a user and gives what it says, on the same clock."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from aizuchi.audio import SAMPLE_RATE
from aizuchi.errors import AizuchiError
from aizuchi.evaluate.synthesize import load_factory
from aizuchi.transcript import Word


class Reply(NamedTuple):
    """What the system says while the user speaks.

    Attributes:
        wave: (samples,) at 24 kHz, starting with the user's recording.
        words: the system's own text with times (the inner monologue), empty if it has none.
    """

    wave: np.ndarray
    words: list[Word]


class System(Protocol):
    """A dialogue system; `name` tells one system, checkpoint and seed from another."""

    name: str

    def reply(self, user: np.ndarray) -> Reply:
        """Listen to the user, (samples,) at 24 kHz, and speak."""
        ...


def checked_reply(system: System, user: np.ndarray) -> Reply:
    """Ask a system, and make its wave as long as the user's: cut, or filled with silence.

    Raises:
        AizuchiError: its wave is no (samples,) of finite numbers.
    """
    wave, words = system.reply(user)
    wave = np.asarray(wave, dtype=np.float32)
    if wave.ndim != 1 or not np.isfinite(wave).all():
        raise AizuchiError(
            f"{system.name} gave a wave of shape {wave.shape}; it must be (samples,) and finite"
        )
    if len(wave) < len(user):
        wave = np.concatenate([wave, np.zeros(len(user) - len(wave), np.float32)])
    wave = np.clip(wave[: len(user)], -1.0, 1.0)
    seconds = len(user) / SAMPLE_RATE
    words = [Word(w.text, w.start, min(w.end, seconds)) for w in words if w.start < seconds]
    return Reply(wave, words)


def open_system(spec: str) -> System:
    """A system from "package.module:factory", a callable without arguments that returns one.

    Raises:
        AizuchiError: it can't be imported, or what it returns has no `name` and `reply`.
    """
    system = load_factory(spec, "system")()
    if not (hasattr(system, "name") and callable(getattr(system, "reply", None))):
        raise AizuchiError(f"{spec} gives no system: it needs a name and reply(user) -> (wave, words)")
    return system
