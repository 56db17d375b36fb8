import pytest

from recipes.mini.facts import number_words
from recipes.mini.normalize import contains_phrase, normalize, numbers_in, word_errors


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It's 42, OK?", "it is forty two okay"),
        ("2 + 3 = 5", "two plus three is five"),
        ("12-5 = 7", "twelve minus five is seven"),
        ("1-2-3-4", "one two three four"),
        ("3 x 4 equals 12.", "three times four equals twelve"),
        ("Good-bye!", "goodbye"),
        ("I can\u2019t, sorry.", "i can not sorry"),
        ("The dog's colour", "the dogs color"),
        ("C-A-T", "c a t"),
        ("one hundred and two", "one hundred two"),
        ("Mm-hm.", "mm hm"),
        ("", ""),
    ],
)
def test_normalize(text, expected):
    assert normalize(text) == expected


def test_every_small_number_survives_both_spellings():
    for n in range(1000):
        assert numbers_in(str(n)) == [n] == numbers_in(f"it's {number_words(n)}.")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Two plus 20 is twenty two", [2, 20, 22]),
        ("Want another one?", []),
        ("Ate.", [8]),
        ("I ate it", []),
        ("one, two, three", [1, 2, 3]),
        ("nineteen, twenty, twenty one", [19, 20, 21]),
    ],
)
def test_numbers_in(text, expected):
    assert numbers_in(text) == expected


def test_phrases_and_errors():
    assert contains_phrase("That is no problem!", "no problem")
    assert not contains_phrase("problematic", "problem")
    assert word_errors("What's 2 plus 2?", "what is two plus three") == (1, 5)
    assert word_errors("a b", "") == (2, 2)
    assert word_errors("", "a") == (1, 0)


def test_number_words_refuses_what_it_cannot_say():
    with pytest.raises(ValueError, match="999"):
        number_words(1000)
