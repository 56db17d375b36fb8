"""The adversary: discriminators on complex spectrograms of several resolutions (EnCodec, arXiv 2210.13438, 3.4)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

QUIET = 1e-2  # -40 dBFS: what is below stays below
SLOPE = 0.2  # of the leaky rectifiers


class SpectrogramDiscriminator(nn.Module):
    """2-D convolutions over the real and imaginary parts of one short-time Fourier transform."""

    def __init__(self, window: int, filters: int, channels: int = 1):
        super().__init__()
        self.window = window
        self.register_buffer("hann", torch.hann_window(window), persistent=False)
        layers: list[nn.Module] = [self._conv(2 * channels, filters, (3, 9))]
        for dilation in (1, 2, 4):  # in time; the frequency axis is halved each time
            layers.append(self._conv(filters, filters, (3, 9), stride=(1, 2), dilation=(dilation, 1)))
        layers.append(self._conv(filters, filters, (3, 3)))
        self.layers = nn.ModuleList(layers)
        self.out = self._conv(filters, 1, (3, 3))

    @staticmethod
    def _conv(
        inside: int,
        outside: int,
        kernel: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        dilation: tuple[int, int] = (1, 1),
    ) -> nn.Module:
        padding = tuple((k - 1) * d // 2 for k, d in zip(kernel, dilation))
        conv = nn.Conv2d(inside, outside, kernel, stride, padding, dilation)
        # torch's own start shrinks what goes through six layers to a hundredth, and hundreds of steps are lost
        nn.init.kaiming_normal_(conv.weight, a=SLOPE)
        return weight_norm(conv)

    def forward(self, wave: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, channels, S) -> scores (B, 1, T, F) and the inner layers' outputs."""
        batch, channels, _ = wave.shape
        wave = wave.float()
        # of one loudness: quiet speech would hardly stir the layers, and nothing would be learned from it
        wave = wave / wave.square().mean((1, 2), keepdim=True).clamp(min=QUIET**2).sqrt()
        spectrum = torch.stft(
            wave.flatten(0, 1),
            self.window,
            hop_length=self.window // 4,
            window=self.hann,
            return_complex=True,
        ) / math.sqrt(self.window)
        x = torch.view_as_real(spectrum)  # (B * channels, F, T, 2)
        x = x.permute(0, 3, 2, 1).reshape(batch, 2 * channels, x.shape[2], x.shape[1])
        inner = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE)
            inner.append(x)
        return self.out(x), inner


class Discriminators(nn.Module):
    """One discriminator a window; hinge losses and feature matching over all of them."""

    def __init__(self, windows: Sequence[int] = (2048, 1024, 512), filters: int = 32, channels: int = 1):
        super().__init__()
        self.parts = nn.ModuleList(SpectrogramDiscriminator(w, filters, channels) for w in windows)

    def forward(self, wave: Tensor) -> list[tuple[Tensor, list[Tensor]]]:
        """Scores and inner outputs of every part."""
        return [part(wave) for part in self.parts]


Judged = list[tuple[Tensor, list[Tensor]]]


def discriminator_loss(real: Judged, made: Judged) -> Tensor:
    """Hinge: real above 1, made below -1; mean over parts."""
    losses = [F.relu(1 - r).mean() + F.relu(1 + m).mean() for (r, _), (m, _) in zip(real, made)]
    return torch.stack(losses).mean()


def adversarial_loss(made: Judged) -> Tensor:
    """What the codec wants: its output scored high."""
    return -torch.stack([score.mean() for score, _ in made]).mean()


def feature_loss(real: Judged, made: Judged) -> Tensor:
    """L1 between inner outputs, relative to the real ones' size (EnCodec, equation 2)."""
    losses = [
        F.l1_loss(m, r.detach()) / r.detach().abs().mean().clamp(min=1e-5)
        for (_, inner_r), (_, inner_m) in zip(real, made)
        for r, m in zip(inner_r, inner_m)
    ]
    return torch.stack(losses).mean()
