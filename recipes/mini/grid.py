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
from collections.abc import Sequence

import numpy as np

from recipes.mini.timing import RATE

FRAME = 1920  # samples of a codec's frame
HOP = 300  # of the network
WINDOW = 1200  # samples of a spectrum
PITCH = 200.0  # Hz: 16 periods in a frame
VOICED = 40.0  # Hz; below it the network means no voice
_HIGHEST = 11_000.0  # Hz


def _pulses(f0: np.ndarray, hop: int) -> np.ndarray:
    """Band-limited pulses, one a period: the sum of all harmonics up to 11 kHz; none where f0 (hops,) has no voice."""
    samples = np.arange(len(f0) * hop)
    angle = 2 * np.pi * ((samples + 0.5) * PITCH / RATE % 1)
    order = _HIGHEST // PITCH + 0.5
    pulses = np.sin(order * angle) / (2 * np.sin(angle / 2)) - 0.5
    between = np.clip((samples + 0.5) / hop - 0.5, 0, len(f0) - 1)  # as the network's own synthesis has it
    pulses[np.interp(between, np.arange(len(f0)), f0) <= VOICED] = 0
    return pulses.astype(np.float32)


@functools.lru_cache(maxsize=1)
def _tile() -> np.ndarray:
    """(FRAME,) white noise, all frequencies equally loud."""
    turned = np.exp(2j * np.pi * np.random.default_rng(5).random(FRAME // 2 + 1))
    turned[[0, -1]] = 1
    return (np.fft.irfft(turned, FRAME) * FRAME**0.5).astype(np.float32)


def _spectra(wave: np.ndarray, hop: int) -> np.ndarray:
    """(601, hops) of a signal of whole hops; a cosine of amplitude 1 comes out as 1."""
    from hibari import dsp

    padded = np.pad(wave, WINDOW // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::hop][: len(wave) // hop]
    return np.ascontiguousarray(dsp.rfft(frames * dsp.WIN_SRC, 1).T)


def _signal(spectra: np.ndarray, hop: int) -> np.ndarray:
    """Of spectra (601, hops), frames overlapped and added: (hops * hop,) float32."""
    from hibari import dsp

    count, overlaps = spectra.shape[1], WINDOW // hop
    frames = (dsp.irfft(spectra.T, WINDOW, 1) * dsp.WIN).reshape(count, overlaps, hop)
    squares = (dsp.WIN**2).reshape(overlaps, hop)
    wave, weight = np.zeros((2, count + overlaps - 1, hop), np.float32)
    for part in range(overlaps):
        wave[part : part + count] += frames[:, part]
        weight[part : part + count] += squares[part]
    wave /= np.maximum(weight, 1e-11)
    return wave.reshape(-1)[WINDOW // 2 :][: count * hop]


def synthesize(parts: Sequence[np.ndarray], f0: np.ndarray, hop: int = HOP) -> np.ndarray:
    """Waveform (hops * hop,) float32 of the network's spectra and f0 (hops,), frames counted from its first sample.

    Args:
        parts: log magnitude and phase of what is voiced, log magnitude of noise, log magnitude of the rest, (601, hops)
            each. The rest is spoken as noise: its phase, if it comes last, is not used.
        hop: samples from one spectrum to the next; whole ones in 1200.
    """
    from hibari import dsp

    voiced, turn, noise, rest = parts[:4]
    hops = voiced.shape[1]
    spectrum = _spectra(_pulses(f0, hop), hop) * (dsp.ex(voiced) * np.exp(1j * np.pi * np.tanh(turn)))
    tiles = np.tile(_tile(), -(-hops * hop // FRAME))[: hops * hop]
    # its scale: as loud as noise that is drawn anew for each hop, whose sum over windows is less than of one signal
    loud = np.sqrt(dsp.ex(noise) ** 2 + dsp.ex(rest) ** 2 / 2)
    spectrum = spectrum + _spectra(tiles, hop) * (10.01 * loud)
    return _signal(spectrum.astype(np.complex64), hop)
