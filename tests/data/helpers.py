"""Small stand-ins that several data tests share."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aizuchi.audio import SAMPLE_RATE
from aizuchi.data.dialogues import write_dialogue, write_list
from aizuchi.data.frames import MAIN_SPEAKER, USER_SPEAKER, SpokenWord


class LetterTokenizer:
    """Two letters an id, as SentencePiece would mark them: the first id of a word differs from the others.

    It round-trips any text of a-z; ids start at 10, so that padding ids stay free.
    """

    def __init__(self) -> None:
        letters = "abcdefghijklmnopqrstuvwxyz"
        units = [*letters, *(a + b for a in letters for b in letters)]
        self._pieces = ["▁" + u for u in units] + units
        self._ids = {piece: i + 10 for i, piece in enumerate(self._pieces)}

    def encode(self, text: str) -> list[int]:
        pieces = [text[i : i + 2] for i in range(0, len(text), 2)]
        return [self._ids[("▁" if i == 0 else "") + piece] for i, piece in enumerate(pieces)]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self._pieces[i - 10] for i in ids).replace("▁", " ").strip()

    def id_to_piece(self, token: int) -> str:
        return self._pieces[token - 10]


def make_dialogues(folder: Path, count: int = 4, seconds: float = 3.0, seed: int = 0) -> Path:
    """Write dialogues of tone bursts (one a word, model and user in turn) and return their list."""
    rng = np.random.default_rng(seed)
    files = []
    for n in range(count):
        samples = round((seconds + 0.37 * n) * SAMPLE_RATE)
        sides = rng.normal(0, 1e-3, (2, samples)).astype(np.float32)
        words = []
        for i, start in enumerate(np.arange(0.2, samples / SAMPLE_RATE - 0.4, 0.5)):
            side, text = i % 2, "".join(rng.choice(list("abcdefghij"), rng.integers(1, 7)))
            first, last = int(start * SAMPLE_RATE), int((start + 0.3) * SAMPLE_RATE)
            tone = np.sin(2 * np.pi * rng.uniform(150, 3000) * np.arange(last - first) / SAMPLE_RATE)
            sides[side, first:last] += 0.3 * tone
            words.append(
                SpokenWord(text, float(start), float(start + 0.3), (MAIN_SPEAKER, USER_SPEAKER)[side])
            )
        files.append(folder / f"dialogue{n}.wav")
        write_dialogue(files[-1], sides[0], sides[1], words, {"style": f"s{n}"} if n % 2 else None)
    write_list(folder / "list.jsonl", files)
    return folder / "list.jsonl"


class FakeCodec:
    """Codes from the loudness of each quarter of a frame: quick, and different for different sounds."""

    codebooks = 4
    codebook_size = 2048

    def __init__(self, slow: float = 0.0, name: str = "fake") -> None:
        self._slow, self._name = slow, name

    def encode(self, wave: torch.Tensor) -> torch.Tensor:
        time.sleep(self._slow)
        rows, _, samples = wave.shape
        frames = -(-samples // 1920)
        padded = torch.nn.functional.pad(wave[:, 0], (0, frames * 1920 - samples))
        loud = padded.reshape(rows, frames, 4, 480).abs().mean(-1)  # (B, F, K)
        return (loud * 2047).long().clamp(0, 2047).transpose(1, 2)

    def fingerprint(self) -> str:
        return self._name


def small_mimi_config() -> Any:
    """A codec with 6 codebooks of 64 entries, at Mimi's rates."""
    from aizuchi.models.mimi import MimiConfig  # brings transformers, which worker processes do without

    return MimiConfig(
        hidden_size=32, num_filters=4, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        head_dim=16, intermediate_size=32, codebook_size=64, codebook_dim=16, num_quantizers=6,
        vector_quantization_hidden_dimension=16, upsample_groups=32, sliding_window=20,
    )  # fmt: skip
