"""Talk with a model in the terminal: your microphone and loudspeaker, here or against a server elsewhere.

  aizuchi talk                              a server on this machine if one runs, else the model in this process
  aizuchi talk --url https://talk.example.org --api-key-file key.txt
  aizuchi talk --model ./moshiko --device cuda
  aizuchi talk --input question.wav -o reply.wav        no sound card: a file is the microphone, one the loudspeaker

Wear headphones: a terminal cancels no echo. Ctrl-C hangs up. With --list the sound devices are shown.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from aizuchi.cli.options import add_quantize
from aizuchi.errors import AizuchiError, require

DEFAULT_PORT = 8998


def add_arguments(parser: argparse.ArgumentParser) -> None:
    where = parser.add_argument_group("where the model runs")
    where.add_argument("--url", help="a server that runs `aizuchi serve`, such as http://localhost:8998")
    where.add_argument("--api-key-file", metavar="FILE", help="a file with the server's key")
    where.add_argument("-m", "--model", help="run this model here; 'random' babbles")
    where.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], help="default: float32 on a CPU"
    )
    add_quantize(where)
    where.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    where.add_argument("--threads", type=int, metavar="N", help="CPU threads of the model")
    sound = parser.add_argument_group("sound")
    sound.add_argument("--list", action="store_true", help="list the sound devices and end")
    sound.add_argument("--microphone", metavar="NAME", help="number or a part of the name of a device")
    sound.add_argument("--speaker", metavar="NAME", help="number or a part of the name of a device")
    sound.add_argument("--input", metavar="FILE", help="a sound file instead of the microphone")
    sound.add_argument(
        "-o", "--output", metavar="FILE", help="write the model's voice to a .wav or .flac file"
    )
    choice = parser.add_argument_group("sampling")
    choice.add_argument(
        "--seed", type=int, help="the same seed gives the same conversation (default: random)"
    )
    choice.add_argument("--temperature", type=float, help="of the voice (default: 0.8)")
    choice.add_argument("--top-k", type=int, help="of the voice (default: 250)")
    choice.add_argument("--text-temperature", type=float, help="of the text (default: 0.7)")
    choice.add_argument("--text-top-k", type=int, help="of the text (default: 25)")


def run(args: argparse.Namespace) -> int:
    if args.list:
        print(require("sounddevice", extra="talk").query_devices())
        return 0
    if args.url and args.model:
        raise AizuchiError("--url and --model don't go together: the server has chosen its model")
    if args.output and os.path.splitext(args.output)[1].lower() not in (".wav", ".flac"):
        raise AizuchiError("--output must end in .wav or .flac")
    require("websockets", extra="talk")
    if not args.input:
        require("sounddevice", extra="talk")
    import asyncio

    from aizuchi.serve.terminal import FileSound, SoundCard, answers, talk

    names = ("seed", "temperature", "top_k", "text_temperature", "text_top_k")
    settings = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    key = _key(args.api_key_file)
    sound: Any = (
        FileSound(args.input, args.output)
        if args.input
        else SoundCard(args.microphone, args.speaker, args.output)
    )
    here = f"http://127.0.0.1:{DEFAULT_PORT}"
    url = args.url or (here if args.model is None and answers(here) else None)
    try:
        if url is not None:
            print(f"calling {url} ...", file=sys.stderr)
            return asyncio.run(talk(url, sound, settings, key))
        with _local(args) as url:
            return asyncio.run(talk(url, sound, settings, key))
    except KeyboardInterrupt:
        print("\ngood-bye", file=sys.stderr)
        return 0
    finally:
        sound.close()


def _key(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8") as file:
            return file.readline().strip() or None
    except (OSError, UnicodeDecodeError) as error:
        raise AizuchiError(f"the key in {path} can't be read: {error}") from error


def _local(args: argparse.Namespace) -> Any:
    """A server of our own on a free port of this machine, for as long as the conversation lasts."""
    for package in ("starlette", "uvicorn", "prometheus_client", "sphn"):
        require(package, extra="serve")
    import torch

    from aizuchi.serve.loading import load_served
    from aizuchi.serve.terminal import local_server

    print("loading the model ...", file=sys.stderr)
    dtype = None if args.dtype is None else getattr(torch, args.dtype)
    served = load_served(args.model, dtype, args.device, args.quantize)
    print(f"model: {served.name} ({served.description.splitlines()[0]})", file=sys.stderr)
    return local_server(served, args.threads)
