"""Measured shares against dialogues whose content is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from aizuchi.data.dialogues import read_dialogues, write_dialogue, write_list
from aizuchi.data.frames import SpokenWord
from aizuchi.data.stats import active_frames, dialogue_stats, format_summary, summarize
from aizuchi.data.tokenizer import TextTokenizer
from tests.data.helpers import LetterTokenizer


def tone(seconds, loud):
    """A tone with `loud` intervals (seconds) over a faint floor."""
    t = np.arange(round(seconds * 24000)) / 24000
    gain = np.full(t.shape, 1e-4)
    for a, b in loud:
        gain[(t >= a) & (t < b)] = 0.3
    return (gain * np.sin(2 * np.pi * 440 * t)).astype(np.float32)


@pytest.fixture
def known(tmp_path):
    """10 s: the model speaks 0-4 s, the user 3.2-7.2 s."""
    words = [
        SpokenWord("abcdef", 0.0, 0.2),  # 3 tokens, of which the next word leaves 1
        SpokenWord("ab", 0.08, 0.3),
        SpokenWord("cd", 1.6, 2.0),
        SpokenWord("hi", 3.2, 3.6, "SPEAKER_USER"),
    ]
    write_dialogue(tmp_path / "a.wav", tone(10, [(0, 4)]), tone(10, [(3.2, 7.2)]), words, {"style": "calm"})
    write_list(tmp_path / "a.jsonl", [tmp_path / "a.wav"])
    return read_dialogues(tmp_path / "a.jsonl")[0]


def test_shares_are_those_of_the_signal(known):
    summary = summarize([dialogue_stats(known, TextTokenizer(LetterTokenizer()))])
    assert summary["dialogues"] == 1 and summary["hours"] == pytest.approx(10 / 3600)
    share = summary["share"]
    assert share["model_speaks"] == pytest.approx(0.4, abs=0.008)
    assert share["user_speaks"] == pytest.approx(0.4, abs=0.008)
    assert share["both_speak"] == pytest.approx(0.08, abs=0.008)
    assert share["nobody_speaks"] == pytest.approx(0.28, abs=0.008)
    assert summary["words"] == {"SPEAKER_MAIN": 3, "SPEAKER_USER": 1}
    assert summary["words_per_minute_of_main"] == pytest.approx(18)
    # 125 frames: 3 tokens are written, 2 are cut off, one EPAD stands before "cd".
    text = summary["text"]
    assert text["frames"] == 125
    assert text["end_of_padding"] == pytest.approx(1 / 125)
    assert text["padding"] == pytest.approx(121 / 125)
    assert text["tokens_cut_off"] == pytest.approx(2 / 5)
    assert summary["text_conditions"] == {"style=calm": 1}
    lines = format_summary(summary)
    assert "model speaks   40.0%" in lines and "40.0% of all tokens cut off" in lines


def test_without_a_tokenizer_no_padding_is_claimed(known):
    summary = summarize([dialogue_stats(known)])
    assert "text" not in summary
    assert "padding" not in format_summary(summary)


def test_words_may_be_missing_only_if_asked(known):
    known.audio.with_suffix(".json").unlink()
    with pytest.raises(ValueError, match="missing"):
        dialogue_stats(known)
    assert dialogue_stats(known, need_words=False).words == {}
    known.audio.with_suffix(".json").write_text("{")
    with pytest.raises(ValueError, match="malformed"):
        dialogue_stats(known, need_words=False)


def test_silence_and_faint_noise_are_not_speech():
    assert not active_frames(np.zeros(24000, np.float32)).any()
    assert not active_frames(1e-4 * np.random.default_rng(0).normal(size=24000).astype(np.float32)).any()
    assert active_frames(np.zeros(0, np.float32)).shape == (0,)
    assert active_frames(np.zeros(1921, np.float32)).shape == (2,)


def test_nothing_adds_up_to_nothing():
    summary = summarize([])
    assert summary["dialogues"] == 0 and math.isnan(summary["share"]["model_speaks"])
