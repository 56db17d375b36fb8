"""What was said against what was heard: a number-aware normaliser, and word errors.

A recogniser writes "2 x 3 = 6", "colour" or "gonna" where a script says "two times three is six", "color"
and "going to". `normalize` brings both to the same plain words, so that spelling does not count as an
error; what was heard wrongly stays wrong.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aizuchi.evaluate.numbers import join_thousands, number_words, ordinal_words, year_words

FILLERS = frozenset("uh um uhm er erm ah eh hm hmm mm mmm mhm uhhuh mmhm mmhmm".split())

_CONTRACTIONS = {
    "can't": "can not",
    "cannot": "can not",
    "won't": "will not",
    "shan't": "shall not",
    "ain't": "is not",
    "let's": "let us",
    "y'all": "you all",
    "gonna": "going to",
    "wanna": "want to",
    "gotta": "got to",
    "gimme": "give me",
    "o'clock": "oclock",
    "mm-hm": "mmhm",
    "mm-hmm": "mmhm",
    "uh-huh": "uhhuh",
}
_CONTRACTED = re.compile(rf"\b(?:{'|'.join(map(re.escape, _CONTRACTIONS))})\b")
_SUFFIXES = (("n't", " not"), ("'re", " are"), ("'ve", " have"), ("'ll", " will"), ("'m", " am"))
# "'s" is "is" after these and a possessive after others; "'d" stays, being "had" as often as "would".
_IS_AFTER = frozenset("what who that it he she there here where how when why which everything".split())
_SPELLINGS = {
    "ok": "okay",
    "alright": "all right",
    "mr": "mister",
    "mrs": "missus",
    "dr": "doctor",
    "st": "saint",
    "vs": "versus",
    "etc": "et cetera",
    "tv": "television",
    "mum": "mom",
    "grey": "gray",
    "greys": "grays",
    "theatre": "theater",
    "centre": "center",
    "centres": "centers",
    "metre": "meter",
    "metres": "meters",
    "litre": "liter",
    "litres": "liters",
    "fibre": "fiber",
    "cheque": "check",
    "programme": "program",
    "tyre": "tire",
    "pyjamas": "pajamas",
    "aeroplane": "airplane",
    "catalogue": "catalog",
    "dialogue": "dialog",
    "jewellery": "jewelry",
    "travelled": "traveled",
    "travelling": "traveling",
    "cancelled": "canceled",
    "practise": "practice",
    "licence": "license",
    "defence": "defense",
    "maths": "math",
    "moustache": "mustache",
    "doughnut": "donut",
    "goodbye": "good bye",
    "byebye": "bye bye",
    "anymore": "any more",
    "thankyou": "thank you",
    "percent": "per cent",
}
_OUR = re.compile(r"^(col|fav|flav|harb|hon|hum|lab|neighb|rum|sav|vap|behavi|arm|glam|end?eav)our")
_ISE = re.compile(
    r"^(apolog|critic|emphas|familiar|general|memor|minim|organ|optim|real|recogn|special|summar|symbol|visual)is"
    r"(e|ed|es|ing|ation|ations)$"
)
_SYMBOLS = {
    "%": " per cent ",
    "&": " and ",
    "@": " at ",
    "°": " degrees ",
    "÷": " divided by ",
    "×": " times ",
}
_CURRENCY = {"$": ("dollar", "cent"), "£": ("pound", "penny"), "€": ("euro", "cent")}
# A sign counts as one only where numbers stand by it: "well-known", "and/or" and "x-ray" are words.
_SIGNS = (
    (re.compile(r"(?<=\d)\s*[x*×]\s*(?=\d)"), "times"),
    (re.compile(r"(?<=\d)\s*[/÷]\s*(?=\d)"), "divided by"),
    (re.compile(r"\+"), "plus"),
    (re.compile(r"="), "equals"),
    (re.compile(r"(?<=\d)\s*-\s*(?=\d)|(?<!\w)-\s?(?=\d)"), "minus"),
)
_BRACKETS = re.compile(r"\[[^\]]*\]|\([^)]*\)|<[^>]*>|\*[a-z ]+\*")


def normalize(text: str, fillers: bool = False) -> list[str]:
    """The words of a text in a plain form: lower case, numbers as words, one spelling, no punctuation.

    Numbers are read as people read them: 42 "forty two", 1,200 and 1200 "twelve hundred", 1455 "fourteen
    fifty five", 3.5 "three point five", 2nd "second", 3:30 "three thirty", $5 "five dollars"; "and" within a
    number is dropped; signs between numbers become "plus", "minus", "times", "divided by", "equals".

    Args:
        text: any text. What stands in brackets is a recogniser's remark ("[laughter]") and is dropped.
        fillers: keep "um", "hmm" and their like.
    """
    text = unicodedata.normalize("NFKC", text).lower()
    text = re.sub("[‘’ʼ`´]", "'", text).replace("−", "-").replace("–", " - ").replace("—", " - ")
    text = _BRACKETS.sub(" ", text)
    text = _CONTRACTED.sub(lambda match: _CONTRACTIONS[match[0]], text)
    text = _expand_numbers(text)
    for symbol, words in _SYMBOLS.items():
        text = text.replace(symbol, words)
    tokens: list[str] = []
    for token in re.findall(r"[^\W_]+(?:'[^\W_]+)*'?", text):
        tokens.extend(_expand_word(token))
    tokens = join_thousands(tokens)
    return tokens if fillers else [token for token in tokens if token not in FILLERS]


def _expand_word(token: str) -> list[str]:
    for suffix, words in _SUFFIXES:
        if token.endswith(suffix) and len(token) > len(suffix):
            return [token[: -len(suffix)], *words.split()]
    if token.endswith("'s") and token[:-2] in _IS_AFTER:
        return [token[:-2], "is"]
    token = token.replace("'", "")
    if token in _SPELLINGS:
        return _SPELLINGS[token].split()
    token = _OUR.sub(lambda match: match[0][:-3] + "or", token)
    return [_ISE.sub(lambda match: f"{match[1]}iz{match[2]}", token)]


def _expand_numbers(text: str) -> str:
    """Write digits, and signs between them, as words."""
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    text = re.sub(r"([$£€])\s?(\d+)(?:\.(\d\d))?(?!\d)", _money, text)
    text = re.sub(r"\b(\d{1,2}):(\d\d)\b", _clock, text)
    text = re.sub(r"\b(\d+)(st|nd|rd|th)\b", lambda m: f" {ordinal_words(int(m[1]))} ", text)
    text = re.sub(r"\b(\d+)s\b", r"\1 s", text)
    for pattern, word in _SIGNS:
        text = pattern.sub(f" {word} ", text)
    text = re.sub(r"(\d+)\.(\d+)", _decimal, text)
    return re.sub(r"\d+", lambda m: f" {_integer(m[0])} ", text)


def _integer(digits: str) -> str:
    if len(digits) > 1 and digits[0] == "0" or len(digits) > 15:
        return " ".join(number_words(int(digit)) for digit in digits)
    value = int(digits)
    if len(digits) == 4 and 1100 <= value <= 1999:
        return year_words(value)
    return number_words(value)


def _decimal(match: re.Match[str]) -> str:
    digits = " ".join(number_words(int(digit)) for digit in match[2])
    return f" {number_words(int(match[1]))} point {digits} "


def _money(match: re.Match[str]) -> str:
    unit, part = _CURRENCY[match[1]]
    whole = int(match[2])
    words = f"{number_words(whole)} {unit}{'' if whole == 1 else 's'}"
    if match[3] and int(match[3]):
        words += f" and {number_words(int(match[3]))} {part}s".replace("pennys", "pence")
    return f" {words} "


def _clock(match: re.Match[str]) -> str:
    hour, minute = int(match[1]), int(match[2])
    rest = "" if minute == 0 else f"oh {number_words(minute)}" if minute < 10 else number_words(minute)
    return f" {number_words(hour)} {rest or 'oclock'} "


@dataclass(frozen=True)
class WordErrors:
    """Counts of one comparison or the sum over several; `rate` is the word error rate.

    Attributes:
        words: in the reference.
        substitutions, deletions, insertions: of a shortest alignment.
    """

    words: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    def __add__(self, other: WordErrors) -> WordErrors:
        return WordErrors(
            self.words + other.words,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float | None:
        """Errors a reference word; None where there is neither, and all wrong (1.0) against no words."""
        if self.words == 0:
            return None if self.errors == 0 else 1.0
        return self.errors / self.words


def word_errors(reference: str | Sequence[str], hypothesis: str | Sequence[str]) -> WordErrors:
    """Compare two texts (normalised here) or two word lists (taken as they are)."""
    wanted = normalize(reference) if isinstance(reference, str) else list(reference)
    heard = normalize(hypothesis) if isinstance(hypothesis, str) else list(hypothesis)
    # row[j]: (cost, substitutions, deletions, insertions) of wanted[:i] against heard[:j]
    row = [(j, 0, 0, j) for j in range(len(heard) + 1)]
    for i, word in enumerate(wanted, 1):
        diagonal, row[0] = row[0], (i, 0, i, 0)
        for j, other in enumerate(heard, 1):
            wrong = int(word != other)
            c, s, d, n = diagonal
            steps = [(c + wrong, s + wrong, d, n)]
            c, s, d, n = row[j]
            steps.append((c + 1, s, d + 1, n))
            c, s, d, n = row[j - 1]
            steps.append((c + 1, s, d, n + 1))
            best = min(steps)  # of equal costs the one with fewest substitutions: most words right
            diagonal, row[j] = row[j], best
    _, substitutions, deletions, insertions = row[-1]
    return WordErrors(len(wanted), substitutions, deletions, insertions)


def total_errors(pairs: Iterable[tuple[str, str]]) -> WordErrors:
    """Errors summed over (reference, hypothesis) pairs: its rate weighs every word alike."""
    return sum((word_errors(reference, hypothesis) for reference, hypothesis in pairs), WordErrors())
