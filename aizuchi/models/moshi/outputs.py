"""Output classes under their documented names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class MoshiCausalLMOutputWithPast(ModelOutput):
    """Text logits.

    ``loss``: scalar, with labels. ``logits``: (B, T, V). ``last_hidden_state``: (B, T, H).
    ``hidden_states``: num_hidden_layers + 1 of (B, T, H). ``attentions``: a layer each (B, heads, T, S).
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    past_key_values: Any = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class MoshiConditionalGenerationOutputWithPast(ModelOutput):
    """Text logits, and with labels the depth decoder's.

    ``loss``: the weighted sum of ``text_loss`` and ``depth_loss``, scalars, each normalised by its own weights.
    ``logits``: (B, T, V). ``last_hidden_state``: (B, T, H). ``audio_logits``: (B * (T - 1), K, A), row
    b * (T - 1) + t being the prediction of column t + 1. ``depth_*`` are the depth decoder's own.
    ``extra_logits``: a tensor (B, T, extra_heads_dim) for each extra head, where the model has them.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    past_key_values: Any = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    depth_loss: Tensor | None = None
    audio_logits: Tensor | None = None
    depth_past_key_values: Any = None
    depth_hidden_states: tuple[Tensor, ...] | None = None
    depth_attentions: tuple[Tensor, ...] | None = None
    text_loss: Tensor | None = None
    extra_logits: tuple[Tensor, ...] | None = None


@dataclass
class MoshiConditionalGenerationGenerateOutput(ModelOutput):
    """What ``generate`` returns.

    ``audio_sequences``: (B, 1, 1920 F) waveforms. ``sequences``: (B, L) text ids, the prompt included.
    ``audio_codes``: (B, K, F), undelayed, the codes that decode to ``audio_sequences``; rows that ended earlier
    or began later are filled with the initial token A and sound as silence there. ``scores``, ``logits``: one
    (B, V) a step. ``attentions``, ``hidden_states``: one tuple a step. ``sequences_scores`` and
    ``beam_indices`` stay None: beams are refused where audio is made.
    """

    audio_sequences: Tensor | None = None
    sequences: Tensor | None = None
    sequences_scores: Tensor | None = None
    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    beam_indices: Tensor | None = None
    attentions: tuple[Any, ...] | None = None
    hidden_states: tuple[Any, ...] | None = None
    past_key_values: Any = None
    audio_codes: Tensor | None = None


@dataclass
class MoshiUnconditionalInput(ModelOutput):
    """The column before a conversation: ``input_ids`` (n, 1), both codes (n, K, 1), ``attention_mask`` (n, 1)."""

    input_ids: Tensor | None = None
    user_audio_codes: Tensor | None = None
    moshi_audio_codes: Tensor | None = None
    attention_mask: Tensor | None = None


@dataclass
class MoshiTrainingInputs(ModelOutput):
    """Columns and their labels, ready for ``forward(**inputs)``.

    ``input_ids``, ``text_labels``: (B, T). ``moshi_audio_codes``, ``user_audio_codes``, ``audio_labels``:
    (B, codebooks, T).
    """

    input_ids: Tensor | None = None
    moshi_audio_codes: Tensor | None = None
    user_audio_codes: Tensor | None = None
    text_labels: Tensor | None = None
    audio_labels: Tensor | None = None
