"""The user's channel as it is in the world: which effects, how often, how strong.

The defaults are the Moshi paper's (arXiv 2410.00037): gain, noise, and the echo of the model's
own voice. The preset `wide` adds what recordings over phones and browsers have: a room, other people's
voices, narrow bands, Opus, clipping, a noise gate.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aizuchi.audio import FloatArray, read_audio
from aizuchi.data import effects
from aizuchi.errors import AizuchiError, require

Range = tuple[float, float]

_AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".mp3", ".opus"}


@dataclass(frozen=True, kw_only=True)
class UserAugment:
    """Probabilities (`*_p`) and ranges of the effects on the user's channel.

    Calling it draws and applies them in the order in which they happen on the way: room, gain, echo, noise,
    babble, clipping, band limit, gate, Opus; last, full scale cuts off what is beyond it. Each effect draws
    from a stream of its own, so that switching one on or off leaves the others as they were.

    Attributes:
        gain_p, gain_db: louder or softer.
        noise_p, noise_db: level of the noise relative to the speech (an SNR of 30 to -6 dB).
        noise_section, noise_silent: longest section in seconds, and the share of silent ones.
        noise_files: sound files, or folders of them; synthetic noise if there are none.
        echo_p, echo_scale, echo_delay: of the model's own voice; delay in seconds.
        echo_room_p: how often the echo comes through a room.
        room_p, room_rt60, room_direct_db: the room around the user (and of the echo).
        babble_p, babble_db, babble_talkers, voice_files: other people talking.
        clip_p, clip_db: peaks cut off this far below the highest.
        band_p, band_rates: the device's sample rate.
        gate_p: exact silence in the pauses.
        opus_p, opus_kbps: a call's codec.
    """

    gain_p: float = 0.5
    gain_db: Range = (-24.0, 15.0)
    noise_p: float = 0.3
    noise_db: Range = (-30.0, 6.0)
    noise_section: float = 30.0
    noise_silent: float = 0.5
    noise_files: tuple[str, ...] = ()
    echo_p: float = 0.3
    echo_scale: Range = (0.0, 0.2)
    echo_delay: Range = (0.1, 0.5)
    echo_room_p: float = 1.0
    room_p: float = 0.0
    room_rt60: Range = (0.15, 0.7)
    room_direct_db: Range = (0.0, 15.0)
    babble_p: float = 0.0
    babble_db: Range = (-30.0, -5.0)
    babble_talkers: tuple[int, int] = (3, 6)
    voice_files: tuple[str, ...] = ()
    clip_p: float = 0.0
    clip_db: Range = (1.0, 12.0)
    band_p: float = 0.0
    band_rates: tuple[int, ...] = (8_000, 16_000)
    gate_p: float = 0.0
    opus_p: float = 0.0
    opus_kbps: Range = (12.0, 32.0)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):  # as YAML and JSON give them
                object.__setattr__(self, field.name, value := tuple(value))
            if field.name.endswith("_p") or field.name == "noise_silent":
                if not _is_number(value) or not 0 <= value <= 1:
                    raise AizuchiError(f"{field.name} is {value!r}; it must be a probability, 0 to 1")
            elif isinstance(field.default, tuple) and len(field.default) == 2 and field.name != "band_rates":
                good = isinstance(value, tuple) and len(value) == 2 and all(map(_is_number, value))
                if not good or value[0] > value[1]:
                    raise AizuchiError(f"{field.name} is {value!r}; it must be two numbers, low and high")
        if not self.noise_section > 0:
            raise AizuchiError(f"noise_section is {self.noise_section!r}; it must be above 0 seconds")
        if not self.band_rates or any(rate < 1000 for rate in self.band_rates):
            raise AizuchiError(f"band_rates is {self.band_rates!r}; give sample rates, 1000 or more")
        if self.room_rt60[0] <= 0 or self.echo_delay[0] < 0 or self.babble_talkers[0] < 1:
            raise AizuchiError("room_rt60 must be above 0, echo_delay not below 0, babble_talkers at least 1")
        if self.babble_p > 0 and not self.voice_files:
            raise AizuchiError("babble_p is above 0 and voice_files is empty: name recordings of speech")

    @classmethod
    def from_config(cls, config: str | os.PathLike[str] | Mapping[str, Any]) -> UserAugment:
        """From the name of a preset (`paper`, `wide`), a YAML or JSON file, or a mapping of the fields.

        In a file or mapping, `preset` names the values to start from (by default `paper`).

        Raises:
            AizuchiError: an unknown preset or field, a wrong value, an unreadable file.
        """
        if isinstance(config, Mapping):
            values = dict(config)
        elif str(config) in PRESETS:
            values = {"preset": str(config)}
        else:
            values = _read_config(Path(config))
        preset = values.pop("preset", "paper")
        if preset not in PRESETS:
            raise AizuchiError(f"preset {preset!r} is unknown; there are {', '.join(PRESETS)}")
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise AizuchiError(
                f"augmentation has no field {unknown[0]!r}; fields are {', '.join(sorted(known))}"
            )
        return cls(**{**PRESETS[preset], **values})

    def __call__(
        self,
        user: FloatArray,
        model: FloatArray,
        rng: np.random.Generator,
        applied: list[str] | None = None,
    ) -> FloatArray:
        """Augment one dialogue's user channel.

        Args:
            user, model: (samples,) of one length, at 24 kHz; they are not changed.
            rng: draws everything; the same state gives the same result.
            applied: if given, receives a word on each effect that was applied.

        Returns:
            (samples,) float32 within full scale.
        """
        if user.ndim != 1 or user.shape != model.shape:
            raise AizuchiError(f"user {user.shape} and model {model.shape} must be (samples,), equally long")
        wave = user.astype(np.float32)
        steps: dict[str, Callable[[FloatArray, np.random.Generator], tuple[FloatArray, str]]] = {
            "room": self._room,
            "gain": self._gain,
            "echo": lambda w, r: self._echo(w, model, r),
            "noise": lambda w, r: self._noise(w, level, r),
            "babble": lambda w, r: self._babble(w, level, r),
            "clip": self._clip,
            "band": self._band,
            "gate": lambda w, r: (effects.mute_pauses(w), "gate"),
            "opus": self._opus,
        }
        level = 0.0
        for (name, step), stream in zip(steps.items(), rng.spawn(len(steps))):
            if name == "echo":  # from here on things are added: their level is relative to the voice alone
                level = effects.speech_level(wave)
            if stream.random() < getattr(self, f"{name}_p"):
                wave, what = step(wave, stream)
                if applied is not None:
                    applied.append(what)
        return np.clip(wave, -1.0, 1.0)

    def _gain(self, wave: FloatArray, rng: np.random.Generator) -> tuple[FloatArray, str]:
        db = rng.uniform(*self.gain_db)
        return effects.gain(wave, db), f"gain {db:+.1f} dB"

    def _noise(self, wave: FloatArray, level: float, rng: np.random.Generator) -> tuple[FloatArray, str]:
        db = rng.uniform(*self.noise_db)
        recordings = [_load(f) for f in _files(self.noise_files)]
        track = effects.noise_track(len(wave), rng, recordings, self.noise_section, self.noise_silent)
        return effects.mix(wave, track, db, level), f"noise {db:+.1f} dB"

    def _echo(self, wave: FloatArray, model: FloatArray, rng: np.random.Generator) -> tuple[FloatArray, str]:
        scale, seconds = rng.uniform(*self.echo_scale), rng.uniform(*self.echo_delay)
        response = self._response(rng) if rng.random() < self.echo_room_p else None
        return effects.echo(wave, model, scale, seconds, response), f"echo {scale:.2f} after {seconds:.2f} s"

    def _room(self, wave: FloatArray, rng: np.random.Generator) -> tuple[FloatArray, str]:
        return effects.convolve(wave, self._response(rng)), "room"

    def _response(self, rng: np.random.Generator) -> FloatArray:
        return effects.room_response(rng.uniform(*self.room_rt60), rng.uniform(*self.room_direct_db), rng)

    def _babble(self, wave: FloatArray, level: float, rng: np.random.Generator) -> tuple[FloatArray, str]:
        db = rng.uniform(*self.babble_db)
        talkers = int(rng.integers(self.babble_talkers[0], self.babble_talkers[1] + 1))
        voices = [_load(f) for f in _files(self.voice_files)]
        track = effects.babble(len(wave), voices, rng, talkers)
        return effects.mix(wave, track, db, level), f"babble of {talkers} {db:+.1f} dB"

    def _clip(self, wave: FloatArray, rng: np.random.Generator) -> tuple[FloatArray, str]:
        db = rng.uniform(*self.clip_db)
        return effects.clip(wave, db), f"clip {db:.1f} dB"

    def _band(self, wave: FloatArray, rng: np.random.Generator) -> tuple[FloatArray, str]:
        rate = int(self.band_rates[int(rng.integers(len(self.band_rates)))])
        return effects.band_limit(wave, rate), f"band {rate} Hz"

    def _opus(self, wave: FloatArray, rng: np.random.Generator) -> tuple[FloatArray, str]:
        kbps = rng.uniform(*self.opus_kbps)
        return effects.opus(wave, kbps), f"opus {kbps:.0f} kbit/s"


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "wide": {
        "noise_p": 0.4,
        "noise_db": (-30.0, -5.0),
        "echo_scale": (0.01, 0.1),  # -40 to -20 dB
        "room_p": 0.4,
        "clip_p": 0.1,
        "band_p": 0.2,
        "gate_p": 0.15,
        "opus_p": 0.3,
    },
}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        names = ", ".join(PRESETS)
        raise AizuchiError(
            f"augmentation {path} is neither a preset ({names}) nor a file: {error}"
        ) from error
    if path.suffix == ".json":
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise AizuchiError(f"{path}:{error.lineno}: malformed JSON ({error.msg})") from error
    else:
        yaml = require("yaml", extra="data")
        try:
            values = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise AizuchiError(f"{path}: malformed YAML ({error})") from error
    if not isinstance(values, dict):
        raise AizuchiError(f"{path} must hold the fields of the augmentation, name: value")
    return values


@functools.lru_cache(maxsize=16)
def _files(names: tuple[str, ...]) -> tuple[str, ...]:
    """The sound files that the names stand for; a folder stands for all in it."""
    found: list[str] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in _AUDIO_SUFFIXES)
            if not inside:
                raise AizuchiError(f"{path} holds no sound files")
            found += map(str, inside)
        else:
            found.append(name)
    return tuple(found)


@functools.lru_cache(maxsize=256)
def _load(file: str) -> FloatArray:
    return read_audio(file)[0]
