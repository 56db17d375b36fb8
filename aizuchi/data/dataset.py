"""Reading token shards for training: segments in an order that a seed fixes and a resumed run continues.

A sample is a pure function of its number: sample n lies in epoch n // len(dataset), and (seed, epoch) fixes
what is drawn. So workers, ranks and restarts need to agree on numbers only: a global batch holds the same
samples however many processes share it, and the position in the data is one integer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from aizuchi.data.alignments import TextConditions
from aizuchi.data.frames import FRAME_RATE
from aizuchi.data.shards import ShardFolder
from aizuchi.data.sources import Source, parse_sources
from aizuchi.errors import AizuchiError

PADDING = -1  # beyond the end of a dialogue, and text that is not known: nothing to learn


class Sample(TypedDict):
    """One segment. `codes` is (1 + 2K, T) int64: row 0 text, then K of the model, then K of the user."""

    codes: Tensor
    text_conditions: TextConditions
    dialogue: str
    start: int


class Batch(TypedDict):
    """Segments as rows. `codes` is (B, 1 + 2K, T) int64, -1 where there is nothing."""

    codes: Tensor
    text_conditions: list[TextConditions]
    dialogue: list[str]
    start: list[int]


class TokenDataset(Dataset):
    """Segments of tokenized dialogues.

    With `random`, an epoch holds as many samples as the dialogues have segments; each folder gets a share by
    its weight, and within a folder every segment comes before any comes again. A dialogue's segments begin at
    random, one in each equal part of it, and the variant of the user's side is drawn too. Without, segments
    come in order, from the beginning of each dialogue, as recorded, and weights do not count.

    Args:
        sources: folders of token shards: `"path[:weight],path2"`, or `Source`s.
        seconds: length of a segment.
        seed: fixes the order and every draw.
        random: as above; off for evaluation.
        variants: "all" draws among the recorded user's side and its augmented copies, "clean" takes the first.

    Raises:
        AizuchiError: nothing to read, or folders that do not go together (codec, tokenizer, codebooks).
        ShardError: a folder is not complete, cut, or of an unknown format.
    """

    def __init__(
        self,
        sources: str | Sequence[Source],
        seconds: float,
        seed: int = 0,
        random: bool = True,
        variants: Literal["all", "clean"] = "all",
    ):
        self.sources = parse_sources(sources) if isinstance(sources, str) else list(sources)
        self.folders = [ShardFolder(source.path) for source in self.sources]
        _check_together(self.folders)
        self.frames = round(seconds * FRAME_RATE)
        if self.frames < 1:
            raise AizuchiError(f"seconds is {seconds:g}; a segment needs at least one frame (0.08 s)")
        self.codebooks = self.folders[0].codebooks
        self.seed, self.random, self.variants = seed, random, variants
        # The segments of each folder: (dialogue, part, parts of that dialogue).
        self._segments = [self._cut(folder) for folder in self.folders]
        self._length = sum(map(len, self._segments))
        if not self._length:
            raise AizuchiError("there are no dialogues in the train data")
        self._schedules: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        """Samples in an epoch."""
        return self._length

    def __getitem__(self, number: int) -> Sample:
        """Sample `number`, of any epoch (0 is the first of the first, `len` the first of the second)."""
        if number < 0:
            raise IndexError(f"sample {number}: numbers begin at 0")
        epoch, place = divmod(int(number), self._length)
        folders, segments = self._schedule(epoch)
        which = int(folders[place])
        folder = self.folders[which]
        dialogue, part, parts = (int(x) for x in self._segments[which][segments[place]])
        total = folder.dialogues[dialogue][1].frames
        start, variant = part * self.frames, 0
        if self.random:
            rng = np.random.default_rng([self.seed, 1, epoch, place])
            room = max(0, total - self.frames)
            low, high = part * room // parts, (part + 1) * room // parts
            start = int(rng.integers(low, high + 1))
            variant = int(rng.integers(folder.variants)) if self.variants == "all" else 0
        text, model, user = folder.read(dialogue, start, self.frames, variant)
        k = self.codebooks
        codes = np.full((1 + 2 * k, self.frames), PADDING, np.int64)
        codes[0, : len(text)] = text
        codes[1 : 1 + k, : len(text)] = model.T
        codes[1 + k :, : len(text)] = user.T
        entry = folder.dialogues[dialogue][1]
        return Sample(
            codes=torch.from_numpy(codes),
            text_conditions=dict(entry.text_conditions),
            dialogue=entry.name,
            start=start,
        )

    def fingerprint(self) -> str:
        """A hash of all that decides what sample n is."""
        content = [
            [[folder.fingerprint(), source.weight] for folder, source in zip(self.folders, self.sources)],
            [self.frames, self.seed, self.random, self.variants],
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def _cut(self, folder: ShardFolder) -> np.ndarray:
        rows = []
        for dialogue, (_, entry) in enumerate(folder.dialogues):
            parts = max(1, -(-entry.frames // self.frames))
            rows += [(dialogue, part, parts) for part in range(parts)]
        return np.array(rows, np.int64).reshape(-1, 3)

    def _schedule(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The folder and the segment of every place in an epoch."""
        epoch = epoch if self.random else 0
        if epoch not in self._schedules:
            if len(self._schedules) > 1:  # this epoch's, and a neighbor's while they overlap
                del self._schedules[min(self._schedules)]
            self._schedules[epoch] = self._draw(epoch)
        return self._schedules[epoch]

    def _draw(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        sizes = [len(segments) for segments in self._segments]
        if not self.random:
            return np.repeat(np.arange(len(sizes)), sizes), np.concatenate([np.arange(n) for n in sizes])
        rng = np.random.default_rng([self.seed, 0, epoch])
        counts = _shares(
            self._length, [source.weight if n else 0.0 for source, n in zip(self.sources, sizes)]
        )
        segments = []
        for size, count in zip(sizes, counts):
            rounds = [rng.permutation(size) for _ in range(-(-count // size))] if count else []
            segments.append(np.concatenate([*rounds, np.zeros(0, np.int64)])[:count].astype(np.int64))
        order = rng.permutation(self._length)
        return np.repeat(np.arange(len(sizes)), counts)[order], np.concatenate(segments)[order]


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples of one length to a batch."""
    return Batch(
        codes=torch.stack([sample["codes"] for sample in samples]),
        text_conditions=[sample["text_conditions"] for sample in samples],
        dialogue=[sample["dialogue"] for sample in samples],
        start=[sample["start"] for sample in samples],
    )


class TokenLoader:
    """This rank's batches of a dataset, without end, from a position that can be saved and restored.

    Global batch s holds samples s * G to (s + 1) * G - 1, with G = batch_size * world; rank r gets the r-th
    run of batch_size of them. A state counts samples and not batches: it may be resumed with another world
    or batch size.

    Args:
        dataset: what to read.
        batch_size: rows on this rank.
        rank, world: this process among those that train together.
        workers: processes that read ahead; 0 reads in this one.
        pin_memory: for fast copies to a GPU.
    """

    def __init__(
        self,
        dataset: TokenDataset,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        pin_memory: bool = False,
    ):
        if batch_size < 1 or not 0 <= rank < world:
            raise AizuchiError(f"batch_size {batch_size} or rank {rank} of {world} makes no sense")
        self.dataset, self.batch_size, self.rank, self.world = dataset, batch_size, rank, world
        self.position = 0  # samples that all ranks together have been given
        self._workers, self._pin = workers, pin_memory

    @property
    def epoch(self) -> float:
        """How many times the data has been gone through."""
        return self.position / len(self.dataset)

    def __iter__(self) -> Iterator[Batch]:
        """Batches from the position on. What is read ahead does not count: a state holds what was given."""
        loader: DataLoader = DataLoader(
            self.dataset,
            batch_sampler=_Numbers(self.position, self.batch_size, self.rank, self.world),
            collate_fn=collate,
            num_workers=self._workers,
            pin_memory=self._pin,
            # Forked workers would inherit the threads' locks of a parent that has computed already.
            multiprocessing_context="spawn" if self._workers else None,
        )
        for batch in loader:
            self.position += self.batch_size * self.world
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The position, and what it is a position in."""
        return {"version": 1, "position": self.position, "dataset": self.dataset.fingerprint()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where a state was taken; takes effect with the next `iter`.

        Raises:
            AizuchiError: the state is of other data (shards, weights, segment length or seed).
        """
        if state.get("version") != 1:
            raise AizuchiError(f"the data position has version {state.get('version')}; this aizuchi reads 1")
        if state["dataset"] != self.dataset.fingerprint():
            raise AizuchiError(
                "the data is not that of the run to be resumed: its shards, weights, segment length or seed "
                "differ. Give the same data, or start a new run"
            )
        self.position = int(state["position"])


class _Numbers(Sampler[list[int]]):
    """The numbers of this rank's samples, batch by batch, without end."""

    def __init__(self, position: int, batch: int, rank: int, world: int):
        self._first, self._batch, self._step = position + rank * batch, batch, batch * world

    def __iter__(self) -> Iterator[list[int]]:
        first = self._first
        while True:
            yield list(range(first, first + self._batch))
            first += self._step


def _shares(total: int, weights: list[float]) -> list[int]:
    """Split a whole number by weights: the largest remainders get what rounding leaves."""
    exact = [total * weight / sum(weights) for weight in weights]
    counts = [int(x) for x in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: counts[i] - exact[i])
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


def _check_together(folders: Sequence[ShardFolder]) -> None:
    if not folders:
        raise AizuchiError("train data names no folder of token shards")
    first = folders[0]
    for folder in folders[1:]:
        for name in ("codec", "tokenizer", "codebooks"):
            mine, other = first.settings.get(name), folder.settings.get(name)
            if mine != other:
                raise AizuchiError(
                    f"{folder.folder} and {_short(first.folder)} do not go together: {name} is {other!r} and {mine!r}"
                )


def _short(path: Path) -> str:
    return path.name or str(path)
