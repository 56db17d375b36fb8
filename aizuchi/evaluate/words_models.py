"""Our models that speak a text, or write down speech, as what evaluation measures: word errors both ways."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from aizuchi.audio import SAMPLE_RATE
from aizuchi.errors import AizuchiError
from aizuchi.evaluate.model_system import fingerprint
from aizuchi.evaluate.recognize import Heard
from aizuchi.transcript import to_text


class ModelRecognizer:
    """A recognition model as a `Recognizer`.

    Args:
        model: made with ``task: stt``, or one of Kyutai's. tokenizer: of its text. name: tells it from others.

    Raises:
        AizuchiError: the model speaks or holds conversations.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:
        from aizuchi.engine import Transcriber

        Transcriber(model, tokenizer)  # what the model is for is told before a file is heard
        self._model, self._tokenizer = model, tokenizer
        self._rate = model.config.sampling_rate
        self.name = f"{name}, weights {fingerprint(model)}"

    def __call__(self, wave: np.ndarray, rate: int) -> Heard:
        import torch

        from aizuchi.engine import transcribe

        if wave.ndim != 1:
            raise AizuchiError(f"wave must be (samples,), not {wave.shape}")
        if not wave.size:
            return Heard("", [])
        own = soxr.resample(wave, rate, self._rate) if rate != self._rate else wave
        words = transcribe(self._model, self._tokenizer, torch.from_numpy(own.astype(np.float32))[None])
        return Heard(to_text(words), words)


def model_speaker(model: Any, tokenizer: Any, seed: int = 0) -> Callable[[str], np.ndarray]:
    """A synthesis model as a function of a text that gives (samples,) at 24 kHz; each text has its own seed.

    Raises:
        AizuchiError: the model holds conversations or writes down speech; a text that its tokenizer knows nothing of.
    """
    import dataclasses

    from aizuchi.engine import Sampling, speak

    config = model.config
    if config.num_user_codebooks or not config.num_generated_codebooks:
        raise AizuchiError(
            "this model does not speak a text: a model made with task: tts does (docs/training.md)"
        )
    if config.sampling_rate != SAMPLE_RATE:
        raise AizuchiError(
            f"this model speaks at {config.sampling_rate} Hz; evaluation works at {SAMPLE_RATE} Hz"
        )
    usual = Sampling.of_model(model)

    def say(text: str) -> np.ndarray:
        own = (seed * 1_000_003 + zlib.crc32(text.encode())) % (1 << 62)
        try:
            spoken = speak(model, tokenizer, text, dataclasses.replace(usual, seed=own))
        except ValueError as error:
            raise AizuchiError(f"{text!r}: {error}") from error
        return spoken.waveform.mean(0).float().cpu().numpy()

    return say


def load_words_model(spec: str) -> tuple[Any, Any, str]:
    """(model, tokenizer, name) of a model's folder or hub name.

    Raises:
        AizuchiError: there is no such model, or it has no tokenizer beside it.
    """
    import torch

    from aizuchi.checkpoints.load import load
    from aizuchi.data.tokenizer import TextTokenizer
    from aizuchi.engine.memory import check_checkpoint

    check_checkpoint(spec, 1, torch.float32)
    loaded = load(spec, dtype=torch.float32)
    if loaded.tokenizer is None:
        raise AizuchiError(f"{spec} has no text tokenizer beside it")
    return loaded.model, TextTokenizer(loaded.tokenizer), spec


def read_lines(path: str | Path) -> list[str]:
    """Texts to be spoken, a line each; empty lines are left out.

    Raises:
        AizuchiError: the file can't be read, or holds none.
    """
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise AizuchiError(f"can't read the texts in {path}: {error}") from error
    texts = [line for line in lines if line]
    if not texts:
        raise AizuchiError(f"{path} holds no text: write one a line")
    return texts
