"""Making transformers' Auto classes resolve to ours."""

from __future__ import annotations


def register() -> None:
    """After this, ``AutoConfig``, ``AutoModel`` and ``AutoModelForCausalLM`` give our classes for Moshi and Mimi.

    Feature extractor and tokenizer are transformers' own and stay registered as they are.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    from .mimi import MimiConfig, MimiModel
    from .moshi import (
        MoshiConfig,
        MoshiDepthConfig,
        MoshiDepthDecoder,
        MoshiForCausalLM,
        MoshiModel,
    )

    for config in (MoshiConfig, MoshiDepthConfig, MimiConfig):
        AutoConfig.register(config.model_type, config, exist_ok=True)
    AutoModel.register(MoshiConfig, MoshiModel, exist_ok=True)
    AutoModel.register(MoshiDepthConfig, MoshiDepthDecoder, exist_ok=True)
    AutoModel.register(MimiConfig, MimiModel, exist_ok=True)
    AutoModelForCausalLM.register(MoshiConfig, MoshiForCausalLM, exist_ok=True)
