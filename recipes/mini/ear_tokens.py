"""Hours of listening straight from spectra: `python -m recipes.mini.ear_tokens --help`.

What the ear learned from (`recipes.mini.ear_rows`: words of clips in ever new company, disturbed anew) is coded by what
follows the codec's convolutions, without a waveform, hundreds of times faster than sound is. The model that listens to
it has nothing to say. Spectra get the error that the convolutions make, of the size that each component has it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from aizuchi.data.codec import MimiCodec, encode
from aizuchi.data.frames import FRAME_SAMPLES
from aizuchi.data.shards import DialogueTokens, finished, write_index, write_shard
from aizuchi.data.tokenizer import TextTokenizer
from aizuchi.train.order import keyed_generator
from recipes.mini.clips import ClipLibrary
from recipes.mini.command import run_command
from recipes.mini.ear import FRAMES
from recipes.mini.ear_rows import EarRows
from recipes.mini.front import SoundRows
from recipes.mini.heard import HeardWords
from recipes.mini.spectrum import Components, log_frames
from recipes.mini.tokens import LISTEN, UNKNOWN, token_settings

RUNS = Path("runs/mini")
ROWS = 60  # in a shard, 20 minutes


@torch.no_grad()
def front_error(codec: Any, components: Components, rows: SoundRows, batches: int = 10) -> Tensor:
    """(K,) the root mean square by which the convolutions miss each component."""
    missed = []
    for step in range(batches):
        wave = rows(step)
        missed.append((codec.encoder(wave).transpose(1, 2) - components.of_wave(wave[:, 0])).flatten(0, 1))
    return torch.cat(missed).square().mean(0).sqrt()


@torch.no_grad()
def listen(args: argparse.Namespace) -> int:
    from aizuchi.models.mimi import MimiModel
    from aizuchi.train.memory import keep_freed_memory

    keep_freed_memory()
    mimi = MimiModel.from_pretrained(args.codec).eval()
    codec, tokenizer, heard = MimiCodec(mimi), TextTokenizer(args.vocabulary), HeardWords(args.heard)
    settings = token_settings(codec, tokenizer, heard)
    folder = args.out / LISTEN
    folder.mkdir(parents=True, exist_ok=True)
    components = Components.load(args.ear / "components.safetensors")
    error = front_error(mimi, components, SoundRows(args.sound, ("train", LISTEN), 8, 5))
    silence = encode(codec, np.zeros((1, FRAMES * FRAME_SAMPLES), np.float32))[0].T  # (FRAMES, K)
    semantic = mimi.quantizer.semantic_residual_vector_quantizer
    rows = None
    records = []
    for number in tqdm(range(args.shards), unit="shard"):
        path = folder / f"shard-{number:05d}.safetensors"
        key = hashlib.sha256(json.dumps([settings, "ear", args.seed, number]).encode()).hexdigest()[:32]
        record = finished(path, key)
        if record is None:
            rows = rows or EarRows(ClipLibrary(args.clips), [], heard, FRAMES, args.seed, takes=args.takes)
            generator = torch.Generator().manual_seed(
                int(keyed_generator(args.seed, "ear", number).integers(1 << 62))
            )
            made = []
            for i in range(ROWS):
                row = rows.row(number * ROWS + i)
                given = components.forward(log_frames(torch.from_numpy(row.power)))
                given = given + error * torch.randn(given.shape, generator=generator)
                latents = mimi.encoder_transformer(given.T[None])  # (1, K, FRAMES)
                user = np.zeros_like(silence)
                user[:, 0] = semantic.encode(latents, 1)[0][0].numpy()
                text = np.full(FRAMES, UNKNOWN, np.int32)
                name = f"ear/{args.seed}/{number}/{i}"
                words = row.words.astype(np.int32)
                made.append(
                    DialogueTokens(name, text, silence, np.ascontiguousarray(user[:, None]), heard=words)
                )
            write_shard(path, made, key)
            record = finished(path, key)
        records.append(record)
    write_index(folder, settings, [record for record in records if record], complete=True)
    print(f"{len(records)} shards, {len(records) * ROWS * FRAMES * 0.08 / 3600:.1f} h in {folder}")
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.mini.ear_tokens",
        description="Token shards of words in any order, coded without a waveform (resumable).",
    )
    parser.add_argument("--out", type=Path, default=RUNS / "tokens_ear", help="folder (default %(default)s)")
    parser.add_argument(
        "--ear", type=Path, default=RUNS / "ear", help="the ear's folder (default %(default)s)"
    )
    parser.add_argument(
        "--codec", type=Path, default=RUNS / "codec-bf16", help="folder (default %(default)s)"
    )
    parser.add_argument(
        "--clips", type=Path, default=RUNS / "clips", help="the clip cache (default %(default)s)"
    )
    parser.add_argument(
        "--sound", type=Path, default=RUNS / "sound", help="mixed dialogues (default %(default)s)"
    )
    parser.add_argument(
        "--vocabulary", type=Path, default=RUNS / "tokenizer.model", help="default %(default)s"
    )
    parser.add_argument("--heard", type=Path, default=RUNS / "heard.txt", help="words (default %(default)s)")
    parser.add_argument("--shards", type=int, default=60, help="of 20 minutes (default %(default)s)")
    parser.add_argument(
        "--takes", type=int, default=3, help="speakers made of each clip (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=2, help="default %(default)s")
    parser.set_defaults(run=listen)
    return parser


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
