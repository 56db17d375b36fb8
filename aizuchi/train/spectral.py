"""Reconstruction losses over several resolutions of the spectrum."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def mel_matrix(bands: int, window: int, rate: int) -> Tensor:
    """(window / 2 + 1, bands) triangles on the mel scale (HTK's formula), each with a sum of about 1.

    Narrow triangles that no bin falls into take the nearest bin, so that no band is empty.
    """
    top = 2595 * math.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, bands + 2) / 2595) - 1)  # Hz
    bins = torch.linspace(0, rate / 2, window // 2 + 1)
    up = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    down = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    triangles = torch.minimum(up, down).clamp(min=0)
    empty = triangles.sum(0) == 0
    nearest = (bins[:, None] - edges[1:-1]).abs().argmin(0)
    triangles[nearest[empty], empty.nonzero()[:, 0]] = 1.0
    return triangles / triangles.sum(0)


class SpectralLoss(nn.Module):
    """L1 between log-mel spectrograms, and between the magnitudes themselves, over several windows.

    Args:
        windows: FFT sizes; hops are a quarter of them. bands: mel bands of the largest window; smaller windows have
            fewer in proportion to their square root, as they resolve less. linear: weight of the magnitudes' part.
    """

    def __init__(
        self, rate: int, windows: Sequence[int] = (2048, 1024, 512, 256), bands: int = 80, linear: float = 1.0
    ):
        super().__init__()
        self.windows, self.linear = list(windows), linear
        for window in self.windows:
            count = max(5, round(bands * math.sqrt(window / max(self.windows))))
            self.register_buffer(f"mel{window}", mel_matrix(count, window, rate), persistent=False)
            self.register_buffer(f"hann{window}", torch.hann_window(window), persistent=False)

    def forward(self, made: Tensor, target: Tensor) -> Tensor:
        """Waveforms (B, channels, S) -> scalar."""
        total = made.new_zeros(())
        for window in self.windows:
            a = self._magnitudes(made.flatten(0, 1), window)
            with torch.no_grad():
                b = self._magnitudes(target.flatten(0, 1), window)
            total = total + F.l1_loss(a.clamp(min=1e-4).log(), b.clamp(min=1e-4).log())
            if self.linear:
                total = total + self.linear * F.l1_loss(a, b)
        return total / len(self.windows)

    def _magnitudes(self, wave: Tensor, window: int) -> Tensor:
        """(B, S) -> mel magnitudes (B, frames, bands)."""
        spectrum = torch.stft(
            wave.float(),
            window,
            hop_length=window // 4,
            window=getattr(self, f"hann{window}"),
            return_complex=True,
        )
        # a root at 0 has no slope
        power = spectrum.real.square() + spectrum.imag.square()
        magnitude = (power + 1e-9).sqrt() / math.sqrt(window)
        return magnitude.transpose(1, 2) @ getattr(self, f"mel{window}")


def log_mel(wave: Tensor, rate: int, hop: int, window: int = 1024, bands: int = 40) -> Tensor:
    """Log-mel features (B, S / hop, bands) of waveforms (B, S), frame i centred in samples i hop to (i + 1) hop."""
    padded = F.pad(wave, ((window - hop) // 2 if window > hop else 0, window))
    frames = (
        padded.unfold(-1, window, hop)[:, : wave.shape[-1] // hop]
        if window >= hop
        else padded.unfold(-1, window, hop)
    )
    spectrum = torch.fft.rfft(frames * torch.hann_window(window, device=wave.device))
    return (spectrum.abs().square() @ mel_matrix(bands, window, rate).to(wave) + 1e-5).log()


def si_sdr(made: Tensor, target: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB of (B, S), per row (Le Roux et al., 2019)."""
    made, target = (x - x.mean(-1, keepdim=True) for x in (made, target))
    scale = (made * target).sum(-1, keepdim=True) / target.square().sum(-1, keepdim=True).clamp(min=1e-8)
    kept = scale * target
    return (
        10 * (kept.square().sum(-1) / (made - kept).square().sum(-1).clamp(min=1e-8)).clamp(min=1e-8).log10()
    )
