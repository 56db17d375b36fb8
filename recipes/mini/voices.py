"""Voices by name, which of them training may hear, and how to get one.

Names are "engine:speaker": "hibari:heart", "kokoro:af_bella", "kokoro:af_bella.40+am_adam.60" (a mix of style
vectors, weights in per cent), "flite:rms", "pico:en-US", "festival:slt". Asking for a held-out voice, or for a
mix that holds one, without `held_out=True` is an error, so that no training stage can use one by mistake.
"""

from __future__ import annotations

import functools
import random
import re
from typing import Protocol

from aizuchi.errors import AizuchiError
from recipes.mini.timing import Spoken

ASSISTANT = "hibari:heart"  # the model's own voice, at speed 1 and never resampled, see `get_assistant`

_KOKORO = (
    "af_alloy af_aoede af_bella af_heart af_jessica af_kore af_nicole af_nova af_river af_sarah af_sky am_adam "
    "am_echo am_eric am_fenrir am_liam am_michael am_onyx am_puck am_santa bf_alice bf_emma bf_isabella bf_lily "
    "bm_daniel bm_fable bm_george bm_lewis"
).split()
ALL_VOICES: tuple[str, ...] = (
    ASSISTANT,
    *(f"kokoro:{name}" for name in _KOKORO),
    *("flite:rms", "flite:slt", "flite:kal16", "flite:awb", "pico:en-US", "pico:en-GB", "festival:slt"),
)
# Heard by no training, alone or in a mix; they speak the held-out questions.
HELD_OUT: frozenset[str] = frozenset(
    {"kokoro:af_nova", "kokoro:am_liam", "kokoro:bf_emma", "kokoro:bm_george", "flite:awb", "pico:en-GB"}
)
# Kept from users' turns although training may hear it: the assistant's own voice in another engine.
_NOT_A_USER = {"kokoro:af_heart"}
# Resampling that turns hibari into other speakers than the assistant.
HIBARI_FACTORS = ((0.75, 0.93), (1.07, 1.15))
OTHER_FACTORS = (0.85, 1.15)

_MIX = re.compile(r"([a-z]{2}_[a-z]+)\.(\d{1,2})")


class HeldOutVoiceError(AizuchiError):
    """A held-out voice was asked for where training would hear it."""


class Engine(Protocol):
    """Something that speaks: one speaker of one engine."""

    def speak(self, text: str, speed: float = 1.0) -> Spoken:
        """Synthesise `text`, silences trimmed; `speed` 0.5 to 2 is the pace (festival keeps its own).

        The same call gives the same audio, but for Pico's noise.
        """
        ...


def parts_of(name: str) -> dict[str, float]:
    """Plain voices that `name` is made of, with their weights: itself, or the parts of a mix.

    Raises AizuchiError for a name that is no voice.
    """
    if name in ALL_VOICES:
        return {name: 1.0}
    engine, _, speaker = name.partition(":")
    pieces = speaker.split("+")
    matches = [_MIX.fullmatch(piece) for piece in pieces]
    if engine == "kokoro" and len(pieces) > 1 and all(matches):
        parts = {f"kokoro:{m[1]}": int(m[2]) / 100 for m in matches if m}
        if set(parts) <= set(ALL_VOICES) and abs(sum(parts.values()) - 1) < 1e-6:
            return parts
    raise AizuchiError(
        f"voice {name!r} is none of {', '.join(ALL_VOICES)}, nor a mix like kokoro:af_sky.40+am_adam.60"
    )


def is_held_out(name: str) -> bool:
    """Whether `name` is a held-out voice or a mix with one in it."""
    return bool(HELD_OUT & set(parts_of(name)))


def training_voices(engine: str | None = None) -> tuple[str, ...]:
    """Plain voices that users of training dialogues may have, of one engine or of all."""
    names = (v for v in ALL_VOICES if v not in HELD_OUT and v not in _NOT_A_USER)
    return tuple(v for v in names if engine in (None, v.split(":")[0]))


def draw_mix(rng: random.Random) -> str:
    """A new Kokoro speaker from two training voices, weights 35 to 65 per cent."""
    first, second = sorted(v.split(":")[1] for v in rng.sample(training_voices("kokoro"), 2))
    weight = rng.randint(35, 65)
    return f"kokoro:{first}.{weight}+{second}.{100 - weight}"


def draw_factor(rng: random.Random, voice: str) -> float:
    """A resampling factor for a user with `voice`; hibari's never lies near 1, where it is the assistant."""
    if voice == ASSISTANT:
        low, high = rng.choice(HIBARI_FACTORS)
        return round(rng.uniform(low, high), 3)
    return round(rng.uniform(*OTHER_FACTORS), 3) if rng.random() < 0.7 else 1.0


def check_user(voice: str, factor: float) -> None:
    """Raise unless a training dialogue may have this user: no held-out voice, not the assistant's own."""
    if is_held_out(voice):
        raise HeldOutVoiceError(f"voice {voice} is held out: no training may hear it")
    if voice == ASSISTANT and not any(low <= factor <= high for low, high in HIBARI_FACTORS):
        raise AizuchiError(
            f"voice {voice} at factor {factor} is the assistant's; resample it by {HIBARI_FACTORS}"
        )


def get_voice(name: str, held_out: bool = False) -> Engine:
    """The engine that speaks as `name`, loaded once a process.

    Args:
        name: a voice or a mix.
        held_out: allow held-out voices; for the question set and evaluation only.

    Raises:
        HeldOutVoiceError: the voice is held out and `held_out` is False.
        AizuchiError: no such voice, or its engine is not installed (the message says how to get it).
    """
    if is_held_out(name) and not held_out:
        raise HeldOutVoiceError(
            f"voice {name} is held out: it may speak questions of an evaluation (held_out=True), never training data"
        )
    return _load(name)


@functools.lru_cache(maxsize=1)
def get_assistant() -> Engine:
    """The model's own voice, whose clips begin on a frame of the codec and must be placed on one.

    Raises AizuchiError if its engine is not installed.
    """
    from recipes.mini.answers import stock_lines
    from recipes.mini.assistant import AssistantVoice

    return AssistantVoice(stock_lines())


@functools.lru_cache(maxsize=64)
def _load(name: str) -> Engine:
    engine, _, speaker = name.partition(":")
    if engine in ("hibari", "kokoro"):
        from recipes.mini import neural_engines

        if engine == "hibari":
            return neural_engines.HibariVoice()
        # what is evaluated must not hang on how a CPU rounds
        return neural_engines.KokoroVoice(
            {k.split(":")[1]: w for k, w in parts_of(name).items()}, exact=is_held_out(name)
        )
    from recipes.mini import classic_engines

    return classic_engines.ENGINES[engine](speaker)
