"""Take a model over to another codec's codes: `python -m recipes.mini.recode --help`.

The same dialogues, encoded by both codecs, tell which new code stands where old ones stood. Embeddings and heads of
new codes begin as what those of the old ones amount to in the same frames, so that a model need not learn again how
to listen, when to speak and what to say. Training goes on from there.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aizuchi.errors import AizuchiError
from aizuchi.train.tokens import ShardSource
from recipes.mini.command import run_command

RIDGE = 10.0  # frames: a code that is rarer than that stays near the mean


def paired_codes(old: Path, new: Path, frames: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Codes (N, K) of the model's and of the user's channel, by the old codec and by the new one.

    Raises:
        AizuchiError: the folders are not of the same dialogues.
    """
    sources = [ShardSource(folder) for folder in (old, new)]
    lengths = [source.lengths() for source in sources]
    if not np.array_equal(*lengths):
        raise AizuchiError(
            f"{old} and {new} are not of the same dialogues: encode the same sound with both codecs"
        )
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"model": [], "user": []}
    seen = 0
    for index in np.random.default_rng(0).permutation(len(lengths[0])):
        pair = [source.read(int(index), 0, int(lengths[0][index])) for source in sources]
        for side, codes in found.items():
            codes.append((getattr(pair[0], side).T, getattr(pair[1], side).T))
        seen += int(lengths[0][index])
        if seen >= frames:
            break
    return {
        side: (np.concatenate([a for a, _ in codes]), np.concatenate([b for _, b in codes]))
        for side, codes in found.items()
    }


def carried(table: Tensor, old: np.ndarray, new: np.ndarray, size: int) -> Tensor:
    """Rows of a table (V, D) for new codes (N,): the mean of the old codes' rows in the same frames."""
    counted = np.zeros((size, size))
    np.add.at(counted, (new, old), 1)
    counts, rows = torch.from_numpy(counted), table[:size].double()
    mean = counts.sum(0) / counts.sum() @ rows
    return ((counts @ rows + RIDGE * mean) / (counts.sum(1, keepdim=True) + RIDGE)).to(table)


def fitted(tables: list[Tensor], old: np.ndarray, new: np.ndarray, size: int) -> list[Tensor]:
    """Tables (V, D) of new codes (N, K) whose sum over K comes nearest to that of the old codes."""
    from scipy.sparse import csr_matrix

    frames, count = new.shape
    columns = (new + size * np.arange(count)).reshape(-1)
    x = csr_matrix((np.ones(frames * count), columns, np.arange(0, frames * count + 1, count)))
    x.resize((frames, count * size))
    target = sum(
        table[:size].double()[torch.from_numpy(old[:, k].astype(np.int64))] for k, table in enumerate(tables)
    )
    mean = target.mean(0)
    gram = (x.T @ x).toarray() + RIDGE * np.eye(count * size)
    solved = np.linalg.solve(gram, x.T @ (target - mean).numpy())
    made = torch.from_numpy(solved).unflatten(0, (count, size)) + mean / count
    return [rows.to(table) for rows, table in zip(made, tables)]


@torch.no_grad()
def hear_more(model: Any, count: int) -> None:
    """Give a model embeddings of so many of the user's codebooks, in place: new ones are zero, one frame late."""
    config = model.config
    for k in range(config.num_user_codebooks, count):
        table = nn.Embedding.from_pretrained(torch.zeros_like(model.embed_tokens[0].weight), freeze=False)
        model.embed_tokens.append(table)
        config.delays = [*config.delays, 1 if k else 0]
        config.num_input_codebooks += 1


@torch.no_grad()
def recode(model: Any, pairs: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Change a model's embeddings and heads of codes, in place.

    Raises:
        AizuchiError: the tokens are not as the model has them.
    """
    size = model.config.audio_vocab_size
    own = model.config.num_model_codebooks
    old, new = pairs["model"]
    for which, codes in (("old", old), ("new", new)):
        if codes.shape[1] != own or codes.max() >= size:
            raise AizuchiError(
                f"the {which} tokens have {codes.shape[1]} codebooks and codes up to {codes.max()}, "
                f"the model {own} codebooks of {size}"
            )
    tables, depth = model.embed_tokens, model.depth_decoder
    # the first codebook comes in a frame of its own, the others one later (the acoustic delay): two fits
    rows = [carried(tables[0].weight, old[:, 0], new[:, 0], size)]
    rows += fitted([t.weight for t in tables[1:own]], old[:, 1:], new[:, 1:], size)
    for table, made in zip(tables, rows):
        table.weight[:size] = made
    heard_old, heard_new = (side[:, : len(tables) - own] for side in pairs["user"])
    for k in range(heard_old.shape[1]):
        table = tables[own + k]
        table.weight[:size] = carried(table.weight, heard_old[:, k], heard_new[:, k], size)
    for k in range(old.shape[1]):
        head = depth.lm_heads.weight[k]
        head[:size] = carried(head, old[:, k], new[:, k], size)
        if k < len(depth.embed_tokens):
            table = depth.embed_tokens[k]
            table.weight[:size] = carried(table.weight, old[:, k], new[:, k], size)


def run(args: argparse.Namespace) -> int:
    from aizuchi.models.mimi import MimiModel
    from aizuchi.models.moshi import MoshiForConditionalGeneration
    from aizuchi.models.quantized import dequantize_model
    from aizuchi.train.checkpoints import save_model

    model = dequantize_model(MoshiForConditionalGeneration.from_pretrained(args.model).float())
    recode(model, paired_codes(args.old, args.new, args.frames))
    hear_more(model, args.user_codebooks)
    codec = MimiModel.from_pretrained(args.codec)
    model.audio_encoder = codec
    model.config.audio_encoder_config = codec.config
    save_model(model, args.out)
    for path in args.model.glob("tokenizer*"):
        shutil.copyfile(path, args.out / path.name)
    print(args.out)
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.mini.recode", description="Take a model over to another codec's codes."
    )
    parser.add_argument("--model", type=Path, required=True, help="a trained model")
    parser.add_argument("--codec", type=Path, required=True, help="the new codec")
    parser.add_argument("--old", type=Path, required=True, help="tokens by the model's codec")
    parser.add_argument("--new", type=Path, required=True, help="tokens of the same sound by the new one")
    parser.add_argument(
        "--user-codebooks", type=int, default=0, help="hear at least so many of the user's codebooks"
    )
    parser.add_argument("--frames", type=int, default=400_000, help="to compare (default %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model to train on from")
    parser.set_defaults(run=run)
    return parser


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
