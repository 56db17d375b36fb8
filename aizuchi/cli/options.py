"""What commands that run a model over a recording or a text share: their options, and what they write."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from aizuchi.errors import AizuchiError

STDOUT = "-"


def add_model(parser: argparse.ArgumentParser, model: str) -> Any:
    """Add the options of a model, in a group of their own, which is returned; ``model``: what --model is told as."""
    group = parser.add_argument_group("model")
    group.add_argument("-m", "--model", help=model)
    group.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], help="default: float32 on a CPU"
    )
    add_quantize(group)
    group.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    group.add_argument("--threads", type=int, metavar="N", help="CPU threads")
    return group


def add_quantize(parser: Any) -> None:
    """Add the option of quantized weights."""
    parser.add_argument(
        "--quantize",
        choices=["int8", "int4"],
        help="hold the language model's matrices in 8 or 4 bits (what that costs: docs/performance.md)",
    )


def add_ring(parser: Any) -> None:
    """Add the options of the language model's keys and values; `ring_of` reads them."""
    parser.add_argument(
        "--kv",
        choices=["int8"],
        help="hold keys and values in 8 bits: about half the memory of a conversation, or a quarter in float32 "
        "(what that costs: docs/performance.md)",
    )
    parser.add_argument(
        "--sinks",
        type=int,
        default=0,
        metavar="N",
        help="attention sinks: a conversation's first N frames stay visible when the window has passed them",
    )


def ring_of(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `DuplexEngine` that `add_ring` asked for."""
    if not 0 <= args.sinks <= 1000:
        raise AizuchiError(f"--sinks must lie between 0 and 1000, not {args.sinks}")
    return {"kv": args.kv, "sinks": args.sinks}


def add_channel(parser: Any, who: str) -> None:
    """Add the option that says which channel of a recording is heard."""
    parser.add_argument(
        "--channel",
        choices=["mix", "left", "right"],
        default="mix",
        help=f"which channel is {who} (default: mix)",
    )


def pick_channel(samples: Any, channel: str, name: str) -> Any:
    """(channels, samples) of a file -> (1, samples)."""
    if channel == "mix":
        return samples
    index = 0 if channel == "left" else 1
    if index >= samples.shape[0]:
        raise AizuchiError(f"{name} has {samples.shape[0]} channel: --channel {channel} is not there")
    return samples[index : index + 1].copy()


def use_threads(threads: int | None) -> None:
    """Let torch use so many CPU threads."""
    if threads is None:
        return
    if threads < 1:
        raise AizuchiError(f"--threads must be at least 1, not {threads}")
    import torch

    torch.set_num_threads(threads)


def dtype_of(args: argparse.Namespace) -> Any:
    """The dtype to load in: what was asked for; on a CPU float32, elsewhere (None) the checkpoint's."""
    import torch

    if args.dtype is not None:
        return getattr(torch, args.dtype)
    return torch.float32 if str(args.device).startswith("cpu") else None


def add_sampling(parser: argparse.ArgumentParser) -> Any:
    """Add the options of sampling voice and text, in a group of their own, which is returned."""
    group = parser.add_argument_group("sampling")
    group.add_argument("--seed", type=int, default=0, help="the same seed gives the same result (default: 0)")
    group.add_argument("--greedy", action="store_true", help="always the likeliest token")
    group.add_argument("--temperature", type=float, help="of the voice (default: the model's, else 0.8)")
    group.add_argument("--top-k", type=int, help="of the voice (default: the model's, else 250)")
    group.add_argument("--text-temperature", type=float, help="of the text (default: the model's, else 0.7)")
    group.add_argument("--text-top-k", type=int, help="of the text (default: the model's, else 25)")
    return group


def sampling_of(args: argparse.Namespace, model: Any = None, **others: Any) -> Any:
    """The `Sampling` that was asked for; what was not is the model's, or the original's."""
    import dataclasses

    from aizuchi.engine import Sampling

    if args.greedy:
        return Sampling.greedy(seed=args.seed, **others)
    names = ("temperature", "top_k", "text_temperature", "text_top_k")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return dataclasses.replace(Sampling.of_model(model), seed=args.seed, **given, **others)


def check_folders(*paths: str | None) -> None:
    """Before a long computation: can the results be written?"""
    for path in paths:
        if path in (None, STDOUT):
            continue
        folder = os.path.dirname(os.path.abspath(path))  # type: ignore[arg-type]
        if not os.path.isdir(folder):
            raise AizuchiError(f"can't write {path}: there is no folder {folder}")


def add_transcript(parser: argparse.ArgumentParser, title: str, text: str) -> Any:
    """Add the options of a transcript, in a group of their own, which is returned; ``text``: help of --text."""
    group = parser.add_argument_group(title)
    group.add_argument("--json", metavar="FILE", help="words with their times; - for standard output")
    group.add_argument("--srt", metavar="FILE", help="subtitles; - for standard output")
    group.add_argument("--text", metavar="FILE", help=text)
    return group


def write_transcript(args: argparse.Namespace, words: list[Any]) -> None:
    """Write words wherever --json, --srt and --text say."""
    from aizuchi.files import write_text
    from aizuchi.transcript import to_json, to_srt, to_text

    for path, content in ((args.json, to_json), (args.srt, to_srt), (args.text, lambda w: to_text(w) + "\n")):
        if path == STDOUT:
            sys.stdout.write(content(words))
        elif path:
            write_text(path, content(words))


def say_written(*paths: str | None) -> None:
    """Tell which files were written."""
    written = [path for path in paths if path not in (None, STDOUT)]
    if written:
        print("Wrote " + ", ".join(written) + ".", file=sys.stderr)  # type: ignore[arg-type]


def load_words_model(args: argparse.Namespace, task: str, does: str) -> tuple[Any, Any]:
    """A model trained for ``task`` (tts, stt), and its tokenizer.

    Args:
        does: what such a model does, for messages.
    Raises:
        AizuchiError: no model is named, it has no tokenizer, or it was trained for something else.
    """
    train = f"`aizuchi train moshi` with `task: {task}` makes one (docs/training.md: Speech synthesis and recognition)"
    if args.model is None:
        raise AizuchiError(f"name a model that {does} with --model: a folder or a hub repository; {train}")
    from aizuchi.checkpoints.load import load
    from aizuchi.data.tokenizer import TextTokenizer
    from aizuchi.engine.memory import check_checkpoint

    check_checkpoint(args.model, 1, dtype_of(args), args.quantize, args.device, tokenizer=args.tokenizer)
    loaded = load(
        args.model,
        dtype=dtype_of(args),
        device=args.device,
        quantize=args.quantize,
        tokenizer=args.tokenizer,
    )
    is_task = task_of(loaded.model.config)
    if is_task != task:
        kinds = {
            "tts": "speaks a text",
            "stt": "writes down speech",
            "dialogue": "holds conversations (aizuchi reply, aizuchi serve)",
        }
        raise AizuchiError(f"{args.model} {kinds[is_task]}; a model is needed that {does}: {train}")
    if loaded.tokenizer is None:
        raise AizuchiError(
            f"{args.model} has no text tokenizer beside it: give --tokenizer, the one its data was tokenized with"
        )
    return loaded.model, TextTokenizer(loaded.tokenizer)


def task_of(config: Any) -> str:
    """What a model was trained for: "dialogue", "tts" (it hears nobody) or "stt" (it has no voice)."""
    if not config.num_generated_codebooks:
        return "stt"
    return "dialogue" if config.num_user_codebooks else "tts"
