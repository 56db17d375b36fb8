"""Lines of all kinds, said with their text given."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("hibari")

from aizuchi.data.frames import PAD, SpokenWord, words_to_frames
from aizuchi.engine.duplex import DuplexEngine
from aizuchi.models.presets import random_model
from recipes.mini import check_voice
from recipes.mini.check_voice import KINDS, coded, draw_lines, judge, said, spoken
from recipes.mini.grid import FRAME


class Letters:
    """A tokenizer of one id for each letter."""

    def encode(self, text):
        return [4 + ord(letter) % 60 for letter in text]


def test_lines_of_every_kind_the_same_each_time():
    lines = draw_lines(2, 1)
    assert lines == draw_lines(2, 1) != draw_lines(2, 2)
    assert [kind for kind, _ in lines] == [kind for kind in KINDS for _ in range(2)]
    assert len({line for _, line in lines}) > 30


def test_the_text_that_is_given_is_what_a_model_says(monkeypatch):
    written = []

    def step(self, **given):
        out = original(self, **given)
        written.append(out.text.tolist())
        return out

    original = DuplexEngine.step
    monkeypatch.setattr(DuplexEngine, "step", step)
    model = random_model("mini").eval()
    lines = ["It's nine.", "Blue, green."]
    waves = said(model, Letters(), lines, 0.6, 3)
    for row, (line, wave, code) in enumerate(zip(lines, waves, coded(model, lines))):
        audio, words = spoken(line)
        assert len(audio) == len(code) == len(wave) - FRAME
        text = words_to_frames([SpokenWord(*word) for word in words], len(audio) // FRAME, Letters())
        assert [column[row] for column in written[1:]][: len(text)] == text.tolist()
        assert (text != PAD).sum() > len(words)


def test_errors_are_counted_by_line_and_kind(capsys):
    heard = iter(["nine", "it is 8 it is 8 it is 8", "wrong wrong wrong"])

    def hear(wave, rate):
        return SimpleNamespace(text=next(heard))

    lines = [("plus", "Nine."), ("plus", "It's 8."), ("day_after", "Monday.")]
    text = judge(hear, lines, [np.zeros(FRAME)] * 3, show=True)
    assert "1 of 3 lines right" in text and "day_after 1/1" in text
    assert "'Monday.' heard 'wrong wrong wrong'" in capsys.readouterr().out
    assert check_voice.LONGEST >= max(len(line.split()) for _, line in draw_lines(1, 0))
