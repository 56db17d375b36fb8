"""Hold a conversation with a recording: the model hears it as it was spoken, and answers at the same time.

  aizuchi reply question.wav -o reply.wav
  aizuchi reply call.mp3 -o voice.flac --stereo both.flac --srt words.srt --model ./moshiko
  aizuchi reply call.wav --channel right --greedy --json words.json --plot reply.png

The reply is as long as the input and aligned with it, the model's silences included. Any sound file will do, at
any sample rate. Without --model, the model that comes with the package is used.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from aizuchi.cli.options import (
    STDOUT,
    add_channel,
    add_model,
    add_sampling,
    add_transcript,
    check_folders,
    dtype_of,
    pick_channel,
    sampling_of,
    say_written,
    use_threads,
    write_transcript,
)
from aizuchi.errors import AizuchiError

RANDOM = "random"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="IN", help="what the user says: wav, flac, ogg, mp3, ...")
    parser.add_argument("-o", "--output", metavar="OUT", help="the model's voice: .wav, .flac or .ogg")
    parser.add_argument(
        "--stereo", metavar="FILE", help="both voices in one file: left the model, right the user"
    )
    parser.add_argument(
        "--plot",
        metavar="FILE",
        help="both voices, what the model said and wrote down, as a .png, .svg or .pdf",
    )
    add_transcript(parser, "transcript of the model", "plain text; it is also printed unless --quiet")
    add_model(parser, "folder or hub name, in transformers' layout or Kyutai's; 'random' babbles")
    heard = parser.add_argument_group("input")
    add_channel(heard, "the user")
    heard.add_argument(
        "--tail",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="silence after the input, to hear the end of the answer",
    )
    add_sampling(parser)
    parser.add_argument(
        "--lmgen-compatible", action="store_true", help="drop the first frame, as the original's LMGen does"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress, no summary")


def run(args: argparse.Namespace) -> int:
    check_folders(args.output, args.stereo, args.plot, args.json, args.srt, args.text)
    if args.plot:
        from aizuchi.data.plot import check_picture

        check_picture(args.plot)
    if not 0 <= args.tail <= 3600:
        raise AizuchiError(f"--tail must lie between 0 and 3600 seconds, not {args.tail}")
    import torch

    from aizuchi.audio import read_audio
    from aizuchi.engine import reply

    use_threads(args.threads)
    sampling_of(args)  # wrong settings are told before the model loads, too
    samples = read_audio(
        args.input, rate=None, mono=args.channel == "mix"
    )  # a bad file is told before the model loads
    pick_channel(samples, args.channel, args.input)
    model, tokenizer, note = _model(args)
    if note and not args.quiet:
        print(note, file=sys.stderr)
    rate = model.config.sampling_rate
    samples = read_audio(args.input, rate=rate, mono=args.channel == "mix")
    user = torch.from_numpy(pick_channel(samples, args.channel, args.input))
    if args.tail:
        user = torch.nn.functional.pad(user, (0, round(args.tail * rate)))
    frame_rate = model.config.audio_encoder_config.frame_rate

    from tqdm import tqdm

    bar_format = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} s [{elapsed}<{remaining}]"
    with tqdm(
        total=round(user.shape[1] / rate, 2),
        bar_format=bar_format,
        disable=args.quiet,
        desc="conversation",
        file=sys.stderr,
    ) as bar:
        result = reply(
            model,
            user,
            sampling_of(args, model),
            lmgen_compatible=args.lmgen_compatible,
            on_step=lambda _: bar.update(min(1 / frame_rate, bar.total - bar.n)),
        )
    words = _words(result.text, tokenizer, model.config, frame_rate)
    heard = _heard(result.text, tokenizer, frame_rate)
    _write(args, result, user, words, heard, rate)
    if not args.quiet:
        _summarise(args, result, words, " ".join(word for word, _ in heard))
    return 0


def _model(args: argparse.Namespace) -> tuple[Any, Any, str]:
    """The model, its tokenizer (or None), and what to tell the user about it."""
    from aizuchi.checkpoints.load import default_model, load
    from aizuchi.checkpoints.tensors import CheckpointError
    from aizuchi.engine.memory import check_checkpoint, check_preset

    dtype = dtype_of(args)
    name = args.model
    if name is None:
        try:
            name = default_model()
        except CheckpointError:
            name = RANDOM
    if name == RANDOM:
        from aizuchi.models.presets import random_model

        check_preset("mini", 1, dtype, args.quantize, args.device)
        model = random_model("mini", dtype=dtype).to(args.device)
        if args.quantize is not None:
            from aizuchi.models.quantized import quantize_model

            quantize_model(model, args.quantize)
        return model, None, "This model has random weights: it babbles. Name a trained one with --model."
    check_checkpoint(name, 1, dtype, args.quantize, args.device)
    loaded = load(name, dtype=dtype, device=args.device, quantize=args.quantize)
    return loaded.model, loaded.tokenizer, loaded.description


def _words(text: Any, tokenizer: Any, config: Any, frame_rate: float) -> list[Any]:
    from aizuchi.data.frames import frames_to_words
    from aizuchi.data.tokenizer import TextTokenizer

    if tokenizer is None:
        return []
    return frames_to_words(
        text.tolist(),
        TextTokenizer(tokenizer),
        frame_rate=frame_rate,
        pad=config.text_padding_token_id,
        epad=config.text_end_padding_token_id,
    )


def _heard(text: Any, tokenizer: Any, frame_rate: float) -> list[tuple[str, float]]:
    """What a model wrote down of the user's words, and when in seconds; nothing for one that does not."""
    from aizuchi.data.tokenizer import TextTokenizer

    if tokenizer is None:
        return []
    words = TextTokenizer(tokenizer)
    found = ((words.heard_word(token), i) for i, token in enumerate(text.tolist()) if token >= 0)
    return [("..." if word == "?" else word, i / frame_rate) for word, i in found if word]


def _write(
    args: argparse.Namespace,
    result: Any,
    user: Any,
    words: list[Any],
    heard: list[tuple[str, float]],
    rate: int,
) -> None:
    import torch

    from aizuchi.audio import write_audio

    if args.output:
        write_audio(args.output, result.waveform.numpy(), rate)
    if args.stereo:
        write_audio(args.stereo, torch.cat([result.waveform[:1], user[:1]]).numpy(), rate)
    if args.plot:
        from aizuchi.data.plot import plot_reply

        plot_reply(args.plot, user[0].numpy(), result.waveform[0].numpy(), rate, words, heard)
    write_transcript(args, words)


def _summarise(args: argparse.Namespace, result: Any, words: list[Any], heard: str) -> None:
    from aizuchi.transcript import to_text

    steps = result.latencies * 1000
    steps = steps[1:] if steps.numel() > 1 else steps  # the first one warms up
    slowest = steps.sort().values[min(steps.numel() - 1, int(0.99 * steps.numel()))]
    if heard:
        print(f"it heard: {heard}", file=sys.stderr)
    if words and STDOUT not in (args.json, args.srt, args.text):
        print(to_text(words))
    factor = (
        f"real-time factor {result.real_time_factor:.2f} ({result.seconds:.1f} s in {result.elapsed:.1f} s)"
    )
    print(
        f"{factor}; a frame took {steps.median():.1f} ms (median), {slowest:.1f} ms (p99).", file=sys.stderr
    )
    say_written(args.output, args.stereo, args.plot, args.json, args.srt, args.text)
