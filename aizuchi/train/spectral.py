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


class EnvelopeLoss(nn.Module):
    """One minus the correlation of envelopes in third-octave bands over 0.4 s: what intelligibility hangs on.

    The intermediate measure of STOI (Taal et al., 2011, equations 1 to 5) as a loss, with its sizes in time and its
    bands (15 from 150 Hz), but over all frames of a stretch that is not silent. The mean log spectrum, which an L1
    loss is content with where it does not know better, has hardly a correlation.

    Args:
        rate: of the waveforms, in Hz. stride: frames between two stretches.
    """

    FRAMES = 30  # of a stretch: 384 ms
    BANDS = 15
    CLIP = 1 + 10 ** (15 / 20)  # louder than this times the target counts no more: -15 dB

    def __init__(self, rate: int, stride: int = 5):
        super().__init__()
        self.hop, self.stride = round(0.0128 * rate), stride
        self.window = 2 * self.hop
        self.size = 1 << (self.window - 1).bit_length()
        bins = torch.linspace(0, rate / 2, self.size // 2 + 1)
        centres = 150 * 2 ** (torch.arange(self.BANDS) / 3)
        inside = (bins[:, None] >= centres * 2 ** (-1 / 6)) & (bins[:, None] < centres * 2 ** (1 / 6))
        self.register_buffer("bands", inside.float(), persistent=False)  # (bins, bands)
        self.register_buffer("hann", torch.hann_window(self.window), persistent=False)

    def forward(self, made: Tensor, target: Tensor) -> Tensor:
        """Waveforms (B, channels, S) -> scalar; rows shorter than a stretch, or silent, give 0."""
        if made.shape[-1] < self.FRAMES * self.hop + self.size:
            return made.sum() * 0.0
        y = self._envelopes(made)
        with torch.no_grad():
            x = self._envelopes(target)
            heard = x.square().sum(-1, keepdim=True)  # (B, stretches, bands, 1)
            heard = (heard > 1e-4 * heard.amax((1, 2), keepdim=True)) & (heard > 1e-6)
            scale = x.norm(dim=-1, keepdim=True) / y.norm(dim=-1, keepdim=True).clamp(min=1e-6)
        y = torch.minimum(y * scale, x * self.CLIP)
        x, y = x - x.mean(-1, keepdim=True), y - y.mean(-1, keepdim=True)
        norms = (x.square().sum(-1, keepdim=True) * y.square().sum(-1, keepdim=True) + 1e-12).sqrt()
        correlation = (x * y).sum(-1, keepdim=True) / norms
        return ((1 - correlation) * heard).sum() / heard.sum().clamp(min=1)

    def _envelopes(self, wave: Tensor) -> Tensor:
        """(B, channels, S) -> magnitudes (B * channels, stretches, bands, frames of a stretch)."""
        wave = wave.flatten(0, 1).float()
        spectrum = torch.stft(
            wave, self.size, self.hop, self.window, self.hann, center=False, return_complex=True
        )
        power = (spectrum.real.square() + spectrum.imag.square()).transpose(1, 2) @ self.bands
        return (power + 1e-9).sqrt().unfold(1, self.FRAMES, self.stride)


class ComplexLoss(nn.Module):
    """Distance of compressed complex spectra: |X|^0.3 with the phase kept (Wilson et al., 2018).

    For waveforms that can be told from the codes, period by period. The power gives quiet bands their say, where
    distances of samples hear the loudest alone; where a phase can't be told, it asks for less sound, as those do.

    Args:
        windows: FFT sizes; hops are a quarter of them.
    """

    POWER = 0.3

    def __init__(self, windows: Sequence[int] = (1024, 512, 256)):
        super().__init__()
        self.windows = list(windows)
        for window in self.windows:
            self.register_buffer(f"hann{window}", torch.hann_window(window), persistent=False)

    def forward(self, made: Tensor, target: Tensor, rows: Tensor | None = None) -> Tensor:
        """Waveforms (B, channels, S), and which (B,) bool of them count -> scalar: the mean square, of the target's; 1
        for silence instead of sound. 0 where none counts.
        """
        total = made.new_zeros(())
        if rows is not None:
            made, target = made[rows], target[rows]
            if not len(made):
                return total + made.sum()  # 0, which has a gradient
        for window in self.windows:
            a = self._compressed(made, window)
            with torch.no_grad():
                b = self._compressed(target, window)
            total = total + (a - b).square().mean() / b.square().mean().clamp(min=1e-3)
        return total / len(self.windows)

    def _compressed(self, wave: Tensor, window: int) -> Tensor:
        """(B, channels, S) -> (B * channels, bins, frames, 2)."""
        spectrum = torch.stft(
            wave.flatten(0, 1).float(),
            window,
            hop_length=window // 4,
            window=getattr(self, f"hann{window}"),
            return_complex=True,
        )
        parts = torch.view_as_real(spectrum) / math.sqrt(window)
        power = parts.square().sum(-1, keepdim=True) + 1e-5  # a root at 0 has no slope
        return parts * power ** ((self.POWER - 1) / 2)


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
