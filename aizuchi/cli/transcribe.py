"""Write down speech: words are printed as they are heard, each with its time if asked for.

  aizuchi transcribe talk.mp3 -m runs/stt/model
  aizuchi transcribe call.wav --channel right -m runs/stt/model --srt call.srt --json call.json
  aizuchi transcribe talk.flac -m runs/stt/model --times
  arecord -t raw -f S16_LE -r 16000 | aizuchi transcribe - --rate 16000 -m runs/stt/model

Any sound file will do, at any sample rate. Standard input (-) may hold a sound file, or raw 16-bit mono samples,
which are heard as they come.

The model is one that `aizuchi train moshi` made with `task: stt` (docs/training.md), or one of Kyutai's for
recognition. Its text comes behind the sound by the delay that it was trained with; the times are those of the sound.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Iterator
from typing import Any

from aizuchi.cli.options import (
    STDOUT,
    add_channel,
    add_model,
    add_transcript,
    check_folders,
    load_words_model,
    pick_channel,
    say_written,
    use_threads,
    write_transcript,
)
from aizuchi.errors import AizuchiError

STDIN = "-"
# How files begin that libsndfile reads: wav, flac, ogg, aiff, au, caf, mp3 (with ID3 tags, and without).
_MAGIC = (b"RIFF", b"RIFX", b"RF64", b"fLaC", b"OggS", b"FORM", b".snd", b"caff", b"ID3", b"\xff\xfb")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="IN", help="wav, flac, ogg, mp3, ...; - for standard input")
    words = add_transcript(parser, "transcript", "plain text; it is also printed unless --quiet")
    words.add_argument("--times", action="store_true", help="print a word a line: start, end, word")
    model = add_model(parser, "folder or hub name of a model that writes down speech (task: stt)")
    model.add_argument("--tokenizer", metavar="FILE", help="a SentencePiece file (default: the model's own)")
    heard = parser.add_argument_group("input")
    add_channel(heard, "the speaker")
    heard.add_argument(
        "--rate", type=int, metavar="HZ", help="of raw samples on standard input (default: 24000)"
    )
    choice = parser.add_argument_group("sampling")
    choice.add_argument("--temperature", type=float, default=0.0, help="of the text (default: 0, greedy)")
    choice.add_argument("--seed", type=int, default=0, help="of a temperature above 0 (default: 0)")
    parser.add_argument("-q", "--quiet", action="store_true", help="print no words, no progress, no summary")


def run(args: argparse.Namespace) -> int:
    outputs = (args.json, args.srt, args.text)
    if outputs.count(STDOUT) > 1:
        raise AizuchiError("only one of --json, --srt and --text can go to standard output")
    check_folders(*outputs)
    use_threads(args.threads)
    from aizuchi.audio import read_audio
    from aizuchi.engine import Sampling, Transcriber

    sampling = Sampling(text_temperature=args.temperature, seed=args.seed)
    piped = args.input == STDIN
    if not piped:  # a bad file is told before the model loads
        pick_channel(read_audio(args.input, rate=None, mono=args.channel == "mix"), args.channel, args.input)
    model, tokenizer = load_words_model(args, "stt", "writes down speech")
    transcriber = Transcriber(model, tokenizer, sampling)
    rate = model.config.sampling_rate
    pieces, seconds = _standard_input(args, rate) if piped else _file(args, args.input, rate)

    from tqdm import tqdm

    # Words that are printed as they come show the progress themselves; a bar would run through them.
    printed = not args.quiet and STDOUT not in outputs
    hidden = True if args.quiet or (printed and sys.stdout.isatty()) else None
    form = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} s [{elapsed}<{remaining}{postfix}]"
    words: list[Any] = []
    heard, began = 0.0, time.perf_counter()
    with tqdm(
        total=seconds,
        desc="listening",
        unit="s",
        disable=hidden,
        file=sys.stderr,
        bar_format=form if seconds else None,
    ) as bar:
        for piece in pieces:
            new = transcriber.feed(piece)
            length = piece.shape[1] / rate
            heard += length
            words += new
            if printed:
                _print(new, args.times, first=len(words) == len(new))
            bar.set_postfix(
                real_time_factor=f"{(time.perf_counter() - began) / max(heard, 0.01):.2f}", refresh=False
            )
            bar.update(length)
        new = transcriber.finish()
    if not heard:
        raise AizuchiError("standard input held no sound")
    words += new
    if printed:
        _print(new, args.times, first=len(words) == len(new))
        print(end="" if args.times or not words else "\n")
    elapsed = time.perf_counter() - began
    write_transcript(args, words)
    if not args.quiet:
        print(f"real-time factor {elapsed / heard:.2f} ({heard:.1f} s in {elapsed:.1f} s).", file=sys.stderr)
        say_written(*outputs)
    return 0


def _print(words: list[Any], times: bool, first: bool) -> None:
    """Print words that came now: a line each with its times, or one behind the other."""
    for word in words:
        if times:
            print(f"{word.start:.2f}\t{word.end:.2f}\t{word.text}", flush=True)
        else:
            print(word.text if first else " " + word.text, end="", flush=True)
        first = False


def _file(args: argparse.Namespace, file: Any, rate: int) -> tuple[Iterator[Any], float]:
    """A sound file a frame at a time, and its length in seconds."""
    import torch

    from aizuchi.audio import read_audio

    samples = read_audio(file, rate=rate, mono=args.channel == "mix")
    wave = torch.from_numpy(pick_channel(samples, args.channel, args.input))
    return iter(wave.split(rate // 5, dim=1)), wave.shape[1] / rate


def _standard_input(args: argparse.Namespace, rate: int) -> tuple[Iterator[Any], float | None]:
    """What standard input holds: a sound file, read to its end, or raw samples as they come."""
    import torch

    from aizuchi.audio import SAMPLE_RATE, stream_pcm

    source = sys.stdin.buffer
    if source.isatty():
        raise AizuchiError("standard input is a terminal: pipe a sound into it, or name a file")
    if args.rate is None and source.peek(4).startswith(_MAGIC):  # type: ignore[attr-defined]
        file = io.BytesIO(source.read())
        file.name = "standard input"  # type: ignore[attr-defined]
        return _file(args, file, rate)
    raw = stream_pcm(source, args.rate or SAMPLE_RATE, rate)
    return (torch.from_numpy(samples) for samples in raw), None
