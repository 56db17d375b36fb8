"""Templates of spoken phrases: fixed words with {slots}, and what tells two templates apart.

A template is a plain sentence such as "What is {a} plus {b}?". Its *runs* are its stretches of fixed words,
normalised: ["what is", "plus"]. The held-out questions and the training phrasings may not share a run of two
words or more, nor may one contain the other's (see tests/recipes/test_split.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from recipes.mini import facts
from recipes.mini.normalize import mask_numbers, normalize

_SLOT = re.compile(r"\{([a-z_]+)\}")
_ARTICLE = re.compile(r"\b([Aa])(?= (?:owl|old|apple|omelette)\b)")


@dataclass(frozen=True)
class Template:
    """A phrase of one kind; `text` holds {slot} names."""

    kind: str
    text: str

    @property
    def slots(self) -> tuple[str, ...]:
        return tuple(_SLOT.findall(self.text))

    def fill(self, values: dict[str, str]) -> str:
        """The phrase with its slots filled first letter in upper case; KeyError for a missing slot."""
        text = _SLOT.sub(lambda m: values[m.group(1)], self.text)
        text = _ARTICLE.sub(r"\1n", text)
        return text[0].upper() + text[1:]

    def runs(self) -> list[str]:
        """Stretches of fixed words between the slots, normalised; empty ones are left out."""
        return [run for run in (normalize(part) for part in _SLOT.split(self.text)[::2]) if run]

    def pattern(self, slot_patterns: dict[str, str]) -> str:
        """Regular expression that matches every filling of this template, normalised and with its numbers masked.

        `slot_patterns` maps a slot name to the expression of its (normalised) values.
        """
        parts = []
        for i, part in enumerate(_SLOT.split(self.text)):
            if i % 2:
                parts.append(f"(?:{slot_patterns[part]})")
            elif normalize(part):
                fixed = re.escape(mask_numbers(normalize(part)))
                parts.append(re.sub(r"(?<![a-z])a$", "an?", fixed))
        return " ".join(parts)


def lower_first(text: str) -> str:
    """`text` to follow an opener: its first letter in lower case, unless it is "I" or a name."""
    first = text.split(" ", 1)[0].split("'")[0].strip(",.?!")
    if first == "I" or first in _NAMES:
        return text
    return text[0].lower() + text[1:]


_NAMES = {*facts.DAYS, *facts.MONTHS, facts.NAME}
