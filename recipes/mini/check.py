"""Listen to what was made, by a recogniser: `python -m recipes.mini.check mix|answers --help`.

`mix` hears every turn of mixed dialogues: word error rates of both sides, and how far the word times lie from
where the sound begins and ends. `answers` speaks a right answer to each held-out question in the assistant's
voice and judges what is heard: the highest score that any model can reach under this judge.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections import defaultdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from tqdm import tqdm

from recipes.mini.answers import reply
from recipes.mini.command import run_command
from recipes.mini.mix import Mixed, mixed_dialogue, speak_assistant
from recipes.mini.normalize import word_errors
from recipes.mini.timing import RATE, sound_edges
from recipes.mini.utterances import Utterance


def recogniser(model: str | None):
    """Whisper through aizuchi.evaluate, on one thread."""
    from aizuchi.evaluate.recognize import WhisperRecognizer

    return WhisperRecognizer(model, threads=1)


def edge_errors(mixed: Mixed) -> list[tuple[str, float, float]]:
    """For each turn with words: side, and seconds from its times to where its sound begins and ends.

    Positive means that the sound comes later than the times say. Turns under other sounds of their side are
    left out.
    """
    rows = []
    for event, (start, end) in zip(mixed.script.events, mixed.times):
        if event.side == "room" or event.cut_by is not None:
            continue
        channel = mixed.audio[0 if event.side == "model" else 1]
        same = [
            t
            for e, t in zip(mixed.script.events, mixed.times)
            if (e.side == "model") == (event.side == "model") and e is not event
        ]
        if any(s < end + 0.3 and start - 0.3 < e for s, e in same):
            continue
        first, last = max(0, round((start - 0.2) * RATE)), round((end + 0.2) * RATE)
        begins, ends = sound_edges(channel[first:last], threshold=0.03)
        rows.append((event.side, begins + first / RATE - start, ends + first / RATE - end))
    return rows


def check_mix(args: argparse.Namespace) -> int:
    from recipes.mini.clips import ClipLibrary
    from recipes.mini.sources import recordings

    library = ClipLibrary(args.clips) if args.clips.exists() else None
    files = recordings(Path(args.commands)) if args.commands else []
    hear = recogniser(args.whisper)
    errors: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    edges: dict[str, list[tuple[float, float]]] = defaultdict(list)
    seconds, bad = 0.0, []
    began = time.monotonic()

    def stop() -> bool:
        return bool(args.minutes) and time.monotonic() - began > 60 * args.minutes

    bar = tqdm(range(args.count), unit="dialogue")
    for number in bar:
        mixed = mixed_dialogue(number, args.seed, library, files)
        seconds += mixed.duration
        for side, begins, ends in edge_errors(mixed):
            edges[side].append((begins, ends))
        for event, (start, end) in zip(mixed.script.events, mixed.times):
            if stop():
                break
            if (
                not event.text
                or event.side == "room"
                or event.cut_by is not None
                or event.kind == "backchannel"
            ):
                continue
            row = 0 if event.side == "model" else 1
            first, last = max(0, round((start - 0.15) * RATE)), round((end + 0.2) * RATE)
            heard = hear(mixed.audio[row, first:last], RATE).text
            wrong, words = word_errors(event.text, heard)
            engine = mixed.script.voice.split(":")[0]
            for key in (event.side, *([f"user, {engine}"] if row else [])):
                errors[key][0] += wrong
                errors[key][1] += words
            if wrong:
                bad.append((wrong, event.side, mixed.script.voice, event.text, heard))
        rates = {k: f"{100 * w / max(n, 1):.1f} % of {n}" for k, (w, n) in sorted(errors.items())}
        bar.set_postfix_str(f"WER {rates}")
        if stop():
            break
    bar.close()
    print(f"{number + 1} dialogues, {seconds / 60:.1f} min")
    for key, (wrong, words) in sorted(errors.items()):
        print(f"WER {key}: {100 * wrong / max(words, 1):.1f} % of {words} words")
    for side, rows in edges.items():
        begins, ends = (np.array(column) * 1000 for column in zip(*rows))
        print(
            f"{side}: sound begins {np.median(begins):+.0f} ms after the first word's start (90 % within "
            f"{np.percentile(np.abs(begins), 90):.0f} ms), ends {np.median(ends):+.0f} ms after the last word's "
            f"end (90 % within {np.percentile(np.abs(ends), 90):.0f} ms), {len(rows)} turns"
        )
    for wrong, side, voice, text, heard in sorted(bad, reverse=True)[: args.show]:
        print(f"{wrong} errors, {side} {voice if side == 'user' else ''}: {text!r} heard {heard!r}")
    return 0


def check_answers(args: argparse.Namespace) -> int:
    from recipes.mini.questions import load_questions
    from recipes.mini.questions.scoring import judge
    from recipes.mini.questions.write import AGAIN_CONTEXTS, all_meanings, rule_of

    hear = recogniser(args.whisper)
    rng = random.Random(args.seed)
    tally: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    questions = load_questions()
    for question in tqdm(rng.sample(questions, min(args.count, len(questions))), unit="question"):
        kind = question.kind
        if kind == "again":
            kind = next(k for text, k, _ in AGAIN_CONTEXTS if text == question.context[0])
        found = [m for m in all_meanings(kind) if kind == "stop" or rule_of(kind, m) == question.rule]
        text = reply(Utterance(kind, "", rng.choice(found)), rng)
        heard = hear(speak_assistant(text).audio, RATE).text
        verdict = judge(question, heard)
        for key in ("all", question.kind):
            tally[key][0] += verdict.right
            tally[key][1] += 1
        if not verdict.right:
            tqdm.write(f"{question.id}: said {text!r}, heard {heard!r}: {verdict.reason}")
    for key, (right, asked) in sorted(tally.items()):
        print(f"{key}: {right} of {asked} right")
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.mini.check", description="Listen to what was made."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    mix = commands.add_parser("mix", help="word error rates and word times of mixed dialogues")
    mix.add_argument("--clips", type=Path, default=Path("runs/mini/clips"), help="the clip cache")
    mix.add_argument("--commands", help="folder of recorded requests")
    mix.add_argument("--count", type=int, default=20, help="dialogues (default %(default)s)")
    mix.add_argument("--minutes", type=float, help="stop after this many minutes of work")
    mix.add_argument("--show", type=int, default=15, help="worst turns to print (default %(default)s)")
    mix.set_defaults(run=check_mix)
    answers = commands.add_parser("answers", help="the highest score that the judge and the voice allow")
    answers.add_argument("--count", type=int, default=460, help="questions (default all)")
    answers.set_defaults(run=check_answers)
    for command in (mix, answers):
        command.add_argument("--whisper", help="folder of a Whisper model (default: an installed package's)")
        command.add_argument("--seed", type=int, default=0)
    return run_command(parser, argv)


if __name__ == "__main__":
    raise SystemExit(main())
