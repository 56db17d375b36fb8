"""The system under test: something that hears a user and gives what it says, on the same clock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
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
    """A dialogue system; `name` tells one system, checkpoint and seed from another.

    One that can hear several users at once may also have `replies(users)`, an iterator of
    (index, reply) in any order; one whose name does not tell all of it, such as its weights, `identity`.
    """

    name: str

    def reply(self, user: np.ndarray) -> Reply:
        """Listen to the user, (samples,) at 24 kHz, and speak."""
        ...


def identity(system: System) -> str:
    """What a recording of this system is kept under: another one asks it anew."""
    return str(getattr(system, "identity", system.name))


def ask(system: System, users: Sequence[np.ndarray]) -> Iterator[tuple[int, Reply]]:
    """Ask a system about several users, all at once if it can; (index, reply) as they come.

    Raises:
        AizuchiError: a reply is malformed.
    """
    replies = getattr(system, "replies", None)
    found = replies(users) if replies else ((i, system.reply(user)) for i, user in enumerate(users))
    for index, reply in found:
        yield index, checked_reply(system.name, users[index], reply)


def checked_reply(name: str, user: np.ndarray, reply: tuple[np.ndarray, Sequence[Word]]) -> Reply:
    """Make a reply's wave as long as the user's: cut, or filled with silence.

    Raises:
        AizuchiError: its wave is no (samples,) of finite numbers.
    """
    wave, words = reply
    wave = np.asarray(wave, dtype=np.float32)
    if wave.ndim != 1 or not np.isfinite(wave).all():
        raise AizuchiError(f"{name} gave a wave of shape {wave.shape}; it must be (samples,) and finite")
    if len(wave) < len(user):
        wave = np.concatenate([wave, np.zeros(len(user) - len(wave), np.float32)])
    wave = np.clip(wave[: len(user)], -1.0, 1.0)
    seconds = len(user) / SAMPLE_RATE
    words = [Word(w.text, w.start, min(w.end, seconds)) for w in words if w.start < seconds]
    return Reply(wave, words)


def open_system(spec: str | None = None, seed: int = 0) -> System:
    """A system by name.

    Args:
        spec: a model's folder or hub name; None for the one that comes with aizuchi; "random" for random
            weights; or "package.module:factory", a callable without arguments that returns a `System`.
        seed: of a model's sampling.

    Raises:
        AizuchiError: there is no such model, or what the factory returns has no `name` and `reply`.
    """
    if spec is None or ":" not in spec or Path(spec).exists():
        from aizuchi.evaluate.model_system import load_model_system

        return load_model_system(spec, seed)
    system = load_factory(spec, "system")()
    if not (hasattr(system, "name") and callable(getattr(system, "reply", None))):
        raise AizuchiError(f"{spec} gives no system: it needs a name and reply(user) -> (wave, words)")
    return system
