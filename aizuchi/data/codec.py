"""The codec as tokenizing sees it: waves in, codes out."""

from __future__ import annotations

import hashlib
import os
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from aizuchi.audio import FloatArray
from aizuchi.data.frames import FRAME_SAMPLES
from aizuchi.errors import AizuchiError

_CHUNK = 50  # frames at a time: what lies between the layers stays in the caches, and a dialogue takes 30 % less time
_CODEC_PREFIX = "audio_encoder."  # of the codec's tensors in a Moshi of transformers' layout


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

    @property
    def model(self) -> Any:
        """The `MimiModel`."""
        return self._model

    def encode(self, wave: Tensor) -> Tensor:
        wave = F.pad(wave, (0, -wave.shape[-1] % FRAME_SAMPLES))
        with torch.inference_mode():
            state = self._model.init_encoder_state(len(wave))
            chunks = [
                self._model.encode_step(chunk.to(self._device), state, num_quantizers=self.codebooks)
                for chunk in wave.split(_CHUNK * FRAME_SAMPLES, dim=-1)
            ]
        return torch.cat(chunks, dim=-1).cpu()

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name, tensor in sorted(self._model.state_dict().items()):
            if name.startswith(("decoder", "upsample")):
                continue  # what turns codes into sound does not change the codes
            digest.update(name.encode())
            digest.update(tensor.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]


def load_codec(
    name: str | os.PathLike[str] | None = None,
    codebooks: int = 8,
    device: str = "cpu",
    threads: int | None = None,
) -> MimiCodec:
    """The codec of a checkpoint.

    Args:
        name: a Mimi, or a Moshi that carries one, in either layout; None for the embedded model's.
        codebooks: as for `MimiCodec`.
        device: where it runs.
        threads: of this process, if given.

    Raises:
        CheckpointError: nothing there, or no codec in it.
    """
    from aizuchi.checkpoints import find
    from aizuchi.checkpoints.load import default_model
    from aizuchi.models.loading import without_progress_bar
    from aizuchi.models.mimi import MimiModel

    if threads:
        torch.set_num_threads(threads)
    name = default_model() if name is None else name
    found = find(name)
    if found.layout == "hf" and found.holds == "moshi":
        return MimiCodec(_codec_of_moshi(found), codebooks, device)
    with without_progress_bar():  # one from each worker process would only disturb ours
        return MimiCodec(MimiModel.from_pretrained(name), codebooks, device)


def _codec_of_moshi(found: Any) -> Any:
    """The codec out of a whole model in transformers' layout: its own tensors only are read."""
    from aizuchi.models.mimi import MimiModel
    from aizuchi.models.moshi import MoshiConfig
    from aizuchi.models.stored import widen_stored

    with torch.device("meta"):
        model = MimiModel(MoshiConfig.from_pretrained(found.folder).audio_encoder_config)
    tensors = {}
    for path in found.weights:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():
                if key.startswith(_CODEC_PREFIX):
                    tensor = file.get_tensor(key)
                    wide = tensor.float() if tensor.is_floating_point() else tensor
                    tensors[key.removeprefix(_CODEC_PREFIX)] = wide
    try:
        model.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise AizuchiError(f"{found.name} does not hold a whole codec: {error}") from error
    return widen_stored(model)


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
