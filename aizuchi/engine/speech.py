"""Speech synthesis: words in as they come, speech out a frame at a time, from a model whose voice lags behind its text.

The text stream says when each word begins. Where the words bring their times, it is laid out as in training; else the
model sets the pace: in each frame it chooses between padding and the word that is next (paper, section 3.4.4). Behind
the end of the text stand some frames of padding and then no text at all, as at the end of a training dialogue.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import AizuchiError
from ..transcript import Word
from .sampling import Sampling
from .tokens import FREE, OFFERED, ZERO, TokenLoop


class Encoder(Protocol):
    """What speaking needs of a tokenizer; `aizuchi.data.tokenizer.TextTokenizer` makes one of any."""

    def encode(self, text: str) -> list[int]:
        """The ids of one word."""
        ...


@dataclass
class SpokenFrame:
    """80 ms of speech: ``waveform`` (channels, samples), ``text`` id, ``codes`` (K,), ``words`` that begin in it."""

    waveform: Tensor
    text: int
    codes: Tensor
    words: list[Word]


@dataclass
class Speech:
    """All that was said: ``waveform`` (channels, samples), ``text`` (frames,), ``codes`` (K, frames), ``words``.

    ``seconds``: its length, ``elapsed``: the time it took.
    """

    waveform: Tensor
    text: Tensor
    codes: Tensor
    words: list[Word]
    seconds: float
    elapsed: float


@dataclass
class _Pending:
    """A word in the queue: its ids, and the frame it begins in, where that is given."""

    text: str
    ids: list[int]
    frame: int | None = None


class Speaker:
    """Says one text, a frame a step.

    Args:
        model: a synthesis model (`aizuchi train moshi` with ``task: tts``), in eval mode.
        sampling: of text and voice. ``padding_bonus`` makes it speak slower (above 0) or quicker.
        conditions: for models that need them.
        longest_pause: frames of padding after which the next word is said in any case.
        tail: frames of padding behind the last word's text, in which it is said to its end.
    Raises:
        ValueError: the model hears a user, or does not speak.
    """

    def __init__(
        self,
        model: Any,
        sampling: Sampling | None = None,
        conditions: Any = None,
        longest_pause: int = 25,
        tail: int = 12,
    ):
        config = model.config
        if model.training:
            raise ValueError("`model` is in training mode: call `model.eval()` first.")
        if config.num_user_codebooks or model.depth_decoder is None or config.demux_second_text_stream:
            kind = "writes what it hears" if model.depth_decoder is None else "holds conversations"
            if config.demux_second_text_stream:
                kind = "speaks from two text streams, which is not supported"
            raise AizuchiError(
                f"this model {kind}; to speak a text it takes one that `aizuchi train moshi` made with task: tts"
            )
        if longest_pause < 2 or tail < 0:
            raise ValueError("`longest_pause` must be at least 2 frames, `tail` 0.")
        self.model, self.config = model, config
        self.codec = model.audio_encoder
        self.frame_rate = config.audio_encoder_config.frame_rate
        self.longest_pause, self.tail = longest_pause, tail
        self.loop = TokenLoop(model, 1, conditions)
        self.loop.configure(0, sampling or Sampling())
        self._decoder = self.codec.init_decoder_state(1)
        self._queue: deque[_Pending] = deque()
        self._rest: list[int] = []  # of the word that is being written
        self._written = 0  # frames of text
        self._silent = 0  # frames of padding in a row
        self._last = FREE  # the text of the frame before
        self._ended = False
        self._length: int | None = None  # frames of the whole, once it is known
        self._said = 0  # frames of sound
        self._begun: deque[tuple[int, Word]] = deque()  # words whose sound is still to come

    @property
    def hungry(self) -> bool:
        """Whether it could use another word: with none it pauses, until `end`."""
        return not self._queue and not self._ended

    @property
    def finished(self) -> bool:
        """Whether all was said."""
        return self._length is not None and self._said >= self._length

    def say(self, text: str, ids: Sequence[int], frame: int | None = None) -> None:
        """Add a word. ``ids``: its tokens; ``frame``: in which frame it begins (default: when the model likes)."""
        if self._ended:
            raise ValueError("the text has ended: nothing can be added.")
        quiet = self.loop.quiet
        kept = [int(i) for i in ids if int(i) not in quiet]
        if any(not 0 <= i < self.config.vocab_size for i in kept):
            raise AizuchiError(
                f"the tokenizer gives {text!r} the ids {kept}, this model knows {self.config.vocab_size}: "
                "it is not the model's tokenizer"
            )
        if kept:
            self._queue.append(_Pending(text, kept, frame))

    def end(self) -> None:
        """The text is complete."""
        self._ended = True

    @torch.no_grad()
    def step(self) -> SpokenFrame | None:
        """Run one frame; None while the voice still waits behind the text, and when all was said."""
        if self.finished:
            return None
        token, begins = self._next_text()
        forced = torch.full((1, 1 + self.config.num_model_codebooks), FREE, device=self.model.device)
        forced[:, 0] = token
        out = self.loop.step(forced=forced)
        if not bool(torch.isfinite(out.logits).all()):
            raise AizuchiError(
                "the model's numbers are not finite: its weights are damaged, or its dtype is too narrow"
            )
        if token <= OFFERED:  # the model had the choice
            token = int(out.newest_text[0])
            begins = token not in self.loop.quiet
        self._account(token, begins)
        if not bool(out.valid[0]) or out.codes is None:
            return None
        codes = out.codes[:, :, None].clamp(min=0)
        wave = self.codec.decode_step(codes, self._decoder, out.valid)[0]
        words = []
        while self._begun and self._begun[0][0] <= self._said:
            words.append(self._begun.popleft()[1])
        self._said += 1
        return SpokenFrame(wave.float().cpu(), int(out.text[0]), out.codes[0].cpu(), words)

    def _next_text(self) -> tuple[int, bool]:
        """What the text of the next frame is forced to, and whether it begins a word."""
        pad, epad = self.config.text_padding_token_id, self.config.text_end_padding_token_id
        word = self._queue[0] if self._queue else None
        if word is not None and word.frame is not None and self._written >= word.frame:
            return word.ids[0], True  # it cuts off what is left of the word before, as in training
        if self._rest:
            return self._rest.pop(0), False
        if word is None:
            if self._ended and self._length is None:
                self._length = self._written + self.tail
            return (pad if self._length is None or self._written < self._length else ZERO), False
        if word.frame is not None:
            return (epad if self._written + 1 == word.frame else pad), False
        if self._last == epad or self._silent >= self.longest_pause:
            return word.ids[0], True
        if self._silent == self.longest_pause - 1:
            return epad, False
        return OFFERED - word.ids[0], False

    def _account(self, token: int, begins: bool) -> None:
        """Note a frame of text."""
        if begins:
            word = self._queue.popleft()
            self._rest = word.ids[1:]
            start, end = self._written / self.frame_rate, (self._written + len(word.ids)) / self.frame_rate
            self._begun.append((self._written, Word(word.text, round(start, 6), round(end, 6))))
        self._silent = self._silent + 1 if token in self.loop.quiet else 0
        self._last = token
        self._written += 1


def speak_frames(
    model: Any,
    tokenizer: Encoder,
    text: str | Iterable[str] | Sequence[Word],
    sampling: Sampling | None = None,
    **options: Any,
) -> Iterator[SpokenFrame]:
    """Speak, and give each frame as soon as it is there.

    Args:
        model: see `Speaker`. tokenizer: encodes one word at a time.
        text: all of it; or pieces of it, taken one after the other as they are needed (a piece may end within a
            word); or words with their times, which are then kept.
        options: as for `Speaker`.
    Raises:
        ValueError: there is nothing to say, or times are out of order.
    """
    speaker = Speaker(model, sampling, **options)
    words = _words(text, speaker.frame_rate)
    anything = False
    while not speaker.finished:
        if speaker.hungry:
            word = next(words, None)
            if word is None and not anything:
                raise ValueError(
                    "there is nothing to say: the text is empty, or the tokenizer knows none of it."
                )
            if word is None:
                speaker.end()
            else:
                speaker.say(word[0], tokenizer.encode(word[0]), word[1])
                anything = anything or not speaker.hungry
            continue
        frame = speaker.step()
        if frame is not None:
            yield frame


def speak(
    model: Any,
    tokenizer: Encoder,
    text: str | Iterable[str] | Sequence[Word],
    sampling: Sampling | None = None,
    **options: Any,
) -> Speech:
    """Speak a text; see `speak_frames`."""
    begin = time.perf_counter()
    frames = list(speak_frames(model, tokenizer, text, sampling, **options))
    return Speech(
        waveform=torch.cat([frame.waveform for frame in frames], dim=-1),
        text=torch.tensor([frame.text for frame in frames]),
        codes=torch.stack([frame.codes for frame in frames], dim=-1),
        words=[word for frame in frames for word in frame.words],
        seconds=len(frames) / model.config.audio_encoder_config.frame_rate,
        elapsed=time.perf_counter() - begin,
    )


def _words(text: str | Iterable[str] | Sequence[Word], rate: float) -> Iterator[tuple[str, int | None]]:
    """Words and the frames they begin in, where times are given."""
    if isinstance(text, str):
        yield from ((word, None) for word in text.split())
        return
    if isinstance(text, Sequence) and text and isinstance(text[0], Word):
        yield from _timed(text, rate)  # type: ignore[arg-type]
        return
    left = ""  # what may go on with the next piece
    for piece in text:
        if not isinstance(piece, str):
            raise ValueError(f"`text` must be text, pieces of text, or words, not a {type(piece).__name__}.")
        *whole, left = re.split(r"\s+", left + piece)
        yield from ((word, None) for word in whole if word)
    yield from ((word, None) for word in left.split())


def _timed(words: Sequence[Word], rate: float) -> Iterator[tuple[str, int]]:
    placed = [(word, int(word.start * rate + 1e-6)) for word in words]  # 2.32 s is frame 29, in binary too
    for (word, frame), (after, next_frame) in zip(placed, [*placed[1:], (None, -1)]):
        if after is not None and after.start < word.start:
            raise ValueError(
                f"words are out of order: {after.text!r} at {after.start} s comes after {word.text!r} at {word.start} s"
            )
        if next_frame != frame:  # of words that begin in one frame the last is said, as in training
            yield word.text, frame
