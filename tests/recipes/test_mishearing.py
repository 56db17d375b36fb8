"""What a model writes of the words that it hears, counted."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from aizuchi.errors import AizuchiError
from aizuchi.train.mishearing import Mishearing
from aizuchi.train.tokens import TokenDialogue, TokenList
from recipes.mini import mishearing
from recipes.mini.heard import DELAY

FIRST = 30  # the id of class 1
CLASSES = 12


def tokens(heard):
    """A source whose rows say classes 5, 7, 5, ... with ten frames between."""
    words = np.zeros(60, np.int32)
    words[10::10] = [5, 7, 5, 7, 5]
    codes = np.zeros((4, 60), np.int16)
    return TokenList([TokenDialogue(np.full(60, 3, np.int32), codes, codes, words if heard else None)] * 3)


@pytest.fixture
def model(monkeypatch):
    """A model that writes class 5 twice, the second time a frame late, and 8 in place of 7."""

    def roll_out(_, user, sampling):
        rows, frames = len(user), user.shape[2]
        text = torch.full((rows, frames), 3)
        for frame in range(10, frames - DELAY - 1, 20):
            text[:, frame + DELAY : frame + DELAY + 2] = 5 + FIRST - 1
        for frame in range(20, frames - DELAY, 20):
            text[:, frame + DELAY] = 8 + FIRST - 1
        return text, None

    monkeypatch.setattr(mishearing, "roll_out", roll_out)
    monkeypatch.setattr(mishearing.Sampling, "of_model", lambda _: mishearing.Sampling())
    monkeypatch.setattr(mishearing, "ROWS", 3)
    return SimpleNamespace(config=SimpleNamespace(num_codebooks=4, num_user_codebooks=2))


def test_what_a_model_writes_is_counted_by_word(model):
    found = mishearing.overhear(model, FIRST, tokens(True), 2, CLASSES, 1)
    assert found.heard == {5: [((5, 5), 18)], 7: [((8,), 12)]}
    assert found.rate == pytest.approx(12 / 30)


def test_counts_of_two_listeners_add_up(model):
    one = mishearing.overhear(model, FIRST, tokens(True), 1, CLASSES, 1)
    both = mishearing.together(one, Mishearing({5: [((5,), 4), ((5, 5), 1)], 9: [((9,), 2)]}, CLASSES))
    assert both.heard == {5: [((5, 5), 10), ((5,), 4)], 7: [((8,), 6)], 9: [((9,), 2)]}


def test_tokens_without_words_are_refused(model):
    with pytest.raises(AizuchiError, match="ear_tokens"):
        mishearing.overhear(model, FIRST, tokens(False), 1, CLASSES, 1)
