import numpy as np
import pytest

from recipes.mini.labels import CLASSES, OTHER, PHONES, SILENCE, frame_labels, frame_shares


def test_shares_are_the_times_within_each_frame():
    # frame 0: silence; frame 1: 0.02 s of silence, then "m"; frame 2: half "m", half "u"; frame 3: unknown
    phones = [("m", 0.10, 0.20), ("u", 0.20, 0.24), ("?", 0.24, 0.32)]
    shares = frame_shares(phones, 5)
    assert shares.shape == (5, CLASSES)
    assert np.allclose(shares.sum(1), 1)
    m, u = PHONES.index("m"), PHONES.index("u")
    assert shares[0, SILENCE] == 1
    assert shares[1, [SILENCE, m]] == pytest.approx([0.25, 0.75])
    assert shares[2, [m, u]] == pytest.approx([0.5, 0.5])
    assert shares[3, OTHER] == pytest.approx(1)
    assert shares[4, SILENCE] == 1
    assert frame_labels(phones, 5)[[0, 1, 3]].tolist() == [SILENCE, m, OTHER]


def test_overlaps_share_a_frame_and_the_end_is_cut():
    shares = frame_shares([("m", 0.0, 0.08), ("u", 0.0, 0.08), ("s", 0.08, 9.0)], 2)
    assert shares[0, [PHONES.index("m"), PHONES.index("u")]] == pytest.approx([0.5, 0.5])
    assert shares[1, PHONES.index("s")] == pytest.approx(1)
    assert frame_shares([], 0).shape == (0, CLASSES)


def test_phones_are_distinct():
    assert len(set(PHONES)) == len(PHONES) and PHONES[SILENCE] == ""
