"""What the model says: answers to each kind of utterance, varied, each right by the rules of the question set.

Words are short and plain, a value comes last among the numbers, and only fallback lines say "I can't" or "I
don't know" in the wordings that the judge takes for a fallback.
"""

from __future__ import annotations

import random

from recipes.mini import facts
from recipes.mini.facts import NAME, number_words
from recipes.mini.utterances import Utterance

FALLBACKS: tuple[str, ...] = (
    "Sorry, I can't help with that.",
    "I'm sorry, I don't know that.",
    "I don't know about that, sorry.",
    "That is beyond me, I'm afraid.",
    "I'm too small to know that.",
    "Sorry, that's not something I know.",
    "I can't do that, sorry. But I can tell you a joke.",
    "I can't answer that. Ask me about numbers or animals.",
    "Hmm, I have no idea.",
    "I only know simple things, sorry.",
)
STILL_THERE: tuple[str, ...] = (
    "Are you still there?",
    "Hello? Is anyone there?",
    "Is anybody there?",
    "Are you there?",
    "Hello? Are you still with me?",
)
BACKCHANNEL = ("Mm-hm.",)

_SMALL_TALK: dict[str, tuple[str, ...]] = {
    "greeting": (
        *(
            "Hello!",
            "Hi!",
            "Hi there!",
            "Hello there!",
            "Hello! How can I help you?",
            "Hi! What can I do for you?",
        ),
        *("Hey! Nice to hear you.", "Hello, nice to meet you.", "Hi! Ask me something."),
    ),
    "goodbye": (
        *("Goodbye!", "Bye!", "Bye bye!", "See you later!", "Goodbye, see you soon!", "Take care, bye!"),
        *("Goodbye! It was nice talking to you.", "Goodbye! Have a nice day."),
    ),
    "name": (f"My name is {NAME}.", f"I'm {NAME}.", f"I am called {NAME}.", f"You can call me {NAME}."),
    "what_are_you": (
        "I'm a small speech model.",
        f"I'm {NAME}, a small computer program that talks.",
        "I'm a computer program. I listen and talk.",
        "I'm not a person. I'm a small speech model.",
        "I'm a tiny talking computer program.",
    ),
    "abilities": (
        "I can add numbers, spell words and tell jokes.",
        "I know numbers, colors, animals and a few jokes.",
        "I can count, spell short words, and name opposites.",
        "Ask me about numbers, days, months, colors or animals.",
    ),
    "how_are_you": (
        *("I'm fine, thank you.", "I'm doing great, thanks!", "Very well, thank you.", "I'm good, thanks."),
        *("I'm fine, and you?", "Great, thank you for asking!"),
    ),
    "thanks": (
        *("You're welcome.", "You're welcome!", "No problem.", "Any time.", "My pleasure.", "Happy to help."),
        "Glad I could help.",
    ),
    "praise": ("Thank you!", "Thanks!", "Oh, thank you.", "Thanks, that's nice of you."),
    "hear_me": ("Yes, I can hear you.", "Yes, I'm here.", "I'm here.", "Yes, I hear you well."),
    "louder": (
        "I can't speak any louder, sorry. Please turn up the volume.",
        "Sorry, I can't talk louder. Try turning up your volume.",
        "I can't get louder, but you can turn up the volume.",
    ),
    "stop": ("Okay.", "Okay, I'll stop.", "All right.", "Sure, I'll stop."),
    "other": FALLBACKS,
}
# In one piece and coded, a word of these was heard as another ("fine" as signed, "model" as mile); not so word by word.
_IN_WORDS = (
    "Goodbye! It was nice talking to you.",
    "I'm a small speech model.",
    "I'm a computer program. I listen and talk.",
    "I'm not a person. I'm a small speech model.",
    "I'm a tiny talking computer program.",
    "I'm fine, thank you.",
    "I'm good, thanks.",
    "No problem.",
    "Oh, thank you.",
    "Thanks, that's nice of you.",
    "I'm here.",
    "Yes, I hear you well.",
    "Sorry, I can't talk louder. Try turning up your volume.",
    *_SMALL_TALK["name"],
)
NOTHING_TO_REPEAT = ("I said nothing yet.", "I haven't said anything yet.")


def reply(said: Utterance, rng: random.Random, previous: str | None = None) -> str:
    """An answer to `said`; `previous` is the model's last line, which "say that again" asks for.

    Raises ValueError for a kind that gets no answer ("story", "backchannel").
    """
    if said.kind in _SMALL_TALK:
        return rng.choice(_SMALL_TALK[said.kind])
    if said.kind == "again":
        return again(previous, rng)
    return rng.choice(domain_answers(said.kind, said.meaning))


def stock_lines() -> tuple[str, ...]:
    """Lines that are said as they stand, but for those that are heard better word by word."""
    talk = [line for lines in _SMALL_TALK.values() for line in lines if line not in _IN_WORDS]
    jokes = [line for joke in facts.JOKES for line in joke]
    return (*talk, *jokes, *STILL_THERE, *BACKCHANNEL, *NOTHING_TO_REPEAT)


def again(previous: str | None, rng: random.Random) -> str:
    """The last line once more; behind "I said", a model that did not know of one said "I said" over and over."""
    return rng.choice(NOTHING_TO_REPEAT) if previous is None else previous


def _cap(text: str) -> str:
    return text[0].upper() + text[1:]


def _value(value: str, *whole: str) -> tuple[str, ...]:
    """Two in three are whole sentences: what was understood, then what follows from it."""
    sentences = [f"{_cap(begin)} {value}." for begin in whole]
    return (*sentences * (6 // len(sentences)), f"{_cap(value)}.", f"It's {value}.", f"That's {value}.")


def domain_answers(kind: str, meaning: dict) -> tuple[str, ...]:
    """All wordings of the right answer to a question of the domain; ValueError for another kind."""
    words = {key: number_words(v) if isinstance(v, int) else v for key, v in meaning.items()}
    a, b, n = meaning.get("a", 0), meaning.get("b", 0), meaning.get("n", 0)
    match kind:
        case "plus" | "minus" | "times":
            asked = f"{words['a']} {kind} {words['b']}"
            result = {"plus": a + b, "minus": a - b, "times": a * b}[kind]
            return _value(number_words(result), f"{asked} is", f"{asked} makes")
        case "count":
            return _listing(range(1, n + 1))
        case "count_from":
            return _listing(range(n, meaning["m"] + 1))
        case "count_down":
            return _listing(range(n, 0, -1))
        case "number_after":
            return _value(number_words(n + 1), f"after {words['n']} comes")
        case "number_before":
            return _value(number_words(n - 1), f"before {words['n']} comes")
        case "day_after" | "day_before" | "month_after" | "month_before":
            what, _, where = kind.partition("_")
            ring = facts.DAYS if what == "day" else facts.MONTHS
            name = facts.neighbour(meaning[what], 1 if where == "after" else -1, ring)
            return _value(name, f"{where} {meaning[what]} comes")
        case "opposite":
            other = facts.OPPOSITES[meaning["word"]]
            whole = f"The opposite of {meaning['word']} is {other}."
            return (f"{_cap(other)}.", f"It's {other}.", *(whole,) * 4)
        case "color":
            return _color(meaning["thing"])
        case "sound":
            sound, animal = facts.SOUNDS[meaning["animal"]][0], meaning["animal"]
            twice = sound if len(sound.split()) > 2 else f"{sound}, {sound}"  # short ones are easily missed
            # behind "it says" a quarter of them were heard as something else
            return (f"The {animal} says {twice}.",)
        case "spell":
            letters = ", ".join(meaning["word"].upper())
            return (f"{letters}.", f"{_cap(meaning['word'])}: {letters}.")
        case "repeat":
            return (f"{_cap(meaning['phrase'])}.",)
        case "joke":
            return tuple(f"{setup} {punch}" for setup, punch in facts.JOKES)
    raise ValueError(f"kind {kind!r} gets no answer")


def _listing(numbers: range) -> tuple[str, ...]:
    line = ", ".join(number_words(n) for n in numbers)
    return (f"{_cap(line)}.", f"{_cap(line)}.", f"Okay. {_cap(line)}.")


def _color(thing: str) -> tuple[str, ...]:
    color = facts.color_of(thing)[0]
    be = "are" if thing in {t for t, plural, _ in facts.COLORS_OF if plural} else "is"
    whole = f"{_cap(thing)} {be} {color}."
    return (f"{_cap(color)}.", f"{'They are' if be == 'are' else 'It is'} {color}.", *(whole,) * 4)
