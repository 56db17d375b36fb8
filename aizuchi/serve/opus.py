"""Opus in Ogg, as Kyutai's clients stream it: 24 kHz mono, in pieces cut anywhere."""

from __future__ import annotations

import time

import numpy as np

from ..errors import require
from .intake import Samples

_SLICE = 512  # bytes handed to the decoder at a time: a page of tiny packets can hold half a minute
_BURST = 60.0  # seconds of sound that may come at once
_FASTER = 20.0  # and then this many times faster than real time


class OpusError(Exception):
    """The bytes are no Opus stream that can be decoded; the text is for the caller."""


class OpusIn:
    """Decodes a stream, at any byte splits, with a bound on the work that a few bytes can cause."""

    def __init__(self, rate: int):
        self._reader = require("sphn", extra="serve").OpusStreamReader(rate)
        self._rate = rate
        self._credit, self._at = _BURST, time.monotonic()

    def feed(self, data: bytes) -> list[Samples]:
        """What these bytes complete.

        Raises:
            OpusError: damaged bytes, or far more sound than a live caller can make.
        """
        now = time.monotonic()
        self._credit = min(_BURST, self._credit + _FASTER * (now - self._at))
        self._at = now
        pieces = []
        for begin in range(0, len(data), _SLICE):
            try:
                pcm = self._reader.append_bytes(data[begin : begin + _SLICE])
            except Exception as error:
                if "buffer too small" in str(error):  # what the decoder says of packets of 60 ms
                    raise OpusError("Opus packets must not be longer than 40 ms") from error
                raise OpusError(f"the Opus stream is damaged: {str(error)[:80]}") from error
            if len(pcm):
                self._credit -= len(pcm) / self._rate
                if self._credit < 0:
                    raise OpusError(f"sound comes at more than {_FASTER:g} times real time")
                pieces.append(as_int16(pcm))
        return pieces


class OpusOut:
    """Encodes frames; the stream's headers come with the first."""

    def __init__(self, rate: int):
        self._writer = require("sphn", extra="serve").OpusStreamWriter(rate)

    def feed(self, samples: Samples) -> bytes:
        """The pages that these samples complete, perhaps none."""
        return bytes(self._writer.append_pcm(samples.astype(np.float32) / 32768))


def as_int16(pcm: np.ndarray) -> Samples:
    """Float samples as 16-bit ones; what is not finite is silence."""
    clean = np.nan_to_num(pcm, nan=0.0, posinf=1.0, neginf=-1.0)
    return np.clip(np.rint(np.clip(clean, -1.0, 1.0) * 32768.0), -32768, 32767).astype(np.int16)
