"""Dialogues as words alone: `python -m recipes.mini.word_tokens --help`.

Token shards without any sound, for the steps of a training that learn from text alone (`text_only`): what users say
stands in the model's text as it is heard (`heard_text`), the answers behind it. Nobody has to speak them, so no phrase
comes twice, and a minute of training holds three times as many answers as one of dialogues.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from pathlib import Path

import numpy as np
from tqdm import tqdm

from aizuchi.data.frames import EPAD, PAD
from aizuchi.data.shards import DialogueTokens, finished, write_index, write_shard
from aizuchi.data.texts import text_settings
from aizuchi.data.tokenizer import TextTokenizer
from recipes.mini.command import RUNS, add_inputs, run_command
from recipes.mini.dialogues import fresh_script
from recipes.mini.heard import HeardWords, plain
from recipes.mini.monologue import first_heard
from recipes.mini.script import Script

DIALOGUES = 2000  # in a shard
STRETCH = 4096  # ids, of many dialogues
# most frames between words, drawn for each dialogue: dense ones teach more, nobody speaks so
PACES = (0, 0, 2, 6)


def dialogue_ids(
    script: Script, rng: random.Random, heard: HeardWords, first: int, tokenizer: TextTokenizer
) -> list[int]:
    """A script as ids, word by word, often without the time between; lines that answer a silence are left out."""
    ids: list[int] = [PAD] * rng.randint(0, 3)
    pace = rng.choice(PACES)

    def wait() -> None:
        ids.extend([PAD] * rng.randint(0, pace))

    for event in script.events:
        words = event.text.split()
        if event.side == "user" and words and event.kind != "backchannel":
            for word in words:
                wait()
                if plain(word):
                    ids.append(first - 1 + heard.class_of(word))
            wait()
        elif event.side == "model" and event.kind == "answer":
            if event.cut_by is not None:
                words = words[: rng.randint(1, max(1, len(words) - 1))]
            ids.append(EPAD)
            for word in words:
                if pace and rng.random() < 0.5:
                    ids += [PAD, EPAD] if ids[-1] != EPAD else []
                ids += tokenizer.encode(word)
            ids += [PAD] * rng.randint(0, 3)
    return ids


def stretches(
    numbers: range, seed: int, heard: HeardWords, first: int, tokenizer: TextTokenizer
) -> list[np.ndarray]:
    """The ids of some dialogues, one behind the other."""
    ids: list[int] = []
    for number in numbers:
        name = f"words/{seed}/{number}"
        ids += dialogue_ids(fresh_script(name), random.Random(name), heard, first, tokenizer)
    return [np.array(ids[at : at + STRETCH], np.int32) for at in range(0, len(ids), STRETCH)]


def make(args: argparse.Namespace) -> int:
    tokenizer, heard = TextTokenizer(args.vocabulary), HeardWords(args.heard)
    first = first_heard(args.vocabulary)
    settings = text_settings(tokenizer)
    args.out.mkdir(parents=True, exist_ok=True)
    records = []
    for shard in tqdm(range(args.shards), unit="shard"):
        path = args.out / f"shard-{shard:05d}.safetensors"
        key = hashlib.sha256(json.dumps([settings, args.seed, shard]).encode()).hexdigest()[:32]
        if (record := finished(path, key)) is None:
            numbers = range(shard * DIALOGUES, (shard + 1) * DIALOGUES)
            none = np.zeros((STRETCH, 0), np.int16)
            found = [
                DialogueTokens(f"words {i}", ids, none[: len(ids)], none[: len(ids), None])
                for i, ids in enumerate(stretches(numbers, args.seed, heard, first, tokenizer))
            ]
            record = write_shard(path, found, key)
        records.append(record)
    write_index(args.out, settings, records, complete=True)
    print(
        f"{sum(r.frames for r in records) / 1e6:.2f} M ids of {args.shards * DIALOGUES} dialogues in {args.out}"
    )
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.mini.word_tokens",
        description="Dialogues as words alone, for text_only (resumable).",
    )
    parser.add_argument(
        "--out", type=Path, default=RUNS / "tokens_words", help="folder (default %(default)s)"
    )
    add_inputs(parser, "vocabulary", "heard")
    parser.add_argument("--shards", type=int, default=10, help="of 2,000 dialogues (default %(default)s)")
    parser.add_argument("--seed", type=int, default=3, help="default %(default)s")
    parser.set_defaults(run=make)
    return parser


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
