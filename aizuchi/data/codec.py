"""The codec as tokenizing sees it: waves in, codes out."""

from __future__ import annotations

import hashlib
import os
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aizuchi.audio import FloatArray
from aizuchi.data.frames import FRAME_SAMPLES
from aizuchi.errors import AizuchiError


class Codec(Protocol):
    """What tokenizing needs of a codec.

    Attributes:
        codebooks: K, how many codes a frame gets.
        codebook_size: codes are below it.
    """

    codebooks: int
    codebook_size: int

    def encode(self, wave: Tensor) -> Tensor:
        """Codes (B, K, ceil(S / 1920)) of waves (B, 1, S) at 24 kHz."""
        ...

    def fingerprint(self) -> str:
        """A short hash of what makes its codes what they are."""
        ...


class MimiCodec:
    """A `MimiModel` as a codec.

    Args:
        model: the codec.
        codebooks: how many of its codebooks are kept; a Moshi uses 8.
        device: where it runs.

    Raises:
        AizuchiError: it has fewer codebooks, or does not work at 24 kHz and 12.5 frames a second.
    """

    def __init__(self, model: Any, codebooks: int = 8, device: str | torch.device = "cpu"):
        config = model.config
        if not 1 <= codebooks <= config.num_quantizers:
            raise AizuchiError(f"codebooks is {codebooks}; this codec has {config.num_quantizers}")
        if config.sampling_rate != 24_000 or config.frame_size != FRAME_SAMPLES:
            raise AizuchiError(
                f"this codec works at {config.sampling_rate} Hz with frames of {config.frame_size} samples; "
                f"dialogues need 24000 Hz and {FRAME_SAMPLES}"
            )
        self.codebooks, self.codebook_size = codebooks, config.codebook_size
        self._model, self._device = model.eval().to(device), torch.device(device)

    def encode(self, wave: Tensor) -> Tensor:
        with torch.inference_mode():
            return self._model.encode(wave.to(self._device), num_quantizers=self.codebooks).audio_codes.cpu()

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name, tensor in sorted(self._model.state_dict().items()):
            if name.startswith(("decoder", "upsample")):
                continue  # what turns codes into sound does not change the codes
            digest.update(name.encode())
            digest.update(tensor.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]


def load_codec(
    name: str | os.PathLike[str], codebooks: int = 8, device: str = "cpu", threads: int | None = None
) -> MimiCodec:
    """The codec of a checkpoint: a Mimi, or a Moshi that carries one."""
    from aizuchi.models.mimi import MimiModel

    if threads:
        torch.set_num_threads(threads)
    return MimiCodec(MimiModel.from_pretrained(name), codebooks, device)


def encode(codec: Codec, waves: FloatArray) -> npt.NDArray[np.int16]:
    """Codes (B, K, F) of waves (B, S), checked.

    Raises:
        AizuchiError: the codec gave another shape, or codes that do not fit its codebooks or 16 bits.
    """
    codes = codec.encode(torch.from_numpy(waves)[:, None]).numpy()
    expected = (len(waves), codec.codebooks, -(-waves.shape[1] // FRAME_SAMPLES))
    if codes.shape != expected:
        raise AizuchiError(f"the codec gave codes of shape {codes.shape}, not {expected}")
    if codec.codebook_size > np.iinfo(np.int16).max + 1:
        raise AizuchiError(f"codebooks of {codec.codebook_size} entries do not fit 16 bits")
    if codes.min(initial=0) < 0 or codes.max(initial=0) >= codec.codebook_size:
        raise AizuchiError(f"the codec gave codes outside of 0 to {codec.codebook_size - 1}")
    return codes.astype(np.int16)
