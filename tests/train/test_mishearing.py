"""What a listener makes of words: how it is counted, drawn, kept in a file, and put into a text."""

import json
from collections import Counter

import numpy as np
import pytest
import torch

from aizuchi.errors import AizuchiError
from aizuchi.train.heard_text import HeardTextConfig, make_heard_text
from aizuchi.train.mishearing import Mishearing, aligned
from tests.train.test_heard_text import FIRST, PAD, model_of

HEARD = {
    2: [((2,), 60), ((), 20), ((5,), 15), ((7, 8), 5)],
    3: [((3, 3), 70), ((4, 3), 30)],
    4: [((), 10)],
}


def test_what_is_written_goes_to_the_word_that_is_nearest():
    said = [(2, 10), (3, 14), (4, 30)]
    assert aligned(said, []) == [(2, ()), (3, ()), (4, ())]
    assert aligned(said, [(2, 9), (2, 10), (9, 11), (3, 15)]) == [(2, (2, 2, 9)), (3, (3,)), (4, ())]
    assert aligned(said, [(3, 12)]) == [(2, ()), (3, (3,)), (4, ())]  # as near to both, but the same
    assert aligned(said, [(9, 23)]) == [(2, ()), (3, ()), (4, ())]  # far from all
    assert aligned([], [(9, 23)]) == []


def test_words_are_written_as_often_as_they_were_and_worse_at_a_greater_scale():
    listener, rng = Mishearing(HEARD, 10), np.random.default_rng(0)
    assert listener.rate == pytest.approx(50 / 210)
    drawn = Counter(listener.draw(2, 1.0, rng) for _ in range(20_000))
    assert set(drawn) == {(2,), (), (5,), (7, 8)}
    assert drawn[2,] / 20_000 == pytest.approx(1 - 41 / 104, abs=0.015)
    assert drawn[()] / drawn[5,] == pytest.approx(20 / 15, rel=0.1)
    worse = Counter(listener.draw(2, 3.0, rng) for _ in range(20_000))
    assert worse[2,] / 20_000 == pytest.approx((1 - 41 / 104) ** 3, abs=0.015)
    # never wrong, never right, never met: there is always something to write
    assert {listener.draw(3, 1.0, rng) for _ in range(300)} == {(3, 3), (4, 3), ()}
    assert {listener.draw(4, 0.01, rng) for _ in range(300)} == {(4,), ()}
    assert {listener.draw(9, 1.0, rng) for _ in range(300)} == {(9,), ()}


def test_a_file_comes_back_and_others_are_refused(tmp_path):
    path = tmp_path / "mishearing.json"
    Mishearing(HEARD, 10).save(path)
    assert Mishearing.load(path, 10).heard == HEARD
    with pytest.raises(AizuchiError, match="10 classes of words, the data has 11"):
        Mishearing.load(path, 11)
    with pytest.raises(AizuchiError, match="can't be read"):
        Mishearing.load(tmp_path / "nowhere.json", 10)
    for text in ("{", "[]", '{"version": 1}', '{"version": 1, "classes": 10, "heard": {"2": [[["x"], 1]]}}'):
        path.write_text(text)
        with pytest.raises(AizuchiError, match="not a file of what a listener wrote"):
            Mishearing.load(path, 10)
    path.write_text(json.dumps({"version": 2}))
    with pytest.raises(AizuchiError, match="version 2"):
        Mishearing.load(path, 10)
    path.write_text(json.dumps({"version": 1, "classes": 10, "heard": {"2": [[[10], 1]]}}))
    with pytest.raises(AizuchiError, match="10 classes"):
        Mishearing.load(path, 10)


def listening(heard, tmp_path, **options):
    path = tmp_path / "mishearing.json"
    Mishearing(heard, 33).save(path)
    given = HeardTextConfig(first=FIRST, mishearing=str(path), worse=[1e-6, 1e-6], **options)
    return make_heard_text(given, model_of(33), 33, None)


def ids(*classes):
    """Ids of classes of words; 0 is padding, negative numbers are other ids."""
    return torch.tensor([[PAD if c == 0 else FIRST - 1 + c if c > 0 else 10 - c for c in classes]])


def test_what_comes_of_a_word_takes_the_frames_that_are_free(tmp_path):
    words = listening({2: [((7, 8, 2), 1)], 3: [((3, 9), 1)]}, tmp_path)
    rng = np.random.default_rng(0)
    assert torch.equal(words.misheard(ids(2, 0, 0, 0, -4, 3, 0), rng), ids(7, 8, 2, 0, -4, 3, 9))
    # what the model says, and the next word, stay where they are; of more than fits some are left out, in any row
    made = [words.misheard(ids(2, 0, 3, -4, 5, 2), rng)[0] for _ in range(60)]
    assert all(torch.equal(row[3:5], ids(-4, 5)[0]) for row in made)
    pairs = {tuple(row[:2].tolist()) for row in made}
    assert pairs == {tuple(ids(*pair)[0].tolist()) for pair in ((7, 8), (7, 2), (8, 2))}
    assert {int(row[2]) for row in made} == {int(ids(c)[0, 0]) for c in (3, 9)}
    assert {int(row[5]) for row in made} == {int(ids(c)[0, 0]) for c in (7, 8, 2)}


def test_a_word_that_is_missed_leaves_padding(tmp_path):
    words = listening({2: [((), 1)], 3: [((3,), 1)]}, tmp_path)
    words.given.worse = [1e6, 1e6]
    assert torch.equal(words.misheard(ids(2, 0, -4, 2), np.random.default_rng(0)), ids(0, 0, -4, 0))


def test_rows_are_heard_better_and_worse(tmp_path):
    words = listening({2: [((2,), 7), ((), 3)]}, tmp_path)
    words.given.worse = [0.2, 8.0]
    made = words.misheard(ids(*[2] * 400).expand(60, -1), np.random.default_rng(0))
    right = (made == FIRST + 1).double().mean(1)
    assert right.min() < 0.15 and right.max() > 0.85
