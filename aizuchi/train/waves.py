"""Waveforms for a codec: random crops of sound files, or whatever a function of yours makes.

A *wave source* is an object with

    draw(position: int, samples: int, generator: numpy.random.Generator) -> wave, (wave, labels), or a `WaveRow`

Each process means over the rows that it decodes, so with rows that are not several processes are not one to the last
digit; where none is to be decoded, all are.
What comes at a position has to depend on the arguments alone; so a resumed run sees what an unbroken one sees.
"""

from __future__ import annotations

import importlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from aizuchi.audio import SAMPLE_RATE, FloatArray, read_audio
from aizuchi.errors import AizuchiError

from .order import item_at, keyed_generator

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")
VALIDATION = 1 << 40  # a source's positions from here on are for validation
_FRAME = 1920


class WaveRow(NamedTuple):
    """What a wave source gives.

    Attributes:
        wave: (samples,) float32 at 24 kHz.
        labels: one integer a frame, -1 where none is known; every row has them, or none.
        decoded: False for a row that teaches the semantic codebook alone, at a third of the cost: so a codec that
            speaks with one voice learns to hear many.
        codes: (K, samples / 1920) integers that the row is decoded from, for a decoder (``train: decoder``) that has
            to know another encoder's codes beside its own; its gain then stays as it is, which codes tell too. None:
            its own codes.
        phase: whether codes can tell the waveform, period by period; a row of which they tell the spectrum alone is
            left out of the loss ``complex``, which would ask for less sound there.
        target: (samples,) float32, what is to come out, where that is not what goes in.
    """

    wave: Any
    labels: Any = None
    decoded: bool = True
    codes: Any = None
    phase: bool = True
    target: Any = None


class WaveSource(Protocol):
    """See the module's text."""

    def draw(self, position: int, samples: int, generator: np.random.Generator) -> Any: ...


@dataclass
class WaveBatch:
    """wave: (B, 1, S). labels: (B, S / 1920) int64, -1 = unknown; None without labels. decoded: (B,) bool, rows that
    are decoded, one at least; None for all. codes: (B, K, S / 1920) int64 that rows are decoded from, -1 in those that
    bring none; None if no row brings any. phase: (B,) bool, see `WaveRow`; None for all. target: (B, 1, S), what is
    to come out; None for the wave.
    """

    wave: Tensor
    labels: Tensor | None = None
    decoded: Tensor | None = None
    codes: Tensor | None = None
    phase: Tensor | None = None
    target: Tensor | None = None

    @property
    def decoded_wave(self) -> Tensor:
        """(D, 1, S): what is to come out of the rows that are decoded."""
        wave = self.wave if self.target is None else self.target
        return wave if self.decoded is None else wave[self.decoded]

    @property
    def decoded_phase(self) -> Tensor | None:
        """(D,) bool: `phase` of the rows that are decoded; None for all."""
        return self.phase if self.phase is None or self.decoded is None else self.phase[self.decoded]

    def to(self, device: torch.device) -> WaveBatch:
        """The batch on a device."""
        rest = (self.labels, self.decoded, self.codes, self.phase, self.target)
        return WaveBatch(self.wave.to(device), *(None if x is None else x.to(device) for x in rest))


class FileWaves:
    """Random crops of sound files; every file comes once for each piece of ``seconds`` that it holds.

    A JSON file beside a sound file may hold ``{"phones": [["k", [0.10, 0.16]], ...]}``: frame labels, if every file
    has them. Class 0 is silence.

    ``speed``: a crop is played faster or slower, and so higher or lower, by a factor from this range.
    """

    def __init__(
        self,
        files: Sequence[Path],
        seconds: float,
        seed: int,
        cache_hours: float = 2.0,
        phones: list[str] | None = None,
        speed: Sequence[float] = (1.0, 1.0),
    ):
        self.files, self.seed = list(files), seed
        self.speed = speed
        durations = []
        for path in self.files:
            try:
                info = soundfile.info(str(path))
            except (soundfile.LibsndfileError, TypeError) as error:
                raise AizuchiError(f"{path} is not a sound file that can be read ({error})") from error
            durations.append(info.frames / info.samplerate)
        self.hours = sum(durations) / 3600
        counts = [max(1, math.ceil(d / seconds - 1e-6)) for d in durations]
        self.index = np.repeat(np.arange(len(files)), counts)
        self._cache: dict[int, np.ndarray] | None = {} if self.hours <= cache_hours else None
        self.phones = phones
        self._labels: dict[int, list[tuple[str, float, float]]] = {}

    def draw(self, position: int, samples: int, generator: np.random.Generator) -> Any:
        """A crop; a file that is shorter is filled up with silence, at a random place in it."""
        if position >= VALIDATION:
            which = (position - VALIDATION) % len(self.files)
        else:
            which = int(self.index[item_at(position, len(self.index), self.seed)])
        wave = self._read(which)
        factor = 1.0
        if position < VALIDATION and tuple(self.speed) != (1.0, 1.0):
            factor = float(generator.uniform(self.speed[0], self.speed[1]))
        length = round(samples * factor)
        room = len(wave) - length
        start = int(generator.integers(0, abs(room) + 1)) * (1 if room >= 0 else -1)
        if position >= VALIDATION:
            start = 0
        piece = np.zeros(length, np.float32)
        source = wave[max(0, start) : max(0, start + length)]
        piece[max(0, -start) : max(0, -start) + len(source)] = source
        if factor != 1.0:
            piece = soxr.resample(piece, SAMPLE_RATE * factor, SAMPLE_RATE)[:samples]
            piece = np.pad(piece, (0, samples - len(piece)))
        if self.phones is None:
            return piece
        return piece, self.frame_labels(which, start / SAMPLE_RATE, samples // _FRAME, factor)

    def frame_labels(self, which: int, start: float, frames: int, factor: float = 1.0) -> np.ndarray:
        """The phone at each frame's middle, as a class, 0 where there is none; frames are ``factor`` times as long."""
        if which not in self._labels:
            self._labels[which] = read_phones(self.files[which])
        middles = start + (np.arange(frames) + 0.5) * _FRAME * factor / SAMPLE_RATE
        labels = np.zeros(frames, np.int64)
        for phone, begin, end in self._labels[which]:
            inside = (middles >= begin) & (middles < end)
            # a phone that training never had is unknown, not silence
            labels[inside] = self.phones.index(phone) + 1 if phone in (self.phones or ()) else -1
        return labels

    def _read(self, which: int) -> FloatArray:
        if self._cache is None:
            return read_audio(self.files[which])[0]
        if which not in self._cache:
            wave = read_audio(self.files[which])[0]
            self._cache[which] = np.clip(np.round(wave * 32767), -32768, 32767).astype(np.int16)
        return (self._cache[which] / 32767).astype(np.float32)


def find_files(text: str) -> list[Path]:
    """Sound files of folders, lists and single files, with commas between.

    Raises:
        AizuchiError: something does not exist, or nothing is found.
    """
    found: list[Path] = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        path = Path(part)
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
        elif path.suffix.lower() in SUFFIXES and path.exists():
            found.append(path)
        elif path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            listed = [path.parent / line.strip() for line in lines if line.strip()]
            missing = [p for p in listed if not p.is_file()]
            if missing:
                raise AizuchiError(f"{path}: {missing[0]} does not exist")
            found += listed
        else:
            raise AizuchiError(f"data: {part} does not exist")
    if not found:
        raise AizuchiError(f"data: {text!r} holds no sound file ({', '.join(SUFFIXES)})")
    return found


def read_phones(audio: str | os.PathLike[str]) -> list[tuple[str, float, float]]:
    """The phones of the JSON beside a sound file: (phone, start, end) in seconds."""
    path = Path(audio).with_suffix(".json")
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["phones"]
        return [(str(phone), float(start), float(end)) for phone, (start, end) in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AizuchiError(
            f'{path}: expected {{"phones": [["k", [0.1, 0.16]], ...]}} for semantic.teacher: labels ({error!r})'
        ) from error


def phone_inventory(files: Sequence[Path]) -> list[str]:
    """All phones of some files, sorted."""
    return sorted({phone for path in files for phone, _, _ in read_phones(path)})


def load_object(name: str, what: str) -> Any:
    """Import ``package.module:attribute``."""
    module, colon, attribute = name.partition(":")
    try:
        if not colon:
            raise ImportError("expected package.module:function")
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise AizuchiError(f"{what}: can't import {name!r} ({error})") from error


class WaveSteps(torch.utils.data.Dataset):
    """Steps by number: this process's rows of step n."""

    def __init__(
        self,
        source: WaveSource,
        batch_size: int,
        samples: int,
        gain_db: Sequence[float],
        seed: int,
        rank: int = 0,
        world: int = 1,
    ):
        if batch_size % world:
            raise AizuchiError(
                f"batch_size ({batch_size}) must be a multiple of the number of processes ({world})"
            )
        self.source, self.batch_size, self.samples, self.seed = source, batch_size, samples, seed
        self.gain_db = list(gain_db)
        self.rank, self.share = rank, batch_size // world

    def __getitem__(self, step: int) -> WaveBatch:
        first = step * self.batch_size + self.rank * self.share
        return self.rows(range(first, first + self.share))

    def rows(self, positions: Sequence[int], augment: bool = True) -> WaveBatch:
        """Rows of these positions, augmented by gain."""
        waves, labels, decoded, codes, phase, targets = [], [], [], [], [], []
        aimed = False
        for position in positions:
            generator = keyed_generator(self.seed, "wave", position)
            made = self.source.draw(position, self.samples, generator)
            row = WaveRow(*made) if isinstance(made, tuple) else WaveRow(made)
            wave = self._checked(row.wave, position)
            target = wave if row.target is None else self._checked(row.target, position)
            aimed |= row.target is not None
            if augment and row.codes is None:
                gain = 10 ** (generator.uniform(self.gain_db[0], self.gain_db[1]) / 20)
                wave, target = ((x * gain).astype(np.float32) for x in (wave, target))
            waves.append(np.clip(wave, -1, 1))
            targets.append(np.clip(target, -1, 1))
            labels.append(row.labels)
            decoded.append(bool(row.decoded))
            codes.append(row.codes)
            phase.append(bool(row.phase))
        batch = WaveBatch(torch.from_numpy(np.stack(waves))[:, None])
        if all(label is not None for label in labels):
            batch.labels = torch.from_numpy(np.stack(labels)).long()
        if any(decoded) and not all(decoded):  # a step has something to decode
            batch.decoded = torch.tensor(decoded)
        if not all(phase):
            batch.phase = torch.tensor(phase)
        batch.codes = self._codes(codes)
        if aimed:
            batch.target = torch.from_numpy(np.stack(targets))[:, None]
        return batch

    def _checked(self, given: Any, position: int) -> np.ndarray:
        wave = np.asarray(given, np.float32)
        if wave.shape != (self.samples,):
            raise AizuchiError(f"a wave source gave shape {wave.shape} for {self.samples} samples")
        if not np.isfinite(wave).all():
            raise AizuchiError(f"a wave source gave samples that are not finite, at position {position}")
        return wave

    def _codes(self, brought: list[Any]) -> Tensor | None:
        """(B, K, F) of what rows bring, see `WaveBatch`."""
        known = [np.asarray(codes, np.int64) for codes in brought if codes is not None]
        if not known:
            return None
        shape = known[0].shape
        if (
            len(shape) != 2
            or shape[1] * _FRAME != self.samples
            or any(codes.shape != shape for codes in known)
        ):
            shapes = ", ".join(sorted({str(codes.shape) for codes in known}))
            raise AizuchiError(
                f"a wave source gave codes of shape {shapes}: want (K, {self.samples // _FRAME})"
            )
        empty = np.full(shape, -1, np.int64)
        rows = [empty if codes is None else np.asarray(codes, np.int64) for codes in brought]
        return torch.from_numpy(np.stack(rows))
