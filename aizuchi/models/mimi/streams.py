"""Stream states of the codec, and the checks that a state fits the model and the call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..cache import RingCache
from ..state import State
from .configuration import MimiConfig
from .conv import ConvState, ConvTransposeState
from .seanet import StackState

RINGS = ("exact", "original")


@dataclass
class MimiEncoderState(State):
    """Everything an encoder remembers of its rows' signals."""

    pending: Tensor  # (rows, channels, frame_size) samples that don't fill a frame yet
    pending_length: Tensor  # (rows,) int64, how many of them there are
    seanet: StackState
    transformer: RingCache
    downsample: ConvState | None
    ring: str = "exact"
    signature: tuple = ()


@dataclass
class MimiDecoderState(State):
    """Everything a decoder remembers of its rows' codes."""

    seanet: StackState
    transformer: RingCache
    upsample: ConvTransposeState | None
    ring: str = "exact"
    signature: tuple = ()


def signature(config: MimiConfig) -> tuple:
    """What two models must share for a state of one to fit the other."""
    names = (
        "sampling_rate frame_rate audio_channels hidden_size num_filters num_residual_layers kernel_size "
        "last_kernel_size residual_kernel_size dilation_growth_rate pad_mode compress num_hidden_layers "
        "num_encoder_hidden_layers num_decoder_residual_layers num_key_value_heads head_dim sliding_window"
    )
    channels = config.decoder_channels or ()
    return (*[getattr(config, name) for name in names.split()], *config.upsampling_ratios, *channels)


def check_ring(ring: str) -> bool:
    """Whether rings are the original server's; ValueError for an unknown kind."""
    if ring not in RINGS:
        raise ValueError(f"`ring` must be one of {RINGS}, but is {ring!r}.")
    return ring == "original"


def check_state(state: Any, kind: type[Any], expected: tuple, rows: int, like: Tensor) -> None:
    """Raise ValueError unless ``state`` is of this kind, this model, this many rows and of ``like``'s dtype."""
    if not isinstance(state, kind):
        maker = "init_encoder_state" if kind is MimiEncoderState else "init_decoder_state"
        raise ValueError(
            f"`state` is a {type(state).__name__}; streams are kept in a {kind.__name__}: "
            f"make one with `model.{maker}(rows)`."
        )
    if state.signature != expected:
        raise ValueError("`state` comes from a model of another configuration.")
    cache = state.transformer
    if cache.offset.shape[0] != rows:
        raise ValueError(f"`state` has {cache.offset.shape[0]} rows, the input has {rows}.")
    if cache.offset.device != like.device:
        raise ValueError(f"`state` is on {cache.offset.device}, the model on {like.device}.")
    if cache.keys and cache.keys[0].dtype != like.dtype:
        raise ValueError(f"`state` holds {cache.keys[0].dtype}, the model computes in {like.dtype}.")
