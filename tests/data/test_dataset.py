"""Reading shards: what a sample holds, the order of samples, and resuming exactly."""

from __future__ import annotations

import functools
import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from aizuchi.data.augment import UserAugment
from aizuchi.data.dataset import TokenDataset, TokenLoader, collate
from aizuchi.data.dialogues import read_dialogues
from aizuchi.data.tokenize import TokenizeOptions, tokenize
from aizuchi.data.tokenizer import TextTokenizer
from aizuchi.errors import AizuchiError
from tests.data.helpers import FakeCodec, LetterTokenizer, make_dialogues

SECONDS = 1.2  # 15 frames


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two folders of shards: a of 5 dialogues with 2 augmented copies, b of 3."""
    root = tmp_path_factory.mktemp("tokens")
    augment = UserAugment(gain_p=1.0, gain_db=(-20.0, -6.0), noise_p=0.0, echo_p=0.0)
    for name, count, seed, options in (
        ("a", 5, 0, TokenizeOptions(augment=augment, copies=2, shard_minutes=0.12)),
        ("b", 3, 1, TokenizeOptions()),
    ):
        (root / f"data-{name}").mkdir()
        data = make_dialogues(root / f"data-{name}", count, seed=seed)
        tokenizer = TextTokenizer(LetterTokenizer())
        tokenize(read_dialogues(data), root / name, FakeCodec, tokenizer, options)
    return root


def same(first, second):
    return first["dialogue"] == second["dialogue"] and torch.equal(first["codes"], second["codes"])


def take(loader, count):
    return list(itertools.islice(iter(loader), count))


def test_a_sample_is_the_stretch_that_it_says(folders):
    dataset = TokenDataset(str(folders / "a"), SECONDS, seed=3)
    [folder] = dataset.folders
    names = {entry.name: i for i, (_, entry) in enumerate(folder.dialogues)}
    for n in range(2 * len(dataset)):
        sample = dataset[n]
        codes, start = sample["codes"].numpy(), sample["start"]
        assert codes.shape == (9, 15) and codes.dtype == np.int64
        i = names[sample["dialogue"]]
        frames = folder.dialogues[i][1].frames
        assert 0 <= start <= frames - 15 and (codes >= 0).all()
        text, model, _ = folder.read(i, start, 15)
        assert np.array_equal(codes[0], text) and np.array_equal(codes[1:5], model.T)
        users = [folder.read(i, start, 15, v)[2].T for v in range(3)]
        assert any(np.array_equal(codes[5:], user) for user in users)
        assert sample["text_conditions"] == folder.dialogues[i][1].text_conditions


def test_short_dialogues_and_last_segments_are_padded(folders):
    long = TokenDataset(str(folders / "b"), 8.0, random=False)
    assert len(long) == 3
    for n, (_, entry) in enumerate(long.folders[0].dialogues):
        codes = long[n]["codes"]
        assert (codes[:, : entry.frames] >= 0).all() and (codes[:, entry.frames :] == -1).all()
    assert (TokenDataset(str(folders / "b"), 8.0)[0]["codes"] == -1).any()


def test_in_order_every_frame_comes_once(folders):
    dataset = TokenDataset(f"{folders / 'a'}:9,{folders / 'b'}", SECONDS, random=False)
    samples = [dataset[n] for n in range(len(dataset))]
    rows = torch.cat([s["codes"][:, s["codes"][1] >= 0] for s in samples], dim=1).numpy()
    expected = [np.concatenate([t[None], m.T, u.T]) for t, m, u in (
        folder.read(i) for folder in dataset.folders for i in range(len(folder.dialogues)))]  # fmt: skip
    assert np.array_equal(rows, np.concatenate(expected, axis=1))
    assert same(dataset[len(dataset)], dataset[0])


def test_every_segment_comes_once_an_epoch_and_begins_elsewhere_in_the_next(folders):
    dataset = TokenDataset(str(folders / "a"), SECONDS, seed=1)
    count = len(dataset)
    frames = [entry.frames for _, entry in dataset.folders[0].dialogues]
    assert count == sum(-(-f // 15) for f in frames)
    epochs = [[dataset[e * count + n] for n in range(count)] for e in range(2)]
    for samples in epochs:
        found = Counter(s["dialogue"] for s in samples)
        assert [found[e.name] for _, e in dataset.folders[0].dialogues] == [-(-f // 15) for f in frames]
    order = [[(s["dialogue"], s["start"]) for s in samples] for samples in epochs]
    assert order[0] != order[1] and sorted(order[0]) != sorted(order[1])
    assert order[0] != sorted(order[0])


def test_all_frames_are_reachable(folders):
    dataset = TokenDataset(str(folders / "b"), SECONDS)
    seen = {entry.name: np.zeros(entry.frames, int) for _, entry in dataset.folders[0].dialogues}
    for n in range(60 * len(dataset)):
        sample = dataset[n]
        seen[sample["dialogue"]][sample["start"] : sample["start"] + 15] += 1
    assert all(counts.min() > 0 for counts in seen.values())


def test_the_seed_fixes_everything(folders):
    make = functools.partial(TokenDataset, str(folders / "a"), SECONDS)
    first, second, other = make(seed=5), make(seed=5), make(seed=6)
    numbers = [7, 0, 3, 100, 7]
    assert all(same(first[n], second[n]) for n in numbers)
    assert all(same(second[n], first[n]) for n in reversed(numbers))  # in any order of asking
    assert not all(same(first[n], other[n]) for n in range(10))
    prints = {
        d.fingerprint() for d in (first, other, make(seed=5, variants="clean"), make(seed=5, random=False))
    }
    assert first.fingerprint() == second.fingerprint() and len(prints) == 4


def test_weights_set_the_shares(folders):
    a, b = folders / "a", folders / "b"
    dataset = TokenDataset(f"{a}:1,{b}:3", SECONDS)
    total = len(dataset)
    for epoch in range(3):
        which, segments = dataset._draw(epoch)
        share = Counter(which.tolist())
        assert share[0] == round(total / 4) or share[0] == total // 4
        per_segment = Counter(zip(which.tolist(), segments.tolist()))
        for folder in (0, 1):  # within a folder no segment comes twice before all have come
            counts = [per_segment[(folder, s)] for s in range(len(dataset._segments[folder]))]
            assert max(counts) - min(counts) <= 1


def test_variants(folders):
    clean = TokenDataset(str(folders / "a"), SECONDS, variants="clean")
    mixed = TokenDataset(str(folders / "a"), SECONDS)
    differ = [not torch.equal(clean[n]["codes"][5:], mixed[n]["codes"][5:]) for n in range(60)]
    assert 0.4 < np.mean(differ) < 0.9  # two of three variants are augmented
    assert all(torch.equal(clean[n]["codes"][:5], mixed[n]["codes"][:5]) for n in range(60))


def test_collate_makes_rows(folders):
    dataset = TokenDataset(str(folders / "a"), SECONDS)
    batch = collate([dataset[0], dataset[1]])
    assert batch["codes"].shape == (2, 9, 15) and batch["codes"].dtype == torch.int64
    assert torch.equal(batch["codes"][1], dataset[1]["codes"])
    assert batch["dialogue"] == [dataset[0]["dialogue"], dataset[1]["dialogue"]]


def test_ranks_share_the_global_batch(folders):
    dataset = TokenDataset(str(folders / "a"), SECONDS)
    alone = take(TokenLoader(dataset, 6), 4)
    ranks = [take(TokenLoader(dataset, 3, rank, 2), 4) for rank in range(2)]
    for whole, first, second in zip(alone, *ranks):
        assert torch.equal(whole["codes"], torch.cat([first["codes"], second["codes"]]))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_loader_continues_exactly(folders, workers):
    dataset = TokenDataset(str(folders / "a"), SECONDS)
    total = len(dataset) // 2 + 3  # past the end of an epoch
    unbroken = take(TokenLoader(dataset, 2), total)
    loader = TokenLoader(TokenDataset(str(folders / "a"), SECONDS), 2, workers=workers)
    batches = iter(loader)
    first = [next(batches) for _ in range(5)]
    state = loader.state_dict()
    assert state["position"] == 10  # though workers have read ahead
    del batches
    resumed = TokenLoader(dataset, 2)
    resumed.load_state_dict(state)
    both = first + take(resumed, total - 5)
    assert all(torch.equal(x["codes"], y["codes"]) for x, y in zip(both, unbroken, strict=True))
    assert resumed.position == 2 * total and resumed.epoch > 1


def test_a_state_is_resumed_with_another_batch_and_world(folders):
    dataset = TokenDataset(str(folders / "a"), SECONDS)
    loader = TokenLoader(dataset, 4)
    take(loader, 3)
    other = TokenLoader(dataset, 2, rank=1, world=3)
    other.load_state_dict(loader.state_dict())
    [batch] = take(other, 1)
    assert torch.equal(batch["codes"], torch.stack([dataset[14]["codes"], dataset[15]["codes"]]))


def test_the_position_of_other_data_is_refused(folders):
    state = TokenLoader(TokenDataset(str(folders / "a"), SECONDS), 2).state_dict()
    for dataset in (
        TokenDataset(str(folders / "b"), SECONDS),
        TokenDataset(str(folders / "a"), SECONDS, seed=1),
        TokenDataset(str(folders / "a"), 2.0),
        TokenDataset(f"{folders / 'a'}:2", SECONDS),
    ):
        with pytest.raises(AizuchiError, match="not that of the run"):
            TokenLoader(dataset, 2).load_state_dict(state)
    with pytest.raises(AizuchiError, match="version 2"):
        TokenLoader(dataset, 2).load_state_dict({**state, "version": 2})


def test_what_makes_no_sense_is_refused(folders, tmp_path):
    with pytest.raises(AizuchiError, match="at least one frame"):
        TokenDataset(str(folders / "a"), 0.01)
    with pytest.raises(AizuchiError, match="no folder"):
        TokenDataset([], SECONDS)
    with pytest.raises(AizuchiError, match="no index|holds no token shards"):
        TokenDataset(str(tmp_path), SECONDS)
    with pytest.raises(AizuchiError, match="rank"):
        TokenLoader(TokenDataset(str(folders / "a"), SECONDS), 2, rank=2, world=2)
    with pytest.raises(IndexError):
        TokenDataset(str(folders / "a"), SECONDS)[-1]
    (tmp_path / "data").mkdir()
    data = make_dialogues(tmp_path / "data", 1)
    other = functools.partial(FakeCodec, 0.0, "other")
    tokenize(read_dialogues(data), tmp_path / "c", other, TextTokenizer(LetterTokenizer()))
    with pytest.raises(AizuchiError, match="do not go together: codec is 'other' and 'fake'"):
        TokenDataset(f"{folders / 'a'},{tmp_path / 'c'}", SECONDS)
