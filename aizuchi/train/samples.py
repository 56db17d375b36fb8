"""Audio samples of a run: the model answers pieces of the validation data on its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aizuchi.audio import SAMPLE_RATE, write_audio
from aizuchi.data.frames import frames_to_words

from .rollout import roll_out
from .tokens import collate


@torch.no_grad()
def write_samples(trainer: Any) -> None:
    """Write ``samples/step_N/``: for each of the first pieces a wav (left the model, right what it heard) and its text.

    Dialogue: the model hears the user's side of the piece. Synthesis: it says the piece's text. Recognition: it
    writes what it hears. Greedy, so that samples of two steps differ by what was learnt.
    """
    config, model, pieces = trainer.config, trainer.plain, trainer.valid or trainer.batches.pieces
    if trainer.sharded or not trainer.main:
        return  # a sharded model can't run on one process alone
    folder = trainer.folder / "samples" / f"step_{trainer.step:08d}"
    folder.mkdir(parents=True, exist_ok=True)
    limit = max(1, round(config.sample_seconds * 12.5))
    codebooks = model.config.num_codebooks
    for i in range(min(config.samples, len(pieces))):
        batch = collate([pieces.piece(i)], codebooks)
        heard = batch.model if config.task == "stt" and config.data.listen_to == "model" else batch.user
        user = heard[:, :, :limit].clamp(min=0) if model.config.num_user_codebooks else None
        said = batch.text[:, :limit] if config.task == "tts" else None
        text, codes = roll_out(model, user, said)
        sides = []
        for stream in (None if codes is None else codes[:, :codebooks], user):
            sides.append(np.zeros(1, np.float32) if stream is None else _decode(model, stream))
        stereo = np.zeros((2, max(map(len, sides))), np.float32)
        for side, wave in zip(stereo, sides):
            side[: len(wave)] = wave
        write_audio(folder / f"{i}.wav", stereo, model.config.sampling_rate)
        (folder / f"{i}.txt").write_text(_words(text[0], trainer) + "\n", encoding="utf-8")
        if trainer.log is not None:
            wave = sides[1] if codes is None else sides[0]
            trainer.log.audio(trainer.step, f"sample {i}", wave, model.config.sampling_rate)


def write_pairs(folder: Path, step: int, before: Tensor, after: Tensor, log: Any = None) -> None:
    """Write what a codec made of waves (B, S): ``step_N/I.wav``, and once ``original_I.wav``."""
    target = folder / f"step_{step:08d}"
    target.mkdir(parents=True, exist_ok=True)
    for i, (original, wave) in enumerate(zip(before.cpu().numpy(), after.cpu().numpy())):
        write_audio(target / f"{i}.wav", wave)
        if not (folder / f"original_{i}.wav").exists():
            write_audio(folder / f"original_{i}.wav", original)
        if log is not None:
            log.audio(step, f"sample {i}", wave, SAMPLE_RATE)


def _decode(model: Any, codes: Tensor) -> np.ndarray:
    """(1, K, T) -> (samples,)."""
    waves = model.audio_encoder.decode(codes.to(model.device), return_dict=True).audio_values
    return waves[0, 0].float().cpu().numpy()


def _words(text: Tensor, trainer: Any) -> str:
    if trainer.tokenizer is None:
        return " ".join(map(str, text.tolist()))
    config = trainer.plain.config
    words = frames_to_words(
        text.cpu().numpy(),
        trainer.tokenizer.tokenizer,
        pad=config.text_padding_token_id,
        epad=config.text_end_padding_token_id,
    )
    return " ".join(f"{word.text}[{word.start:.2f}]" for word in words)
