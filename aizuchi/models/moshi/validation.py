"""Checks of what callers pass in, with errors that name the argument.

They read values, which on a GPU waits for the device: `forward` and `generate` call them, the frame-by-frame
step does not, and under `torch.compile` they are skipped.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def check_one_of(**inputs: Any) -> None:
    """Exactly one of the named inputs must be given."""
    given = [name for name, value in inputs.items() if value is not None]
    if len(given) != 1:
        names = " and ".join(f"`{name}`" for name in inputs)
        raise ValueError(f"Exactly one of {names} must be given, got {len(given)}.")


def check_range(name: str, ids: Tensor, low: int, high: int) -> None:
    """Integer ids must lie in [low, high]."""
    if torch.is_floating_point(ids) or ids.dtype == torch.bool:
        raise ValueError(f"`{name}` must hold integer ids, got {ids.dtype}.")
    if torch.compiler.is_compiling() or ids.numel() == 0 or ids.is_meta:
        return
    least, most = int(ids.min()), int(ids.max())
    if least < low or most > high:
        wrong = least if least < low else most
        raise ValueError(f"`{name}` holds {wrong}, outside of [{low}, {high}].")


def check_ids(name: str, ids: Tensor, embedding: Any, demux: bool = False, ignored: bool = False) -> None:
    """Text ids (B, T) that ``embedding`` has rows for; -1 is the zero token; -100 too where ``ignored``."""
    if ids.dim() != 2:
        raise ValueError(f"`{name}` must have shape (batch, length), got {tuple(ids.shape)}.")
    if ids.shape[1] == 0:
        raise ValueError(f"`{name}` is empty.")
    size = embedding.num_embeddings
    check_range(name, ids, -100 if ignored else -1, size * (size + 1) - 1 if demux else size - 1)


def check_codes(name: str, codes: Tensor, codebooks: int, size: int, low: int = -1) -> None:
    """Audio codes (B, codebooks, T) in [low, size]: ``size`` itself is the initial token, -1 the zero token."""
    if codes.dim() != 3 or codes.shape[1] != codebooks:
        raise ValueError(
            f"`{name}` must have shape (batch, {codebooks} codebooks, length), got {tuple(codes.shape)}."
        )
    check_range(name, codes, low, size)


def check_embeds(name: str, embeds: Tensor, hidden_size: int) -> None:
    """Embeddings must be (B, T, hidden_size), and not empty."""
    if embeds.dim() != 3 or embeds.shape[-1] != hidden_size or embeds.shape[1] == 0:
        raise ValueError(
            f"`{name}` must have shape (batch, length, {hidden_size}), got {tuple(embeds.shape)}."
        )


def check_same_length(**tensors: Tensor | None) -> int:
    """All given tensors must have the same length along their last axis; returns it."""
    lengths = {name: tensor.shape[-1] for name, tensor in tensors.items() if tensor is not None}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"`{name}`: {length}" for name, length in lengths.items())
        raise ValueError(
            f"The streams must be synchronised, one position a frame, but their lengths are {shown}."
        )
    return next(iter(lengths.values()))


def check_waveform(name: str, wave: Tensor, channels: int = 1) -> None:
    """A waveform (B, channels, S) of finite numbers, not empty."""
    if wave.dim() != 3 or wave.shape[1] != channels:
        raise ValueError(f"`{name}` must have shape (batch, {channels}, samples), got {tuple(wave.shape)}.")
    if wave.shape[-1] == 0:
        raise ValueError(f"`{name}` is empty.")
    if not torch.is_floating_point(wave):
        raise ValueError(f"`{name}` must hold float samples in [-1, 1], got {wave.dtype}.")
    if not torch.compiler.is_compiling() and not bool(torch.isfinite(wave).all()):
        raise ValueError(f"`{name}` holds NaN or infinite samples.")
