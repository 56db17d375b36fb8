"""Speech to learn words from, apart from what is asked with them: pieces of phrases in any order, without a pause.

A model that hears only whole phrases guesses a word from its phrase, and is lost when the phrase is new. Here nothing
can be guessed. The user does not stop before the end, so the model has nothing to say: it only listens.
"""

from __future__ import annotations

import contextlib
import functools
import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from recipes.mini import phrasings
from recipes.mini.dialogues import NoUtterance, Source
from recipes.mini.heard import plain
from recipes.mini.normalize import normalize
from recipes.mini.questions.write import all_meanings, meaning_to_words
from recipes.mini.script import Event, Script
from recipes.mini.utterances import Utterance, draw, every_template

MIXED = "mixed"  # the kind of such an utterance
GAP = (0.03, 0.2)  # seconds between utterances: less than the model waits before it answers
TAIL = 0.1
ALONE = 0.8  # of the draws that are one word, the rare ones as often as others
# Of these, by where they come from: what questions are about, which answers hang on and phrases seldom say; any word
# of a training phrase; common words of none, since there are more words than an ear can know by their neighbours.
FROM = {"slots": 60, "phrases": 15, "common": 25}


def draw_mixed(rng: random.Random, words: tuple[int, int] = (5, 12)) -> Utterance:
    """So many words: pieces of one to three, each of another training phrase, single words of any phrase, and common
    words. No carrier of a held-out question comes in it, be it by chance.
    """
    while True:
        said: list[str] = []
        wanted = rng.randint(*words)
        while len(said) < wanted:
            if rng.random() < ALONE:
                said.append(rng.choice(_words(rng.choices(list(FROM), list(FROM.values()))[0])))
                continue
            phrase = [word.strip(".,?!") for word in draw(rng, decorate=0.2).text.split()]
            length = rng.randint(1, min(3, len(phrase)))
            at = rng.randint(0, len(phrase) - length)
            said += [word if word[0] == "I" else word.lower() for word in phrase[at : at + length] if word]
        text = " ".join(said)
        if not any(f" {run} " in f" {normalize(text)} " for run in held_out_runs()):
            return Utterance(MIXED, f"{text[0].upper()}{text[1:]}.")


def _words(source: str) -> tuple[str, ...]:
    return {"slots": slot_words, "phrases": training_words, "common": common_words}[source]()


@functools.cache
def slot_words() -> tuple[str, ...]:
    """The words that questions of the domain are about, each once: numbers, days, animals, things, opposites."""
    kinds = phrasings.TRAIN_TEMPLATES
    return _each_once(
        text
        for kind in kinds
        for meaning in all_meanings(kind)
        for text in meaning_to_words(kind, meaning).values()
    )


@functools.cache
def training_words() -> tuple[str, ...]:
    """The words of training phrases, each once."""
    texts = [*(template.text for template in every_template()), *phrasings.OPENERS, *phrasings.CLOSERS, "an"]
    for values in (*phrasings.OTHER_SLOTS.values(), *phrasings.PHRASE_WORDS.values()):
        texts += values
    return _each_once([*texts, *slot_words()])


def _each_once(texts: Iterable[str]) -> tuple[str, ...]:
    words = {word.strip(".,?!") for text in texts for word in text.split() if "{" not in word}
    return tuple(sorted({word if word[0] == "I" else word.lower() for word in words if word}))


def phrase_words(least: int = 3) -> list[str]:
    """Words that stand in so many templates or more, by their number, equal ones by their letters."""
    counts: Counter[str] = Counter()
    for template in set(every_template()):
        counts.update({plain(word) for word in template.text.split() if "{" not in word})
    often = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    return [word for word, count in often if word and count >= least]


@functools.cache
def common_words() -> tuple[str, ...]:
    """Frequent words of English that are in no training phrase, from `common_words.txt`: the first 2,000 of wordfreq
    3.1's list (Robyn Speer, CC BY-SA 4.0) that hibari's lexicons can say and the first training phrases had not,
    without coarse ones and abbreviations.
    """
    listed = Path(__file__).with_name("common_words.txt").read_text(encoding="utf-8").split()
    return tuple(word for word in listed if word not in training_words())


@functools.cache
def held_out_runs() -> tuple[str, ...]:
    """Carriers of the held-out questions of two words or more."""
    from recipes.mini.questions.heldout_templates import HELDOUT_TEMPLATES
    from recipes.mini.templates import Template

    runs = {r for kind, texts in HELDOUT_TEMPLATES.items() for t in texts for r in Template(kind, t).runs()}
    return tuple(sorted(run for run in runs if " " in run))


def write_listening(seed: str, source: Source, seconds: tuple[float, float] = (15.0, 35.0)) -> Script:
    """A user who speaks for about so long without a pause, and a model that says nothing. Mixed words where the source
    has them, at times a whole phrase.

    Raises NoUtterance if it has nothing.
    """
    rng = random.Random(f"listening/{seed}")
    script = Script(seed, source.voice, source.factor, TAIL)
    target, length, heard = rng.uniform(*seconds), 0.0, ""
    refused = 0
    while length < target:
        said = None
        for kind in (MIXED, None) if rng.random() < 0.75 else (None, MIXED):
            with contextlib.suppress(NoUtterance):
                said = said or source.say(kind)
        if said is None:
            break
        joined = f"{heard} {normalize(said.utterance.text)}"
        if any(f" {run} " in f"{joined} " for run in held_out_runs()):  # across two utterances
            refused += 1
            if refused > 50:
                break
            continue
        heard = " ".join(joined.split()[-20:])
        first = not script.events
        gap = rng.uniform(0.2, 1.5) if first else rng.uniform(*GAP)
        event = Event(len(script.events), "user", said.utterance.text, said.utterance.kind, gap=round(gap, 3))
        event.after = None if first else event.id - 1
        event.clip, event.speed = said.clip, said.speed
        script.events.append(event)
        length += 0.3 * len(event.text.split())
    if not script.events:
        raise NoUtterance(MIXED)
    script.check()
    return script
