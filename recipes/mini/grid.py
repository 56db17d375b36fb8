"""The assistant's voice on the codec's grid: its periods and its noise fall the same way into every frame.

A codec's frame tells a spectrum, hardly at which moment each period begins, and a small decoder that has to make that
up blurs. So the voice is spoken at one pitch, of which every frame of 80 ms holds a whole number of periods, and with
noise that repeats from frame to frame. What a frame sounds like then follows from its spectrum alone, and waveforms can
be compared sample by sample. DistillMOS of 24 lines: 4.5 as the voice was; 3.9 at 200 Hz, 3.1 at 175, 2.6 at 225; 3.8
where the pitch moves and only the periods are whole.

The voice's network gives f0 and five spectra of hops of 300 samples; see `hibari.dsp.synth`, whose place this takes.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from recipes.mini.timing import RATE

FRAME = 1920  # samples of a codec's frame
HOP = 300
PITCH = 200.0  # Hz: 16 periods in a frame
VOICED = 40.0  # Hz; below it the network means no voice
_HIGHEST = 11_000.0  # Hz


def _pulses(f0: np.ndarray) -> np.ndarray:
    """Band-limited pulses, one a period: the sum of all harmonics up to 11 kHz; none where f0 (hops,) has no voice."""
    samples = np.arange(len(f0) * HOP)
    angle = 2 * np.pi * ((samples + 0.5) * PITCH / RATE % 1)
    order = _HIGHEST // PITCH + 0.5
    pulses = np.sin(order * angle) / (2 * np.sin(angle / 2)) - 0.5
    between = np.clip((samples + 0.5) / HOP - 0.5, 0, len(f0) - 1)  # as the network's own synthesis has it
    pulses[np.interp(between, np.arange(len(f0)), f0) <= VOICED] = 0
    return pulses.astype(np.float32)


@functools.lru_cache(maxsize=1)
def _tile() -> np.ndarray:
    """(FRAME,) white noise, all frequencies equally loud."""
    turned = np.exp(2j * np.pi * np.random.default_rng(5).random(FRAME // 2 + 1))
    turned[[0, -1]] = 1
    return (np.fft.irfft(turned, FRAME) * FRAME**0.5).astype(np.float32)


def synthesize(parts: list[np.ndarray], f0: np.ndarray) -> np.ndarray:
    """Waveform (hops * 300,) float32 of the network's spectra and f0 (hops,), frames counted from its first sample.

    Args:
        parts: log magnitude and phase of what is voiced, log magnitude of noise, log magnitude and phase of the rest,
            (601, hops) each. The rest, of any phase, is spoken as noise.
    """
    from hibari import dsp

    voiced, turn, noise, rest, _ = parts
    hops = voiced.shape[1]
    spectrum = dsp.stft(_pulses(f0), hops) * (dsp.ex(voiced) * np.exp(1j * np.pi * np.tanh(turn)))
    tiles = np.tile(_tile(), -(-hops * HOP // FRAME))[: hops * HOP]
    # its scale: as loud as noise that is drawn anew for each hop, whose sum over windows is less than of one signal
    loud = np.sqrt(dsp.ex(noise) ** 2 + dsp.ex(rest) ** 2 / 2)
    spectrum = spectrum + dsp.stft(tiles, hops) * (10.01 * loud)
    result: Any = dsp.ola(spectrum.astype(np.complex64))
    return np.asarray(result, np.float32)
