"""Our own models as systems under test: many recordings at once, one row of the engine each."""

from __future__ import annotations

import dataclasses
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from aizuchi.audio import SAMPLE_RATE
from aizuchi.errors import AizuchiError
from aizuchi.evaluate.systems import Reply
from aizuchi.transcript import Word

RANDOM = "random"
ROWS = 8  # conversations at once: on a CPU a row costs less in company


class ModelSystem:
    """`MoshiForConditionalGeneration` behind the engine.

    A recording's seed comes from `seed` and from its samples, so that its reply does not depend on what
    else is asked.

    Args:
        model: in evaluation mode, at 24 kHz.
        tokenizer: of its text; None gives no words.
        name: tells this model from others.
        seed: of the sampling.
        rows: conversations at once.
        sampling: `aizuchi.engine.Sampling`; None takes the engine's defaults.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        name: str = "model",
        seed: int = 0,
        rows: int = ROWS,
        sampling: Any = None,
    ) -> None:
        from aizuchi.engine import Sampling

        rate = model.config.audio_encoder_config.sampling_rate
        if rate != SAMPLE_RATE:
            raise AizuchiError(f"{name} works at {rate} Hz; evaluation works at {SAMPLE_RATE} Hz")
        self.model, self._rows, self._seed = model, rows, seed
        self.sampling = sampling or Sampling.of_model(model)
        self.tokens = None
        if tokenizer is not None:
            from aizuchi.data.tokenizer import TextTokenizer

            self.tokens = TextTokenizer(tokenizer)
        self.name = f"{name}, seed {seed}"
        self.identity = f"{self.name}, weights {fingerprint(model)}, {self.sampling}"

    def reply(self, user: np.ndarray) -> Reply:
        return next(self.replies([user]))[1]

    def replies(self, users: Sequence[np.ndarray]) -> Iterator[tuple[int, Reply]]:
        """Replies to many users, (index, reply), each as soon as it is complete.

        Raises:
            AizuchiError: a wave is not (samples,), or empty.
        """
        for index, wave, text in self.conversations(users):
            yield index, Reply(wave, self.words(text))

    def conversations(
        self, users: Sequence[np.ndarray], texts: Sequence[Sequence[int]] | None = None, sound: bool = True
    ) -> Iterator[tuple[int, np.ndarray, list[int]]]:
        """As `replies`: (index, wave, ids of the text, one a frame).

        Args:
            users: waves (samples,).
            texts: for each user, ids that the first frames of the text are given, `FREE` where the model writes what it
                will; it does so on the first of all.
            sound: make the wave; it is silent otherwise.

        Raises:
            AizuchiError: a wave is not (samples,), or empty.
        """
        import torch

        from aizuchi.engine import DuplexEngine
        from aizuchi.engine.tokens import FREE

        for user in users:
            if user.ndim != 1 or user.size == 0:
                raise AizuchiError(f"a user's wave must be (samples,) and not empty, not {user.shape}")
        engine = DuplexEngine(self.model, rows=min(self._rows, max(1, len(users))), sampling=self.sampling)
        waiting = deque(sorted(range(len(users)), key=lambda i: -len(users[i])))  # the longest first
        rows: list[_Row | None] = [None] * engine.rows
        size = engine.frame_size
        while waiting or any(rows):
            for i, row in enumerate(rows):
                if row is None and waiting:
                    index = waiting.popleft()
                    seed = (self._seed * 1_000_003 + zlib.crc32(users[index].tobytes())) % (1 << 62)
                    engine.join(i, dataclasses.replace(self.sampling, seed=seed))
                    rows[i] = _Row(index, users[index], size, () if texts is None else texts[index])
            heard = np.zeros((engine.rows, engine.channels, size), np.float32)
            forced = None if texts is None else torch.full((engine.rows, engine.loop.said), FREE)
            for i, row in enumerate(rows):
                if row is not None:
                    if forced is not None:
                        forced[i, 0] = row.given(FREE)
                    heard[i] = row.hear()
            device = self.model.device
            forced = None if forced is None else forced.to(device)
            out = engine.step(torch.from_numpy(heard).to(device), forced=forced, decode=sound)
            for i, row in enumerate(rows):
                if row is not None and bool(out.valid[i]):
                    wave = None if out.waveform is None else out.waveform[i, 0].float().cpu().numpy()
                    row.say(wave, int(out.text[i]))
                    if row.done:
                        engine.leave(i)
                        rows[i] = None
                        yield row.index, row.wave(), row.text

    def words(self, text: Sequence[int]) -> list[Word]:
        """What the ids of a text say, one a frame, with times; nothing without a tokenizer."""
        if self.tokens is None:
            return []
        from aizuchi.data.frames import frames_to_words

        config = self.model.config
        return frames_to_words(
            text,
            self.tokens,
            frame_rate=config.audio_encoder_config.frame_rate,
            pad=config.text_padding_token_id,
            epad=config.text_end_padding_token_id,
        )


def fingerprint(model: Any) -> str:
    """Eight digits that change with a model's weights: a checkpoint trained on is another system."""
    import torch

    check = 0
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        flat = flat[:: max(1, flat.numel() // 65_536)].to(device="cpu", dtype=torch.float32)  # enough of each
        check = zlib.crc32(flat.numpy().tobytes(), zlib.crc32(f"{name}{tuple(tensor.shape)}".encode(), check))
    return f"{check:08x}"


class _Row:
    """One conversation under way."""

    def __init__(self, index: int, user: np.ndarray, size: int, given: Sequence[int] = ()) -> None:
        self.index, self._user, self._size, self._given = index, user, size, given
        self._at = 0
        self._voice: list[np.ndarray] = []
        self.text: list[int] = []
        self._frames = -(-len(user) // size)

    def given(self, otherwise: int) -> int:
        """The text's id that is written as the next frame is heard: that of the frame behind it."""
        frame = self._at // self._size + 1
        return self._given[frame] if frame < len(self._given) else otherwise

    def hear(self) -> np.ndarray:
        """The next frame of the user, silence after the end."""
        piece = self._user[self._at : self._at + self._size]
        self._at += self._size
        return np.pad(piece, (0, self._size - len(piece)))

    def say(self, wave: np.ndarray | None, text: int) -> None:
        self._voice.append(np.zeros(self._size, np.float32) if wave is None else wave)
        self.text.append(text)

    @property
    def done(self) -> bool:
        return len(self.text) == self._frames

    def wave(self) -> np.ndarray:
        return np.concatenate(self._voice)[: len(self._user)]


def load_model_system(spec: str | None, seed: int = 0, rows: int = ROWS) -> ModelSystem:
    """A model by name or path; "random" is one with random weights, None the one that comes with aizuchi.

    Raises:
        AizuchiError: there is no such model.
    """
    if spec == RANDOM:
        from aizuchi.models.presets import random_model

        return ModelSystem(random_model("mini").eval(), name="random weights", seed=seed, rows=rows)
    import torch

    from aizuchi.checkpoints.load import default_model, load
    from aizuchi.engine.memory import check_checkpoint

    path = spec if spec is not None else default_model()
    check_checkpoint(path, rows, torch.float32)
    loaded = load(path, dtype=torch.float32)
    name = str(spec) if spec is not None else f"aizuchi-{default_model().name}"
    return ModelSystem(loaded.model, loaded.tokenizer, name=name, seed=seed, rows=rows)
