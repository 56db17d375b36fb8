import pytest
from hypothesis import given
from hypothesis import strategies as st

from aizuchi.evaluate.numbers import number_words, ordinal_words, read_numbers
from aizuchi.evaluate.text import WordErrors, normalize, total_errors, word_errors

SAME = [
    ("What's 2+3?", "what is two plus three"),
    ("2 x 3 = 6", "Two times three equals six."),
    ("10 - 4", "ten minus four"),
    ("8/2 is 4.", "eight divided by two is four"),
    ("It's -5 degrees", "It is minus five degrees."),
    ("Twenty-five", "25"),
    ("two hundred and five", "205"),
    ("one thousand four hundred and fifty-five", "1455"),
    ("fourteen fifty-five", "1455"),
    ("1,200 and 1200", "twelve hundred and one thousand two hundred"),
    ("12,345", "twelve thousand three hundred and forty five"),
    ("the 2nd and the 21st", "the second and the twenty-first"),
    ("3.5%", "three point five percent"),
    ("$5", "five dollars"),
    ("at 3:30", "at three thirty"),
    ("at 3:00", "at three o'clock"),
    ("007", "zero zero seven"),
    ("The colour grey, recognised", "the color gray recognized"),
    ("I can’t. You won't! They're gonna.", "I can not you will not they are going to"),
    ("C-A-T spells cat", "c a t spells cat"),
    ("[laughter] Um, hello (noise) *coughs* there", "hello there"),
    ("rock & roll", "rock and roll"),
    ("1, 2, 3", "one two three"),
    ("Goodbye!", "good bye"),
]
DIFFERENT = [
    ("fifteen", "fifty"),
    ("well-known", "well minus known"),
    ("the dog's tail", "the dog is tail"),
    ("five and six", "five six"),
    ("one hundred and a dog", "one hundred a dog"),
    ("his", "hise"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_spellings_of_one_utterance_are_the_same_words(one, other):
    assert normalize(one) == normalize(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_different_utterances_stay_different(one, other):
    assert normalize(one) != normalize(other)


def test_known_words():
    assert normalize("and/or x-ray exercise four hours") == "and or x ray exercise four hours".split()
    assert normalize("um, yes", fillers=True) == ["um", "yes"]
    assert normalize("1999") == "nineteen ninety nine".split()
    assert normalize("2005") == "two thousand five".split()
    assert normalize("1905") == "nineteen oh five".split()
    assert normalize("") == []


@given(st.integers(0, 10**13))
def test_digits_and_words_of_a_number_agree(value):
    assert normalize(str(value)) == normalize(number_words(value))


@given(st.integers(-999_999, 999_999))
def test_numbers_are_read_back(value):
    assert read_numbers(number_words(value).split()) == [value]


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=5))
def test_several_numbers_are_told_apart(values):
    words = " plus ".join(map(number_words, values)).split()
    assert read_numbers(words) == values


def test_reading_numbers_by_hand():
    assert read_numbers("two plus three is five".split()) == [2, 3, 5]
    assert read_numbers("three four twenty one ten".split()) == [3, 4, 21, 10]
    assert read_numbers("ten minus four".split()) == [10, 4]  # a sign between numbers makes none negative
    assert read_numbers("it is minus four".split()) == [-4]
    assert read_numbers("five zero".split()) == [5, 0]
    assert read_numbers([]) == []


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1, "first"),
        (12, "twelfth"),
        (20, "twentieth"),
        (21, "twenty first"),
        (100, "one hundredth"),
        (4, "fourth"),
    ],
)
def test_ordinals(value, words):
    assert ordinal_words(value) == words


def test_word_errors_by_hand():
    found = word_errors("the cat sat on the mat", "the cat sit on mat today")
    assert found == WordErrors(6, 1, 1, 1)
    assert found.rate == 0.5
    assert word_errors("", "").rate is None
    assert word_errors("", "two words") == WordErrors(0, 0, 0, 2)
    assert word_errors("", "two words").rate == 1.0
    assert word_errors("two words", "").rate == 1.0
    both = total_errors([("a b", "a b"), ("c d", "x y")])
    assert both.rate == 0.5 and both.words == 4


words = st.lists(st.sampled_from("abcde"), max_size=9)


@given(words, words)
def test_word_errors_agree_with_jiwer(reference, hypothesis):
    jiwer = pytest.importorskip("jiwer")
    found = word_errors(reference, hypothesis)
    # a shortest alignment: counts balance, and no shorter one exists (jiwer wants a reference)
    assert found.insertions - found.deletions == len(hypothesis) - len(reference)
    if reference:
        expected = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
        assert found.errors == expected.substitutions + expected.deletions + expected.insertions


@given(words, words, words)
def test_word_errors_are_a_distance(a, b, c):
    assert word_errors(a, a).errors == 0
    assert word_errors(a, b).errors == word_errors(b, a).errors
    assert word_errors(a, c).errors <= word_errors(a, b).errors + word_errors(b, c).errors
