"""Codecs to compare: our own by number of codebooks, Opus by bit rate, and the recording itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
import soxr

from aizuchi.audio import SAMPLE_RATE
from aizuchi.errors import AizuchiError, require
from aizuchi.evaluate.synthesize import load_factory


@dataclass(frozen=True)
class Coded:
    """A wave that has gone through a codec.

    Attributes:
        wave: (samples,) at 24 kHz.
        kbps: kilobits a second.
        codes: (codebooks, frames), or None where there are none.
    """

    wave: np.ndarray
    kbps: float
    codes: np.ndarray | None = None


class Codec(Protocol):
    """Something that a wave goes through; `name` is the row of a table."""

    name: str

    def __call__(self, wave: np.ndarray) -> Coded:
        """Code and decode a wave of (samples,) at 24 kHz."""
        ...


class Original:
    """The recording itself: what the metrics say of speech that no codec has touched."""

    name = "original"

    def __call__(self, wave: np.ndarray) -> Coded:
        return Coded(wave, SAMPLE_RATE * 16 / 1000)


class TokenCodec:
    """A neural codec such as `MimiModel`, with its first codebooks.

    Args:
        model: has `encode(wave (B, 1, S)) -> codes (B, K, F)` and `decode(codes) -> wave (B, 1, S)` on
            torch tensors; outputs with `audio_codes` and `audio_values` are taken too.
        codebooks: decode from the first so many; None takes all.
        codebook_size: entries of a codebook; None asks the model's configuration.
        frame_rate: frames a second.
        name: of the codec.

    Raises:
        AizuchiError: codebooks is not positive, or the codebooks' size is unknown.
    """

    def __init__(
        self,
        model: Any,
        codebooks: int | None = None,
        codebook_size: int | None = None,
        frame_rate: float = 12.5,
        name: str = "mimi",
    ) -> None:
        if codebooks is not None and codebooks < 1:
            raise AizuchiError(f"codebooks is {codebooks}: it must be at least 1")
        size = codebook_size or getattr(getattr(model, "config", None), "codebook_size", None)
        if not size:
            raise AizuchiError("codebook_size is unknown: the model has no config that names it")
        self._model, self._codebooks = model, codebooks
        self.codebook_size, self.frame_rate = int(size), frame_rate
        self.name = name if codebooks is None else f"{name}, {codebooks} codebook{'s' * (codebooks > 1)}"

    def __call__(self, wave: np.ndarray) -> Coded:
        import torch

        with torch.no_grad():
            codes = _tensor(
                self._model.encode(torch.from_numpy(wave)[None, None]), "audio_codes"
            )  # (1, K, F)
            if self._codebooks is not None:
                if self._codebooks > codes.shape[1]:
                    raise AizuchiError(f"{self.name}: the model gives only {codes.shape[1]} codebooks")
                codes = codes[:, : self._codebooks]
            out = _tensor(self._model.decode(codes), "audio_values")  # (1, 1, S)
        kbps = self.frame_rate * codes.shape[1] * math.log2(self.codebook_size) / 1000
        decoded = out[0, 0].float().cpu().numpy()
        return Coded(_fit(decoded, len(wave)), kbps, codes[0].cpu().numpy())


class OpusCodec:
    """Opus (libopus, through PyAV) for voice, mono, 20 ms frames; the bit rate reported is what it used.

    Args:
        kbps: the bit rate asked for, 6 to 256.

    Raises:
        MissingDependencyError: PyAV is not installed.
        AizuchiError: kbps is out of range.
    """

    def __init__(self, kbps: float) -> None:
        if not 6 <= kbps <= 256:
            raise AizuchiError(f"Opus codes at 6 to 256 kb/s, not {kbps:g}")
        self._av = require("av", extra="eval")
        self._kbps = kbps
        self.name = f"Opus {kbps:g} kb/s"

    def __call__(self, wave: np.ndarray) -> Coded:
        av = self._av
        encoder = av.CodecContext.create("libopus", "w")
        encoder.sample_rate = SAMPLE_RATE
        encoder.layout, encoder.format = "mono", "flt"
        encoder.bit_rate = round(self._kbps * 1000)
        encoder.time_base = Fraction(1, SAMPLE_RATE)
        encoder.options = {"application": "voip", "frame_duration": "20", "vbr": "on"}
        size = SAMPLE_RATE // 50
        packets = []
        padded = np.concatenate([wave, np.zeros(-len(wave) % size + 4 * size, np.float32)]).astype(np.float32)
        for start in range(0, len(padded), size):
            frame = av.AudioFrame.from_ndarray(
                padded[None, start : start + size], format="flt", layout="mono"
            )
            frame.sample_rate, frame.pts = SAMPLE_RATE, start
            packets += encoder.encode(frame)
        packets += encoder.encode(None)
        decoder = av.CodecContext.create("libopus", "r")
        frames = [frame for packet in packets for frame in decoder.decode(packet)] + decoder.decode(None)
        rate = frames[0].sample_rate
        samples = np.concatenate([_mono(frame) for frame in frames])
        decoded = soxr.resample(samples, rate, SAMPLE_RATE)
        # libopus puts its look-ahead in front, and says so in the header that would open a file
        skip = int.from_bytes(bytes(encoder.extradata or b"")[10:12], "little") * SAMPLE_RATE // 48_000
        bits = 8 * sum(packet.size for packet in packets[: math.ceil(len(wave) / size)])
        return Coded(_fit(decoded[skip:], len(wave)), bits / (len(wave) / SAMPLE_RATE) / 1000)


def open_codecs(specs: list[str]) -> list[Codec]:
    """Codecs from their names.

    Args:
        specs: "original"; "opus:12" (kb/s); or "package.module:factory", a callable without arguments that
            returns one codec or a list of them.

    Raises:
        AizuchiError: a name is not known.
    """
    codecs: list[Codec] = []
    for spec in specs:
        head, _, rest = spec.partition(":")
        if spec == "original":
            codecs.append(Original())
        elif head == "opus":
            try:
                codecs.append(OpusCodec(float(rest)))
            except ValueError as error:
                raise AizuchiError(f"bad codec {spec!r}: {error}") from error
        else:
            made = load_factory(spec, "codec")()
            codecs += made if isinstance(made, list) else [made]
    return codecs


def _tensor(output: Any, name: str) -> Any:
    """The tensor that a model gives, bare, in an output object, or first in a tuple."""
    if hasattr(output, name):
        return getattr(output, name)
    return output[0] if isinstance(output, tuple) else output


def _mono(frame: Any) -> np.ndarray:
    """Samples of an audio frame as (samples,), full scale at 1.0."""
    samples = frame.to_ndarray()  # (channels, samples) planar, or (1, samples * channels) packed
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    scale = 1 / 32768 if samples.dtype == np.int16 else 1.0
    return samples.mean(axis=0).astype(np.float32) * np.float32(scale)


def _fit(wave: np.ndarray, size: int) -> np.ndarray:
    """Cut or fill with silence to a length."""
    return np.concatenate([wave[:size], np.zeros(max(0, size - len(wave)), np.float32)]).astype(np.float32)
