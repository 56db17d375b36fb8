"""Speech recognition: sound in, timed words out as soon as they are complete, from a model whose text lags behind."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from ..checkpoints.generation_config import kyutai_option
from ..errors import AizuchiError
from ..transcript import Word
from .duplex import DuplexEngine
from .sampling import Sampling


class Decoder(Protocol):
    """What recognition needs of a tokenizer; `aizuchi.data.tokenizer.TextTokenizer` makes one of any."""

    def decode(self, ids: list[int]) -> str:
        """The text of one word's ids."""
        ...

    def starts_word(self, token: int) -> bool:
        """Whether an id begins a word."""
        ...


class WordReader:
    """Reads words from a text stream, one token a frame; the rules are those of `aizuchi.data.frames`.

    A word begins behind padding, and at ids that begin a word. It is complete with the token behind it; its end is
    taken as that of its last token's frame. ``late``: seconds by which the text comes behind the sound.
    """

    def __init__(
        self, tokenizer: Decoder, quiet: tuple[int, ...], frame_rate: float = 12.5, late: float = 0.0
    ):
        self._tokenizer, self._quiet, self._rate, self._late = tokenizer, quiet, frame_rate, late
        self._ids: list[int] = []
        self._first = self._frame = 0

    def feed(self, token: int) -> Word | None:
        """The next frame's id; returns the word that it completes."""
        silent = token < 0 or token in self._quiet
        done = None
        if self._ids and (silent or self._tokenizer.starts_word(token)):
            done = self.finish()
        if not silent:
            if not self._ids:
                self._first = self._frame
            self._ids.append(token)
        self._frame += 1
        return done

    def finish(self) -> Word | None:
        """The word that is under way, complete or not."""
        ids, self._ids = self._ids, []
        text = self._tokenizer.decode(ids) if ids else ""
        if not text.strip():
            return None
        start, end = (n / self._rate - self._late for n in (self._first, self._first + len(ids)))
        return Word(text, round(max(0.0, start), 6), round(max(0.0, end), 6))


class Transcriber:
    """Writes down one speaker, as the sound comes.

    Args:
        model: a recognition model (`aizuchi train moshi` with ``task: stt``, or Kyutai's), in eval mode.
        tokenizer: of the model.
        sampling: greedy by default.
    Raises:
        ValueError: the model has a voice of its own, or hears nothing.
    """

    def __init__(self, model: Any, tokenizer: Decoder, sampling: Sampling | None = None):
        config = model.config
        if model.depth_decoder is not None or not config.num_user_codebooks:
            kind = "holds conversations" if config.num_user_codebooks else "speaks"
            raise AizuchiError(
                f"this model {kind}; to write down speech it takes one that `aizuchi train moshi` made with task: stt"
            )
        self.engine = DuplexEngine(model, rows=1, sampling=sampling or Sampling.greedy())
        self.rate = config.sampling_rate
        quiet = (config.text_padding_token_id, config.text_end_padding_token_id)
        # Kyutai's models have their delay in the data and none between the streams: the file says how long it is, and
        # how much silence they were trained to hear first.
        original = kyutai_option(config, "stt_config") or {}
        self.silence_after = float(original.get("audio_delay_seconds", 0.0))
        before = float(original.get("audio_silence_prefix_seconds", 0.0))
        frame_rate = config.audio_encoder_config.frame_rate
        frames_before = math.ceil(before * frame_rate)
        late = self.silence_after + frames_before / frame_rate
        self._reader = WordReader(tokenizer, quiet, frame_rate, late)
        self._waiting = torch.zeros(self.engine.channels, 0)  # less than a frame
        self._finished = False
        self.engine.join(0)
        self.feed(torch.zeros(self.engine.channels, frames_before * self.engine.frame_size))

    @property
    def delay(self) -> float:
        """Seconds of sound behind a moment that have to be heard before its text is written."""
        return self.silence_after + (self.engine.lag + 1) * self.engine.frame_size / self.rate

    @torch.no_grad()
    def feed(self, wave: Tensor) -> list[Word]:
        """Hear more, (channels, samples) of any length; returns the words that are complete now.

        Raises:
            ValueError: a wrong shape, samples that are not finite, or the transcript has ended.
        """
        if self._finished:
            raise ValueError("the transcript has ended: make another `Transcriber`.")
        if wave.dim() != 2 or wave.shape[0] != self.engine.channels:
            raise ValueError(f"`wave` must be ({self.engine.channels}, samples), got {tuple(wave.shape)}.")
        if not bool(torch.isfinite(wave).all()):
            raise ValueError("`wave` holds NaN or infinite samples.")
        size = self.engine.frame_size
        wave = torch.cat([self._waiting, wave.float().cpu()], dim=1)
        whole = wave.shape[1] // size * size
        self._waiting = wave[:, whole:]
        words = []
        for frame in wave[:, :whole].split(size, dim=1) if whole else ():
            words += self._step(waveform=frame[None].to(self.engine.model.device))
        return words

    @torch.no_grad()
    def finish(self) -> list[Word]:
        """The sound has ended; returns the remaining words."""
        if self._finished:
            return []
        short = -self._waiting.shape[1] % self.engine.frame_size
        after = math.ceil(self.silence_after * self.rate / self.engine.frame_size) * self.engine.frame_size
        words = self.feed(torch.zeros(self._waiting.shape[0], short + after))
        self._finished = True
        # Behind the end, training dialogues have blank codes and no silence.
        heard = self.engine.loop.streams_heard
        blank = torch.full((1, heard, 1), -1, device=self.engine.model.device)
        for _ in range(self.engine.lag):
            words += self._step(user_codes=blank)
        last = self._reader.finish()
        return words if last is None else [*words, last]

    def _step(self, **heard: Tensor) -> list[Word]:
        out = self.engine.step(**heard, decode=False)
        if bool(out.failed[0]):
            raise AizuchiError(
                "the model's numbers are not finite: its weights are damaged, or its dtype is too narrow"
            )
        word = self._reader.feed(int(out.text[0])) if bool(out.valid[0]) else None
        return [] if word is None else [word]


def transcribe_frames(
    model: Any, tokenizer: Decoder, waves: Iterable[Tensor], sampling: Sampling | None = None
) -> Iterator[Word]:
    """The words of sound that comes in pieces (channels, samples), each as soon as it is complete."""
    transcriber = Transcriber(model, tokenizer, sampling)
    for wave in waves:
        yield from transcriber.feed(wave)
    yield from transcriber.finish()


def transcribe(model: Any, tokenizer: Decoder, wave: Tensor, sampling: Sampling | None = None) -> list[Word]:
    """The words of a whole recording, (channels, samples) at the model's rate.

    Raises:
        ValueError: a wrong shape, nothing in it, or samples that are not finite.
    """
    if wave.dim() == 2 and not wave.shape[1]:
        raise ValueError("`wave` is empty.")
    return list(transcribe_frames(model, tokenizer, [wave], sampling))
