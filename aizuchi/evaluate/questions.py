"""Questions with rules of right answers, and the judge of what was heard.

A question set is a file of JSON lines. `id`, `kind`, `text` (to be spoken) and `rule` are needed; `context`
(questions asked before it), `interrupts` (it is spoken over the answer to the last of them), `apart` (scored
apart from the rest), `voice` and `speed` are optional. A rule is an object with a `type`:

| type | right when |
|---|---|
| value | the last number heard is `value`, or the only one not among `operands`; failing that, a last "for" is 4 |
| sequence | the last numbers heard are `numbers`, in order, and nothing before runs on into them |
| last | the last word heard of `words` (a closed class: days, months, colors) is in `accept` |
| any | one of the phrases `accept` is heard |
| all | every phrase of `accept` is heard |
| spell | the letters of `word` are heard in order |
| repeat | at most 20 % word errors against `text`, carrier words around it aside |
| fallback | a line that says "I can't" or "I don't know" is heard (`accept` adds phrases of one's own) |

A fallback line given to any other question is wrong, whatever else it holds.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from aizuchi.errors import AizuchiError
from aizuchi.evaluate.numbers import LIKE_NUMBERS, read_numbers
from aizuchi.evaluate.text import normalize, word_errors

FALLBACK_CUES = (
    "i can not help",
    "i can not do that",
    "i can not answer",
    "i do not know",
    "i have no idea",
    "i did not understand",
    "i do not understand",
    "i did not get that",
    "beyond me",
    "not able to help",
    "not sure about that",
    "i am afraid i can not",
)
REPEAT_ERRORS = 0.2
# Letter names as a recogniser may write them.
_LETTERS = {
    name: letter
    for letter, names in {
        "a": "ay eh",
        "b": "be bee",
        "c": "see sea",
        "d": "dee",
        "e": "ee he",
        "f": "eff ef",
        "g": "gee",
        "h": "aitch age",
        "i": "eye aye",
        "j": "jay",
        "k": "kay okay",
        "l": "el ell",
        "m": "em",
        "n": "en and an",
        "o": "oh owe",
        "p": "pee pea",
        "q": "queue cue",
        "r": "are our",
        "s": "ess es",
        "t": "tea tee",
        "u": "you",
        "v": "vee we",
        "w": "doubleu",
        "x": "ex",
        "y": "why",
        "z": "zee zed",
    }.items()
    for name in names.split()
}


@dataclass(frozen=True)
class Question:
    """One question; see the module's text for the fields."""

    id: str
    kind: str
    text: str
    rule: Mapping[str, Any]
    voice: str | None = None
    speed: float = 1.0
    context: tuple[str, ...] = ()
    interrupts: bool = False
    apart: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)


class Verdict(NamedTuple):
    """Whether an answer is right, and why."""

    right: bool
    reason: str


Judge = Callable[[Question, str], Any]


def read_questions(path: str | Path) -> list[Question]:
    """Read a question set.

    Raises:
        AizuchiError: the file can't be read, or a line is no question; the message names it.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AizuchiError(f"can't read the questions {path}: {error}") from error
    known = {f.name for f in dataclasses.fields(Question)} - {"extra"}
    questions = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            fields = {name: row[name] for name in known & set(row)}
            fields["context"] = tuple(row.get("context", ()))
            extra = {name: value for name, value in row.items() if name not in known}
            if not isinstance(fields["rule"], dict) or "type" not in fields["rule"]:
                raise TypeError("its rule must be an object with a type")
            questions.append(Question(**fields, extra=extra))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise AizuchiError(f"{path}, line {number} is no question: {error}") from error
    ids = [question.id for question in questions]
    if len(set(ids)) != len(ids):
        raise AizuchiError(f"{path} holds the same id twice")
    if not questions:
        raise AizuchiError(f"{path} holds no question")
    return questions


def judge(question: Question, heard: str) -> Verdict:
    """Judge an answer from its transcript.

    Raises:
        AizuchiError: the question's rule is unknown or malformed.
    """
    rule, words = question.rule, normalize(heard)
    check = _RULES.get(rule["type"])
    if check is None:
        raise AizuchiError(f"question {question.id}: unknown rule {rule['type']!r} (a judge of its own?)")
    if not words:
        return Verdict(False, "nothing heard")
    if rule["type"] != "fallback" and is_fallback(words):
        return Verdict(False, "a fallback line")
    try:
        right, reason = check(rule, words, heard)
    except (KeyError, TypeError) as error:
        raise AizuchiError(f"question {question.id}: malformed rule ({error})") from error
    return Verdict(right, reason)


def is_fallback(words: Sequence[str], more: Sequence[str] = ()) -> bool:
    """Whether a line says that the speaker can't or doesn't know."""
    return any(holds(words, cue) for cue in (*FALLBACK_CUES, *more))


def holds(words: Sequence[str], phrase: str) -> bool:
    """Whether a phrase is among normalised words, in order and together."""
    wanted = normalize(phrase, fillers=True)
    return any(list(words[i : i + len(wanted)]) == wanted for i in range(len(words) - len(wanted) + 1))


def _value(rule: Mapping[str, Any], words: list[str], heard: str) -> tuple[bool, str]:
    numbers, wanted = read_numbers(words), rule["value"]
    if not numbers and words[-1] in LIKE_NUMBERS:
        numbers = [LIKE_NUMBERS[words[-1]]]
    others = set(numbers) - set(rule.get("operands", ()))
    right = bool(numbers) and (numbers[-1] == wanted or others == {wanted})
    return right, f"wanted {wanted}, heard {numbers}"


def _sequence(rule: Mapping[str, Any], words: list[str], heard: str) -> tuple[bool, str]:
    numbers, wanted = read_numbers(words), list(rule["numbers"])
    before, tail = numbers[: -len(wanted)], numbers[-len(wanted) :]
    # "one, two, three" is no count from two; what stands before may only name the ends ("To three: ...").
    runs_on = bool(before) and len(wanted) > 1 and before[-1] == 2 * wanted[0] - wanted[1]
    return tail == wanted and not runs_on and len(before) <= 2, f"wanted {wanted}, heard {numbers}"


def _last(rule: Mapping[str, Any], words: list[str], heard: str) -> tuple[bool, str]:
    said = [word for word in words if word in rule["words"]]
    return bool(said) and said[-1] in rule["accept"], f"wanted one of {rule['accept']}, heard {said}"


def _any(rule: Mapping[str, Any], words: list[str], heard: str) -> tuple[bool, str]:
    found = [phrase for phrase in rule["accept"] if holds(words, phrase)]
    return bool(found), f"heard {found}" if found else f"none of {list(rule['accept'])} heard"


def _all(rule: Mapping[str, Any], words: list[str], heard: str) -> tuple[bool, str]:
    missing = [phrase for phrase in rule["accept"] if not holds(words, phrase)]
    return not missing, f"{missing} not heard" if missing else "all heard"


def _spell(rule: Mapping[str, Any], words: list[str], heard: str) -> tuple[bool, str]:
    word = rule["word"].lower()
    if re.search(rf"\b{re.escape(word.upper())}\b", heard):  # a recogniser may glue said letters to "CAT"
        return True, f"heard {word.upper()}"
    text = re.sub(r"\bdouble (?:you|u)\b", "w", " ".join(words))
    letters = "".join(w if len(w) == 1 else _LETTERS.get(w, " ") for w in text.split())
    return word in letters, f"wanted {'-'.join(word)}, heard the letters {letters.split()}"


def _repeat(rule: Mapping[str, Any], words: list[str], heard: str) -> tuple[bool, str]:
    wanted = normalize(rule["text"])
    sizes = range(max(1, len(wanted) - 1), len(wanted) + 2)
    windows = [words[i : i + size] for size in sizes for i in range(max(1, len(words) - size + 1))]
    errors = min(word_errors(wanted, window).errors for window in windows)
    return errors <= REPEAT_ERRORS * len(wanted), f"{errors} errors in {len(wanted)} words"


def _fallback(rule: Mapping[str, Any], words: list[str], heard: str) -> tuple[bool, str]:
    right = is_fallback(words, rule.get("accept", ()))
    return right, "says that it can't" if right else "wanted a line that says it can't or doesn't know"


_RULES: dict[str, Callable[[Mapping[str, Any], list[str], str], tuple[bool, str]]] = {
    "value": _value,
    "sequence": _sequence,
    "last": _last,
    "any": _any,
    "all": _all,
    "spell": _spell,
    "repeat": _repeat,
    "fallback": _fallback,
}
