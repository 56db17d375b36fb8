"""How likely a model finds a sound or a text: the scorer of likelihood pairs for our own models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from aizuchi.audio import read_audio
from aizuchi.errors import AizuchiError

MAX_SECONDS = 120.0


class ModelLikelihood:
    """Negative log likelihoods of a dialogue model, teacher-forced, with the other streams blank.

    A sound file counts by the semantic codes (the first codebook) of the model's own voice, a text by its tokens, one
    a frame. Blank is what training gives where a stream is not known.

    Args:
        model: `MoshiForConditionalGeneration`, in eval mode. tokenizer: `aizuchi.data.tokenizer.TextTokenizer`, or
            None where only sounds are scored.
    """

    def __init__(self, model: Any, tokenizer: Any = None) -> None:
        self._model, self._tokenizer = model, tokenizer

    def __call__(self, example: str) -> tuple[float, int]:
        """(nats, tokens) of a sound file's path, or of a text.

        Raises:
            AizuchiError: the file can't be read, or the example holds no token.
        """
        if len(example) < 4096 and Path(example).suffix and Path(example).is_file():
            return self.of_sound(torch.from_numpy(self._read(example)))
        if self._tokenizer is None:
            raise AizuchiError(f"{example!r} is no file, and the model has no tokenizer to read it as text")
        return self.of_text(self._tokenizer.encode(example))

    @torch.no_grad()
    def of_sound(self, wave: Tensor) -> tuple[float, int]:
        """Of (1, samples) at the model's rate."""
        model, config = self._model, self._model.config
        if not config.num_generated_codebooks:
            raise AizuchiError("this model has no voice: only texts can be scored with it")
        codes = model.encode_audio(
            wave[None].to(model.device, model.audio_encoder.dtype), config.num_model_codebooks
        )
        inputs = self._inputs(codes.shape[-1], moshi_audio_codes=codes)
        out = model(**inputs)
        labels = inputs["audio_labels"][:, 0, 1:].reshape(-1)  # column t + 1, as `audio_logits` has it
        return _nats(out.audio_logits[:, 0], labels)

    @torch.no_grad()
    def of_text(self, ids: list[int]) -> tuple[float, int]:
        """Of text ids, one a frame."""
        if not ids:
            raise AizuchiError("there is no token in this text")
        text = torch.tensor([ids], device=self._model.device)
        inputs = self._inputs(len(ids), text_ids=text)
        out = self._model(**{name: value for name, value in inputs.items() if name != "audio_labels"})
        return _nats(out.logits[0, :-1], inputs["text_labels"][0, 1:])

    def _inputs(self, frames: int, **given: Tensor) -> dict[str, Tensor]:
        """Columns and labels of so many frames, blank where nothing is given."""
        config, device = self._model.config, self._model.device
        streams = {"moshi": config.num_model_codebooks, "user": config.num_user_codebooks}
        for stream, count in streams.items():
            if count and f"{stream}_audio_codes" not in given:
                blank = torch.full((1, count, frames), -1, device=device)
                given[f"{stream}_audio_codes"] = blank
        made = self._model.prepare_training_inputs(**given)
        return {name: value for name, value in made.items() if value is not None}

    def _read(self, path: str) -> Any:
        return read_audio(path, rate=self._model.config.sampling_rate, max_seconds=MAX_SECONDS)


def _nats(logits: Tensor, labels: Tensor) -> tuple[float, int]:
    """Summed cross-entropy of (T, V) logits, and how many of the (T,) labels count."""
    known = labels != -100
    total = cross_entropy(logits.float(), labels, ignore_index=-100, reduction="sum")
    return float(total), int(known.sum())
