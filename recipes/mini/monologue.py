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
from recipes.mini.command import add_inputs, run_command
from recipes.mini.heard import HeardWords, continued, write_classes

PIECE = "\u2581[{}]"  # begins a word, as all pieces with this mark do


def add_heard(tokenizer: Path, heard: HeardWords, out: Path) -> int:
    """Write a SentencePiece model with a control piece for each class of `heard` but the first, in place of those that
    it has; returns the id of class 1.
    """
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString(tokenizer.read_bytes())
    first = len(model.pieces)
    for place, piece in enumerate(model.pieces):
        if piece.piece == PIECE.format("?"):
            first = place
    del model.pieces[first:]
    for word in ("?", *heard.words):
        model.pieces.add(
            piece=PIECE.format(word),
            score=0.0,
            type=sentencepiece_model_pb2.ModelProto.SentencePiece.CONTROL,
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


def rows_of(tokenizer: Path, heard: HeardWords) -> list[int | None]:
    """For each class of `heard` but the first, the id that it has in a tokenizer: of its first word that has one, that
    of words without one if none has; None in one without any such ids.
    """
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))

    def id_of(word: str) -> int | None:
        found = int(pieces.piece_to_id(PIECE.format(word)))
        return None if found == pieces.unk_id() else found

    other = id_of("?")
    found: list[int | None] = [other]
    for words in heard.classes:
        found.append(next((known for word in words if (known := id_of(word)) is not None), other))
    return found


@torch.no_grad()
def renew(model: Any, first: int, rows: list[int | None]) -> None:
    """Give a model ids for words from `first` on, in place, that begin as ids `rows` of its own; where there is none, a
    new one does as new ids do, but to the depth decoder as padding: nothing is said with them.
    """
    size = first + len(rows)
    depth, pad = model.depth_decoder, model.config.text_padding_token_id
    known = [(first + i, row) for i, row in enumerate(rows) if row is not None]
    places, kept = [place for place, _ in known], [row for _, row in known]
    tables = (model.get_input_embeddings, model.get_output_embeddings, depth.get_input_embeddings)
    before = [table().weight[kept].clone() for table in tables]
    model.resize_token_embeddings(size)
    depth.text_embed_tokens.weight[first:size] = depth.text_embed_tokens.weight[pad]
    for table, own in zip(tables, before):
        table().weight[places] = own


def run(args: argparse.Namespace) -> int:
    from aizuchi.models.moshi import MoshiForConditionalGeneration
    from aizuchi.models.quantized import dequantize_model
    from aizuchi.train.checkpoints import save_model
    from recipes.mini.listening import phrase_words

    model = dequantize_model(MoshiForConditionalGeneration.from_pretrained(args.model).float())
    heard = HeardWords(args.heard)
    if args.add:
        write_classes(args.heard, continued(heard.classes, phrase_words()))
        heard = HeardWords(args.heard)
    args.out.mkdir(parents=True, exist_ok=True)
    source = next(path for path in sorted(args.model.glob("tokenizer*.model")))
    rows = rows_of(source, heard)  # before it is written to, should the model's folder be the output's
    first = add_heard(source, heard, args.out / source.name)
    torch.manual_seed(0)
    renew(model, first, rows)
    save_model(model, args.out)
    if args.tokenizer is not None:
        shutil.copyfile(args.out / source.name, args.tokenizer)
    known = sum(row is not None and row != rows[0] for row in rows[1:])
    print(
        f"{args.out}: ids {first} to {first + len(heard) - 2} are the user's words; "
        f"the model knew {known} of {len(heard.words)}"
    )
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.mini.monologue", description="Give a model ids for the words that users say."
    )
    parser.add_argument("--model", type=Path, required=True, help="a trained model, with its tokenizer")
    add_inputs(parser, "heard")
    parser.add_argument(
        "--add", action="store_true",
        help="put words that stand in three training phrases or more, and not in that list, behind its others first",
    )  # fmt: skip
    parser.add_argument("--tokenizer", type=Path, help="write the tokenizer here, too")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model to train on from")
    parser.set_defaults(run=run)
    return parser


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
