"""Sentences of one voice as sound files, for a codec of that voice: `python -m recipes.mini.one_voice --help`.

Beside each sound file lie its phones (JSON), for `semantic.teacher: labels`, and its text, for a recogniser to judge
by. `configs/voice.yaml` learns from the folder `train`; `held-out` holds other sentences of the same voice.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tqdm import tqdm

from aizuchi.audio import write_audio
from aizuchi.files import write_text
from recipes.mini.command import run_command
from recipes.mini.dialogues import fresh_script
from recipes.mini.mix import speak_assistant

WORDS = 4  # of a sentence, at least


def sentences(count: int) -> list[str]:
    """So many different sentences of the assistant."""
    found: dict[str, None] = {}
    number = 0
    while len(found) < count:
        events = fresh_script(f"codec/test/{number}").events
        found |= {e.text: None for e in events if e.side == "model" and len(e.text.split()) >= WORDS}
        number += 1
    return list(found)[:count]


def run(args: argparse.Namespace) -> int:
    minutes = {"held-out": 0.0, "train": 0.0}
    texts = sentences(args.sentences + args.held_out)
    for number, text in enumerate(tqdm(texts, unit="sentence")):
        part = "held-out" if number < args.held_out else "train"
        path = args.out / part / f"{number:04d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        spoken = speak_assistant(text)
        write_audio(path, spoken.audio)
        phones = [[name, [start, end]] for name, start, end in spoken.phones]
        write_text(path.with_suffix(".json"), json.dumps({"text": text, "phones": phones}) + "\n")
        write_text(path.with_suffix(".txt"), text + "\n")
        minutes[part] += spoken.duration / 60
    print(", ".join(f"{args.out / part}: {length:.1f} min" for part, length in minutes.items()))
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.mini.one_voice",
        description="Sentences of one voice as sound files with phones and texts, for a codec of that voice.",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/voice"), help="folder (default %(default)s)")
    parser.add_argument(
        "--sentences", type=int, default=600, help="to learn from: some 19 minutes (default %(default)s)"
    )
    parser.add_argument("--held-out", type=int, default=124, help="others (default %(default)s)")
    parser.set_defaults(run=run)
    return parser


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
