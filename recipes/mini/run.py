"""All stages of aizuchi-mini, one after the other: `python -m recipes.mini.run [--quick] [STAGE ...]`.

Each stage is a command that can be given alone; it is printed before it runs. All are resumable: given again, a
stage goes on where it stopped, and one that is finished ends at once; `clips` makes as many hours more.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CONFIGS = Path("recipes/mini/configs")


@dataclass(frozen=True)
class Stage:
    """A command, what it does, and how it is made small for `--quick`."""

    name: str
    what: str
    command: Sequence[str]
    quick: Sequence[str]


def stages(runs: Path, jobs: int, commands: str | None) -> list[Stage]:
    """The chain from nothing to the package's folder."""

    def train(kind: str, config: str, **changes: object) -> list[str]:
        sets = [
            part
            for name, value in changes.items()
            for part in ("--set", f"{name.replace('__', '.')}={value}")
        ]
        return ["-m", "aizuchi", "train", kind, str(CONFIGS / config), *sets]

    def mini(module: str, *arguments: object) -> list[str]:
        return ["-m", f"recipes.mini.{module}", *map(str, arguments)]

    recorded = ["--commands", commands] if commands else []
    speech: dict[str, object] = dict(data__options__clips=runs / "clips")
    if commands:
        speech["data__options__commands"] = commands
    places = dict(
        output=runs / "moshi",
        codec=runs / "codec-bf16",
        tokenizer=runs / "tokenizer.model",
        data__train=",".join(
            f"{runs}/{part}"
            for part in ("tokens/train:1", "tokens_ear/train:5", "tokens_ear/listen:3", "tokens_ear/speak:2")
        ),
        data__valid=runs / "tokens/valid",
        text_only__train=runs / "tokens_words",
        heard_text__mishearing=runs / "mishearing.json",
    )
    decoder = speech | dict(output=runs / "decoder", checkpoint=runs / "codec-bf16")
    clips = mini("synthesize", "clips", "--out", runs / "clips", "--workers", jobs)
    vocabulary = mini("tokens", "vocabulary", "--out", runs / "tokenizer.model")
    words = mini("word_tokens", "--out", runs / "tokens_words", "--vocabulary", runs / "tokenizer.model")
    words += ["--heard", str(runs / "heard.txt")]
    sound = mini(
        "tokens", "sound", "--out", runs / "sound", "--clips", runs / "clips", "--jobs", jobs, *recorded
    )
    coded = mini(
        *("tokens", "encode", "--sound", runs / "sound", "--out", runs / "tokens", "--jobs", jobs),
        *("--codec", runs / "codec-bf16", "--vocabulary", runs / "tokenizer.model"),
    )
    ear = mini(
        *("ear", "--out", runs / "ear", "--clips", runs / "clips", "--heard", runs / "heard.txt"),
    )
    heard = ("--ear", runs / "ear", "--sound", runs / "sound")
    misheard = mini("mishearing", "--out", runs / "mishearing.json", "--ear", runs / "ear")
    misheard += ["--clips", str(runs / "clips"), "--heard", str(runs / "heard.txt")]
    front = mini("front", "train", "--out", runs / "front", *heard)
    codec = mini("front", "assemble", "--front", runs / "front", "--out", runs / "codec-bf16", *heard)
    more = mini("ear_tokens", "--out", runs / "tokens_ear", *heard, "--codec", runs / "codec-bf16")
    more += ["--clips", str(runs / "clips"), "--vocabulary", str(runs / "tokenizer.model")]
    more += ["--heard", str(runs / "heard.txt"), *recorded]
    asked = [
        *("-m", "aizuchi", "eval", "speech", "--questions", "recipes/mini/questions/heldout.jsonl"),
        *("--voices", "recipes.mini.voices:get_voice"),
    ]
    package = mini(
        "package",
        "model",
        "--model",
        runs / "moshi/model",
        "--codec",
        runs / "decoder/model",
        "--store-codec",
    )
    short = dict(log_every=5, eval_every=0, save_every=1000, sample_every=0)
    return [
        Stage("clips", "users' utterances, spoken", [*clips, "--hours", "8"],
              [*clips, "--engines", "hibari", "--hours", "0.06"]),
        Stage("listening", "words in any order, spoken", [*clips, "--listening", "--hours", "4"],
              [*clips, "--listening", "--engines", "hibari", "--hours", "0.03"]),
        Stage("vocabulary", "the text tokenizer", vocabulary, [*vocabulary, "--dialogues", "2000"]),
        Stage("words", "dialogues as words alone, token shards", [*words, "--shards", "20"], [*words, "--shards", "1"]),
        Stage("sound", "dialogues, mixed and augmented", [*sound, "--shards", "12", "--listen", "2"],
              [*sound, "--shards", "1", "--valid", "1", "--listen", "1"]),
        Stage("ear", "words from spectra: most of the codec's encoder, and semantic codebooks", ear,
              [*ear, "--steps", "12", "--start", "6", "--batch-size", "3", "--lines", "20"]),
        Stage("mishearing", "what the ear makes of words, counted", misheard, [*misheard, "--batches", "2"]),
        Stage("front", "the same from sound: the convolutions below it", front, [*front, "--steps", "20"]),
        Stage("codec", "the small Mimi of both, in bfloat16", codec, [*codec, "--batches", "12"]),
        Stage("encode", "token shards", coded, coded),
        Stage("hours", "more token shards, from spectra", [*more, "--dialogues", "160", "--shards", "250"],
              [*more, "--dialogues", "1", "--shards", "1", "--speaking", "1"]),
        Stage("moshi", "the small Moshi", train("moshi", "moshi.yaml", **places),
              train("moshi", "moshi.yaml", **places, steps=40, **short)),
        Stage("decoder", "a better voice for the same codes", train("mimi", "decoder.yaml", **decoder),
              train("mimi", "decoder.yaml", **decoder, steps=10, discriminator__start=4, **short)),
        Stage("package", "the folder that ships", package, [*package, "--out", str(runs / "package")]),
        Stage("evaluate", "the held-out questions", [*asked, "--out", str(runs / "eval")],
              [*asked, "--out", str(runs / "eval"), "--model", str(runs / "package"), "--limit", "2"]),
    ]  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m recipes.mini.run", description=__doc__.split("\n")[0])
    parser.add_argument(
        "stages", nargs="*", metavar="STAGE", help="only these (default: all; --list names them)"
    )
    parser.add_argument("--quick", action="store_true", help="all of it at toy size, in minutes")
    parser.add_argument(
        "--runs", type=Path, help="folder of what is made (default: runs/mini, quick: runs/mini-quick)"
    )
    parser.add_argument("--commands", help="folder of recorded requests, *.flac; without it there are none")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)"
    )
    parser.add_argument("--list", action="store_true", help="say what there is, and stop")
    args = parser.parse_args(argv)
    runs = args.runs or Path("runs/mini-quick" if args.quick else "runs/mini")
    known = stages(runs, args.jobs, args.commands)
    names = [stage.name for stage in known]
    if unknown := [name for name in args.stages if name not in names]:
        parser.error(f"there is no stage {unknown[0]!r}; the stages are {', '.join(names)}")
    for stage in known:
        command = stage.quick if args.quick else stage.command
        if args.list:
            print(f"{stage.name:11} {stage.what}\n            python {shlex.join(command)}")
        elif not args.stages or stage.name in args.stages:
            print(f"== {stage.name}: {stage.what}\npython {shlex.join(command)}", flush=True)
            status = subprocess.run([sys.executable, *command]).returncode
            if status:
                print(
                    f"{stage.name} ended with {status}; the same command goes on from there", file=sys.stderr
                )
                return status
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
