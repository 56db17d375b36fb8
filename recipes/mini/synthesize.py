"""Speak both sides: `python -m recipes.mini.synthesize clips|questions|mix --help`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from tqdm import tqdm

from aizuchi.errors import AizuchiError
from aizuchi.files import write_text
from recipes.mini.clips import CLIPS_PER_SHARD, Shard, listening_plan, make_shard, plan
from recipes.mini.command import RUNS, add_inputs, run_command

SEED = 5


def bytes_under(folder: Path) -> int:
    """Size of all files below a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) if folder.exists() else 0


def make_clips(args: argparse.Namespace) -> int:
    """Make shards in the order of the plan until one of the limits is reached."""
    limit = args.max_gb * 1e9
    done = {"clips": 0, "seconds": 0.0, "bytes": bytes_under(args.out)}
    began = time.monotonic()
    skipped: dict[str, str] = {}
    bar = tqdm(
        total=args.hours * 3600 if args.hours else None, unit="s of speech", unit_scale=False, smoothing=0.05
    )

    def todo() -> Iterator[Shard]:
        for shard in (listening_plan if args.listening else plan)(args.seed):
            engine = shard.voice.split(":")[0]
            if args.engines and engine not in args.engines or engine in skipped:
                continue
            if not shard.path(args.out).exists():
                yield shard

    def note(result: dict) -> None:
        for key in done:
            done[key] += result[key]
        bar.update(min(round(result["seconds"]), max(0, (bar.total or 1e12) - bar.n)))
        rate = done["seconds"] / max(time.monotonic() - began, 1e-6)
        bar.set_postfix_str(f"{done['clips']} clips, {done['bytes'] / 1e9:.2f} GB, {rate:.1f}x real time")

    def enough() -> bool:
        if args.hours and done["seconds"] >= args.hours * 3600:
            return True
        return done["bytes"] >= limit or (args.minutes and time.monotonic() - began > args.minutes * 60)

    def failed(shard: Shard, error: Exception) -> None:
        engine = shard.voice.split(":")[0]
        skipped[engine] = str(error)
        tqdm.write(f"engine {engine} is left out: {error}", file=sys.stderr)

    try:
        if args.workers <= 1:
            for shard in todo():
                try:
                    note(make_shard(shard, args.out, args.seed, args.size))
                except AizuchiError as error:
                    failed(shard, error)
                if enough():
                    break
        else:
            _in_processes(args, todo(), note, enough, failed)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    finally:
        bar.close()
    spent = time.monotonic() - began
    hours = done["seconds"] / 3600
    print(
        f"{done['clips']} clips, {hours:.2f} h in {spent / 60:.1f} min; {done['bytes'] / 1e9:.2f} GB in {args.out}"
    )
    return 0


def _in_processes(args, shards: Iterator[Shard], note, enough, failed) -> None:
    with ProcessPoolExecutor(args.workers) as pool:
        running: dict[Future, Shard] = {}
        try:
            while True:
                while len(running) < 2 * args.workers and (shard := next(shards, None)) is not None:
                    running[pool.submit(make_shard, shard, args.out, args.seed, args.size)] = shard
                if not running:
                    return
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    shard = running.pop(future)
                    try:
                        note(future.result())
                    except AizuchiError as error:
                        failed(shard, error)
                if enough():
                    return
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def speak_questions(args: argparse.Namespace) -> int:
    """Speak the held-out questions and their contexts in their held-out voices, one file each."""
    import hashlib

    import soundfile

    from aizuchi.files import atomic_path
    from recipes.mini.questions import load_questions
    from recipes.mini.timing import RATE, USER_LEVEL, level
    from recipes.mini.voices import get_voice

    rows, made, seconds, began = [], 0, 0.0, time.monotonic()
    questions = load_questions()
    questions = questions[: args.limit] if args.limit else questions
    args.out.mkdir(parents=True, exist_ok=True)
    for question in tqdm(questions, unit="question"):
        files = []
        for text in (*question.context, question.text):
            key = f"{question.voice}|{question.speed}|{text}"
            path = args.out / f"{hashlib.blake2b(key.encode(), digest_size=8).hexdigest()}.flac"
            if not path.exists():
                spoken = get_voice(question.voice, held_out=True).speak(text, question.speed)
                spoken = level(spoken, USER_LEVEL)
                with atomic_path(path) as temporary:
                    soundfile.write(temporary, spoken.audio, RATE, format="FLAC", subtype="PCM_16")
                made, seconds = made + 1, seconds + spoken.duration
            files.append(path.name)
        rows.append({**json.loads(question.to_json()), "audio": files[-1], "context_audio": files[:-1]})
    write_text(args.out / "questions.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    spent = time.monotonic() - began
    print(
        f"{made} files made, {seconds:.0f} s of speech in {spent:.0f} s; list in {args.out}/questions.jsonl"
    )
    return 0


def mix_files(args: argparse.Namespace) -> int:
    """Write dialogues as stereo files with alignments and a list; those that are there are kept."""
    from aizuchi.data.dialogues import write_list
    from recipes.mini.clips import ClipLibrary
    from recipes.mini.mix import mixed_dialogue
    from recipes.mini.sources import recordings

    library = ClipLibrary(args.clips) if args.clips.exists() else None
    if library is None:
        print(f"{args.clips} does not exist: all users speak with resampled hibari", file=sys.stderr)
    files = recordings(Path(args.commands)) if args.commands else []
    args.out.mkdir(parents=True, exist_ok=True)
    paths, seconds = [], 0.0
    for number in tqdm(range(args.start, args.start + args.count), unit="dialogue"):
        path = args.out / f"{args.seed:04d}-{number:06d}.flac"
        paths.append(path)
        if not path.with_suffix(".json").exists():  # the alignment is written last
            mixed = mixed_dialogue(number, args.seed, library, files)
            mixed.write(path)
            seconds += mixed.duration
    write_list(args.out / "dialogues.jsonl", paths)
    print(f"{len(paths)} dialogues, {seconds / 60:.1f} min of them new; list in {args.out}/dialogues.jsonl")
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.mini.synthesize",
        description="Speak the users' utterances into a clip cache, speak the held-out questions, mix dialogues.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    clips = commands.add_parser(
        "clips", help="fill the clip cache (resumable: the same command goes on where it stopped)"
    )
    clips.add_argument(
        "--out", type=Path, default=RUNS / "clips", help="folder of the shards (default %(default)s)"
    )
    clips.add_argument("--seed", type=int, default=SEED, help="what is said and how (default %(default)s)")
    clips.add_argument(
        "--workers", type=int, default=1, help="processes, one thread each (default %(default)s)"
    )
    clips.add_argument("--max-gb", type=float, default=6.0, help="stop at this size (default %(default)s)")
    clips.add_argument("--hours", type=float, help="stop after this many hours of new speech")
    clips.add_argument("--minutes", type=float, help="stop after this many minutes of work")
    clips.add_argument(
        "--engines", nargs="*", metavar="E", help="only these of hibari kokoro flite pico festival"
    )
    clips.add_argument("--listening", action="store_true", help="words in any order instead of phrases")
    clips.add_argument("--size", type=int, default=CLIPS_PER_SHARD, help=argparse.SUPPRESS)
    clips.set_defaults(run=make_clips)
    questions = commands.add_parser(
        "questions", help="speak the held-out questions, for evaluation (resumable)"
    )
    questions.add_argument(
        "--out", type=Path, default=RUNS / "questions", help="folder (default %(default)s)"
    )
    questions.add_argument("--limit", type=int, help="only the first so many")
    questions.set_defaults(run=speak_questions)
    mix = commands.add_parser("mix", help="write dialogues as stereo files with alignments (resumable)")
    mix.add_argument("--out", type=Path, default=RUNS / "dialogues", help="folder (default %(default)s)")
    add_inputs(mix, "clips", "commands")
    mix.add_argument("--count", type=int, default=20, help="how many dialogues (default %(default)s)")
    mix.add_argument("--start", type=int, default=0, help="number of the first (default %(default)s)")
    mix.add_argument("--seed", type=int, default=SEED, help="default %(default)s")
    mix.set_defaults(run=mix_files)
    return parser


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
