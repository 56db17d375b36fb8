"""What keys and values in 8 bits change: the same conversation under both, frame by frame.

    python -m benchmarks.kv_precision [--model FOLDER | --preset mini] [--frames 200]

The model talks with itself (what it says is what its user says a frame later) with exact keys and values. Then the
same columns are forced on an engine with `kv="int8"`, so that the two never part, and its logits are compared: those
of the text, and those of the depth decoder for every codebook of the frame.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor

from aizuchi.engine import Sampling, TokenLoop


@torch.no_grad()
def run(loop: TokenLoop, frames: int, forced: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens (frames, 1 + K) as they are written, text logits (frames, V), audio logits (frames, K, A).

    Args:
        forced: tokens to write, which the user hears too; None lets the model choose.
    """
    config, depth = loop.config, loop.model.depth_decoder
    state, said = loop.state, loop.said
    heard = torch.zeros(1, config.num_user_codebooks, 1, dtype=torch.long)
    tokens, text, audio = [], [], []
    loop.start(loop.everyone)
    for tick in range(frames):
        out = loop.step(heard, forced=None if forced is None else forced[tick : tick + 1])
        newest = state.offset % loop.depth_columns
        # What this step wrote: a frame's text and codes, which the depth decoder has read in this order.
        column = state.columns[:, :said].gather(2, newest.view(1, 1, 1).expand(1, said, 1))[:, :, 0]
        tokens.append(column[0])
        text.append(out.logits[0])
        inputs = column[:, : config.num_model_codebooks]
        audio.append(depth.teacher_forced(inputs, out.hidden)[0].float())
        heard = column[:, 1 : 1 + config.num_user_codebooks, None]
    return torch.stack(tokens), torch.stack(text), torch.stack(audio)


def compare(exact: Tensor, found: Tensor) -> dict[str, float]:
    """Differences of logits (..., n)."""
    difference, spread = (found - exact).abs(), exact.std(-1)
    left, right = exact.log_softmax(-1), found.log_softmax(-1)
    return {
        "mean difference": float(difference.mean()),
        "largest difference": float(difference.max()),
        "logits' spread": float(spread.mean()),
        "KL divergence": float((left.exp() * (left - right)).sum(-1).mean()),
        "likeliest token the same": float((exact.argmax(-1) == found.argmax(-1)).double().mean()),
    }


def measure(model: Any, frames: int, seed: int = 0) -> dict[str, dict[str, float]]:
    """`compare` of text and audio logits between exact and 8-bit keys and values, over ``frames`` frames."""
    loops = [TokenLoop(model, 1, kv=kv) for kv in (None, "int8")]
    loops[0].configure(0, Sampling(seed=seed))
    tokens, *exact = run(loops[0], frames)
    _, *found = run(loops[1], frames, tokens)
    return {name: compare(a, b) for name, a, b in zip(("text", "audio"), exact, found, strict=True)}


def main() -> None:
    """Print both comparisons."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--model", help="folder or hub name (default: the model that comes with aizuchi)")
    what.add_argument("--preset", help="a preset with random weights instead")
    parser.add_argument("--frames", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.preset:
        from aizuchi.models.presets import random_model

        model = random_model(args.preset)
    else:
        from aizuchi.checkpoints import load

        model = load(args.model, dtype=torch.float32).model
    for name, figures in measure(model, args.frames).items():
        print(name, ", ".join(f"{what} {value:.4g}" for what, value in figures.items()))


if __name__ == "__main__":
    main()
