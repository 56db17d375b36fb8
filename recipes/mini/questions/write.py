"""Write the held-out question set: `python -m recipes.mini.questions.write`.

The file is made once, before any training, and committed; running this again must give the same bytes (a test
checks it). Seeded; needs nothing but Python.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from recipes.mini import facts
from recipes.mini.facts import number_words
from recipes.mini.questions import HELDOUT, Question, rules
from recipes.mini.questions.heldout_templates import (
    AGAIN_CONTEXTS,
    HELDOUT_TEMPLATES,
    REPEAT_PHRASES,
    STOP_CONTEXTS,
)
from recipes.mini.templates import Template

SEED = 20240
# Questions of each kind. Kinds without slots ask each of their templates once.
COUNTS = {
    "plus": 36,
    "minus": 30,
    "times": 24,
    "count": 12,
    "count_from": 6,
    "count_down": 6,
    "number_after": 18,
    "number_before": 18,
    "day_after": 14,
    "day_before": 14,
    "month_after": 14,
    "month_before": 14,
    "opposite": 26,
    "color": 24,
    "sound": 24,
    "spell": 22,
    "repeat": 20,
}
# Held-out voices and how many questions in twenty each speaks.
VOICES = (
    *(("kokoro:af_nova", 4), ("kokoro:am_liam", 4), ("kokoro:bf_emma", 4), ("kokoro:bm_george", 4)),
    *(("flite:awb", 2), ("pico:en-GB", 2)),
)
SPEEDS = (0.9, 1.0, 1.0, 1.1)

_FIXED_RULES = {
    "greeting": rules.GREETING,
    "goodbye": rules.GOODBYE,
    "name": rules.NAME,
    "what_are_you": rules.IDENTITY,
    "abilities": rules.ABILITIES,
    "how_are_you": rules.HOW_ARE_YOU,
    "thanks": rules.THANKS,
    "joke": rules.JOKE,
    "louder": rules.LOUDER,
    "other": rules.FALLBACK,
}


def meaning_to_words(kind: str, meaning: dict) -> dict[str, str]:
    """Slot texts from a question's meaning: numbers to words, "is" or "are" for a thing."""
    words = {k: number_words(v) if isinstance(v, int) else v for k, v in meaning.items()}
    if kind == "color":
        words["be"] = "are" if meaning["thing"] in {t for t, plural, _ in facts.COLORS_OF if plural} else "is"
    return words


def rule_of(kind: str, meaning: dict) -> dict:
    """The rule of a right answer to a question of `kind` about `meaning` (slot name -> int or word)."""
    if kind in _FIXED_RULES:
        return _FIXED_RULES[kind]
    a, b, n, m = (meaning.get(k) for k in ("a", "b", "n", "m"))
    match kind:
        case "plus":
            return rules.value(a + b, a, b)
        case "minus":
            return rules.value(a - b, a, b)
        case "times":
            return rules.value(a * b, a, b)
        case "count":
            return rules.sequence(list(range(1, n + 1)))
        case "count_from":
            return rules.sequence(list(range(n, m + 1)))
        case "count_down":
            return rules.sequence(list(range(n, 0, -1)))
        case "number_after":
            return rules.value(n + 1, n)
        case "number_before":
            return rules.value(n - 1, n)
        case "day_after" | "day_before":
            return rules.day(facts.neighbour(meaning["day"], 1 if kind == "day_after" else -1, facts.DAYS))
        case "month_after" | "month_before":
            step = 1 if kind == "month_after" else -1
            return rules.month(facts.neighbour(meaning["month"], step, facts.MONTHS))
        case "opposite":
            return rules.opposite(meaning["word"])
        case "color":
            return rules.color(meaning["thing"])
        case "sound":
            return rules.sound(meaning["animal"])
        case "spell":
            return rules.spell(meaning["word"])
        case "repeat":
            return rules.repeat(meaning["phrase"])
    raise ValueError(f"unknown kind of question {kind!r}")


def all_meanings(kind: str) -> list[dict]:
    """Every meaning that a question of `kind` can have, in a fixed order; [{}] for kinds without slots."""
    low, high = facts.PLUS_RANGE
    match kind:
        case "plus":
            return [{"a": a, "b": b} for a in range(low, high + 1) for b in range(low, high + 1)]
        case "minus":
            top, right = facts.MINUS_LEFT_MAX, facts.MINUS_RIGHT_MAX
            return [{"a": a, "b": b} for a in range(2, top + 1) for b in range(1, min(a - 1, right) + 1)]
        case "times":
            low, high = facts.TIMES_RANGE
            return [{"a": a, "b": b} for a in range(low, high + 1) for b in range(low, high + 1)]
        case "count" | "count_down":
            return [{"n": n} for n in range(3, facts.COUNT_MAX + 1)]
        case "count_from":
            return [{"n": n, "m": m} for n in range(2, 16) for m in range(n + 2, min(n + 8, 20) + 1)]
        case "number_after" | "number_before":
            return [{"n": n} for n in range(facts.NEIGHBOUR_RANGE[0], facts.NEIGHBOUR_RANGE[1] + 1)]
        case "day_after" | "day_before":
            return [{"day": day} for day in facts.DAYS]
        case "month_after" | "month_before":
            return [{"month": month} for month in facts.MONTHS]
        case "opposite":
            return [{"word": word} for word in facts.OPPOSITES]
        case "color":
            return [{"thing": thing} for thing, _, _ in facts.COLORS_OF]
        case "sound":
            return [{"animal": animal} for animal in facts.SOUNDS]
        case "spell":
            return [{"word": word} for word in facts.SPELLING_WORDS]
        case "repeat":
            return [{"phrase": phrase} for phrase in REPEAT_PHRASES]
    return [{}]


def write_questions(seed: int = SEED) -> list[Question]:
    """The whole set, in order of kind. The same seed gives the same questions."""
    rng = random.Random(seed)
    rows: list[dict] = []
    for kind, templates in HELDOUT_TEMPLATES.items():
        if kind in ("again", "stop"):
            continue
        asked: list[dict] = []
        while len(asked) < COUNTS.get(kind, len(templates)):
            pool = all_meanings(kind)
            rng.shuffle(pool)
            asked += pool if kind in COUNTS else [{}] * len(templates)
        asked = asked[: COUNTS.get(kind, len(templates))]
        said: set[str] = set()
        for i, meaning in enumerate(asked):
            words = meaning_to_words(kind, meaning)
            turns = (
                Template(kind, templates[(i + k) % len(templates)]).fill(words) for k in range(len(templates))
            )
            text = next(t for t in turns if t not in said)
            said.add(text)
            rows.append(
                {"kind": kind, "text": text, "rule": rule_of(kind, meaning), "apart": kind == "repeat"}
            )
    for i, text in enumerate(HELDOUT_TEMPLATES["again"]):
        context, kind, meaning = AGAIN_CONTEXTS[i % len(AGAIN_CONTEXTS)]
        rows.append({"kind": "again", "text": text, "rule": rule_of(kind, meaning), "context": (context,)})
    for i, text in enumerate(HELDOUT_TEMPLATES["stop"]):
        context = (STOP_CONTEXTS[i % len(STOP_CONTEXTS)],)
        rows.append(
            {"kind": "stop", "text": text, "rule": rules.STOP, "context": context, "interrupts": True}
        )
    voices = [voice for voice, share in VOICES for _ in range(share)]
    questions, deck, numbers = [], [], {}
    for row in rows:
        if not deck:
            deck = voices[:]
            rng.shuffle(deck)
        numbers[row["kind"]] = numbers.get(row["kind"], 0) + 1
        name = f"{row['kind']}-{numbers[row['kind']]:03d}"
        questions.append(Question(id=name, voice=deck.pop(), speed=rng.choice(SPEEDS), **row))
    return questions


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=HELDOUT, help=f"file to write (default {HELDOUT.name})")
    args = parser.parse_args()
    questions = write_questions()
    args.out.write_text("".join(q.to_json() + "\n" for q in questions), encoding="utf-8")
    print(f"{len(questions)} questions, {sum(not q.apart for q in questions)} scored together -> {args.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
