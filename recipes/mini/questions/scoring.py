"""Judge an answer by what a recogniser heard: `is_right(question, heard)`.

A fallback line ("Sorry, I can't help with that.") given to a question of the domain is wrong whatever else it
holds; given to a question outside of the domain it is the right answer.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from recipes.mini.normalize import contains_phrase, normalize, numbers_in, word_errors
from recipes.mini.questions import Question
from recipes.mini.questions.rules import FALLBACK_CUES

# Letter names as a recogniser may write them.
_LETTER_NAMES = {
    **dict.fromkeys(("ay", "eh", "hey"), "a"),
    **dict.fromkeys(("be", "bee"), "b"),
    **dict.fromkeys(("see", "sea", "si"), "c"),
    **dict.fromkeys(("dee", "the"), "d"),
    **dict.fromkeys(("he", "ee"), "e"),
    **dict.fromkeys(("eff", "ef"), "f"),
    **dict.fromkeys(("gee", "ji"), "g"),
    **dict.fromkeys(("aitch", "age", "each"), "h"),
    **dict.fromkeys(("eye", "aye"), "i"),
    **dict.fromkeys(("jay",), "j"),
    **dict.fromkeys(("kay", "cay", "okay"), "k"),
    **dict.fromkeys(("el", "ell", "al"), "l"),
    **dict.fromkeys(("em", "um"), "m"),
    **dict.fromkeys(("en", "and", "an", "in"), "n"),
    **dict.fromkeys(("oh", "owe"), "o"),
    **dict.fromkeys(("pee", "pea"), "p"),
    **dict.fromkeys(("queue", "cue"), "q"),
    **dict.fromkeys(("are", "our", "ar"), "r"),
    **dict.fromkeys(("ess", "es", "as"), "s"),
    **dict.fromkeys(("tea", "tee", "ti"), "t"),
    **dict.fromkeys(("you",), "u"),
    **dict.fromkeys(("vee", "we"), "v"),
    **dict.fromkeys(("doubleu",), "w"),
    **dict.fromkeys(("ex",), "x"),
    **dict.fromkeys(("why",), "y"),
    **dict.fromkeys(("zee", "zed"), "z"),
}


@dataclass(frozen=True)
class Verdict:
    right: bool
    reason: str


def is_fallback(heard: str) -> bool:
    """Whether the line says that the speaker can't or doesn't know."""
    text = normalize(heard)
    return any(f" {cue} " in f" {text} " for cue in FALLBACK_CUES)


def is_right(question: Question, heard: str) -> bool:
    """Whether `heard` (a recogniser's text of the whole answer) meets the question's rule."""
    return judge(question, heard).right


def judge(question: Question, heard: str) -> Verdict:
    """Verdict with its reason in words. Raises ValueError for a rule of an unknown type."""
    rule = question.rule
    if rule["type"] not in _RULES:
        raise ValueError(f"question {question.id}: unknown rule type {rule['type']!r}")
    if not normalize(heard):
        return Verdict(False, "nothing heard")
    if rule["type"] != "fallback" and is_fallback(heard):
        return Verdict(False, "a fallback line")
    right, what = _RULES[rule["type"]](rule, heard)
    return Verdict(right, what)


def _value(rule: dict, heard: str) -> tuple[bool, str]:
    numbers, wanted = numbers_in(heard), rule["value"]
    others = set(numbers) - set(rule["operands"])
    right = bool(numbers) and (numbers[-1] == wanted or others == {wanted})
    return right, f"wanted {wanted}, heard {numbers}"


def _sequence(rule: dict, heard: str) -> tuple[bool, str]:
    numbers, wanted = numbers_in(heard), rule["numbers"]
    if re.sub(r"\D", "", heard) == "".join(map(str, wanted)):  # a recogniser may glue digits: "875 -432 -1"
        return True, f"heard the digits of {wanted}"
    before, tail = numbers[: -len(wanted)], numbers[-len(wanted) :]
    # "one, two, three" is no count from two: what stands before may only name the ends ("To three: one, ...").
    runs_on = bool(before) and before[-1] == 2 * wanted[0] - wanted[1]
    return tail == wanted and not runs_on and len(before) <= 2, f"wanted {wanted}, heard {numbers}"


def _last(rule: dict, heard: str) -> tuple[bool, str]:
    said = [word for word in normalize(heard).split() if word in rule["words"]]
    return bool(said) and said[-1] in rule["accept"], f"wanted one of {rule['accept']}, heard {said}"


def _any(rule: dict, heard: str) -> tuple[bool, str]:
    found = [phrase for phrase in rule["accept"] if contains_phrase(heard, phrase)]
    return bool(found), f"heard {found}" if found else f"none of {rule['accept']} heard"


def _spell(rule: dict, heard: str) -> tuple[bool, str]:
    word = rule["word"]
    if re.search(rf"\b{word.upper()}\b", heard):  # a recogniser may glue said letters to "CAT"
        return True, f"heard {word.upper()}"
    text = re.sub(r"\bdouble (?:you|u)\b", "w", normalize(heard))
    letters = "".join(w if len(w) == 1 else _LETTER_NAMES.get(w, " ") for w in text.split())
    return word in letters, f"wanted {'-'.join(word)}, heard letters {letters.split()}"


def _repeat(rule: dict, heard: str) -> tuple[bool, str]:
    wanted, said = normalize(rule["text"]).split(), normalize(heard).split()
    n = len(wanted)
    windows = [said[i : i + m] for m in range(max(1, n - 1), n + 2) for i in range(max(1, len(said) - m + 1))]
    errors = min(word_errors(" ".join(wanted), " ".join(window))[0] for window in windows)
    return errors <= 0.2 * n, f"{errors} errors in {n} words"


def _fallback(rule: dict, heard: str) -> tuple[bool, str]:
    return is_fallback(heard), "wanted a line that says it can't or doesn't know"


_RULES = {
    "value": _value,
    "sequence": _sequence,
    "last": _last,
    "any": _any,
    "spell": _spell,
    "repeat": _repeat,
    "fallback": _fallback,
}


def score(pairs: Iterable[tuple[Question, str]]) -> dict:
    """Accuracy over (question, heard) pairs: overall (questions scored apart left out), apart, and by kind.

    Returns {"right", "asked", "accuracy", "apart", "kinds": {kind: {...}}, "wrong": [...]}.
    """
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    wrong = []
    for question, heard in pairs:
        verdict = judge(question, heard)
        for key in (f"kind:{question.kind}", "apart" if question.apart else "all"):
            counts[key][0] += verdict.right
            counts[key][1] += 1
        if not verdict.right:
            wrong.append(
                {"id": question.id, "asked": question.text, "heard": heard, "reason": verdict.reason}
            )

    def counted(key: str) -> dict:
        right, asked = counts[key]
        return {"right": right, "asked": asked, "accuracy": right / asked if asked else None}

    kinds = {key[5:]: counted(key) for key in sorted(counts) if key.startswith("kind:")}
    return {**counted("all"), "apart": counted("apart"), "kinds": kinds, "wrong": wrong}
