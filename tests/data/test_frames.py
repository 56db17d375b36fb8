"""Words on frames: the rules one by one, then as properties against a frame-by-frame oracle."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aizuchi.data.frames import (
    EPAD,
    PAD,
    SpokenWord,
    frame_at,
    frame_count,
    frames_to_words,
    padding_share,
    words_to_frames,
)
from aizuchi.data.tokenizer import TextTokenizer
from aizuchi.errors import AizuchiError
from aizuchi.transcript import Word
from tests.data.helpers import LetterTokenizer

TOKENIZER = TextTokenizer(LetterTokenizer())


def lay(words, frames=20, **options):
    return words_to_frames([SpokenWord(*w) for w in words], frames, TOKENIZER, **options).tolist()


def ids(text):
    return TOKENIZER.encode(text)


def test_a_word_lies_on_its_own_frames_after_an_end_of_padding():
    out = lay([("hello", 0.24, 0.6)], frames=8)
    assert out == [PAD, PAD, EPAD, *ids("hello"), PAD, PAD]
    assert len(ids("hello")) == 3


def test_a_word_in_frame_zero_has_no_end_of_padding_before_it():
    assert lay([("hi", 0.0, 0.2)], frames=3) == [*ids("hi"), PAD, PAD]


def test_a_new_word_cuts_off_the_rest_of_the_one_before():
    out = lay([("abcdefgh", 0.08, 0.3), ("xy", 0.24, 0.4)], frames=6)
    assert out == [EPAD, *ids("abcdefgh")[:2], *ids("xy"), PAD, PAD]


def test_keep_and_shift_writes_every_word_out():
    out = lay([("abcdefgh", 0.08, 0.3), ("xy", 0.24, 0.4)], frames=7, keep_and_shift=True)
    assert out == [EPAD, *ids("abcdefgh"), *ids("xy"), PAD]


def test_of_words_that_begin_in_one_frame_the_last_is_written():
    assert lay([("ab", 0.09, 0.1), ("cd", 0.12, 0.2)], frames=3) == [EPAD, *ids("cd"), PAD]
    both = lay([("ab", 0.09, 0.1), ("cd", 0.12, 0.2)], frames=4, keep_and_shift=True)
    assert both == [EPAD, *ids("ab"), *ids("cd"), PAD]


def test_only_the_chosen_speaker_is_written():
    words = [("ab", 0.0, 0.1, "SPEAKER_MAIN"), ("cd", 0.08, 0.2, "SPEAKER_USER")]
    assert lay(words, frames=3) == [*ids("ab"), PAD, PAD]
    assert lay(words, frames=3, speaker="SPEAKER_USER") == [EPAD, *ids("cd"), PAD]
    assert lay(words, frames=3, speaker=None) == [*ids("ab"), *ids("cd"), PAD]


def test_audio_delay_moves_the_text_ahead_or_behind():
    words = [("ab", 0.16, 0.3), ("cd", 0.64, 0.8)]
    plain = lay(words, frames=10)
    assert plain == [PAD, EPAD, *ids("ab"), PAD, PAD, PAD, PAD, EPAD, *ids("cd"), PAD]
    assert lay(words, frames=12, audio_delay=-0.16)[2:] == plain  # text behind its audio
    assert lay(words, frames=9, audio_delay=0.08) == plain[1:]  # text ahead
    assert lay(words, frames=4, audio_delay=0.4) == [PAD, PAD, EPAD, *ids("cd")]  # "ab" would lie before 0


def test_ids_that_mean_padding_are_left_out_of_words():
    class Unknown:
        def encode(self, text):
            return [50, EPAD, 51, PAD]

    out = words_to_frames([Word("w", 0.08, 0.2)], 5, TextTokenizer(Unknown()))
    assert out.tolist() == [EPAD, 50, 51, PAD, PAD]


@pytest.mark.parametrize("frame", [1, 7, 29, 57, 114, 12345])
def test_decimal_times_on_a_frame_boundary_are_exact(frame):
    seconds = float(f"{frame * 0.08:.2f}")
    assert frame_at(seconds) == frame
    assert frame_count(seconds) == frame
    assert frame_count(seconds + 0.001) == frame + 1
    assert frame_at(seconds - 0.001) == frame - 1


def test_words_out_of_order_are_refused():
    with pytest.raises(AizuchiError, match="'cd' at 0.5 s comes after 'ab' at 1.0 s"):
        lay([("ab", 1.0, 1.1), ("cd", 0.5, 0.6)])


def test_padding_share():
    assert padding_share(np.array([3, 0, 7, 8])) == 0.5
    assert padding_share(np.array([-1, -1, 3, 7])) == 0.5
    assert math.isnan(padding_share(np.array([-1])))


# Properties

texts = st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=9)


@st.composite
def timed_words(draw):
    starts = sorted(draw(st.lists(st.integers(0, 4000), max_size=12)))  # milliseconds
    return [SpokenWord(draw(texts), s / 1000, s / 1000 + 0.1) for s in starts]


def oracle(words, frames, keep_and_shift):
    """The rules as a machine that advances one frame at a time."""
    out, pending, todo = [], deque(), deque(words)
    for t in range(frames):
        while todo and todo[0].start * 12.5 + 1e-6 < t + 1:
            tokens = ids(todo.popleft().text)
            pending = deque([*pending, *tokens]) if keep_and_shift else deque(tokens)
        if not pending:
            out.append(PAD)
            continue
        if out and out[-1] == PAD:
            out[-1] = EPAD
        out.append(pending.popleft())
    return out


@given(timed_words(), st.integers(0, 60), st.booleans())
def test_equals_the_frame_by_frame_machine(words, frames, keep_and_shift):
    out = words_to_frames(words, frames, TOKENIZER, keep_and_shift=keep_and_shift)
    assert out.dtype == np.int32
    assert out.tolist() == oracle(words, frames, keep_and_shift)


@given(timed_words(), st.integers(1, 60))
def test_every_word_that_is_not_replaced_begins_on_its_own_frame(words, frames):
    out = words_to_frames(words, frames, TOKENIZER)
    last_in_frame = {frame_at(w.start): w for w in words}
    for frame, word in last_in_frame.items():
        if frame < frames:
            assert out[frame] == ids(word.text)[0]


@given(timed_words(), st.integers(1, 60), st.booleans())
def test_an_end_of_padding_stands_just_before_words_that_follow_padding(words, frames, keep_and_shift):
    out = words_to_frames(words, frames, TOKENIZER, keep_and_shift=keep_and_shift)
    for t in range(frames):
        if out[t] == EPAD:
            assert t + 1 < frames and out[t + 1] not in (PAD, EPAD)
        if t > 0 and out[t] not in (PAD, EPAD):
            assert out[t - 1] != PAD


@given(timed_words())
def test_keep_and_shift_loses_nothing(words):
    enough = 51 + sum(len(ids(w.text)) for w in words)
    back = frames_to_words(words_to_frames(words, enough, TOKENIZER, keep_and_shift=True), TOKENIZER)
    assert [w.text for w in back] == [w.text for w in words]


@given(timed_words())
def test_words_come_back_with_their_frames_where_they_have_room(words):
    room = []  # words far enough apart that none is cut off
    for word in words:
        if not room or frame_at(word.start) >= frame_at(room[-1].start) + len(ids(room[-1].text)):
            room.append(word)
    back = frames_to_words(words_to_frames(room, 80, TOKENIZER), TOKENIZER)
    assert [w.text for w in back] == [w.text for w in room]
    for word, original in zip(back, room):
        assert frame_at(word.start) == frame_at(original.start)
        assert frame_at(word.end) - frame_at(word.start) == len(ids(original.text))


@given(timed_words(), st.integers(-10, 10))
def test_a_delay_is_undone_when_words_are_read_back(words, delay_frames):
    delay = delay_frames * 0.08
    spread = [SpokenWord(w.text, 2 + i * 0.8, 2.1 + i * 0.8) for i, w in enumerate(words)]
    frames = words_to_frames(spread, 250, TOKENIZER, audio_delay=delay)
    back = frames_to_words(frames, TOKENIZER, audio_delay=delay)
    assert [(w.text, frame_at(w.start)) for w in back] == [(w.text, frame_at(w.start)) for w in spread]
