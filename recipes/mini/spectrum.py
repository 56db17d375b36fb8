"""Log-mel spectra on the codec's frames, and their main components: what the small Mimi's parts are taught through.

A frame of 80 ms is eight spectra of 40 bands, 10 ms apart, none of which reaches past the frame: 320 numbers, of
which as many components as the codec has channels are kept, each scaled by the root of its size (half-whitened: loud
components would otherwise be all that a squared error sees, and full whitening would make noise as important).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from aizuchi.errors import AizuchiError
from aizuchi.files import atomic_path
from aizuchi.train.spectral import mel_matrix
from recipes.mini.timing import RATE

BANDS = 40
HOP = 240  # samples, 10 ms
STEPS = 8  # spectra in a frame
_WINDOW = 600
_FFT = 1024
FLOOR = 1e-6  # of power


def mel_power(wave: np.ndarray | Tensor) -> Tensor:
    """Samples (..., S) at 24 kHz -> (..., S // HOP, BANDS) power in mel bands; spectrum i ends where hop i does."""
    wave = torch.as_tensor(wave, dtype=torch.float32)
    count = wave.shape[-1] // HOP
    wave = torch.nn.functional.pad(wave[..., : count * HOP], (_WINDOW - HOP, 0))
    window = torch.hann_window(_WINDOW, device=wave.device)
    pieces = wave.unfold(-1, _WINDOW, HOP) * window  # (..., count, _WINDOW)
    power = torch.fft.rfft(pieces, _FFT).abs().square() / window.square().sum()
    return power @ _mels().to(power.device)


_MELS: list[Tensor] = []


def _mels() -> Tensor:
    if not _MELS:
        _MELS.append(mel_matrix(BANDS, _FFT, RATE))
    return _MELS[0]


def band_centres() -> np.ndarray:
    """(BANDS,) frequencies in Hz at which the bands are most open, see `mel_matrix`."""
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    return 700 * (10 ** (np.linspace(0, top, BANDS + 2)[1:-1] / 2595) - 1)


def log_frames(power: Tensor) -> Tensor:
    """Power (..., F * STEPS, BANDS) -> (..., F, STEPS * BANDS) logarithms above the floor."""
    return (power + FLOOR).log().unflatten(-2, (-1, STEPS)).flatten(-2)


class Components:
    """An affine map from frames of log spectra to their half-whitened main components and back.

    Attributes:
        mean: (D,). basis: (D, K), orthonormal columns. scale: (K,) what the columns' projections are multiplied by.
        kept: share of the variance that the K components hold.
    """

    def __init__(self, mean: Tensor, basis: Tensor, scale: Tensor, kept: float = 1.0):
        self.mean, self.basis, self.scale, self.kept = mean, basis, scale, kept

    @classmethod
    def fit(cls, frames: Tensor, count: int) -> Components:
        """The ``count`` main components of frames (N, D), of a mean square of 1."""
        if len(frames) <= count:
            raise AizuchiError(f"{len(frames)} frames are too few for {count} components")
        mean = frames.double().mean(0)
        centred = frames.double() - mean
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(frames))
        kept = float(values[-count:].sum() / values.sum())
        values, vectors = values.flip(0)[:count], vectors.flip(1)[:, :count]
        sign = vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()  # either is as good: take one
        scale = values.clamp(min=1e-9) ** -0.25
        scale = scale / (values * scale.square()).mean().sqrt()
        return cls(mean.float(), (vectors * sign).float(), scale.float(), kept)

    def forward(self, frames: Tensor) -> Tensor:
        """(..., D) -> (..., K)."""
        return (frames - self.mean) @ self.basis * self.scale

    def backward(self, components: Tensor) -> Tensor:
        """(..., K) -> (..., D), the nearest that components say."""
        return components / self.scale @ self.basis.T + self.mean

    def noise(self, shape: Sequence[int], size: float, generator: torch.Generator) -> Tensor:
        """(..., D) what makes an error of `size` in each component (..., K) of such a shape."""
        return size * torch.randn(tuple(shape), generator=generator) / self.scale @ self.basis.T

    def of_wave(self, wave: np.ndarray | Tensor) -> Tensor:
        """Samples (..., F * 1920) -> (..., F, K)."""
        return self.forward(log_frames(mel_power(wave)))

    def save(self, path: Path) -> None:
        """Write to a file, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {"mean": self.mean, "basis": self.basis.contiguous(), "scale": self.scale}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, {"kept": repr(self.kept)})

    @classmethod
    def load(cls, path: Path) -> Components:
        """Read what `save` wrote; AizuchiError if it is not there."""
        if not path.exists():
            raise AizuchiError(f"{path} is missing; python -m recipes.mini.ear makes it")
        return cls(**load_file(path))
