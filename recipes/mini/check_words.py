"""Hearing or understanding? `python -m recipes.mini.check_words --help`.

Questions are put to a model in several ways, and its answers judged by its text, so that neither a recogniser nor how
clearly it speaks plays a part:

  words    as words alone, written into its text in silence: what it understands
  voice    spoken: what it hears itself, and understands
  told     spoken, and every word written at its time: what it understands while it is spoken to
  written  in silence, the words that it wrote down itself when they were spoken

Where `words` is right and `written` is wrong it misheard; where `told` is wrong as well, the voice misleads it.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from tqdm import tqdm

from aizuchi.errors import AizuchiError
from recipes.mini.command import run_command
from recipes.mini.grid import FRAME
from recipes.mini.heard import DELAY, HOMOPHONES, plain, read_classes
from recipes.mini.questions import Question, load_questions
from recipes.mini.timing import RATE

WAYS = ("words", "voice", "told", "written")
LEAD, ANSWER = 10, 88  # frames before the first word and behind the last
PACE = 4  # frames a word takes where it is only written
BEGIN = 2  # frames behind the last word on which an answer begins in silence, where no voice tells when
EARLY = 0.2  # seconds before a question's end that an answer may begin


@dataclass
class Asked:
    """A question put in some way.

    Attributes:
        wave: (samples,) what the user sounds like. text: ids of the model's first frames, empty where all are its own.
        end: seconds, of the question.
    """

    question: Question
    wave: np.ndarray
    end: float
    text: list[int] = field(default_factory=list)


class Vocabulary:
    """Ids of the user's words in a model's tokenizer; words that sound the same have one."""

    def __init__(self, tokens: Any, config: Any):
        self.padding, self.begins = config.text_padding_token_id, config.text_end_padding_token_id
        self._ids = {name: i for i in range(tokens.size) if (name := tokens.heard_word(i)) is not None}
        if "?" not in self._ids:
            raise AizuchiError(
                "the model's tokenizer has no ids for words of the user's: see recipes.mini.monologue"
            )
        self.first = self._ids["?"]
        for alike in read_classes(HOMOPHONES):
            if known := [self._ids[word] for word in alike if word in self._ids]:
                self._ids |= dict.fromkeys(alike, known[0])

    def id_of(self, word: str) -> int:
        """The id of a word as it is written; that of all others where it has none."""
        return self._ids.get(plain(word), self.first)

    def write(self, words: Sequence[tuple[str, int]]) -> list[int]:
        """Words with the frames that each is due on -> ids up to the last, one a frame."""
        text: list[int] = []
        for word, frame in words:
            if plain(word):
                text += [self.padding] * (frame - len(text)) + [self.id_of(word)]
        return text

    def heard_in(self, text: Sequence[int]) -> list[int]:
        """A text with the user's words alone."""
        return [token if token >= self.first else self.padding for token in text]

    def answered(self, text: Sequence[int]) -> list[int]:
        """A text behind which an answer begins."""
        return [*text, *[self.padding] * BEGIN, self.begins]


def as_words(question: Question, known: Vocabulary) -> Asked:
    """In silence, each word `PACE` frames after the one before."""
    words = question.text.split()
    text = known.write([(word, LEAD + PACE * i) for i, word in enumerate(words, 1)])
    wave = np.zeros((len(text) + ANSWER) * FRAME, np.float32)
    return Asked(question, wave, len(text) * FRAME / RATE, known.answered(text))


def as_spoken(question: Question, voices: Callable[[Any], Any], noise: float | None) -> Asked:
    """By its voice; noise at so many dB."""
    from aizuchi.evaluate.spoken_questions import speak_question

    said = speak_question(question, voices, 0, noise)  # type: ignore[arg-type]
    return Asked(question, said.wave, said.end)


def as_told(spoken: Asked, voices: Callable[[Any], Any], known: Vocabulary) -> Asked:
    """As it was spoken, and each word is written `DELAY` frames after its end."""
    from aizuchi.evaluate.spoken_questions import LEAD_SECONDS

    words = voices(spoken.question)(spoken.question.text, seed=0).words
    due = [(word.text, int((LEAD_SECONDS + word.end) * RATE / FRAME) + DELAY) for word in words]
    return dataclasses.replace(spoken, text=known.write(due))


def as_written(spoken: Asked, text: Sequence[int], known: Vocabulary) -> Asked:
    """In silence, with the words that stood in a text up to shortly behind the question."""
    frames = int(spoken.end * RATE / FRAME) + DELAY + 1
    heard = known.answered(known.heard_in(text[:frames]))
    return dataclasses.replace(spoken, wave=np.zeros_like(spoken.wave), text=heard)


def answers(system: Any, asked: Sequence[Asked], about: str) -> list[tuple[str, list[int]]]:
    """What a `ModelSystem` answers each, and its whole text as ids."""
    texts = [one.text for one in asked] if any(one.text for one in asked) else None
    found: list[tuple[str, list[int]]] = [("", [])] * len(asked)
    talks = system.conversations([one.wave for one in asked], texts, sound=False)
    for i, _, text in tqdm(talks, total=len(asked), desc=about, unit="question"):
        said = [word.text for word in system.words(text) if word.start >= asked[i].end - EARLY]
        found[i] = (" ".join(said), text)
    return found


def report(way: str, asked: Sequence[Asked], said: Sequence[str], show: bool) -> None:
    """Print how many are right, of each kind too, and with `show` each that is not."""
    from recipes.mini.questions.scoring import is_right

    kinds: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    wrong = []
    for one, answer in zip(asked, said):
        right = is_right(one.question, answer)
        for key in ("all", one.question.kind):
            kinds[key][0] += right
            kinds[key][1] += 1
        if not right:
            wrong.append(f"  {one.question.kind}: {one.question.text} -> {answer or '(nothing)'}")
    right, count = kinds["all"]
    print(f"{way}: {right} of {count} right, {right / count:.1%}")
    print("  " + ", ".join(f"{kind} {a}/{b}" for kind, (a, b) in sorted(kinds.items()) if kind != "all"))
    if show:
        print("\n".join(sorted(wrong)))


def check(args: argparse.Namespace) -> int:
    from aizuchi.evaluate.model_system import load_model_system
    from aizuchi.evaluate.spoken_questions import named_voices

    questions = [q for q in load_questions(args.questions) if not q.context and q.kind != "repeat"]
    if args.engine:
        questions = [q for q in questions if q.voice.startswith(args.engine)]
    if not questions:
        raise AizuchiError(f"{args.questions} has no question in a voice of {args.engine or 'any engine'}")
    count = min(args.limit or len(questions), len(questions))
    questions = [questions[i * len(questions) // count] for i in range(count)]
    system = load_model_system(args.model, args.seed, args.rows)
    if args.temperature is not None:
        system.sampling = dataclasses.replace(system.sampling, text_temperature=args.temperature)
    known = Vocabulary(system.tokens, system.model.config)
    voices = named_voices("recipes.mini.voices:get_voice")
    spoken: list[Asked] = []
    if set(args.ways) != {"words"}:
        spoken = [as_spoken(q, voices, args.noise) for q in tqdm(questions, desc="speaking", unit="question")]
    own: list[list[int]] = []
    for way in sorted(args.ways, key=WAYS.index):
        asked = spoken
        if way == "words":
            asked = [as_words(question, known) for question in questions]
        elif way == "told":
            asked = [as_told(one, voices, known) for one in spoken]
        elif way == "written":
            own = own or [text for _, text in answers(system, spoken, "voice")]
            asked = [as_written(one, text, known) for one, text in zip(spoken, own)]
        found = answers(system, asked, way)
        if way == "voice":
            own = [text for _, text in found]
        report(way, asked, [said for said, _ in found], args.show)
    return 0


def build_parser() -> argparse.ArgumentParser:
    from recipes.mini.questions import HELDOUT

    parser = argparse.ArgumentParser(
        prog="python -m recipes.mini.check_words",
        description="Hearing or understanding? Answers to questions as words, as speech, and as speech with its words.",
    )
    parser.add_argument("--model", help="folder or name (default: the one that ships)")
    parser.add_argument(
        "--ways", nargs="+", choices=WAYS, default=["words"], help="how questions are put (default words)"
    )
    parser.add_argument("--questions", default=HELDOUT, help="file (default: the held-out ones)")
    parser.add_argument("--engine", help="only questions in the voices of this engine, such as kokoro")
    parser.add_argument("--limit", type=int, help="so many of them, spread evenly")
    parser.add_argument("--noise", type=float, metavar="DB", help="pink noise so far below the voice")
    parser.add_argument("--temperature", type=float, help="of the text (default: the model's)")
    parser.add_argument("--rows", type=int, default=16, help="conversations at once (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling (default %(default)s)")
    parser.add_argument("--show", action="store_true", help="each question that is answered wrongly")
    parser.set_defaults(run=check)
    return parser


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
