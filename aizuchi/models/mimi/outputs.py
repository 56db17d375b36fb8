"""What the documented methods of the codec return."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput

from .streams import MimiDecoderState, MimiEncoderState


@dataclass
class MimiOutput(ModelOutput):
    """Codes and their reconstruction.

    Attributes:
        audio_codes: (B, K, F) int64.
        audio_values: (B, channels, S).
        encoder_past_key_values, decoder_past_key_values: the stream states, where one was passed.
    """

    audio_codes: Tensor | None = None
    audio_values: Tensor | None = None
    encoder_past_key_values: MimiEncoderState | None = None
    decoder_past_key_values: MimiDecoderState | None = None


@dataclass
class MimiEncoderOutput(ModelOutput):
    """Codes of a signal.

    Attributes:
        audio_codes: (B, K, F) int64.
        encoder_past_key_values, padding_cache: when streaming, the state to pass to the next call (one object
            under both of transformers' names).
    """

    audio_codes: Tensor | None = None
    encoder_past_key_values: MimiEncoderState | None = None
    padding_cache: MimiEncoderState | None = None


@dataclass
class MimiDecoderOutput(ModelOutput):
    """A signal decoded from codes.

    Attributes:
        audio_values: (B, channels, S).
        decoder_past_key_values: when streaming, the state to pass to the next call.
    """

    audio_values: Tensor | None = None
    decoder_past_key_values: MimiDecoderState | None = None
