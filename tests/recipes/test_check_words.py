import numpy as np
import pytest

from aizuchi.errors import AizuchiError
from aizuchi.evaluate.model_system import load_model_system
from recipes.mini import check_words
from recipes.mini.check_words import (
    BEGIN,
    LEAD,
    PACE,
    Asked,
    Vocabulary,
    answers,
    as_told,
    as_words,
    as_written,
)
from recipes.mini.questions import load_questions
from recipes.mini.timing import Spoken


@pytest.fixture(scope="module")
def system():
    return load_model_system(None, rows=4)


@pytest.fixture(scope="module")
def known(system):
    return Vocabulary(system.tokens, system.model.config)


def question(text: str):
    return next(q for q in load_questions() if q.text == text)


def test_words_have_the_ids_of_those_that_sound_the_same(known):
    assert (
        known.id_of("Two") == known.id_of("to") != known.id_of("three!")
        and known.id_of("zyzzyva") == known.first
    )
    pad = known.padding
    assert known.write([("two", 2), ("--", 3), ("three", 3)]) == [
        pad,
        pad,
        known.id_of("to"),
        known.id_of("three"),
    ]
    late = known.write([("two", 1), ("three", 1)])  # two on a frame: one a frame later
    assert late == [pad, known.id_of("two"), known.id_of("three")]


def test_what_is_given_stands_where_it_is_due_and_the_answer_is_the_model_s(system, known):
    one = as_words(question("What number is three plus two?"), known)
    assert [t for t in one.text if t not in (known.padding, known.begins)] == [
        known.id_of(w) for w in one.question.text.split()
    ]
    assert one.text[LEAD + PACE] == known.id_of("what") and one.text[-1 - BEGIN - 1] == known.id_of("two")
    said, text = answers(system, [one], "words")[0]
    assert text[1 : len(one.text)] == one.text[1:] and len(text) == len(one.wave) // 1920
    assert said.startswith("Three plus two")
    other, others = answers(system, [Asked(one.question, one.wave, one.end)], "nothing")[0]
    assert not any(t >= known.first for t in others) and other != said
    again = as_written(
        Asked(one.question, one.wave + 1, 1.0), [known.first + 5, 9, *[known.first] * 60], known
    )
    assert not again.wave.any() and again.text[:3] == [known.first + 5, known.padding, known.first]
    assert len(again.text) == 12 + 3 + 1 + BEGIN + 1


def test_a_spoken_word_is_told_three_frames_behind_its_end(known):
    class Voice:
        words = [
            type("Word", (), dict(text=t, start=s, end=e))
            for t, s, e in (("Name", 0, 0.41), ("two", 0.5, 1.0))
        ]

    one = Asked(question("What number is three plus two?"), np.zeros(48000, np.float32), 2.0)
    told = as_told(one, lambda q: lambda text, seed: Voice, known)
    assert (
        told.text.index(known.id_of("name")) == int(1.21 * 12.5) + 3 and len(told.text) == int(1.8 * 12.5) + 4
    )


def test_the_command_asks_in_each_way(capsys, monkeypatch):
    class Voice:
        def speak(self, text, speed=1.0):
            words = [(w, i * 0.2, i * 0.2 + 0.2) for i, w in enumerate(text.split())]
            return Spoken(np.zeros(round(len(words) * 0.2 * 24_000), np.float32), tuple(words), (), True)

    monkeypatch.setattr("recipes.mini.voices.get_voice", lambda name, held_out: Voice())
    ways = ["--ways", "written", "told", "words", "voice", "--limit", "2", "--engine", "kokoro", "--show"]
    assert check_words.main(ways) == 0
    told = capsys.readouterr().out
    assert [line.split(":")[0] for line in told.splitlines() if "%" in line] == [
        "words",
        "voice",
        "told",
        "written",
    ]
    assert "of 2 right" in told


def test_a_model_without_ids_for_words_is_refused(known):
    class Plain:
        size = 5

        def heard_word(self, token):
            return None

    with pytest.raises(AizuchiError, match="no ids for words"):
        Vocabulary(Plain(), load_model_system(None).model.config)
