"""Words that sound as they do in dialogues: which codes are a word's, where it is written, and who hears it."""

import numpy as np
import pytest
import torch

from aizuchi.errors import AizuchiError
from aizuchi.train.tokens import Pieces, TokenDialogue, TokenList
from aizuchi.train.word_sounds import LONGEST, UNKNOWN, WordSounds
from tests.train.test_heard_text import FIRST, PAD, quiet, run_of, text_alone
from tests.train.tiny import config_of

WORDS = range(FIRST, FIRST + 32)
DELAY = 2


def said(ends, frames=60, unknown=()):
    """A dialogue whose user's codes count the frames, with words (class by frame) that end there."""
    heard = np.zeros(frames, np.int32)
    for frame, word in ends.items():
        heard[frame] = word
    heard[list(unknown)] = -1
    codes = np.stack([np.arange(frames), 100 + np.arange(frames)]).astype(np.int16)
    return TokenDialogue(np.full(frames, PAD, np.int32), codes, codes, heard)


def sounds_of(*dialogues, rows=20, delay=DELAY):
    return WordSounds(Pieces([(TokenList(dialogues), 1.0)], 60, 1), 2, WORDS, PAD, delay, rows)


def test_a_words_codes_lie_between_what_tells_of_its_neighbours():
    sounds = sounds_of(said({20: 5, 24: 6, 50: 7}))
    rng = np.random.default_rng(0)
    (five,), (six,), (seven,) = (sounds.run([word], rng) for word in (5, 6, 7))
    assert five[0].tolist() == list(range(20 + DELAY - LONGEST, 22))
    assert six.tolist() == [[22, 23, 24, 25], [122, 123, 124, 125]]
    assert seven[0].tolist() == list(range(52 - LONGEST, 52))


def test_words_that_follow_each_other_are_taken_together():
    sounds = sounds_of(said({20: 5, 24: 6, 28: 7}), said({20: 5, 24: 9}))
    for seed in range(20):
        run = sounds.run([5, 6, 7, 8], np.random.default_rng(seed))
        assert len(run) in (1, 3)  # of the second dialogue one, of the first all that it has
    assert [len(codes[0]) for codes in run] == [LONGEST, 4, 4]
    assert sounds.run([6, 9], rng := np.random.default_rng(0))[0][0].tolist() == [22, 23, 24, 25]
    assert len(sounds.run([6, 9], rng)) == 1


def test_what_is_cut_off_or_unknown_is_no_word():
    sounds = sounds_of(said({3: 5, 30: 6, 59: 7}), said({30: 8}, unknown=(25,)))
    assert sorted(sounds.places) == [6]
    (nobody,) = sounds.run([7], np.random.default_rng(0))
    assert nobody.shape == (2, UNKNOWN) and (nobody == -1).all()


def test_a_text_is_spoken_word_by_word_and_keeps_its_answers():
    sounds = sounds_of(said({20: 5, 24: 6, 40: 7}))
    ids = np.array([PAD, FIRST + 4, FIRST + 5, PAD, FIRST + 6, 0, 7, 8, PAD, FIRST + 4, 0, 9], np.int32)
    text, user = sounds.speak(ids, 200, np.random.default_rng(3))
    assert [i for i in text.tolist() if i != PAD] == [i for i in ids.tolist() if i != PAD]
    assert len(text) == user.shape[1] < 200
    at = [int(np.flatnonzero(text == word)[0]) for word in (FIRST + 4, FIRST + 5, FIRST + 6)]
    for frame, last in zip(at, (21, 25, 41)):
        assert user[:, frame - 1].tolist() == [last, 100 + last]
    assert at[1] - at[0] == 4
    answer = int(np.flatnonzero(text == 7)[0])
    assert text[answer - 1 : answer + 2].tolist() == [0, 7, 8] and (user[:, at[2] : answer + 3] == -1).all()
    short, sound = sounds.speak(ids, at[1], np.random.default_rng(3))
    np.testing.assert_array_equal(short, text[: at[1]])
    np.testing.assert_array_equal(sound, user[:, : at[1]])


def test_rows_of_text_are_spoken_to_the_model(tmp_path):
    texts = text_alone([FIRST + 4, PAD, FIRST + 8, 0, 7, 8, PAD], 20)
    options = dict(share=0.5, frames=56, spoken=0.5)
    trainer = run_of(tmp_path, texts=texts, text_only=options, batch_size=40, micro_batch_size=40)
    batch = trainer.batches[1][0]
    spoken = (batch.foreign[1] >= 0).flatten(1).any(1)
    assert 0.3 < spoken.double().mean() < 0.7
    assert (batch.foreign[0] == -1).all()  # nothing of the model's own
    told = {tuple(d.user[:, t]) for d in quiet(6) for t in range(d.user.shape[1])}
    row = int(spoken.nonzero()[0])
    heard = batch.foreign[1, row]
    assert all(tuple(c) in told for c in heard[:, heard[0] >= 0].T.tolist())
    x = trainer.inputs(batch)
    sounding = heard[0] >= 0
    assert torch.equal(x["user_audio_codes"][row, 0, 1:57][sounding], heard[0][sounding])
    assert set(x["text_labels"].unique().tolist()) == {-100, 7, 8} and x["audio_labels"] is None
    assert torch.equal(trainer.batches[1][0].foreign, batch.foreign)


def test_shares_are_checked(tmp_path):
    with pytest.raises(AizuchiError, match=r"text_only\.spoken is a share"):
        config_of(tmp_path, heard_text={"first": FIRST}, text_only={"train": "x", "spoken": 1.5})
    with pytest.raises(AizuchiError, match=r"text_only\.spoken is for runs with heard_text"):
        config_of(tmp_path, text_only={"train": "x", "spoken": 0.5})
