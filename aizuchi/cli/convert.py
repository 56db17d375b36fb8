"""Convert a checkpoint between Kyutai's layout and transformers' (Hugging Face's), both ways, without loss.

IN is a folder, a file or a repository of the Hugging Face hub, in either layout; OUT is the folder to make, in the
other one. Weights are copied bit for bit, one at a time, so that a 15 GB model needs little memory; tokenizer,
feature extractor and generation defaults go with them. OUT appears when it is complete.

examples:
  aizuchi convert kyutai/moshiko-pytorch-bf16 moshiko-hf
  aizuchi convert moshiko-hf moshiko-kyutai
  aizuchi convert finetuned/consolidated.safetensors finetuned-hf --mimi mimi.safetensors --tokenizer spm.model
  aizuchi convert moshiko-hf moshiko-hf-fp32 --to hf --dtype float32
  aizuchi convert moshiko-hf moshiko-int4 --quantize int4
  aizuchi convert tokenizer-e351c8d8-checkpoint125.safetensors mimi-hf
"""

from __future__ import annotations

import argparse
import sys

from aizuchi.errors import AizuchiError

DTYPES = ("float32", "bfloat16", "float16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `aizuchi convert`."""
    parser.add_argument(
        "source", metavar="IN", help="checkpoint: folder, file, or hub repository (owner/name)"
    )
    parser.add_argument("target", metavar="OUT", help="folder to make")
    parser.add_argument(
        "--to", choices=("hf", "kyutai"), help="layout of OUT (default: the one that IN isn't in)"
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="cast the language model; Mimi stays float32 (default: keep every bit)",
    )
    parser.add_argument(
        "--quantize",
        choices=("int8", "int4"),
        help="write the language model's matrices in 8 or 4 bits (transformers' layout)",
    )
    parser.add_argument("--force", action="store_true", help="replace the checkpoint that OUT holds")
    parser.add_argument("--mimi", metavar="FILE", help="Mimi's weights, where IN has none (Kyutai's layout)")
    parser.add_argument("--tokenizer", metavar="FILE", help="SentencePiece file, where IN has none")
    parser.add_argument("--lora", metavar="FILE", help="LoRA weights to merge (Kyutai's layout)")
    parser.add_argument("--revision", help="branch, tag or commit of a hub repository")


def run(args: argparse.Namespace) -> int:
    """Run `aizuchi convert`."""
    import torch

    from aizuchi.checkpoints.convert import convert
    from aizuchi.checkpoints.describe import describe
    from aizuchi.checkpoints.find import find

    options = {"mimi": args.mimi, "tokenizer": args.tokenizer, "lora": args.lora, "revision": args.revision}
    dtype = None if args.dtype is None else getattr(torch, args.dtype)
    print(describe(find(args.source, **options)), file=sys.stderr)
    if args.quantize is not None:
        from aizuchi.checkpoints.quantize import quantize

        if args.to == "kyutai":
            raise AizuchiError("--quantize writes transformers' layout: leave out --to kyutai")
        out = quantize(args.source, args.target, args.quantize, args.force, dtype=dtype, **options)
    else:
        out = convert(args.source, args.target, to=args.to, dtype=dtype, force=args.force, **options)
    print(f"{args.target}: {describe(find(out))}")
    return 0
