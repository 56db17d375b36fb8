"""Speak a text: words in as they come, speech out a frame (80 ms) at a time, and when each word is said.

  aizuchi speak "It will rain tomorrow." -m runs/tts/model -o rain.wav
  aizuchi speak --file story.txt -m runs/tts/model -o story.flac --srt story.srt
  tail -f notes.txt | aizuchi speak -m runs/tts/model -o - | aplay -f S16_LE -r 24000

The text is an argument, a file, or standard input, of which each word is spoken as soon as it is complete. A file
that ends in .json holds words with their times, as `aizuchi transcribe --json` writes them; they are said at those
times. Else the model sets the pace.

The model is one that `aizuchi train moshi` made with `task: tts` (docs/training.md).
"""

from __future__ import annotations

import argparse
import codecs
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

from aizuchi.cli.options import (
    STDOUT,
    add_model,
    add_sampling,
    add_transcript,
    check_folders,
    load_words_model,
    sampling_of,
    say_written,
    use_threads,
    write_transcript,
)
from aizuchi.errors import AizuchiError

STDIN = "-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "words", metavar="TEXT", nargs="?", help="what is said; - or nothing for standard input"
    )
    what.add_argument("--file", metavar="FILE", help="a text file, or a .json with words and their times")
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        help="the speech: .wav, .flac or .ogg; - for standard output as it comes (raw 16-bit mono samples)",
    )
    add_transcript(parser, "when each word is said", "the text alone")
    model = add_model(parser, "folder or hub name of a model that speaks a text (task: tts)")
    model.add_argument("--tokenizer", metavar="FILE", help="a SentencePiece file (default: the model's own)")
    choice = add_sampling(parser)
    choice.add_argument(
        "--padding-bonus",
        type=float,
        default=0.0,
        metavar="B",
        help="above 0 it leaves more time between words, below 0 less (default: 0)",
    )
    choice.add_argument(
        "--longest-pause",
        type=float,
        default=2.0,
        metavar="SECONDS",
        help="after so long a pause the next word is said in any case (default: 2)",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress, no summary")


def run(args: argparse.Namespace) -> int:
    _check(args)
    text, total = _text(args)
    use_threads(args.threads)
    sampling = sampling_of(args, padding_bonus=args.padding_bonus)
    model, tokenizer = load_words_model(args, "tts", "speaks a text")
    import torch
    from tqdm import tqdm

    from aizuchi.audio import write_audio
    from aizuchi.engine import speak_frames

    frame_rate = model.config.audio_encoder_config.frame_rate
    pause = max(2, round(args.longest_pause * frame_rate))
    waves, words, frames, first = [], [], 0, 0.0
    began = time.perf_counter()
    hidden = True if args.quiet else None  # None: no bar where standard error is no terminal
    with tqdm(total=total, desc="speaking", unit="word", disable=hidden, file=sys.stderr) as bar:
        for frame in speak_frames(model, tokenizer, text, sampling, longest_pause=pause):
            elapsed = time.perf_counter() - began
            first = first or elapsed
            frames += 1
            if args.output == STDOUT:
                _play(frame.waveform)
            else:
                waves.append(frame.waveform)
            words += frame.words
            bar.set_postfix(real_time_factor=f"{elapsed * frame_rate / frames:.2f}", refresh=False)
            bar.update(len(frame.words))
    elapsed, seconds = time.perf_counter() - began, frames / frame_rate
    if waves and args.output:
        write_audio(args.output, torch.cat(waves, dim=-1).numpy(), model.config.sampling_rate)
    write_transcript(args, words)
    if not args.quiet:
        print(
            f"real-time factor {elapsed / seconds:.2f} ({seconds:.1f} s of speech in {elapsed:.1f} s); "
            f"the first sound came after {first:.2f} s.",
            file=sys.stderr,
        )
        say_written(args.output, args.json, args.srt, args.text)
    return 0


def _check(args: argparse.Namespace) -> None:
    """What can be told before the model loads."""
    outputs = (args.output, args.json, args.srt, args.text)
    if not any(outputs):
        raise AizuchiError("say where the speech goes: -o speech.wav, or -o - for standard output")
    if outputs.count(STDOUT) > 1:
        raise AizuchiError("only one of --output, --json, --srt and --text can go to standard output")
    if args.output not in (None, STDOUT) and not args.output.lower().endswith((".wav", ".flac", ".ogg")):
        raise AizuchiError(f"can't tell the format of {args.output}: end its name in .wav, .flac, .ogg")
    check_folders(*outputs)
    if not 0.16 <= args.longest_pause <= 60:
        raise AizuchiError(f"--longest-pause must lie between 0.16 and 60 seconds, not {args.longest_pause}")


def _text(args: argparse.Namespace) -> tuple[Any, int | None]:
    """What is said, and how many words that are, where it is known."""
    if args.file is not None:
        try:
            with open(args.file, encoding="utf-8") as file:
                text = file.read()
        except UnicodeDecodeError as error:
            raise AizuchiError(f"{args.file} is not UTF-8 text ({error})") from error
        if args.file.lower().endswith(".json"):
            from aizuchi.transcript import from_json

            words = from_json(text)
            if not words:
                raise AizuchiError(f"{args.file} holds no words")
            return words, len(words)
    elif args.words not in (None, STDIN):
        text = args.words
    elif args.words is None and sys.stdin.isatty():
        raise AizuchiError("give a text, --file FILE, or - to type one (Ctrl-D ends it)")
    else:
        return _pieces(sys.stdin), None
    if not text.strip():
        raise AizuchiError("there is nothing to say: the text is empty")
    return text, len(text.split())


def _pieces(stream: Any) -> Iterator[str]:
    """Text of standard input as it comes."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    while chunk := os.read(stream.fileno(), 4096):
        yield decoder.decode(chunk)
    yield decoder.decode(b"", final=True)


def _play(waveform: Any) -> None:
    """Write (channels, samples) as raw 16-bit samples, at once."""
    samples = (waveform.mean(0) * 32768).round().clamp(-32768, 32767)
    sys.stdout.buffer.write(samples.numpy().astype("<i2").tobytes())
    sys.stdout.buffer.flush()
