"""What a model's voice learns from besides dialogues: the assistant's lines one after the other, said to nobody.

In a dialogue the assistant speaks for a third of the time and says the same words again and again, numbers mostly.
Here it hardly pauses, kinds of answers whose words come seldom are as frequent as each other, and one in four lines is
words in any order: those of answers, each as often as any other, and some that it may have to repeat. When to speak,
and what, is nothing to learn from these rows.
"""

from __future__ import annotations

import functools
import random

from recipes.mini.answers import reply
from recipes.mini.listening import common_words, training_words
from recipes.mini.script import Event, Script
from recipes.mini.utterances import draw
from recipes.mini.voices import ASSISTANT

ANSWERS = 0.3  # share of the lines that are answers as in dialogues
SELDOM = "day_after month_after opposite color sound spell repeat number_after".split()
FACTS = 0.45  # share of answers of these kinds
ANSWERED = 0.7  # share of the other lines' words that are in answers
COMMON = 0.4  # of the rest, those that are in no training phrase
LINE = "line"
GAP = (0.15, 0.6)  # seconds
TAIL = 0.4


def draw_line(rng: random.Random) -> str:
    """A line: an answer of any kind, one of a kind that comes seldom, or words in any order."""
    which = rng.random()
    if which < ANSWERS + FACTS:
        return reply(draw(rng, rng.choice(SELDOM) if which < FACTS else None), rng)
    words = [_draw_word(rng) for _ in range(rng.randint(1, 6))]
    text = " ".join(words)
    return f"{text[0].upper()}{text[1:]}."


def _draw_word(rng: random.Random) -> str:
    if rng.random() < ANSWERED:
        return rng.choice(answer_words())
    return rng.choice(common_words() if rng.random() < COMMON else training_words())


@functools.cache
def answer_words() -> tuple[str, ...]:
    """The words of answers to anything but "repeat after me", each once."""
    rng = random.Random(0)
    asked = (draw(rng) for _ in range(20_000))
    said = (reply(question, rng) for question in asked if question.kind != "repeat")
    words = {word.strip(".,?!:") for line in said for word in line.split()}
    return tuple(sorted({word if word[0] == "I" else word.lower() for word in words if word}))


def write_speaking(seed: str, seconds: float = 20.0) -> Script:
    """Lines for about so long; nobody else speaks."""
    rng = random.Random(f"speaking/{seed}")
    script = Script(seed, ASSISTANT, 1.0, TAIL)
    length = 0.0
    while length < seconds:
        event = Event(len(script.events), "model", draw_line(rng), LINE, gap=round(rng.uniform(*GAP), 3))
        event.after = event.id - 1 if event.id else None
        script.events.append(event)
        length += event.gap + 0.5 * len(event.text.split())
    script.check()
    return script
