"""The real-time engine: frames of many conversations, one step at a time."""

from .duplex import DuplexEngine, EngineState, StepOutput
from .reply import Reply, reply
from .sampling import Sampling
from .tokens import Guidance, TokenLoop, TokenOutput, TokenState

__all__ = [
    "DuplexEngine",
    "EngineState",
    "Guidance",
    "Reply",
    "Sampling",
    "StepOutput",
    "TokenLoop",
    "TokenOutput",
    "TokenState",
    "reply",
]
