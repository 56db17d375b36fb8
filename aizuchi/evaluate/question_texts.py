"""The questions that come with aizuchi: simple ones, for a first look at any model that talks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aizuchi.evaluate.questions import Question

_DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
_MONTHS = "january february march april may june july august september october november december".split()
_COLORS = "red green blue yellow black white brown orange pink purple gray".split()


def _value(value: int, *operands: int) -> dict[str, Any]:
    return {"type": "value", "value": value, "operands": list(operands)}


def _last(words: list[str], *accept: str) -> dict[str, Any]:
    return {"type": "last", "words": words, "accept": list(accept)}


def _any(*accept: str) -> dict[str, Any]:
    return {"type": "any", "accept": list(accept)}


_ROWS: list[tuple[str, str, Mapping[str, Any]]] = [
    ("plus", "Hi, I need some help. How much is six plus three?", _value(9, 6, 3)),
    ("plus", "Add eight and five together for me.", _value(13, 8, 5)),
    ("plus", "Two and nine, what does that come to?", _value(11, 2, 9)),
    ("plus", "What do I get when I add seven to seven?", _value(14, 7)),
    ("minus", "How much is left when I take three from ten?", _value(7, 3, 10)),
    ("minus", "Eight minus six, please.", _value(2, 8, 6)),
    ("minus", "Subtract four from nine for me.", _value(5, 4, 9)),
    ("times", "What do you get for three times five?", _value(15, 3, 5)),
    ("times", "Please multiply six by four.", _value(24, 6, 4)),
    ("times", "Nine times two, how much is that?", _value(18, 9, 2)),
    ("number", "Which number follows twelve?", _value(13, 12)),
    ("number", "What is the number just before eight?", _value(7, 8)),
    ("number", "I am counting, and I just said nineteen. What is next?", _value(20, 19)),
    ("count", "Please count from one up to five.", {"type": "sequence", "numbers": [1, 2, 3, 4, 5]}),
    ("count", "Count from six to nine for me.", {"type": "sequence", "numbers": [6, 7, 8, 9]}),
    ("day", "Which day follows Thursday?", _last(_DAYS, "friday")),
    ("day", "What day was it yesterday, if today is Monday?", _last(_DAYS, "sunday")),
    ("day", "If today is Saturday, what day is tomorrow?", _last(_DAYS, "sunday")),
    ("month", "Which month follows April?", _last(_MONTHS, "may")),
    ("month", "What month do we have right before December?", _last(_MONTHS, "november")),
    ("opposite", "Tell me the opposite of hot.", _any("cold", "cool")),
    ("opposite", "What is the opposite of small?", _any("big", "large")),
    ("opposite", "And what is the opposite of happy?", _any("sad", "unhappy")),
    ("opposite", "If a door is not open, what is it?", _any("closed", "shut")),
    ("color", "What color is snow?", _last(_COLORS, "white")),
    ("color", "Which color does a lemon have?", _last(_COLORS, "yellow")),
    ("color", "Tell me the color of the grass.", _last(_COLORS, "green")),
    ("sound", "What does a dog say?", _any("woof", "bark", "barks", "bow wow", "wolf")),
    ("sound", "Which sound do cats make?", _any("meow", "miaow", "purr", "me ow")),
    ("sound", "What does the cow say?", _any("moo", "mu", "move")),
    ("spell", "Could you spell the word cat?", {"type": "spell", "word": "cat"}),
    ("spell", "Please spell sun.", {"type": "spell", "word": "sun"}),
    ("greeting", "Hello, it is nice to meet you.", _any("hello", "hi", "hey", "nice to", "welcome", "good")),
    (
        "thanks",
        "Thanks, that was very kind.",
        _any("welcome", "pleasure", "problem", "any time", "anytime", "glad"),
    ),
    ("repeat", "Repeat after me, the water is cold.", {"type": "repeat", "text": "the water is cold"}),
    ("repeat", "Say this, please, I like green apples.", {"type": "repeat", "text": "I like green apples"}),
]


def built_in_questions() -> list[Question]:
    """The questions, in order; those to be repeated are scored apart."""
    counts: dict[str, int] = {}
    found = []
    for kind, text, rule in _ROWS:
        counts[kind] = counts.get(kind, 0) + 1
        found.append(Question(f"{kind}-{counts[kind]}", kind, text, rule, apart=kind == "repeat"))
    return found
