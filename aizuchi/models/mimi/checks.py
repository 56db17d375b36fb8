"""Checks of what callers pass: each raises a ValueError that names the argument and what is wrong with it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .configuration import MimiConfig
from .quantization import check_num_quantizers


def check_values(x: Any, channels: int, allow_empty: bool) -> None:
    """Refuse anything but finite waveforms (B, channels, S)."""
    if not isinstance(x, Tensor):
        raise ValueError(
            f"`input_values` must be a tensor (B, {channels}, samples), but is a {type(x).__name__}."
        )
    if x.dim() != 3 or x.shape[1] != channels or not x.shape[0]:
        raise ValueError(
            f"`input_values` has shape {tuple(x.shape)}; expected (B, channels = {channels}, samples)."
        )
    if not x.is_floating_point():
        raise ValueError(f"`input_values` is {x.dtype}; expected floating point samples between -1 and 1.")
    if not x.shape[-1] and not allow_empty:
        raise ValueError("`input_values` is empty: it holds no sample.")
    if not x.isfinite().all():
        raise ValueError("`input_values` contains NaN or infinite samples.")


def check_codes(codes: Any, config: MimiConfig, allow_empty: bool) -> None:
    """Refuse anything but codes (B, K, F) of this model."""
    if not isinstance(codes, Tensor) or codes.dim() != 3 or not codes.shape[0]:
        shape = tuple(codes.shape) if isinstance(codes, Tensor) else type(codes).__name__
        raise ValueError(f"`audio_codes` must be a tensor (B, codebooks, frames), but is {shape}.")
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise ValueError(f"`audio_codes` is {codes.dtype}; codes are integers.")
    check_num_quantizers(codes.shape[1], config, "audio_codes")
    if not codes.shape[-1]:
        if allow_empty:
            return
        raise ValueError("`audio_codes` is empty: it holds no frame.")
    low, high = (int(v) for v in codes.aminmax())
    if low < 0 or high >= config.codebook_size:
        raise ValueError(
            f"`audio_codes` holds {low if low < 0 else high}; codes are 0 to {config.codebook_size - 1}."
        )


def check_mask_frames(padding_mask: Tensor, codes: Tensor, config: MimiConfig) -> None:
    """Refuse a mask of another length than the codes'."""
    frames = -(-padding_mask.shape[-1] // config.frame_size)
    if frames != codes.shape[-1]:
        raise ValueError(
            f"`padding_mask` covers {padding_mask.shape[-1]} samples = {frames} frames, "
            f"`audio_codes` has {codes.shape[-1]}."
        )


def check_active(active: Tensor | None, rows: int) -> Tensor | None:
    """``active`` itself; ValueError unless it is a mask of the rows."""
    if active is not None and (active.shape != (rows,) or active.dtype != torch.bool):
        raise ValueError(
            f"`active` must be a bool tensor ({rows},), but is {active.dtype} {tuple(active.shape)}."
        )
    return active


def one_state(**named: Any) -> Any:
    """The one state given under any of its names; ValueError for different ones."""
    given = {name: value for name, value in named.items() if value is not None}
    if len({id(value) for value in given.values()}) > 1:
        raise ValueError(f"{' and '.join(f'`{name}`' for name in given)} are different states: pass one.")
    return next(iter(given.values()), None)
