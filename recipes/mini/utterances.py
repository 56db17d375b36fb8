"""Draw what a user says: a kind of utterance, its meaning and its wording, seeded.

`Utterance` is the unit that the clip cache speaks and that the dialogue writer answers: the same object, be
it fresh from the templates (`draw`) or read from the clips that exist (`recipes.mini.clips`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from recipes.mini import facts, phrasings
from recipes.mini.normalize import mask_numbers, normalize
from recipes.mini.phrasings import BARE_KINDS, CLOSERS, OPENERS, PHRASE_WORDS, TRAIN_TEMPLATES
from recipes.mini.questions.write import all_meanings, meaning_to_words
from recipes.mini.templates import Template, lower_first

# How often each kind is drawn, in parts; kinds with many facts to learn come more often.
WEIGHTS: dict[str, float] = {
    "plus": 13,
    "minus": 12,
    "times": 10,
    "count": 4,
    "count_from": 3,
    "count_down": 3,
    "number_after": 7,
    "number_before": 7,
    "day_after": 6,
    "day_before": 6,
    "month_after": 6,
    "month_before": 6,
    "opposite": 10,
    "color": 8,
    "sound": 8,
    "spell": 8,
    "repeat": 6,
    "joke": 3,
    "greeting": 5,
    "goodbye": 7,
    "name": 5,
    "what_are_you": 5,
    "abilities": 4,
    "how_are_you": 6,
    "thanks": 6,
    "praise": 1,
    "hear_me": 1,
    "again": 7,
    "louder": 8,
    "stop": 2,
    "other": 24,
}
# Short sounds of a listener; they are answered by nothing.
BACKCHANNELS = ("Mm-hm.", "Uh-huh.", "Yeah.", "Okay.", "Right.", "I see.")
# What each extra kind, drawn by name only, is: backchannels of the user, the parts of a long turn, and words in any
# order (`recipes.mini.listening`).
EXTRA_KINDS = ("backchannel", "story", "mixed")
_OPENER_WORDS = {opener: normalize(opener) for opener in OPENERS}
# Openers that sound like what a listener says: who begins with one may only mean to agree.
AGREEING = tuple(
    opener
    for opener in OPENERS
    if opener.split()[0].strip(",")
    in ("Okay", "All", "Right", "Yeah", "Yes", "Good", "Fine", "Great", "Nice", "Mmm")
)


@dataclass(frozen=True)
class Utterance:
    """Words of one turn of the user.

    Attributes:
        kind: what is asked, a key of WEIGHTS, or "backchannel" or "story" (a sentence of a long turn).
        text: the words, punctuated, as given to the voice.
        meaning: slot values that the answer depends on: integers for numbers, words for the rest.
        pause_words: word positions before which the user may hesitate: every earlier part is unfinished.
    """

    kind: str
    text: str
    meaning: dict = field(default_factory=dict)
    pause_words: tuple[int, ...] = ()


def draw_kind(rng: random.Random) -> str:
    """A kind, by WEIGHTS."""
    return rng.choices(list(WEIGHTS), weights=list(WEIGHTS.values()))[0]


def draw(
    rng: random.Random, kind: str | None = None, decorate: float = 0.4, openers: Sequence[str] = ()
) -> Utterance:
    """A fresh training utterance of `kind` (default: by WEIGHTS).

    `decorate` is the probability that an opener or a closer is added; with `openers` one of these always is, where the
    kind can have one. Raises ValueError for an unknown kind.
    """
    kind = kind or draw_kind(rng)
    if kind == "backchannel":
        return Utterance(kind, rng.choice(BACKCHANNELS))
    if kind == "story":
        return Utterance(
            kind, rng.choice(phrasings.STORY_STARTS + phrasings.STORY_MIDDLES + phrasings.STORY_ENDS)
        )
    if kind == "mixed":
        from recipes.mini.listening import draw_mixed

        return draw_mixed(rng)
    if kind not in WEIGHTS:
        raise ValueError(f"kind: {kind!r} is none of {', '.join([*WEIGHTS, *EXTRA_KINDS])}")
    if kind == "other":
        template = Template(kind, rng.choice(phrasings.OTHER_TEMPLATES))
        meaning: dict = {}
        words = {slot: rng.choice(phrasings.OTHER_SLOTS[slot]) for slot in template.slots}
    else:
        template = Template(kind, rng.choice(TRAIN_TEMPLATES[kind]))
        meaning = {"phrase": draw_phrase(rng)} if kind == "repeat" else rng.choice(all_meanings(kind))
        words = meaning_to_words(kind, meaning)
    return build(template, meaning, words, rng, decorate, openers)


def build(
    template: Template,
    meaning: dict,
    words: dict,
    rng: random.Random,
    decorate: float,
    openers: Sequence[str] = (),
) -> Utterance:
    """Fill `template` with `words` and, by chance, put an opener before it or a closer behind it; see `draw`."""
    text = template.fill(words)
    opener = ""
    if template.kind not in BARE_KINDS and (openers or rng.random() < decorate):
        if openers or rng.random() < 0.65:
            first = normalize(text.split()[0])
            opener = rng.choice([o for o in openers or OPENERS if _OPENER_WORDS[o] != first])  # no "and and"
            text = f"{opener} {lower_first(text)}"
        else:
            text = text[:-1] + rng.choice(CLOSERS) + text[-1]
    return Utterance(template.kind, text, meaning, _pause_words(template, words, opener))


def _pause_words(template: Template, words: dict, opener: str) -> tuple[int, ...]:
    """Word positions up to the first word of the last slot; none when the phrase goes on after it."""
    if not template.slots or template.kind in ("repeat", "color"):
        return ()
    head, _, tail = template.text.rpartition("{")
    if len(tail.split("}", 1)[1].split()) > 2:
        return ()  # the question is whole only later; keep to phrases that end with their slot, or nearly
    last = len(Template(template.kind, head).fill(words).split()) if head.strip() else 0
    offset = len(opener.split())
    return tuple(range(max(1, offset), offset + last + 1)) if offset + last else ()


def draw_phrase(rng: random.Random) -> str:
    """Words for "repeat after me": "the little cow sings at home", "moon, ship, bell"."""
    if rng.random() < 0.3:
        return ", ".join(rng.sample(PHRASE_WORDS["noun"], rng.randint(2, 3)))
    noun = f"{rng.choice(PHRASE_WORDS['adjective'])} {rng.choice(PHRASE_WORDS['noun'])}"
    if rng.random() < 0.4:
        noun = noun.split()[1]
    phrase = f"{rng.choice(PHRASE_WORDS['determiner'])} {noun}"
    if rng.random() < 0.8:
        phrase += f" {rng.choice(PHRASE_WORDS['verb'])}"
        if rng.random() < 0.5:
            phrase += f" {rng.choice(PHRASE_WORDS['ending'])}"
    return lower_first(Template("repeat", phrase).fill({}))


def draw_story(rng: random.Random) -> list[Utterance]:
    """Two to four sentences of a long turn; a question of the domain follows them."""
    middles = rng.sample(phrasings.STORY_MIDDLES, rng.randint(1, 2))
    texts = [rng.choice(phrasings.STORY_STARTS), *middles]
    if rng.random() < 0.7:
        texts.append(rng.choice(phrasings.STORY_ENDS))
    return [Utterance("story", text) for text in texts]


def every_template() -> Iterator[Template]:
    """All training templates, the ones outside of the domain included."""
    for kind, texts in TRAIN_TEMPLATES.items():
        for text in texts:
            yield Template(kind, text)
    for text in phrasings.OTHER_TEMPLATES:
        yield Template("other", text)


def slot_patterns() -> dict[str, str]:
    """For each slot, an expression that matches every value it can take, normalised and with numbers masked."""

    def one_of(values) -> str:
        return "|".join(sorted({mask_numbers(normalize(v)) for v in values}, key=len, reverse=True))

    nouns, verbs = one_of(PHRASE_WORDS["noun"]), one_of(PHRASE_WORDS["verb"])
    determiners, adjectives = one_of((*PHRASE_WORDS["determiner"], "an")), one_of(PHRASE_WORDS["adjective"])
    sentence = (
        f"(?:{determiners}) (?:(?:{adjectives}) )?(?:{nouns})"
        f"(?: (?:{verbs})(?: (?:{one_of(PHRASE_WORDS['ending'])}))?)?"
    )
    words = one_of([*facts.OPPOSITES, *facts.SPELLING_WORDS])
    return {
        **dict.fromkeys(("a", "b", "n", "m"), "#"),
        "day": one_of(facts.DAYS),
        "month": one_of(facts.MONTHS),
        "word": words,
        "thing": one_of(thing for thing, _, _ in facts.COLORS_OF),
        "be": "is|are",
        "animal": one_of(facts.SOUNDS),
        "phrase": f"(?:{nouns})(?: (?:{nouns})){{1,2}}|{sentence}",
        **{slot: one_of(values) for slot, values in phrasings.OTHER_SLOTS.items()},
    }
