"""The Mimi codec: 24 kHz speech to 12.5 frames of codes per second, and back, frame by frame."""

from .base import MimiPreTrainedModel
from .configuration import MimiConfig
from .modeling import MimiModel
from .outputs import MimiDecoderOutput, MimiEncoderOutput, MimiOutput
from .quantization import QuantizerOutput
from .streams import MimiDecoderState, MimiEncoderState

__all__ = [
    "MimiConfig",
    "MimiDecoderOutput",
    "MimiDecoderState",
    "MimiEncoderOutput",
    "MimiEncoderState",
    "MimiModel",
    "MimiOutput",
    "MimiPreTrainedModel",
    "QuantizerOutput",
]
