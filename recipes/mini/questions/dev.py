"""Questions for choosing between models while the held-out set stays unseen: training wordings, training voices.

Drawn afresh from a seed, so there is no file. A model that is right here and wrong on the held-out set has
learned the wordings and not the questions.
"""

from __future__ import annotations

import random

from recipes.mini.questions import Question, rules
from recipes.mini.questions.write import rule_of
from recipes.mini.utterances import WEIGHTS, draw
from recipes.mini.voices import training_voices

# Kinds that need a context, or that have no rule.
_LEFT_OUT = {"again", "stop", "praise", "hear_me"}


def dev_questions(count: int, seed: int = 0) -> list[Question]:
    """`count` questions over all kinds by turns, in training voices; `split` is "dev"."""
    rng = random.Random(f"dev/{seed}")
    kinds = [kind for kind in WEIGHTS if kind not in _LEFT_OUT]
    questions = []
    for i in range(count):
        kind = kinds[i % len(kinds)]
        said = draw(rng, kind)
        rule = rules.FALLBACK if kind == "other" else rule_of(kind, said.meaning)
        questions.append(
            Question(
                id=f"dev-{i:04d}",
                kind=kind,
                text=said.text,
                rule=rule,
                voice=rng.choice(training_voices()),
                speed=round(rng.uniform(0.9, 1.1), 2),
                apart=kind == "repeat",
                split="dev",
            )
        )
    return questions
