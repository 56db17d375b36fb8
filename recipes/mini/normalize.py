"""Number-aware normalisation of what was said or heard, so that a recogniser's spelling does not decide.

"What's 2+3?" and "what is two plus three" become the same words. Used by the scorer of the question set
and by the test that keeps the question set apart from the training phrasings.
"""

from __future__ import annotations

import re

from aizuchi.evaluate.numbers import LIKE_NUMBERS
from recipes.mini.facts import number_words

_CONTRACTIONS = {
    "can't": "can not",
    "cannot": "can not",
    "won't": "will not",
    "let's": "let us",
    "i'm": "i am",
    "gonna": "going to",
    "wanna": "want to",
    "gotta": "got to",
    "y'all": "you all",
    "ma'am": "madam",
}
_SUFFIXES = (
    ("n't", " not"),
    ("'re", " are"),
    ("'ve", " have"),
    ("'ll", " will"),
    ("'d", " would"),
    ("'m", " am"),
)
# "'s" is "is" after these words and a possessive after others.
_IS_WORDS = set(
    "what who that it he she there here where how when why which this everything one name".split()
)
_SPELLINGS = {
    "grey": "gray",
    "colour": "color",
    "colours": "colors",
    "favourite": "favorite",
    "ok": "okay",
    "o.k": "okay",
    "alright": "all right",
    "hi-ya": "hiya",
    "mhm": "mm hm",
    "mmhmm": "mm hm",
    "hmm": "hm",
    "mom": "mum",
    "minnie": "mini",
    "minny": "mini",
    "minni": "mini",
    "bye-bye": "bye bye",
    "thankyou": "thank you",
    "percent": "per cent",
}
_ORDINALS = {
    "1st": "first",
    "2nd": "second",
    "3rd": "third",
    "4th": "fourth",
    "5th": "fifth",
    "6th": "sixth",
    "7th": "seventh",
    "8th": "eighth",
    "9th": "ninth",
    "10th": "tenth",
}
_NUMBER_VALUES = {number_words(n): n for n in range(20)} | {number_words(n): n for n in range(20, 100, 10)}
_TENS, _SMALL = ("|".join(number_words(n) for n in r) for r in (range(20, 100, 10), range(1, 10)))
_NUMBER = re.compile(rf"\b(?:(?:{_TENS}) (?:{_SMALL})|{'|'.join(_NUMBER_VALUES)})\b")


def normalize(text: str) -> str:
    """Lower-case words separated by single spaces: numbers spelled out, contractions opened, no punctuation.

    "It's 42, OK?" -> "it is forty two okay". Numbers above 999 are read digit by digit.
    """
    text = text.lower().replace("\u2019", "'").replace("\u2018", "'").replace("`", "'")
    text = re.sub(r"\bgood[\s-]+bye\b", "goodbye", text)
    text = re.sub(r"(\d)\s*[\u2212\u2013-]\s*(?=\d+\s*(?:=|is\b|equals\b))", r"\1 minus ", text)
    text = re.sub(r"(\d)\s*\+\s*(?=\d)", r"\1 plus ", text)
    text = re.sub(r"(\d)\s*[x\u00d7*]\s*(?=\d)", r"\1 times ", text)
    text = text.replace("=", " is ").replace("%", " percent ").replace("&", " and ").replace("+", " plus ")
    text = re.sub(r"(\d),(\d{3})\b", r"\1\2", text)
    for short, full in _ORDINALS.items():
        text = re.sub(rf"\b{short}\b", full, text)
    text = re.sub(r"\d+", lambda m: f" {_digits(m.group())} ", text)
    words: list[str] = []
    for raw in re.sub(r"[^a-z'\s.-]", " ", text).split():
        words += _open_word(raw)
    joined = " ".join(words)
    joined = re.sub(r"\ba hundred\b", "one hundred", joined)
    return re.sub(
        r"\bhundred and (?=(?:[a-z]+teen|[a-z]+ty|" + "|".join(_NUMBER_VALUES) + r")\b)", "hundred ", joined
    )


def _digits(digits: str) -> str:
    if len(digits) <= 3:
        return number_words(int(digits))
    return " ".join(number_words(int(d)) for d in digits)


def _open_word(raw: str) -> list[str]:
    word = raw.strip(".-'")
    if word in _SPELLINGS:
        return _SPELLINGS[word].split()
    if "-" in word or "." in word:
        return [part for piece in re.split(r"[-.]+", word) for part in _open_word(piece)]
    if word in _CONTRACTIONS:
        return _CONTRACTIONS[word].split()
    for suffix, full in _SUFFIXES:
        if word.endswith(suffix) and len(word) > len(suffix):
            return (word[: -len(suffix)] + full).split()
    if word.endswith("'s"):
        return [word[:-2], "is"] if word[:-2] in _IS_WORDS else [word[:-2] + "s"]
    word = word.replace("'", "")
    return [word] if word else []


def numbers_in(text: str) -> list[int]:
    """Integers said in `text`, in order: "Two plus 20 is twenty two" -> [2, 20, 22].

    "one" in "another one", "this one", "that one", "good one" and "no one" is not a number. When no number
    is found, a last word that sounds like one counts ("It's ate." -> [8]).
    """
    words = re.sub(
        r"\b(another|this|that|good|no|next|which|the) one\b", r"\1 thing", normalize(text)
    ).split()
    found: list[int] = []
    i = 0
    while i < len(words):
        if words[i] not in _NUMBER_VALUES:
            i += 1
            continue
        value = _NUMBER_VALUES[words[i]]
        if 1 <= value <= 9 and i + 1 < len(words) and words[i + 1] == "hundred":
            value *= 100
            i += 1
            if i + 1 < len(words) and words[i + 1] in _NUMBER_VALUES and _NUMBER_VALUES[words[i + 1]] > 0:
                i += 1
                value += _NUMBER_VALUES[words[i]]
        if value >= 20 and value % 10 == 0 and value % 100 != 0 and i + 1 < len(words):
            unit = _NUMBER_VALUES.get(words[i + 1], 0)
            if 1 <= unit <= 9:
                value += unit
                i += 1
        found.append(value)
        i += 1
    if not found and words and words[-1] in LIKE_NUMBERS:
        found.append(LIKE_NUMBERS[words[-1]])
    return found


def mask_numbers(text: str) -> str:
    """Normalised text with each number from 0 to 99 as "#": "twenty one plus two" -> "# plus #"."""
    return _NUMBER.sub("#", text)


def contains_phrase(text: str, phrase: str) -> bool:
    """Whether the normalised words of `phrase` stand side by side in the normalised `text`."""
    return f" {normalize(phrase)} " in f" {normalize(text)} "


def word_errors(reference: str, heard: str) -> tuple[int, int]:
    """(Levenshtein errors, reference words) between two texts, on normalised words."""
    ref, hyp = normalize(reference).split(), normalize(heard).split()
    row = list(range(len(hyp) + 1))
    for i, word in enumerate(ref, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(hyp, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1], len(ref)
