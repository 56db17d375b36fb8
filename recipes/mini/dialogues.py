"""Write dialogues: seeded scripts of several turns with everything that makes a talk full duplex.

`write_script` strings scenes together up to a target length: plain questions and answers, hesitations inside
a sentence, long turns with "mm-hm", interruptions, listeners' sounds over the model's answers, long silences
that make the model ask, coughs and noises that it lets pass. What the user says comes from a `Source`: fresh
from the templates, or from clips that exist.

`python -m recipes.mini.dialogues` prints or writes scripts of fresh dialogues.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from recipes.mini.answers import BACKCHANNEL, STILL_THERE, reply
from recipes.mini.script import Event, Script
from recipes.mini.utterances import AGREEING, Utterance, draw, draw_kind, draw_story
from recipes.mini.voices import ASSISTANT, draw_factor, training_voices

# Seconds. The model's side is what it learns: keep these tight.
REPLY_GAP = (0.3, 0.44)
# Of "okay" to "stop": who says it often goes on, and who speaks again at once has not stopped.
STOP_REPLY_GAP = (0.6, 0.8)
LATE_GAP = (0.85, 2.4)  # of answers that come late, see `write_script`
BACKCHANNEL_GAP = (0.12, 0.3)
# A stop comes a moment after the interruption's start, or a frame later, or another one: at each frame rather than not,
# for a model that takes the likelier of the two stops then, also when it has let the first frames pass.
STOP_LAG, GO_ON, LAST_STOP = (0.2, 0.28), 0.35, 0.8
ASK_AFTER = (6.5, 7.5)
FRAME_SECONDS = 0.08  # of the codec
# Of the dialogues, those that begin with a greeting: of a model that met it in nearly half of them, what it did not
# understand was a greeting, and a goodbye that came first, too.
GREETED = 0.18
# The user's side is what it meets: wide.
USER_GAP = (0.35, 2.6)
PAUSE = (0.4, 1.0)
SENTENCE_PAUSE = (0.5, 1.0)

PAUSE_SHARE = 0.35  # of the turns that can have a hesitation
SOUNDS = ("cough", "throat", "click", "knock", "hum", "rustle", "breath", "typing", "bump")
LONG_KINDS = ("count", "joke", "spell", "abilities", "count_from", "joke")
# Of the answers that somebody breaks into, or hums along with, those that are long: a model that was stopped in these
# only, and before 0.7 of them, said all others to their end. And where, as a share of the answer.
LONG, BROKEN_AT = 0.4, (0.15, 0.9)
# Of the interruptions, those that are "stop", and those that begin as a listener's sound would ("okay, what is ...").
# For these a model that met few did not stop; what it goes on for are sounds that no question begins with.
STOPS, AGREES = 0.3, 0.3
_OPENS = ("Okay.", "Right.", "Yeah.")
_NO_BREAK = ("greeting", "goodbye", "again", "thanks", "praise", "hear_me")
_ASKED = "plus minus times opposite color sound number_after day_after month_before other".split()
# Kinds that make no sense as a fresh question of the user in the middle of a talk.
_FIRST_ONLY = ("greeting",)


@dataclass(frozen=True)
class Said:
    """An utterance to be spoken by the user: how fast, and from which clip, if there is one."""

    utterance: Utterance
    speed: float = 1.0
    clip: str | None = None


class NoUtterance(Exception):
    """A source has nothing (more) of a kind."""


class Source(Protocol):
    """Where the user's words come from."""

    voice: str
    factor: float

    def say(self, kind: str | None = None, openers: Sequence[str] = ()) -> Said:
        """Something of that kind, or of any kind of question by weight, beginning with one of the openers where some
        are given; NoUtterance if there is nothing.
        """
        ...

    def story(self) -> list[Said]:
        """Sentences of a long turn."""
        ...


class FreshSource:
    """Draws from the training templates, for voices that are synthesised on the fly."""

    def __init__(self, rng: random.Random, voice: str, factor: float) -> None:
        self.rng, self.voice, self.factor = rng, voice, factor
        self.speed = round(rng.uniform(0.88, 1.15), 3)

    def say(self, kind: str | None = None, openers: Sequence[str] = ()) -> Said:
        return Said(draw(self.rng, kind or draw_kind(self.rng), openers=openers), self.speed)

    def story(self) -> list[Said]:
        return [Said(sentence, self.speed) for sentence in draw_story(self.rng)]


class _Writer:
    """Adds events one after the other; `last` is the event that the next turn follows."""

    def __init__(self, rng: random.Random, source: Source, script: Script, late: float) -> None:
        self.rng, self.source, self.script, self.late = rng, source, script, late
        self.last: int | None = None
        self.line: str | None = None  # the model's last line
        self.seconds = 0.0  # a guess of the length so far

    def _between(self, bounds: tuple[float, float]) -> float:
        return round(self.rng.uniform(*bounds), 3)

    def add(self, side: str, text: str, kind: str, gap: float, **more) -> Event:
        event = Event(len(self.script.events), side, text, kind, gap=round(gap, 3), **more)
        if "after" not in more:
            event.after = self.last
        self.script.events.append(event)
        self.seconds += max(gap, 0) + 0.3 + 0.3 * len(text.split())
        return event

    def user(self, said: Said, gap: float, **more) -> Event:
        """A turn of the user, at times with a hesitation in it."""
        words = said.utterance.pause_words
        pauses = []
        if words and self.rng.random() < PAUSE_SHARE:
            count = 2 if len(words) > 2 and self.rng.random() < 0.2 else 1
            pauses = [(word, self._between(PAUSE)) for word in sorted(self.rng.sample(words, count))]
        event = self.add("user", said.utterance.text, said.utterance.kind, gap, pauses=pauses, **more)
        event.clip, event.speed = said.clip, said.speed
        self.last = event.id
        return event

    def answer(self, said: Said, gap: float | None = None) -> Event:
        """The model's answer to what the user just said."""
        text = reply(said.utterance, self.rng, self.line)
        if gap is None and self.late and self.rng.random() < self.late:
            gap = self._between(LATE_GAP)
        if gap is None:
            gap = self._between(STOP_REPLY_GAP if said.utterance.kind == "stop" else REPLY_GAP)
        event = self.add("model", text, "answer", gap)
        self.last = event.id
        if said.utterance.kind != "again":
            self.line = text
        return event

    def user_gap(self) -> float:
        return self._between(USER_GAP) if self.script.events else self._between((0.2, 2.0))

    def attempt(self, scene: Callable[[_Writer], None]) -> bool:
        """Play a scene; if the source lacks something for it, leave no trace and return False."""
        kept, tail = len(self.script.events), self.script.tail
        state = (self.last, self.line, self.seconds)
        cuts = [(e, e.cut_by, e.cut_lag) for e in self.script.events]
        try:
            scene(self)
        except NoUtterance:
            del self.script.events[kept:]
            self.script.tail, (self.last, self.line, self.seconds) = tail, state
            for event, by, lag in cuts:
                event.cut_by, event.cut_lag = by, lag
            return False
        return True

    # -- scenes -------------------------------------------------------------------------------

    def exchange(self, kind: str | None = None, gap: float | None = None) -> None:
        """A question and its answer."""
        said = self.source.say(kind)
        while kind is None and said.utterance.kind in (*_FIRST_ONLY, "stop", "again"):
            said = self.source.say(None)
        self.user(said, self.user_gap() if gap is None else gap)
        self.answer(said)

    def greet(self) -> None:
        self.exchange("greeting")

    def part(self) -> None:
        """Thanks, at times, and goodbye."""
        if self.rng.random() < 0.4:
            self.exchange("thanks")
        self.exchange("goodbye")

    def once_more(self) -> None:
        """ "Say that again" after an answer."""
        self.exchange()
        self.exchange("again")

    def interruption(self) -> None:
        """The user breaks into an answer with a new question, or with "stop"."""
        answered = self._talk()
        new = self._breaking_in()
        where = self._between(BROKEN_AT)
        breaking = self.user(new, 0.0, fraction=where)
        # over before the answer to what was said
        longer = new.utterance.kind != "stop" and len(new.utterance.text.split()) > 3
        answered.cut_by, answered.cut_lag = breaking.id, self._stop_lag(LAST_STOP if longer else STOP_LAG[1])
        self.answer(new)

    def _talk(self) -> Event:
        """A question, and its answer, over which something happens."""
        said = self.source.say(self.rng.choice(LONG_KINDS) if self.rng.random() < LONG else None)
        while said.utterance.kind in (*_FIRST_ONLY, "stop", "again"):
            said = self.source.say()
        self.user(said, self.user_gap())
        return self.answer(said)

    def _breaking_in(self) -> Said:
        drawn = self.rng.random()
        if drawn < STOPS:
            return self.source.say("stop")
        if drawn < STOPS + AGREES:
            try:
                return self.source.say(self.rng.choice(_ASKED), AGREEING)
            except NoUtterance:
                pass
        while (new := self.source.say()).utterance.kind in _NO_BREAK:
            pass
        return new

    def _stop_lag(self, latest: float) -> float:
        lag = self._between(STOP_LAG)
        while self.rng.random() < GO_ON and lag + FRAME_SECONDS <= latest:
            lag += FRAME_SECONDS
        return round(lag, 3)

    def listener(self) -> None:
        """The user hums along with an answer, and the model goes on."""
        answered = self._talk()
        hum = self.source.say("backchannel")
        while hum.utterance.text in _OPENS:
            hum = self.source.say("backchannel")
        where = round(self.rng.uniform(0.3, 0.75), 3)
        event = self.add("user", hum.utterance.text, "backchannel", 0.0, fraction=where, gain=-4.0)
        event.clip, event.speed = hum.clip, hum.speed
        self.last = answered.id

    def long_turn(self) -> None:
        """Several sentences of the user, "mm-hm" of the model in between, then a question and its answer."""
        for i, sentence in enumerate(self.source.story()):
            told = self.user(sentence, self._between(SENTENCE_PAUSE) if i else self.user_gap())
            if self.rng.random() < 0.6:
                gap = self._between(BACKCHANNEL_GAP)
                self.add("model", self.rng.choice(BACKCHANNEL), "backchannel", gap, after=told.id)
        question = self.source.say(
            self.rng.choice(("plus", "opposite", "color", "spell", "number_after", "sound"))
        )
        self.user(question, self._between(SENTENCE_PAUSE))
        self.answer(question)

    def silence(self) -> None:
        """Nobody speaks for long: the model asks once whether anyone is there; then the user goes on."""
        asked = self.add("model", self.rng.choice(STILL_THERE), "still_there", self._between(ASK_AFTER))
        self.last, self.line = asked.id, asked.text
        self.seconds += 1
        if self.rng.random() < 0.6:
            self.exchange()
        else:
            self.script.tail = self._between((4.0, 14.0))

    def noise(self) -> None:
        """Sounds in the room while nobody speaks, or over the model's answer; nobody reacts."""
        if self.script.events and self.rng.random() < 0.35:
            answered = self._talk()
            where = round(self.rng.uniform(0.1, 0.9), 3)
            self.add("room", self.rng.choice(SOUNDS), "sound", 0.0, fraction=where, gain=self._gain())
            self.last = answered.id
            return
        for _ in range(self.rng.randint(1, 2)):
            gap, sound = self._between((0.3, 0.8)), self.rng.choice(SOUNDS)
            self.last = self.add("room", sound, "sound", gap, gain=self._gain()).id
        self.exchange(gap=self._between((0.4, 1.2)))  # all in all no silence that makes the model ask

    def _gain(self) -> float:
        return round(self.rng.uniform(-14, 0), 1)


# Scenes and how often each comes.
_SCENES: tuple[tuple[Callable[[_Writer], None], float], ...] = (
    (_Writer.exchange, 62),
    (_Writer.interruption, 44),
    (_Writer.long_turn, 7),
    (_Writer.listener, 4),
    (_Writer.silence, 5),
    (_Writer.noise, 6),
    (_Writer.once_more, 5),
)


def write_script(
    seed: str, source: Source, seconds: tuple[float, float] = (15.0, 55.0), late: float = 0.0
) -> Script:
    """A dialogue of about so many seconds. The same seed and source give the same script.

    A share ``late`` of the answers comes late: for a model that has missed its turn, and must not learn to miss it.
    """
    rng = random.Random(f"script/{seed}")
    script = Script(seed, source.voice, source.factor, round(rng.uniform(0.5, 2.5), 3))
    writer = _Writer(rng, source, script, late)
    target = rng.uniform(*seconds)
    opening, closing = rng.random(), rng.random() < 0.35
    if opening < 0.06:
        writer.attempt(_Writer.silence)
    elif opening < GREETED:
        writer.attempt(_Writer.greet)
    failures = 0
    scenes, weights = zip(*_SCENES)
    while writer.seconds < target and script.tail < 4 and failures < 10:
        failures += not writer.attempt(rng.choices(scenes, weights)[0])
    if not script.events:
        raise NoUtterance(f"voice {source.voice} has too few clips for a dialogue")
    if script.tail < 4 and closing:
        writer.attempt(_Writer.part)
    elif script.tail < 4 and rng.random() < 0.2:
        script.tail = round(rng.uniform(3.0, 6.0), 3)
    script.check()
    return script


def is_late(event: Event) -> bool:
    """Whether an answer comes later than it should."""
    return event.kind == "answer" and event.gap > STOP_REPLY_GAP[1]


def fresh_script(seed: str, voice: str | None = None) -> Script:
    """A dialogue with a user drawn from the training voices, all words fresh from the templates."""
    rng = random.Random(f"user/{seed}")
    voice = voice or rng.choice([ASSISTANT, *training_voices("kokoro")])
    return write_script(seed, FreshSource(rng, voice, draw_factor(rng, voice)))


def describe(script: Script) -> str:
    """The script as lines for a person to read."""
    lines = [f"user {script.voice} x{script.factor}, seed {script.seed}"]
    for e in script.events:
        place = (
            "start"
            if e.after is None
            else f"#{e.after}" + ("" if e.fraction == 1 else f" at {e.fraction:.0%}")
        )
        extra = "".join(f" [{seconds:.1f} s before word {word}]" for word, seconds in e.pauses)
        extra += f" [stops {e.cut_lag:.2f} s into #{e.cut_by}]" if e.cut_by is not None else ""
        lines.append(f"#{e.id:<2} {e.side:<5} {place} {e.gap:+.2f} s  {e.text}{extra}")
    return "\n".join([*lines, f"tail {script.tail:.1f} s"])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m recipes.mini.dialogues", description="Write dialogues.")
    parser.add_argument("--count", type=int, default=3, help="how many (default %(default)s)")
    parser.add_argument("--seed", default="0", help="default %(default)s")
    parser.add_argument("--out", type=Path, help="JSON lines file; without it they are printed to read")
    args = parser.parse_args()
    scripts = [fresh_script(f"{args.seed}/{i}") for i in range(args.count)]
    if args.out:
        from aizuchi.files import write_text

        write_text(args.out, "".join(s.to_json() + "\n" for s in scripts))
        print(f"{len(scripts)} dialogues -> {args.out}")
    else:
        print("\n\n".join(describe(s) for s in scripts))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
