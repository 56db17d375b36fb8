"""The ear as a listener: what a voice has to leave of the words (`loss.listener` of `aizuchi train mimi`).

A decoder that learns spectra by their error says what is likely on the whole, between two sounds where it can't tell
which; an ear that knows words hears neither. `AIZUCHI_MINI_EAR` names another ear's folder.
"""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor, nn

from recipes.mini.ear_model import load_ear
from recipes.mini.spectrum import log_frames, mel_power

KEPT = Path(__file__).with_name("milestone") / "ear"


class Listener(nn.Module):
    """What an ear makes of sound: its convolutions, which hear phones, and what its codebooks quantize, which tells
    words.

    Args:
        folder: of an ear, see `recipes.mini.ear`.
    """

    def __init__(self, folder: Path = KEPT):
        super().__init__()
        ear = load_ear(folder).float().requires_grad_(False)
        self.convs, self.transformer = ear.convs, ear.encoder_transformer
        self.register_buffer("projection", ear.semantic.input_proj.weight[..., 0].detach().clone())

    def of_spectra(self, spectra: Tensor) -> list[Tensor]:
        """Log spectra (B, F, STEPS * BANDS) -> (B, F, K) and (B, F, dim)."""
        heard = self.convs(spectra)
        latents = self.transformer(heard.transpose(1, 2)).transpose(1, 2)
        return [heard, latents @ self.projection.T]

    def forward(self, wave: Tensor) -> list[Tensor]:
        """The same of waves (B, 1, S) of whole frames."""
        return self.of_spectra(log_frames(mel_power(wave[:, 0])))


def listener() -> Listener:
    """The ear that is kept with the recipe."""
    return Listener(Path(os.environ.get("AIZUCHI_MINI_EAR", KEPT)))
