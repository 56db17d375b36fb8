"""Acoustic codebooks for everyone's voice: `python -m recipes.mini.others --help`.

The codebooks were begun on a voice of one pitch that says each word in one way, and leave what others sound like
nearly untold. Here the way into them is fitted to the spectra of everyone, others' at the assistant's pitch
(`recipes.mini.one_pitch`), and their entries move: others take the entry that is nearest, the assistant keeps the codes
that it has, and each entry comes to lie in the middle of both. So the assistant's codes, and a model that learned
them, stay valid, though every entry is another vector. The decoder has to learn them (`configs/decoder.yaml`, with
`voice_codec` and `pairs` among its data's options); the way out is fitted, so that it begins with what it knows.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aizuchi.errors import AizuchiError
from aizuchi.train.order import keyed_generator
from recipes.mini.command import RUNS, add_inputs, run_command
from recipes.mini.front import FRAMES, SoundRows, least_squares
from recipes.mini.grid import FRAME
from recipes.mini.one_pitch import TRAIN, Pairs
from recipes.mini.spectrum import log_frames, mel_power

LOUD = -8.0  # mean log power of a frame's bands: quieter ones have no say in the fit
SELDOM = 4  # frames of the assistant: entries that it has more seldom are begun on others
STEPS = 12  # of k-means
RIDGE = 1e-6
ROWS = 16  # of a batch
# Main components count by their standard deviation to the power 1 - 2 * EVEN: in between those of spectra as they are
# and whitened ones, the words of others are told best.
EVEN = 0.12
_PART = 8192  # vectors whose distances are held at once


@dataclass
class Heard:
    """Frames of someone.

    Attributes:
        latents: (N, C). spectra: (N, D) that they should tell. told: (N, C) what the codec's acoustic codes give its
            decoder. codes: (N, K) acoustic codes that the frames keep; None where the nearest entries are theirs.
    """

    latents: Tensor
    spectra: Tensor
    told: Tensor
    codes: Tensor | None = None


def nearest(vectors: Tensor, entries: Tensor) -> Tensor:
    """The index (N,) of the entry (V, D) nearest to each vector (N, D)."""
    return torch.cat([torch.cdist(part, entries).argmin(1) for part in vectors.split(_PART)])


def main_components(latents: Tensor, spectra: Tensor, weights: Tensor, count: int) -> Tensor:
    """The matrix (C, count) to the main directions of what latents (N, C) tell of spectra (N, D).

    Args:
        weights: (N,) of frames. count: of directions.
    """
    weights = (weights / weights.sum())[:, None]
    scale = weights.sqrt()
    mean = (latents * weights).sum(0)
    known = least_squares(
        (latents - mean) * scale, (spectra - (spectra * weights).sum(0)) * scale, RIDGE
    )  # (C, D)
    told = (latents - mean).double() @ known * scale
    values, vectors = torch.linalg.eigh(told.T @ told)
    main = vectors[:, -count:] * values[-count:].clamp(min=1e-12) ** -EVEN
    return (known @ main).to(latents.dtype)


def begin_seldom(entries: Tensor, seldom: Tensor, vectors: Tensor, generator: np.random.Generator) -> Tensor:
    """Entries (V, D) of which the seldom ones (indices) are drawn from vectors (N, D), far from the others: k-means++
    (Arthur and Vassilvitskii, 2007).
    """
    entries, known = entries.clone(), torch.ones(len(entries), dtype=torch.bool)
    known[seldom] = False
    if known.any():
        far = torch.cat([torch.cdist(part, entries[known]).amin(1) for part in vectors.split(_PART)]).square()
    else:
        far = torch.ones(len(vectors))
    for i in seldom:
        likely = far.double().numpy()
        if likely.sum() <= 0:
            raise AizuchiError(f"{len(vectors)} frames of others are too few for {len(seldom)} entries")
        entries[i] = vectors[int(generator.choice(len(vectors), p=likely / likely.sum()))]
        far = torch.minimum(far, (vectors - entries[i]).square().sum(1))
    return entries


def place_entries(
    others: Tensor, own: Tensor, codes: Tensor, weight: float, size: int, generator: np.random.Generator
) -> Tensor:
    """A codebook (size, D) for vectors of others (N, D), who take the nearest, and of the assistant (M, D), whose codes
    (M,) stay: k-means in which these frames never change their place.

    Args:
        weight: of all of the assistant's frames, all of others' being 1.
    """

    def means(given: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        sums = torch.zeros(size, given.shape[1]).index_add_(0, at, given)
        return sums / len(given), torch.bincount(at, minlength=size)[:, None] / len(given)

    kept, often = means(own, codes)
    entries = kept / often.clamp(min=1e-12)
    seldom = torch.nonzero(torch.bincount(codes, minlength=size) < SELDOM).flatten()
    entries = begin_seldom(entries, seldom, others, generator)
    for _ in range(STEPS):
        sums, share = means(others, nearest(others, entries))
        total = share + weight * often
        entries = torch.where(total > 0, (sums + weight * kept) / total.clamp(min=1e-12), entries)
    return entries


@torch.no_grad()
def make_room(codec: Any, others: Heard, own: Heard, weight: float) -> dict[str, float]:
    """Place a codec's acoustic entries anew, and fit the ways into and out of the codebooks, in place.

    Args:
        own: of the assistant, with codes. weight: of all its frames, all of others' being 1.

    Returns:
        shares of variance: what is left of `others` and of the assistant by the codes it keeps (`own`) before the way
        out, and what is `missed` of what the decoder was given.
    """
    acoustic = codec.quantizer.acoustic_residual_vector_quantizer
    books = list(acoustic.codebooks())
    assert own.codes is not None
    latents, spectra = torch.cat([others.latents, own.latents]), torch.cat([others.spectra, own.spectra])
    each = weight * len(others.latents) / len(own.latents)  # of a frame of the assistant
    weights = torch.cat([torch.ones(len(others.latents)), torch.full((len(own.latents),), each)])
    loud = weights * (spectra.mean(1) > LOUD)
    into = main_components(latents, spectra, loud, books[0].embed.shape[1])  # (C, dim)
    acoustic.input_proj.weight.copy_(into.T[..., None])
    started = [heard.latents @ into for heard in (others, own)]
    left, mine = (vectors.clone() for vectors in started)
    for k, book in enumerate(books):
        entries = place_entries(
            left, mine, own.codes[:, k], weight, len(book.embed), keyed_generator(7, "others", k)
        )
        book.embed_sum.copy_(entries * book.cluster_usage.clamp(min=book.epsilon)[:, None])
        left = left - book.decode(book.encode(left))
        mine = mine - book.decode(own.codes[:, k])
    # what the decoder has learned, from what stands for it now
    now = torch.cat([started[0] - left, (started[1] - mine) * each**0.5])
    known = torch.cat([others.told, own.told * each**0.5])
    out = least_squares(now, known, RIDGE).to(now.dtype)  # (dim, C)
    acoustic.output_proj.weight.copy_(out.T[..., None])
    return {
        "others": float(left.square().mean() / started[0].var(0).mean()),
        "own": float(mine.square().mean() / started[1].var(0).mean()),
        "missed": float((now @ out - known).square().mean() / known.var(0).mean()),
    }


def hear(codec: Any, wave: Tensor, wanted: Tensor, voice: Any = None) -> Heard:
    """Frames of waves (B, 1, S) that should sound as wanted (B, S); with the acoustic codes of `voice`, if given."""
    latents = codec.encode_latent(wave)  # (B, C, F)
    coder, given = (codec, latents) if voice is None else (voice, voice.encode_latent(wave))
    codes = coder.quantizer.encode(given)[:, codec.config.num_semantic_quantizers :]  # (B, K, F)
    told = codec.quantizer.acoustic_residual_vector_quantizer.decode(codes)  # (B, C, F)
    frames = [x.transpose(1, 2).flatten(0, 1) for x in (latents, told, codes)]
    spectra = log_frames(mel_power(wanted)).flatten(0, 1)
    return Heard(frames[0], spectra, frames[1], None if voice is None else frames[2])


def _joined(parts: list[Heard]) -> Heard:
    codes = [part.codes for part in parts if part.codes is not None]
    latents, spectra, told = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("latents", "spectra", "told")
    )
    return Heard(latents, spectra, told, torch.cat(codes) if codes else None)


@torch.no_grad()
def make(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from aizuchi.data.codec import load_codec
    from aizuchi.train.checkpoints import save_model
    from recipes.mini.package import round_to_bfloat16

    codec, voice = (load_codec(folder).model.float().eval() for folder in (args.codec, args.voice_codec))
    acoustic = codec.quantizer.acoustic_residual_vector_quantizer
    if acoustic.input_proj is None or acoustic.output_proj is None:
        raise AizuchiError(f"{args.codec} has no ways into and out of its codebooks that could be fitted")
    sound, pairs = SoundRows(args.sound, (TRAIN,), ROWS, 10, 1.0), Pairs(args.pairs / TRAIN)

    def someone(step: int) -> Heard:
        rng = random.Random(f"others/{step}")
        rows = [
            pairs.row(FRAMES * FRAME, rng) * 10 ** (rng.uniform(-6, 3) / 20) for _ in range(ROWS)
        ]  # (S, 2)
        said, wanted = torch.from_numpy(np.stack(rows)).float().unbind(-1)
        return hear(codec, said[:, None], wanted)

    def assistant(step: int) -> Heard:
        wave = sound(step)
        return hear(codec, wave, wave[:, 0], voice)

    made = []
    with tqdm(total=args.batches + args.batches // 3, unit="batch") as bar:
        for row, count in ((someone, args.batches), (assistant, args.batches // 3)):
            parts = []
            for step in range(count):
                parts.append(row(step))
                bar.update()
            made.append(_joined(parts))
    shares = make_room(codec, *made, args.weight)
    round_to_bfloat16(codec)
    print(
        f"left by the codes: {100 * shares['others']:.1f} % of others, {100 * shares['own']:.1f} of the assistant; "
        f"of what the decoder was given {100 * shares['missed']:.0f} % is missed"
    )
    save_model(codec, args.out)
    print(args.out)
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.mini.others",
        description="Acoustic codebooks for everyone's voice, in which the assistant's codes stay.",
    )
    add_inputs(parser, "codec", "sound")
    parser.add_argument("--voice-codec", type=Path, required=True, help="what wrote the assistant's codes")
    parser.add_argument(
        "--pairs",
        type=Path,
        default=RUNS / "one_pitch",
        help="of recipes.mini.one_pitch (default %(default)s)",
    )
    parser.add_argument(
        "--out", type=Path, default=RUNS / "codec-others", help="folder (default %(default)s)"
    )
    parser.add_argument(
        "--batches",
        type=int,
        default=150,
        help="of 41 s of others, and a third as many of the assistant (default %(default)s)",
    )
    parser.add_argument(
        "--weight",
        type=float,
        default=0.3,
        help="of all of the assistant's frames, all of others' being 1 (default %(default)s)",
    )
    parser.set_defaults(run=make)
    return parser


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
