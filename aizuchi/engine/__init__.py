"""The real-time engine: frames of many conversations, one step at a time."""

from .duplex import DuplexEngine, EngineState, StepOutput
from .reply import Reply, reply
from .sampling import Sampling
from .speech import Speaker, Speech, SpokenFrame, speak, speak_frames
from .tokens import Guidance, TokenLoop, TokenOutput, TokenState
from .transcription import Transcriber, transcribe, transcribe_frames

__all__ = [
    "DuplexEngine",
    "EngineState",
    "Guidance",
    "Reply",
    "Sampling",
    "Speaker",
    "Speech",
    "SpokenFrame",
    "StepOutput",
    "TokenLoop",
    "TokenOutput",
    "TokenState",
    "Transcriber",
    "reply",
    "speak",
    "speak_frames",
    "transcribe",
    "transcribe_frames",
]
