"""Full-Duplex-Bench's rules against cases worked out by hand from its published programs."""

import math
from dataclasses import dataclass

import numpy as np
import pytest

from aizuchi.errors import AizuchiError
from aizuchi.evaluate.turns import (
    BackchannelScore,
    TurnScore,
    backchannel_divergence,
    jensen_shannon,
    score_backchannels,
    score_pause,
    score_turn,
    summarize_backchannels,
    summarize_turns,
    takes_turn,
    timing,
)


@dataclass
class Chunk:
    text: str
    start: float
    end: float | None


def words(*times):
    return [Chunk(f"w{i}", start, end) for i, (start, end) in enumerate(times)]


@pytest.mark.parametrize(
    ("times", "turn"),
    [
        ([], False),
        ([(0.0, 0.4)], False),
        ([(2.0, 2.3), (2.4, 2.6), (2.7, 2.99)], False),  # three words in 0.99 s
        ([(2.0, 2.3), (2.4, 2.6), (2.7, 3.0)], True),  # three words in exactly 1 s
        ([(2.0, 2.1), (2.2, 2.3), (2.4, 2.5), (2.6, 2.7)], True),  # four short words
        ([(1.0, 1.2), (8.0, 8.2)], True),  # two words far apart: the span counts
        ([(1.0, 1.2), (1.8, None)], False),  # no end: the span runs to the last start, 0.8 s
        ([(1.0, 1.2), (2.0, None)], True),
    ],
)
def test_takes_turn(times, turn):
    assert takes_turn(words(*times)) is turn
    assert score_pause(words(*times)).take_over is turn


def test_latency_runs_from_the_user_end_and_is_never_negative():
    reply = words((5.25, 5.5), (5.6, 6.5))
    late = score_turn(reply, 5.0)
    assert late.take_over and late.latency == pytest.approx(0.25)
    early = score_turn(reply, 6.0)
    assert early.latency == 0.0 and early.offset == pytest.approx(-0.75)
    assert score_turn(words((5.25, 5.5)), 5.0) == TurnScore(False)


def test_summary_takes_latency_of_those_taken_over_only():
    scores = [
        TurnScore(True, 0.2, 0.2),
        TurnScore(False),
        TurnScore(True, 0.0, -0.3),
        TurnScore(True, 1.0, 1.0),
    ]
    summary = summarize_turns(scores)
    assert summary["take_over_rate"] == 0.75
    assert summary["latency"] == pytest.approx(0.4)
    assert summary["latency_median"] == 0.2
    assert summarize_turns([])["take_over_rate"] is None


def test_backchannels_are_short_and_of_few_words():
    segments = [(1.0, 1.5), (4.0, 4.8)]
    score = score_backchannels(segments, words((1.1, 1.4), (4.1, 4.3), (4.4, 4.7)), 10.0)
    assert not score.take_over
    assert score.backchannels == segments
    assert score.frequency == pytest.approx(0.2)
    assert score.divergence is None


@pytest.mark.parametrize(
    "segment, times",
    [
        ((1.0, 2.0), [(1.1, 1.4)]),  # one word, but 1 s long
        ((1.0, 1.9), [(1.1, 1.2), (1.3, 1.4), (1.5, 1.6)]),  # 0.9 s, but three words
        ((1.0, 4.5), []),  # over 3 s, whatever is heard
    ],
)
def test_longer_or_wordier_segments_are_turns(segment, times):
    score = score_backchannels([segment], words(*times), 10.0, truth=[1.0, 1.0])
    assert score.take_over and score.backchannels == [] and score.divergence == 1.0


def test_a_turn_forgets_backchannels_before_it_and_the_last_segment_decides():
    # hum, 2 s of talk, hum: the benchmark says "not taken over" with one backchannel
    score = score_backchannels([(1.0, 1.4), (3.0, 5.0), (7.0, 7.4)], words((1.1, 1.3), (7.1, 7.3)), 10.0)
    assert not score.take_over and score.backchannels == [(7.0, 7.4)]
    # over 3 s ends the search: what comes later is not looked at, what came before stays
    score = score_backchannels([(1.0, 1.4), (3.0, 6.5), (7.0, 7.4)], words((1.1, 1.3)), 10.0)
    assert score.take_over and score.backchannels == [(1.0, 1.4)]


def test_words_count_when_they_touch_the_segment():
    inside, across_start, across_end = (1.2, 1.3), (0.8, 1.1), (1.8, 2.2)
    outside, endless = (0.2, 1.0), (1.4, None)
    over_all = (0.5, 2.5)
    score = score_backchannels([(1.0, 1.9)], words(inside, outside, endless, across_end), 5.0)
    assert not score.take_over  # two words touch it
    score = score_backchannels([(1.0, 1.9)], words(inside, across_start, across_end), 5.0)
    assert score.take_over  # three do
    score = score_backchannels([(1.0, 1.9)], words(inside, over_all, across_end), 5.0)
    assert score.take_over


def test_divergence_by_hand():
    # 1 s has int(1 / 0.2) + 1 = 6 windows; one backchannel over 0.25..0.45 fills windows 1 and 2.
    p = np.array([0, 0.5, 0.5, 0, 0, 0])
    truth = [0, 1, 1, 0, 0, 0]
    assert backchannel_divergence([(0.25, 0.45)], 1.0, truth) == pytest.approx(0, abs=1e-4)
    # all of people's mass elsewhere: the distance is sqrt(ln 2)
    assert backchannel_divergence([(0.25, 0.45)], 1.0, [0, 0, 0, 1, 1, 1]) == pytest.approx(
        math.sqrt(math.log(2)), abs=1e-4
    )
    # half of it: divergence = 1/2 ln(4/3) + 1/4 ln(2/3) + 1/4 ln 2, worked on paper
    q = np.array([0, 0, 0.5, 0.5, 0, 0])
    expected = math.sqrt(0.5 * (0.5 * math.log(2)) + 0.5 * (0.5 * math.log(2)))
    assert jensen_shannon(p, q) == pytest.approx(expected)
    # two windows of truth are stretched over six by straight lines: 0, .2, .4, .6, .8, 1
    stretched = np.array([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert backchannel_divergence([(0.25, 0.45)], 1.0, [0, 1]) == pytest.approx(
        jensen_shannon(p, stretched), abs=1e-4
    )


def test_divergence_agrees_with_scipy():
    distance = pytest.importorskip("scipy.spatial.distance")
    rng = np.random.default_rng(0)
    for _ in range(20):
        p, q = rng.random(30) * (rng.random(30) > 0.3), rng.random(30)
        assert jensen_shannon(p, q) == pytest.approx(distance.jensenshannon(p, q), abs=1e-9)


def test_backchannel_input_is_checked():
    with pytest.raises(AizuchiError, match="duration"):
        score_backchannels([], [], 0.0)
    with pytest.raises(AizuchiError, match="truth"):
        backchannel_divergence([(0.0, 0.1)], 1.0, [0.0, 0.0])


def test_backchannel_summary():
    scores = [BackchannelScore(True, [], 0.0, 1.0), BackchannelScore(False, [(0, 0.1)], 0.1, 0.5)]
    assert summarize_backchannels(scores) == {"take_over_rate": 0.5, "frequency": 0.05, "divergence": 0.75}


def test_timing_of_an_interruption():
    # The model talks over 2..5; the user interrupts over 4..6.5 with a short pause; the answer starts at 7.
    user = [(0.0, 1.5), (4.0, 5.2), (5.6, 6.5)]
    model = [(2.0, 3.0), (3.3, 4.7), (7.0, 9.0)]
    found = timing(user, model)
    assert found.stop == [(4.0, 4.7)]
    assert found.response == [(1.5, 2.0), (6.5, 7.0)]


def test_timing_keeps_the_latest_user_end_before_one_start():
    found = timing([(0.0, 1.0), (2.0, 3.0)], [(3.5, 4.0)])
    assert found.response == [(3.0, 3.5)]
    assert found.stop == []
    assert timing([(0.0, 1.0)], []).response == []


def test_timing_merges_with_the_benchmarks_gaps():
    # up to 0.6 s of the user's silence and 0.5 s of the model's are bridged, a little more is not
    assert timing([(0.0, 1.0), (1.59, 2.0)], [(0.5, 0.8), (1.29, 3.0)]).stop == [(0.5, 2.0)]
    assert timing([(0.0, 2.0)], [(0.5, 0.8), (1.31, 3.0)]).stop == [(0.5, 0.8), (1.31, 2.0)]
    assert timing([(0.0, 1.0), (1.61, 2.0)], [(0.5, 3.0)]).stop == [(0.5, 1.0), (1.61, 2.0)]
