"""Rows of a training step: pieces of tokenized dialogues, chosen by position, padded together, text masked."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from aizuchi.data.shards import ShardFolder
from aizuchi.data.sources import parse_sources
from aizuchi.errors import AizuchiError

from .disturb import hide_frames, warp_frames
from .order import item_at, keyed_generator

_BLOCK = 1000  # positions within which sources have exactly their shares


@dataclass
class TokenDialogue:
    """One tokenized dialogue, or a piece of one.

    text: (T,) ids, -1 where none are known. model, user: (K, T) codes of the two voices. heard: (T,) classes of the
    user's words where they end, see `aizuchi.data.shards.DialogueTokens`.
    """

    text: np.ndarray
    model: np.ndarray
    user: np.ndarray
    heard: np.ndarray | None = None


class TokenSource(Protocol):
    """What a run reads from: `aizuchi.data`'s token shards, or anything like them."""

    def lengths(self) -> np.ndarray:
        """Frames of every dialogue."""

    @property
    def variants(self) -> int:
        """How many versions of the user's side there are: as recorded, then augmented ones."""

    def read(self, index: int, start: int, stop: int, variant: int = 0) -> TokenDialogue:
        """Frames ``start`` to ``stop`` of a dialogue."""


class TokenList:
    """A source in memory."""

    variants = 1

    def __init__(self, dialogues: Sequence[TokenDialogue]):
        self.dialogues = dialogues

    def lengths(self) -> np.ndarray:
        return np.array([len(d.text) for d in self.dialogues])

    def read(self, index: int, start: int, stop: int, variant: int = 0) -> TokenDialogue:
        d = self.dialogues[index]
        heard = None if d.heard is None else d.heard[start:stop]
        return TokenDialogue(d.text[start:stop], d.model[:, start:stop], d.user[:, start:stop], heard)


class ShardSource:
    """A folder of token shards as `aizuchi data tokenize` writes it."""

    def __init__(self, folder: str | os.PathLike[str]):
        self.shards = ShardFolder(folder)
        self.variants = self.shards.variants
        self.heard_classes = self.shards.heard_classes

    def lengths(self) -> np.ndarray:
        return np.array([entry.frames for _, entry in self.shards.dialogues])

    def read(self, index: int, start: int, stop: int, variant: int = 0) -> TokenDialogue:
        text, model, user = self.shards.read(index, start, stop - start, variant)
        return TokenDialogue(text, model.T, user.T, self.shards.read_heard(index, start, stop - start))


def open_sources(text: str) -> list[tuple[TokenSource, float]]:
    """Token shards of ``path[:weight],path2[:weight2]``.

    Raises:
        AizuchiError: a path or a weight is wrong, or a folder holds no finished shards.
    """
    return [(ShardSource(source.path), source.weight) for source in parse_sources(text)]


class Pieces:
    """Every dialogue of some sources as pieces of at most ``frames``.

    Args:
        sources: (source, weight): how often a source is drawn, relative to the others; a single one is simply
            gone through, epoch by epoch.
        frames: longest piece. seed: of the shuffle and of where pieces are cut.
    """

    def __init__(self, sources: Sequence[tuple[TokenSource, float]], frames: int, seed: int):
        self.sources = [source for source, _ in sources]
        self.frames, self.seed = frames, seed
        weights = np.array([weight for _, weight in sources], float)
        self.shares = weights / weights.sum()
        self.index = []  # of each source: (pieces, 2) dialogue and its piece
        for source in self.sources:
            counts = np.maximum(1, -(-source.lengths() // frames))
            if not len(counts):
                raise AizuchiError("a data source holds no dialogue")
            dialogue = np.repeat(np.arange(len(counts)), counts)
            part = np.arange(len(dialogue)) - np.repeat(np.cumsum(counts) - counts, counts)
            self.index.append(np.stack([dialogue, part], 1))
        self.lengths = [source.lengths() for source in self.sources]

    def __len__(self) -> int:
        """Pieces of all sources."""
        return sum(map(len, self.index))

    def draw(self, position: int) -> TokenDialogue:
        """The piece at a position of the endless shuffled stream; long dialogues are cut at other places each time."""
        which, visit = self._source_at(position)
        item = item_at(visit, len(self.index[which]), self.seed + which)
        dialogue, part = self.index[which][item]
        generator = keyed_generator(self.seed, "cut", position)
        shift = generator.random() - 0.5
        variant = int(generator.integers(self.sources[which].variants))
        return self._piece(which, int(dialogue), int(part), shift, variant)

    def piece(self, number: int) -> TokenDialogue:
        """Piece ``number`` of all, in order and cut in a fixed place: for evaluation."""
        for which, index in enumerate(self.index):
            if number < len(index):
                return self._piece(which, int(index[number, 0]), int(index[number, 1]), 0.0)
            number -= len(index)
        raise IndexError(number)

    def _piece(self, which: int, dialogue: int, part: int, shift: float, variant: int = 0) -> TokenDialogue:
        length = int(self.lengths[which][dialogue])
        # moved by up to half a piece either way and kept within: the first and the last frames come often
        start = part * self.frames + int(shift * self.frames)
        start = max(0, min(start, length - self.frames)) if length > self.frames else 0
        return self.sources[which].read(dialogue, start, min(length, start + self.frames), variant)

    def _source_at(self, position: int) -> tuple[int, int]:
        """Which source comes at a position, and for which time."""
        if len(self.sources) == 1:
            return 0, position
        block, place = divmod(position, _BLOCK)
        order, ranks, counts = _block_order(self.seed, block, tuple(self.shares))
        which = int(order[place])
        return which, block * int(counts[which]) + int(ranks[place])


@lru_cache(maxsize=2)
def _block_order(
    seed: int, block: int, shares: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    exact = np.array(shares) * _BLOCK
    counts = np.maximum(1, np.floor(exact).astype(int))
    while counts.sum() != _BLOCK:  # the largest remainders get what is left
        step = 1 if counts.sum() < _BLOCK else -1
        counts[np.argmax((exact - counts) * step)] += step
    order = keyed_generator(seed, "sources", block).permutation(np.repeat(np.arange(len(shares)), counts))
    ranks = np.zeros(_BLOCK, int)
    for which in range(len(shares)):
        here = order == which
        ranks[here] = np.arange(here.sum())
    return order, ranks, counts


@dataclass
class Batch:
    """Rows padded together: text (B, T), codes (B, K, T), lengths (B,), heard (B, T); padding is -1.

    K is 0 for text alone; ``foreign`` (2, B, K, T) is then what both sides of other dialogues sound like, -1 where
    there is silence.
    """

    text: Tensor
    model: Tensor
    user: Tensor
    lengths: Tensor
    heard: Tensor | None = None
    foreign: Tensor | None = None

    @property
    def text_alone(self) -> bool:
        """Whether there is no sound in it at all."""
        return self.model.shape[1] == 0


def collate(rows: Sequence[TokenDialogue], codebooks: int) -> Batch:
    """Pad rows to the longest; keep the first ``codebooks`` codes."""
    length = max(len(row.text) for row in rows)
    text = torch.full((len(rows), length), -1)
    model, user = torch.full((2, len(rows), codebooks, length), -1)
    heard = None if any(row.heard is None for row in rows) else torch.full((len(rows), length), -1)
    for i, row in enumerate(rows):
        for name, target in (("model", model), ("user", user)):
            codes = getattr(row, name)
            if codes.shape[0] < codebooks:
                raise AizuchiError(
                    f"the data has {codes.shape[0]} codebooks, the model {codebooks}: "
                    "tokenize again with more, or lower the model's num_codebooks"
                )
            target[i, :, : codes.shape[1]] = torch.from_numpy(codes[:codebooks].astype(np.int64))
        text[i, : len(row.text)] = torch.from_numpy(row.text.astype(np.int64))
        if heard is not None and row.heard is not None:
            heard[i, : len(row.heard)] = torch.from_numpy(row.heard.astype(np.int64))
    return Batch(text, model, user, torch.tensor([len(row.text) for row in rows]), heard)


class StepBatches(torch.utils.data.Dataset):
    """Optimizer steps by number: the micro-batches of one process.

    The rows of step n are the positions n * batch_size and on, whatever the number of processes and the size of a
    micro-batch, and so is what is masked in them: the text of a share ``text_mask`` of the rows, the user's codes
    of a share ``user_mask`` of the frames; at a share ``user_warp`` of them the user halts or skips a frame. With
    ``texts``, a share of the steps, evenly spread, has rows of text alone, whose batches have no codebooks; either
    kind of step has positions of its own. A share ``foreign`` of these rows has the sound of other dialogues.
    """

    def __init__(
        self,
        pieces: Pieces,
        batch_size: int,
        micro: int,
        codebooks: int,
        text_mask: float = 0.0,
        rank: int = 0,
        world: int = 1,
        texts: Pieces | None = None,
        share: float = 0.0,
        user_mask: float = 0.0,
        user_warp: float = 0.0,
        foreign: float = 0.0,
    ):
        if batch_size % (micro * world):
            raise AizuchiError(
                f"batch_size ({batch_size}) must be a multiple of micro_batch_size ({micro}) times the number of "
                f"processes ({world})"
            )
        self.pieces, self.batch_size, self.micro = pieces, batch_size, micro
        self.codebooks, self.text_mask = codebooks, text_mask
        self.user_mask, self.user_warp = user_mask, user_warp
        self.rank, self.rows = rank, batch_size // world
        self.texts, self.share = texts, share if texts is not None else 0.0
        self.foreign = foreign

    def texts_before(self, step: int) -> int:
        """How many steps of text come before a step (counted from 0)."""
        return math.floor(step * self.share)

    def is_text(self, step: int) -> bool:
        """Whether a step learns from text alone."""
        return self.texts_before(step + 1) > self.texts_before(step)

    def __getitem__(self, step: int) -> list[Batch]:
        of_text, before = self.is_text(step), self.texts_before(step)
        turn = before if of_text else step - before
        first = turn * self.batch_size + self.rank * self.rows
        draw, codebooks = (self.texts.draw, 0) if of_text and self.texts else (self._row, self.codebooks)
        batches = []
        for start in range(first, first + self.rows, self.micro):
            positions = range(start, start + self.micro)
            batches.append(collate([draw(p) for p in positions], codebooks))
            if of_text and self.foreign:
                sounds = [self._foreign(p, batches[-1].text.shape[1]) for p in positions]
                batches[-1].foreign = torch.from_numpy(np.stack(sounds, 1))
        return batches

    def _foreign(self, position: int, frames: int) -> np.ndarray:
        """(2, K, frames) codes of the model and of the user of dialogues that have nothing to do with a text."""
        codes = np.full((2, self.codebooks, frames), -1)
        rng = keyed_generator(self.pieces.seed, "foreign", position)
        at = 0 if rng.random() < self.foreign else frames
        while at < frames:
            row = self.pieces.draw(int(rng.integers(1 << 30)))
            for side, given in zip(codes, (row.model, row.user)):
                part = given[: self.codebooks, : frames - at]
                side[:, at : at + part.shape[1]] = part
            at += len(row.text)
        return codes

    def _row(self, position: int) -> TokenDialogue:
        row = self.pieces.draw(position)
        if self.text_mask and keyed_generator(self.pieces.seed, "mask", position).random() < self.text_mask:
            row = replace(row, text=np.full_like(row.text, -1))
        if self.user_warp:
            rng = keyed_generator(self.pieces.seed, "warp", position)
            user, heard = warp_frames(row.user, row.heard, self.user_warp, rng)
            row = replace(row, user=user, heard=heard)
        if self.user_mask:
            rng = keyed_generator(self.pieces.seed, "user", position)
            row = replace(row, user=hide_frames(row.user, self.user_mask, rng))
        return row
