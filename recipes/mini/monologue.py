"""Give a model ids for what the user says: `python -m recipes.mini.monologue --help`.

Each word that the recipe's users say becomes a control piece of the vocabulary, which no text encodes to and which
decodes to nothing: the model writes it when it has heard the word (`heard_text` of the training kit).
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch

from aizuchi.errors import AizuchiError
from aizuchi.files import atomic_path
from recipes.mini.command import run_command
from recipes.mini.heard import HeardWords

RUNS = Path("runs/mini")
PIECE = "\u2581[{}]"  # begins a word, as all pieces with this mark do


def add_heard(tokenizer: Path, heard: HeardWords, out: Path) -> int:
    """Write a SentencePiece model with a control piece for each class of `heard` but the first; returns the id of
    class 1. Pieces that are there already are found again.
    """
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString(tokenizer.read_bytes())
    names = [PIECE.format(word) for word in ("?", *heard.words)]
    pieces = [piece.piece for piece in model.pieces]
    if names[0] in pieces:
        first = pieces.index(names[0])
        if pieces[first : first + len(names)] != names:
            raise AizuchiError(f"{tokenizer} has ids for other words than those of the list")
    else:
        first = len(pieces)
        for name in names:
            model.pieces.add(
                piece=name, score=0.0, type=sentencepiece_model_pb2.ModelProto.SentencePiece.CONTROL
            )
        model.trainer_spec.vocab_size = len(model.pieces)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out) as temporary:
        temporary.write_bytes(model.SerializeToString())
    return first


def first_heard(tokenizer: Path) -> int:
    """The id of class 1 of the user's words.

    Raises AizuchiError if the tokenizer has none.
    """
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
    found = pieces.piece_to_id(PIECE.format("?"))
    if found == pieces.unk_id():
        raise AizuchiError(
            f"{tokenizer} has no ids for the user's words: recipes.mini.monologue gives it some"
        )
    return found


@torch.no_grad()
def widen(model: Any, first: int, classes: int) -> None:
    """Give a model ids up to those of `classes` words, in place; to the depth decoder they begin as padding is."""
    pad = model.config.text_padding_token_id
    model.resize_token_embeddings(first + classes - 1)
    depth = model.depth_decoder.text_embed_tokens.weight
    depth[first : first + classes - 1] = depth[pad]  # nothing is said with them


def run(args: argparse.Namespace) -> int:
    from aizuchi.models.moshi import MoshiForConditionalGeneration
    from aizuchi.models.quantized import dequantize_model
    from aizuchi.train.checkpoints import save_model

    heard = HeardWords(args.heard)
    model = dequantize_model(MoshiForConditionalGeneration.from_pretrained(args.model).float())
    args.out.mkdir(parents=True, exist_ok=True)
    source = next(path for path in sorted(args.model.glob("tokenizer*.model")))
    first = add_heard(source, heard, args.out / source.name)
    torch.manual_seed(0)
    widen(model, first, len(heard))
    save_model(model, args.out)
    if args.tokenizer is not None:
        shutil.copyfile(args.out / source.name, args.tokenizer)
    print(f"{args.out}: ids {first} to {first + len(heard) - 2} are the user's words")
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.mini.monologue", description="Give a model ids for the words that users say."
    )
    parser.add_argument("--model", type=Path, required=True, help="a trained model, with its tokenizer")
    parser.add_argument("--heard", type=Path, default=RUNS / "heard.txt", help="words (default %(default)s)")
    parser.add_argument("--tokenizer", type=Path, help="write the tokenizer here, too")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model to train on from")
    parser.set_defaults(run=run)
    return parser


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
