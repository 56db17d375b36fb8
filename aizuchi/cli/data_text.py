"""`aizuchi data text`: plain text to token shards."""

from __future__ import annotations

import argparse
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Turn plain text into token shards, for the steps of a training that learn from text alone.

    Files are .txt, each one document, or .jsonl with a document a line: {"text": "..."}. What is written goes to
    `text_only.train` of `aizuchi train moshi`.
    """
    parser.add_argument("texts", nargs="+", help=".txt or .jsonl files")
    parser.add_argument("output", help="folder to write; made if it is not there")
    parser.add_argument(
        "--tokenizer", required=True, help="a SentencePiece .model file, or a folder with a tokenizer"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace shards that are there")


def run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from aizuchi.data.texts import read_documents, tokenize_texts
    from aizuchi.data.tokenizer import TextTokenizer

    tokenizer = TextTokenizer(args.tokenizer)
    with tqdm(None, "tokenizing", unit="token", unit_scale=True, disable=None, leave=False) as bar:
        shards = tokenize_texts(
            read_documents(args.texts), args.output, tokenizer, args.overwrite, lambda n: bar.update(n)
        )
    count = sum(record.frames for record in shards.records)
    print(f"{args.output}: {count} tokens in {len(shards.records)} shards", file=sys.stderr)
    return 0
