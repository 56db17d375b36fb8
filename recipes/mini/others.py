"""Room for other voices in the acoustic codebooks: `python -m recipes.mini.others --help`.

The codebooks were begun on a voice of one pitch that says each word in one way, and leave what others sound like
nearly untold. A third of their entries the assistant never needs, though: these are begun anew on what others say.
The way into the codebooks is fitted to both: the assistant's latents come to where they were, others' to where the
main components of their spectra lie, turned to be as near to that as turning allows. The assistant's codes, and a
model that learned them, stay valid; the decoder has to learn what the new entries mean (`configs/decoder.yaml`, with
`voice_codec` among its data's options).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aizuchi.errors import AizuchiError
from aizuchi.train.order import keyed_generator
from recipes.mini.command import RUNS, add_inputs, run_command
from recipes.mini.front import SoundRows, least_squares
from recipes.mini.spectrum import log_frames, mel_power
from recipes.mini.tokens import LISTEN

SELDOM = 1e-4  # of the frames: entries that the assistant has more seldom are free
STEPS = 12  # of k-means
RIDGE = 1e-6


def usage(folders: Sequence[Path], codebooks: int, size: int) -> np.ndarray:
    """(codebooks, size): how often the assistant has each code in folders of token shards.

    Raises AizuchiError if there are none.
    """
    from safetensors import safe_open

    counts = np.zeros((codebooks, size), np.int64)
    files = [path for folder in folders for path in sorted(folder.glob("shard-*.safetensors"))]
    if not files:
        raise AizuchiError(
            f"no token shards in {', '.join(map(str, folders))}: recipes.mini.ear_tokens makes them"
        )
    for path in files:
        with safe_open(path, "np") as shard:
            codes = shard.get_tensor("model")  # (F, K)
        for k in range(codebooks):
            counts[k] += np.bincount(codes[:, k], minlength=size)
    return counts


def main_components(latents: Tensor, spectra: Tensor, count: int) -> Tensor:
    """What latents (N, C) tell of spectra (N, D), in its main directions, half-whitened: (N, count)."""
    latents, spectra = latents - latents.mean(0), spectra - spectra.mean(0)
    told = latents @ least_squares(latents, spectra, RIDGE).to(latents.dtype)
    values, vectors = torch.linalg.eigh(told.double().T @ told.double() / len(told))
    main = vectors[:, -count:] * values[-count:].clamp(min=1e-12) ** -0.25
    return told @ main.to(told.dtype)


def turned(vectors: Tensor, target: Tensor) -> Tensor:
    """Vectors (N, D), turned, scaled and moved as one to lie nearest to target (N, D) (Schönemann, 1966)."""
    v, t = vectors - vectors.mean(0), target - target.mean(0)
    left, values, right = torch.linalg.svd(v.T @ t)
    return v @ (left @ right) * (values.sum() / v.square().sum()) + target.mean(0)


def begin_free(entries: Tensor, free: Tensor, vectors: Tensor, generator: np.random.Generator) -> Tensor:
    """Entries (N, D) of which the free ones (indices) are begun anew on vectors (M, D), beside the others: k-means in
    which these do not move.
    """
    entries, kept = entries.clone(), torch.ones(len(entries), dtype=torch.bool)
    kept[free] = False
    far = torch.cdist(vectors, entries[kept]).amin(1).square()
    for i in free:  # k-means++ (Arthur and Vassilvitskii, 2007)
        likely = far.double().numpy()
        chosen = int(generator.choice(len(vectors), p=likely / likely.sum()))
        entries[i] = vectors[chosen]
        far = torch.minimum(far, (vectors - vectors[chosen]).square().sum(1))
    for _ in range(STEPS):
        nearest = torch.cdist(vectors, entries).argmin(1)
        counts = torch.bincount(nearest, minlength=len(entries))
        sums = torch.zeros_like(entries).index_add_(0, nearest, vectors)
        moved = free[counts[free] > 0]
        entries[moved] = sums[moved] / counts[moved, None]
    return entries


@torch.no_grad()
def make_room(
    codec: Any, counts: np.ndarray, others: Sequence[Tensor], own: Sequence[Tensor], weight: float
) -> float:
    """Begin a codec's free acoustic entries anew, and fit the way into the codebooks, in place.

    Args:
        counts: (codebooks, size) of the acoustic codebooks, see `usage`.
        others: their latents (N, C), spectra (N, D), and what the encoder of the assistant's codes makes of them
            before its codebooks (N, dim). own: latents and that, of the assistant.
        weight: of a frame of the assistant in the fit, one of others being 1.

    Returns:
        the share of the assistant's variance before the codebooks that is missed.
    """
    acoustic = codec.quantizer.acoustic_residual_vector_quantizer
    latents, spectra, theirs = others
    target = turned(main_components(latents, spectra, theirs.shape[1]), theirs)
    size = weight**0.5
    given, wanted = torch.cat([latents, own[0] * size]), torch.cat([target, own[1] * size])
    into = least_squares(given, wanted, RIDGE).to(latents.dtype)  # (C, dim)
    acoustic.input_proj.weight.copy_(into.T[..., None])
    residual = latents @ into
    for k, codebook in enumerate(acoustic.codebooks()):
        free = torch.from_numpy(np.flatnonzero(counts[k] < SELDOM * counts[k].sum()))
        entries = begin_free(codebook.embed, free, residual, keyed_generator(7, "others", k))
        codebook.embed_sum[free] = entries[free] * codebook.cluster_usage[free, None]
        codes = codebook.encode(residual)
        newly = torch.isin(codes, free).float().mean()
        residual = residual - codebook.decode(codes)
        left = residual.square().mean() / (latents @ into).var(0).mean()
        told = f"{len(free)} entries are free, {100 * newly:.0f} % of frames have one; {100 * left:.0f} % is left"
        print(f"codebook {k}: {told}")
    missed = (own[0] @ into - own[1]).square().mean() / (own[1] - own[1].mean(0)).square().mean()
    return float(missed)


@torch.no_grad()
def make(args: argparse.Namespace) -> int:
    from aizuchi.data.codec import load_codec
    from aizuchi.train.checkpoints import save_model
    from recipes.mini.package import round_to_bfloat16

    codec, voice = (load_codec(folder).model.float().eval() for folder in (args.codec, args.voice_codec))
    acoustic, semantic = (
        codec.quantizer.acoustic_residual_vector_quantizer,
        codec.config.num_semantic_quantizers,
    )
    before = voice.quantizer.acoustic_residual_vector_quantizer
    ours, theirs = ([book.embed for book in branch.codebooks()] for branch in (acoustic, before))
    if len(ours) != len(theirs) or not all(map(torch.equal, ours, theirs)):
        raise AizuchiError(f"the acoustic codebooks of {args.voice_codec} are not those of {args.codec}")
    counts = usage(args.tokens, codec.config.num_quantizers, codec.config.codebook_size)

    def gathered(rows: SoundRows, batches: int) -> list[Tensor]:
        found: list[list[Tensor]] = [[], [], []]
        for step in range(batches):
            wave = rows(step)
            latents = codec.encode_latent(wave).transpose(1, 2)
            made = log_frames(mel_power(wave[:, 0])), before._project(voice.encode_latent(wave))
            for kept, x in zip(found, (latents, *made)):
                kept.append(x.flatten(0, 1))
        return [torch.cat(kept) for kept in found]

    others = gathered(SoundRows(args.sound, ("train", LISTEN), 16, 9, 0.0), args.batches)
    latents, _, wanted = gathered(SoundRows(args.sound, ("train",), 16, 10, 1.0), args.batches // 2)
    missed = make_room(codec, counts[semantic:], others, (latents, wanted), args.weight)
    round_to_bfloat16(codec)
    print(f"of what goes into the assistant's acoustic codes {100 * missed:.1f} % is missed")
    save_model(codec, args.out)
    print(args.out)
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.mini.others",
        description="Room for other voices in a codec's acoustic codebooks.",
    )
    add_inputs(parser, "codec", "sound")
    parser.add_argument("--voice-codec", type=Path, required=True, help="what wrote the assistant's codes")
    parser.add_argument(
        "--tokens", type=Path, nargs="+", required=True, help="folders of token shards, for what codes it has"
    )
    parser.add_argument(
        "--out", type=Path, default=RUNS / "codec-others", help="folder (default %(default)s)"
    )
    parser.add_argument("--batches", type=int, default=120, help="of 41 s of others (default %(default)s)")
    parser.add_argument(
        "--weight",
        type=float,
        default=10.0,
        help="of the assistant's frames in the fit (default %(default)s)",
    )
    parser.set_defaults(run=make)
    return parser


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
