"""English words of numbers, and numbers in lists of words."""

from __future__ import annotations

from collections.abc import Sequence

_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_SCALES = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (1000, "thousand"))
_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
_VALUES = {word: value for value, word in enumerate(_UNITS)} | {
    word: 10 * value for value, word in enumerate(_TENS, 2)
}
# What a recogniser writes for a short number said at the end of a line: a homophone, or as good as one.
LIKE_NUMBERS = {"to": 2, "too": 2, "for": 4, "fore": 4, "ate": 8, "won": 1, "tree": 3, "tin": 10, "nein": 9}
_MULTIPLIERS = {"hundred": 100} | {word: value for value, word in _SCALES}


def number_words(value: int) -> str:
    """An integer in words without hyphens and without "and": 342 is "three hundred forty two"."""
    if value < 0:
        return f"minus {number_words(-value)}"
    if value < 20:
        return _UNITS[value]
    if value < 100:
        tens, rest = divmod(value, 10)
        return _TENS[tens - 2] + (f" {_UNITS[rest]}" if rest else "")
    if value < 1000:
        hundreds, rest = divmod(value, 100)
        return f"{_UNITS[hundreds]} hundred" + (f" {number_words(rest)}" if rest else "")
    for scale, name in _SCALES:
        if value >= scale:
            count, rest = divmod(value, scale)
            return f"{number_words(count)} {name}" + (f" {number_words(rest)}" if rest else "")
    raise AssertionError("unreachable: every value from 1000 on has a scale")


def ordinal_words(value: int) -> str:
    """The ordinal in words: 22 is "twenty second"."""
    *head, last = number_words(value).split()
    if last in _ORDINALS:
        last = _ORDINALS[last]
    else:
        last = last[:-1] + "ieth" if last.endswith("y") else last + "th"
    return " ".join([*head, last])


def year_words(value: int) -> str:
    """A number of four digits read in pairs: 1455 is "fourteen fifty five", 1900 "nineteen hundred"."""
    head, rest = divmod(value, 100)
    if rest == 0:
        return f"{number_words(head)} hundred"
    return f"{number_words(head)} {'oh ' if rest < 10 else ''}{number_words(rest)}"


def join_thousands(words: Sequence[str]) -> list[str]:
    """Bring the ways of saying one number to one way.

    "and" after hundred or a scale is dropped before a number; "one thousand four hundred fifty five" and
    "fourteen hundred fifty five" become "fourteen fifty five".
    """
    out: list[str] = []
    for i, word in enumerate(words):
        follows = words[i + 1] if i + 1 < len(words) else ""
        if word == "and" and out and out[-1] in _MULTIPLIERS and follows in _VALUES:
            continue
        out.append(word)
    i = 0
    while i + 3 < len(out):
        if out[i] == "one" and out[i + 1] == "thousand" and out[i + 3] == "hundred":
            digit = _VALUES.get(out[i + 2], 0)
            if 1 <= digit <= 9:
                out[i : i + 4] = [_UNITS[10 + digit], "hundred"]
        i += 1
    i = 0
    while i + 2 < len(out):
        if out[i + 1] == "hundred" and 11 <= _VALUES.get(out[i], 0) <= 19:
            value = _VALUES.get(out[i + 2], 0)
            if value >= 10:
                del out[i + 1]
            elif value >= 1:
                out[i + 1] = "oh"
        i += 1
    return out


def read_numbers(words: Sequence[str]) -> list[int]:
    """The integers said in a list of normalised words, in order.

    "twenty five" is 25, "two hundred five" 205, "minus three" -3, "three four" two numbers.
    """
    found: list[int] = []
    i = 0
    while i < len(words):
        if words[i] not in _VALUES:
            i += 1
            continue
        negative = (
            i > 0 and words[i - 1] in ("minus", "negative") and (i < 2 or words[i - 2] not in _NUMBERLIKE)
        )
        value, i = _read_one(words, i)
        found.append(-value if negative else value)
    return found


_NUMBERLIKE = frozenset(_VALUES) | frozenset(_MULTIPLIERS)


def _read_one(words: Sequence[str], i: int) -> tuple[int, int]:
    """The number that starts at word i, and the index after it."""
    start = i
    whole = part = 0
    room = 10**15  # the next word of this number must be worth less than this
    while i < len(words):
        word = words[i]
        if word in _VALUES:
            value = _VALUES[word]
            if value >= room or (value == 0 and i > start):
                break
            part += value
            room = 10 if value >= 20 else 0
        elif word == "hundred" and 0 < part < 100:
            part *= 100
            room = 100
        elif word in _MULTIPLIERS and word != "hundred" and part:
            whole += part * _MULTIPLIERS[word]
            part, room = 0, 1000
        else:
            break
        i += 1
    return whole + part, i
