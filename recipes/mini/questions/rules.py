"""Rules of right answers: plain dictionaries, one `type` each, that go into the question file.

| type | right when |
|---|---|
| value | the last number heard is `value`, or the only one that is not among `operands` |
| sequence | the last numbers heard are `numbers`, in order, and nothing before runs on into them |
| last | the last word heard of `words` (a closed class: days, months, colors) is in `accept` |
| any | one of the phrases `accept` is heard |
| spell | the letters of `word` are heard in order |
| repeat | at most 20 % word errors against `text`, carrier words around it aside |
| fallback | a line that says "I can't" or "I don't know" is heard |
"""

from __future__ import annotations

from recipes.mini import facts


def value(number: int, *operands: int) -> dict:
    return {"type": "value", "value": number, "operands": list(operands)}


def sequence(numbers: list[int]) -> dict:
    return {"type": "sequence", "numbers": numbers}


def last(words, accept) -> dict:
    return {"type": "last", "words": list(words), "accept": list(accept)}


def any_of(*accept: str) -> dict:
    return {"type": "any", "accept": list(accept)}


GREETING = any_of(
    "hello", "hi", "hey", "good morning", "good afternoon", "good evening", "nice to", "welcome"
)
GOODBYE = any_of(
    "bye", "goodbye", "see you", "take care", "so long", "talk to you", "talk soon", "good night", "have a"
)
IDENTITY = any_of(
    *("speech model", "voice model", "talking model", "computer", "program", "machine", "assistant"),
    *(
        "small model",
        "tiny model",
        "little model",
        "language model",
        "talking computer",
        "robot",
        "a i",
        "ai",
    ),
)
NAME = any_of("mini", "minis", "minnie", "minny", "many", "meany", "minie")
ABILITIES = any_of(
    *(
        "count",
        "add",
        "numbers",
        "spell",
        "colors",
        "animals",
        "jokes",
        "joke",
        "opposites",
        "days",
        "months",
    ),
    *("plus", "sums"),
)
HOW_ARE_YOU = any_of(
    *(
        "fine",
        "great",
        "very well",
        "doing well",
        "i am good",
        "i am well",
        "feel good",
        "feeling good",
        "wonderful",
    ),
    *("doing good", "pretty good", "all good", "not bad", "happy", "fantastic", "doing great", "splendid"),
)
THANKS = any_of(
    *(
        "welcome",
        "any time",
        "anytime",
        "no problem",
        "my pleasure",
        "pleasure",
        "glad",
        "happy to",
        "of course",
    ),
    *("do not mention it", "sure thing", "no worries"),
)
LOUDER = any_of("volume", "louder", "loud", "speaker", "speakers")  # an honest can't that is about loudness
STOP = any_of(
    "okay", "sure", "all right", "stopping", "i will stop", "i will be quiet", "stopped", "of course"
)
# Phrases (normalised) that make a line a fallback line; the answers of the domain hold none of them.
FALLBACK_CUES = (
    *(
        "i can not help",
        "i can not do that",
        "i can not answer",
        "i do not know",
        "i did not learn",
        "i never learned",
    ),
    *(
        "beyond me",
        "too small to know",
        "something i know",
        "something i can",
        "outside of what i",
        "i have no idea",
    ),
    *("i only know", "not able to help", "too hard for me", "not sure about that", "i am afraid i can not"),
    *("i did not understand", "i do not understand", "i did not get that", "not in my", "out of my"),
)
FALLBACK = {"type": "fallback", "accept": list(FALLBACK_CUES)}
JOKE = any_of(*facts.JOKE_CUES)


def color(thing: str) -> dict:
    return last(facts.COLOR_WORDS, facts.color_of(thing))


def day(name: str) -> dict:
    return last([d.lower() for d in facts.DAYS], [name.lower()])


def month(name: str) -> dict:
    return last([m.lower() for m in facts.MONTHS], [name.lower()])


def opposite(word: str) -> dict:
    return any_of(facts.OPPOSITES[word], *facts.OPPOSITE_SYNONYMS.get(word, ()))


def sound(animal: str) -> dict:
    return any_of(*facts.SOUNDS[animal][1])


def spell(word: str) -> dict:
    return {"type": "spell", "word": word}


def repeat(text: str) -> dict:
    return {"type": "repeat", "text": text}
