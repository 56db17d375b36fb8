"""Properties of transcripts that hold for any words, and cases that a viewer of subtitles would notice."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aizuchi.errors import AizuchiError
from aizuchi.transcript import (
    CUE_LINES,
    CUE_SECONDS,
    LINE_CHARACTERS,
    PAUSE_SECONDS,
    Word,
    from_json,
    group_words,
    to_json,
    to_srt,
    to_text,
    wrap_words,
)

texts = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=30)


@st.composite
def transcripts(draw):
    rows = draw(st.lists(st.tuples(texts, st.floats(0, 3), st.floats(0, 2)), max_size=40))
    words, now = [], 0.0
    for text, gap, length in rows:
        now += gap
        words.append(Word(text, now, now + length))
    return words


def parse_srt(srt):
    """(index, start ms, end ms, lines) of each cue, read as a player would."""
    cues = []
    for block in filter(None, srt.split("\n\n")):
        index, times, *lines = block.strip("\n").split("\n")
        numbers = [
            int(n)
            for n in re.fullmatch(
                r"(\d+):(\d\d):(\d\d),(\d{3}) --> (\d+):(\d\d):(\d\d),(\d{3})", times
            ).groups()
        ]
        start, end = ((h * 60 + m) * 60_000 + s * 1000 + ms for h, m, s, ms in (numbers[:4], numbers[4:]))
        cues.append((int(index), start, end, lines))
    return cues


@given(transcripts())
def test_groups_keep_every_word_once_and_in_order(words):
    groups = group_words(words)
    assert [word for group in groups for word in group] == words
    assert all(groups)


@given(transcripts())
def test_a_group_is_short_unbroken_and_fits_its_lines(words):
    for group in group_words(words):
        if len(group) > 1:
            assert max(word.end for word in group[-1:]) - group[0].start <= CUE_SECONDS
            assert len(wrap_words([word.text for word in group])) <= CUE_LINES
        for word, following in zip(group, group[1:]):
            assert following.start - word.end < PAUSE_SECONDS


@given(transcripts())
def test_groups_are_not_needlessly_cut(words):
    """Each cut has one of the documented reasons."""
    groups = group_words(words)
    for group, following in zip(groups, groups[1:]):
        first = following[0]
        assert (
            first.start - group[-1].end >= PAUSE_SECONDS
            or re.search(r"[.?!…。？！][\"'”’)\]»]*$", group[-1].text)
            or first.end - group[0].start > CUE_SECONDS
            or len(wrap_words([w.text for w in [*group, first]])) > CUE_LINES
        )


@given(transcripts())
def test_srt_is_well_formed_in_order_and_complete(words):
    cues = parse_srt(to_srt(words))
    assert [cue[0] for cue in cues] == list(range(1, len(cues) + 1))
    for _, start, end, lines in cues:
        assert start <= end and lines
    for (_, _, end, _), (_, start, _, _) in zip(cues, cues[1:]):
        assert end <= start
    assert " ".join(" ".join(lines) for *_, lines in cues) == to_text(words)


@given(st.lists(texts, max_size=20), st.integers(5, 60))
def test_wrapping_keeps_the_words_the_width_and_the_fewest_lines(words, width):
    lines = wrap_words(words, width)
    assert " ".join(lines) == " ".join(words)
    assert all(len(line) <= width or " " not in line for line in lines)
    assert len(lines) == fewest_lines(words, width)


def fewest_lines(words, width):
    """By dynamic programming, independently of the greedy filling."""
    best = [0]
    for end in range(1, len(words) + 1):
        starts = [s for s in range(end) if s == end - 1 or len(" ".join(words[s:end])) <= width]
        best.append(1 + min(best[s] for s in starts))
    return best[-1]


@given(transcripts())
def test_json_round_trips_to_the_millisecond(words):
    again = from_json(to_json(words))
    assert [word.text for word in again] == [word.text for word in words]
    for word, copy in zip(words, again):
        assert abs(word.start - copy.start) <= 0.0005 + 1e-9 and abs(word.end - copy.end) <= 0.0005 + 1e-9
    assert to_json(again) == to_json(words)


def test_srt_looks_as_players_expect():
    words = [
        Word("Good", 0.08, 0.32),
        Word("morning.", 0.32, 0.8),
        Word("Three", 1.2, 1.44),
        Word("plus", 1.44, 1.68),
        Word("four?", 3661.0, 3661.25),
    ]
    assert to_srt(words) == (
        "1\n00:00:00,080 --> 00:00:00,800\nGood morning.\n\n"
        "2\n00:00:01,200 --> 00:00:01,700\nThree plus\n\n"
        "3\n01:01:01,000 --> 01:01:01,500\nfour?\n"
    )


def test_two_lines_are_even():
    words = "one of these lines would be long and the other one short".split()
    lines = wrap_words(words)
    assert lines == ["one of these lines would be", "long and the other one short"]
    assert max(map(len, lines)) <= LINE_CHARACTERS


def test_a_sentence_that_ends_in_a_quote_ends_the_subtitle():
    words = [Word('"Yes."', 0, 0.3), Word("She", 0.3, 0.5), Word("nodded", 0.5, 0.8)]
    assert [len(group) for group in group_words(words)] == [1, 2]


def test_nothing_said_is_nothing_written():
    assert to_text([]) == "" and to_srt([]) == "" and group_words([]) == []
    assert from_json(to_json([])) == []


def test_json_keeps_other_alphabets_readable():
    assert "相槌" in to_json([Word("相槌", 0, 1)])


@pytest.mark.parametrize(
    "text, start, end",
    [("", 0, 1), ("  \n", 0, 1), ("a", -0.1, 1), ("a", 2, 1), ("a", float("nan"), 1), ("a", 0, float("inf"))],
)
def test_impossible_words_are_refused(text, start, end):
    with pytest.raises(AizuchiError):
        Word(text, start, end)


def test_white_space_is_dropped():
    assert Word(" a\n b ", 0, 1).text == "a b"


def test_words_out_of_order_are_refused():
    with pytest.raises(AizuchiError, match="'b' at 1.0 s comes after 'a' at 2.0 s"):
        to_srt([Word("a", 2.0, 3.0), Word("b", 1.0, 1.5)])


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"words": 3}', '{"words": [{"text": "a"}]}', '{"words": [1]}']
)
def test_what_is_no_transcript_is_refused(text):
    with pytest.raises(AizuchiError):
        from_json(text)
