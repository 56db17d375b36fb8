"""Moshi: temporal transformer, depth decoder, and the whole model."""

from .conditional import MoshiForConditionalGeneration
from .conditions import ConditionProvider, Conditions
from .configuration import MoshiConfig, MoshiDepthConfig
from .decoder import MoshiForCausalLM, MoshiModel
from .depth import MoshiDepthDecoder
from .generation import AudioStreamer
from .outputs import (
    MoshiCausalLMOutputWithPast,
    MoshiConditionalGenerationGenerateOutput,
    MoshiConditionalGenerationOutputWithPast,
    MoshiTrainingInputs,
    MoshiUnconditionalInput,
)

__all__ = [
    "AudioStreamer",
    "ConditionProvider",
    "Conditions",
    "MoshiCausalLMOutputWithPast",
    "MoshiConditionalGenerationGenerateOutput",
    "MoshiConditionalGenerationOutputWithPast",
    "MoshiConfig",
    "MoshiDepthConfig",
    "MoshiDepthDecoder",
    "MoshiForCausalLM",
    "MoshiForConditionalGeneration",
    "MoshiModel",
    "MoshiTrainingInputs",
    "MoshiUnconditionalInput",
]
