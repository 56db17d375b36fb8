"""Frames and columns.

A *frame* is what happens at one moment: a text token, the model's codes, the user's codes. A *column* is what the
temporal model sees at one step: column 0 holds the initial tokens, and column c + 1 holds of each stream the frame
c minus that stream's delay, or the initial token where there is no such frame yet.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def delay_frames(frames: Tensor, delays: Sequence[int], initial: Tensor, first_column: bool = True) -> Tensor:
    """Time-aligned frames -> columns.

    Args:
        frames: (B, S, T) ids of S streams. delays: S frame counts. initial: (S,) initial token of each stream.
        first_column: put the column of initial tokens in front.
    Returns:
        (B, S, T + 1) columns, or (B, S, T) without the first
    """
    if frames.shape[1] != len(delays):
        raise ValueError(f"`frames` has {frames.shape[1]} streams, `delays` {len(delays)}.")
    length = frames.shape[2]
    columns = initial.to(frames)[None, :, None].expand(frames.shape[0], -1, length + 1).clone()
    for stream, delay in enumerate(delays):
        columns[:, stream, 1 + delay :] = frames[:, stream, : max(0, length - delay)]
    return columns if first_column else columns[:, :, 1:]


def undelay_columns(columns: Tensor, delays: Sequence[int]) -> Tensor:
    """Columns without the initial one -> the frames that are complete: (B, S, T) -> (B, S, T - max delay)."""
    if columns.shape[1] != len(delays):
        raise ValueError(f"`columns` has {columns.shape[1]} streams, `delays` {len(delays)}.")
    length = columns.shape[2] - max(delays, default=0)
    return torch.stack([columns[:, s, d : d + max(0, length)] for s, d in enumerate(delays)], dim=1)


def build_delay_pattern_mask(
    input_ids: Tensor, bos_token_id: int, pad_token_id: int, max_length: int
) -> tuple[Tensor, Tensor]:
    """The documented helper: codes (B, K, T) laid out with codebooks 1 and up one column late.

    Returns:
        the laid out prompt, and a pattern (B, K, max_length) in which -1 marks what is to be generated
    """
    batch, codebooks, length = input_ids.shape
    pattern = input_ids.new_full((batch, codebooks, max_length), -1)
    pattern[:, :1, :length] = input_ids[:, :1, :max_length]
    if codebooks > 1:
        room = max(0, min(length, max_length - 1))
        pattern[:, 1:, 1 : 1 + room] = input_ids[:, 1:, :room]
        pattern[:, 1:, :1] = bos_token_id
        pattern[:, 0, -1] = torch.where(pattern[:, 0, -1] == -1, pad_token_id, pattern[:, 0, -1])
    return pattern[:, :, :length], pattern


def apply_delay_pattern_mask(input_ids: Tensor, decoder_pad_token_mask: Tensor) -> Tensor:
    """Put what a pattern fixes over ``input_ids`` (B, K, T); -1 in the pattern leaves an id as it is."""
    pattern = decoder_pad_token_mask[..., : input_ids.shape[-1]]
    return torch.where(pattern == -1, input_ids, pattern)
