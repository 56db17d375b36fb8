"""What a folder of token shards holds: hours, padding, and how much of each codebook is used."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from aizuchi.data.frames import EPAD, FRAME_RATE, MASKED, PAD
from aizuchi.data.shards import ShardFolder


def token_stats(shards: ShardFolder) -> dict[str, Any]:
    """Count a folder's tokens: a plain dict for JSON.

    `used` and `perplexity` are of each codebook, over both sides and all variants: the number of entries that
    occur, and 2 to the entropy of their frequencies (how many equally frequent ones would carry as much).
    """
    size = int(shards.settings["codebook_size"])
    counts = np.zeros((shards.codebooks, size), np.int64)
    text = {"padding": 0, "end_of_padding": 0, "tokens": 0, "unknown": 0}
    for i in range(len(shards.dialogues)):
        for variant in range(shards.variants):
            tokens, model, user = shards.read(i, variant=variant)
            for k in range(shards.codebooks):
                counts[k] += np.bincount(user[:, k], minlength=size)
                if variant == 0:
                    counts[k] += np.bincount(model[:, k], minlength=size)
            if variant == 0:
                text["padding"] += int((tokens == PAD).sum())
                text["end_of_padding"] += int((tokens == EPAD).sum())
                text["unknown"] += int((tokens == MASKED).sum())
                text["tokens"] += len(tokens)
    frames = text["tokens"]
    text["tokens"] -= text["padding"] + text["end_of_padding"] + text["unknown"]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    entropy = -(share * np.log2(share, out=np.zeros_like(share), where=share > 0)).sum(axis=1)
    return {
        "dialogues": len(shards.dialogues),
        "shards": len(shards.records),
        "frames": frames,
        "hours": frames / FRAME_RATE / 3600,
        "variants": shards.variants,
        "bytes": sum(record.bytes for record in shards.records),
        "text": {name: count / frames if frames else math.nan for name, count in text.items()},
        "codebook_size": size,
        "used": (counts > 0).sum(axis=1).tolist(),
        "perplexity": [round(float(2**bits), 1) for bits in entropy],
    }


def format_tokens(stats: dict[str, Any]) -> str:
    """The counts as lines for people."""
    text = stats["text"]
    lines = [
        f"dialogues      {stats['dialogues']} in {stats['shards']} shards, {stats['bytes'] / 1e6:.1f} MB",
        f"duration       {stats['hours']:.2f} h, {stats['frames']} frames, "
        f"{stats['variants']} variant{'s' * (stats['variants'] != 1)} of the user's side",
        f"text frames    {text['padding'] + text['end_of_padding']:.1%} padding "
        f"(PAD {text['padding']:.1%}, EPAD {text['end_of_padding']:.1%}), {text['tokens']:.1%} tokens, "
        f"{text['unknown']:.1%} unknown",
    ]
    for k, (used, perplexity) in enumerate(zip(stats["used"], stats["perplexity"])):
        lines.append(f"codebook {k:<2}    {used} of {stats['codebook_size']} used, perplexity {perplexity:g}")
    return "\n".join(lines)
