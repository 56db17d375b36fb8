import pytest
from hypothesis import given
from hypothesis import strategies as st

from aizuchi.errors import AizuchiError
from aizuchi.evaluate.dialogue import find_events, floor_transfers, statistics
from aizuchi.evaluate.intervals import clip, complement, intersect, merge, total

times = st.integers(0, 4000).map(lambda n: n / 100)
activity = st.lists(
    st.tuples(times, times).map(lambda p: (min(p), max(p))).filter(lambda p: p[1] > p[0]), max_size=12
)


def test_events_by_hand():
    first = [(1.0, 2.0), (2.15, 3.0), (4.0, 5.0), (9.0, 10.0)]
    second = [(5.5, 8.0), (9.5, 9.7)]
    found = find_events(first, second, 12.0)
    assert found.ipus == ([(1.0, 3.0), (4.0, 5.0), (9.0, 10.0)], [(5.5, 8.0), (9.5, 9.7)])
    assert found.pauses == ([(3.0, 4.0)], [])
    assert found.gaps == [((5.0, 5.5), 1), ((8.0, 9.0), 0)]
    assert found.overlaps == [(9.5, 9.7)]
    stats = statistics([found])
    assert stats["ipu"]["seconds_per_minute"] == pytest.approx((2 + 1 + 1 + 2.5 + 0.2) * 5)
    assert stats["pause"] == {"seconds_per_minute": 5.0, "per_minute": 5.0}
    assert stats["gap"]["seconds_per_minute"] == pytest.approx(7.5)
    assert stats["overlap"]["seconds_per_minute"] == pytest.approx(1.0)
    assert stats["offsets"] == [0.5, 1.0]  # the backchannel at 9.5 takes no floor


def test_an_overlap_that_takes_the_floor_is_a_negative_offset():
    found = find_events([(0.0, 2.0)], [(1.6, 3.0)], 4.0)
    assert found.gaps == []
    assert [(round(offset, 6), speaker) for offset, speaker in floor_transfers(found)] == [(-0.4, 1)]


def test_silences_at_the_ends_are_neither_pause_nor_gap():
    found = find_events([(1.0, 2.0)], [], 5.0)
    assert found.pauses == ([], []) and found.gaps == []


@given(activity, activity)
def test_amounts_add_up_to_the_duration(first, second):
    duration = 40.0
    found = find_events(first, second, duration)
    speech = merge(found.ipus[0] + found.ipus[1])
    ends = (speech[0][0] + duration - speech[-1][1]) if speech else duration
    accounted = (
        total(found.ipus[0])
        + total(found.ipus[1])
        + sum(map(total, found.pauses))
        + total([silence for silence, _ in found.gaps])
        - total(found.overlaps)
        + ends
    )
    assert accounted == pytest.approx(duration)


@given(activity, activity)
def test_swapping_the_speakers_swaps_what_is_theirs(first, second):
    one, other = find_events(first, second, 40.0), find_events(second, first, 40.0)
    assert one.ipus == other.ipus[::-1]
    assert one.overlaps == other.overlaps
    assert [silence for silence, _ in one.gaps] == [silence for silence, _ in other.gaps]
    if not {a for a, _ in one.ipus[0]} & {b for b, _ in one.ipus[1]}:  # else either may be named
        assert [speaker for _, speaker in one.gaps] == [1 - speaker for _, speaker in other.gaps]
    assert sum(map(len, one.pauses)) == sum(map(len, other.pauses))


@given(activity)
def test_ipus_are_apart_by_more_than_the_silence(first):
    found = find_events(first, [], 40.0)
    ipus = found.ipus[0]
    assert all(b[0] - a[1] > 0.2 for a, b in zip(ipus, ipus[1:]))
    assert len(found.pauses[0]) == max(0, len(ipus) - 1)


@given(activity, activity)
def test_interval_arithmetic_against_a_grid(first, second):
    # 1 cm slots are exact, since every time is a whole number of hundredths
    def grid(intervals):
        cells = set()
        for start, end in intervals:
            cells.update(range(round(start * 100), round(end * 100)))
        return cells

    a, b = merge(first), merge(second)
    assert grid(a) == grid(first)
    assert grid(intersect(a, b)) == grid(first) & grid(second)
    assert grid(complement(a, 5.0, 30.0)) == set(range(500, 3000)) - grid(first)
    assert grid(clip(a, 5.0, 30.0)) == grid(first) & set(range(500, 3000))


def test_bad_input_is_refused():
    with pytest.raises(AizuchiError, match="ends before"):
        merge([(2.0, 1.0)])
    with pytest.raises(AizuchiError, match="duration"):
        find_events([], [], 0.0)
    with pytest.raises(AizuchiError, match="no dialogue"):
        statistics([])
