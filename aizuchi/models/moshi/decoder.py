"""The temporal transformer: one position a frame. `MoshiModel` is its body, `MoshiForCausalLM` adds text logits.

Choices: pre-norm layers, RMS norms in float32, gated feed-forward, rotary positions, a sliding window that
holds in prefill, in chunks and step by step alike, optional cross-attention to a condition.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, GenerationMixin
from transformers.cache_utils import Cache
from transformers.masking_utils import create_sliding_window_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast

from ...kernels.few import few_rows, prepared
from ..cache import FusedPlan, Plan, RingCache, SequenceCache
from ..layers import GatedMLP, TokenEmbedding, make_norm, rotary_angles
from .attention import CrossAttention, SelfAttention, linear_maker
from .base import REST_OF_THE_WHOLE, MoshiPreTrainedModel
from .caches import check_cache, check_ring, from_legacy, to_legacy
from .configuration import MoshiConfig
from .fused import fused_temporal
from .losses import causal_text_loss
from .outputs import MoshiCausalLMOutputWithPast
from .resize import resize_text_vocabulary
from .validation import check_embeds, check_ids, check_one_of


class MoshiDecoderLayer(GradientCheckpointingLayer):
    """Self-attention, optional cross-attention, gated feed-forward; pre-norm, residual."""

    def __init__(self, config: Any, layer_idx: int, per_codebook: bool = False):
        super().__init__()
        hidden = config.hidden_size
        self.self_attn = SelfAttention(config, layer_idx, per_codebook)
        self.mlp = GatedMLP(hidden, config.ffn_dim, config.hidden_act, linear_maker(config, per_codebook))
        self.input_layernorm = make_norm(config.norm_type, hidden, config.rms_norm_eps)
        self.post_attention_layernorm = make_norm(config.norm_type, hidden, config.rms_norm_eps)
        if getattr(config, "cross_attention", False):
            self.cross_attention = CrossAttention(config)
            self.norm_cross = nn.LayerNorm(hidden, eps=1e-5)

    def forward(
        self,
        x: Tensor,
        plan: Plan,
        angles: tuple[Tensor, Tensor] | None = None,
        condition: Any = None,
        output_attentions: bool = False,
        **step: int,
    ) -> tuple[Tensor, Tensor | None]:
        """x: (rows, T, H). ``condition``: keys and values of the cross-attention."""
        update, weights = self.self_attn(self.input_layernorm(x), plan, angles, output_attentions, **step)
        x = x + update
        if condition is not None:
            x = x + self.cross_attention(self.norm_cross(x), condition)
        return x + self.mlp(self.post_attention_layernorm(x), **step), weights


class MoshiModel(MoshiPreTrainedModel):
    """The temporal transformer without a head.

    Besides the documented use (``input_ids`` or ``inputs_embeds``, ``past_key_values``), it streams: pass
    ``state``, a :class:`RingCache` from :meth:`init_state`, and one position or more at a time.
    """

    config_class = MoshiConfig
    _part_prefix = "decoder.model."
    _keys_to_ignore_on_load_unexpected: ClassVar = [*REST_OF_THE_WHOLE, r"^(decoder\.)?lm_head\."]

    def __init__(self, config: MoshiConfig):
        super().__init__(config)
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = TokenEmbedding(
            config.vocab_size + 1, config.hidden_size, demux=config.demux_second_text_stream
        )
        self.layers = nn.ModuleList(MoshiDecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = make_norm(config.norm_type, config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embed_tokens = value

    def init_state(
        self,
        rows: int,
        device: Any = None,
        dtype: Any = None,
        chunk: int = 1,
        sinks: int = 0,
        kv: str | None = None,
    ) -> RingCache:
        """An empty ring over ``sliding_window`` frames for ``rows`` conversations.

        ``sinks``: first frames that stay visible for good, beside the window. ``kv``: "int8" to hold keys and values
        in 8 bits.
        """
        config = self.config
        ring = RingCache.create(
            rows,
            config.num_hidden_layers,
            config.num_key_value_heads,
            config.head_dim,
            config.sliding_window,
            chunk=chunk,
            device=device or self.device,
            dtype=dtype or self.dtype,
            sinks=sinks,
            rope_theta=config.rope_theta,
            kv=kv,
        )
        ring.fused = prepared(
            self, "layers", lambda: fused_temporal(self), [*self.parameters(), *self.buffers()]
        )
        return ring

    def cross_keys_values(self, source: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of every layer's cross-attention, from a condition (rows, S, H)."""
        return [layer.cross_attention.keys_values(source) for layer in self.layers]

    def run(
        self,
        x: Tensor,
        plan: Plan | FusedPlan,
        condition: Any = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> tuple[Tensor, tuple[Tensor, ...] | None, tuple[Tensor, ...] | None]:
        """The layers and the final norm over embeddings (rows, T, H), whatever holds the past."""
        if isinstance(plan, FusedPlan):
            if condition is None and not output_attentions and not output_hidden_states:
                return plan.run(x), None, None
            plan = plan.unfused()
        angles = rotary_angles(plan.positions, self.config.head_dim, self.config.rope_theta)
        states: list[Tensor] = []
        attentions: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            if output_hidden_states:
                states.append(x)
            layer_condition = None if condition is None else condition[i]
            x, weights = layer(x, plan, angles, layer_condition, output_attentions)
            if weights is not None:
                attentions.append(weights)
        x = self.norm(x)
        if output_hidden_states:
            states.append(x)
        return (
            x,
            tuple(states) if output_hidden_states else None,
            tuple(attentions) if output_attentions else None,
        )

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache_position: Tensor | None = None,
        condition: Any = None,
        state: RingCache | None = None,
        active: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Hidden states of (B, T) text ids or (B, T, H) embeddings.

        Args:
            attention_mask: (B, past + T), 1 = look at it, 0 = padding.
            past_key_values: a transformers ``Cache``, or a legacy tuple of (key, value) (B, kv_heads, S, head_dim)
                for each layer; what goes in comes out. None with ``use_cache`` gives a ``DynamicCache``.
            condition: keys and values for the cross-attention, from :meth:`cross_keys_values`.
            state, active: a ring of :meth:`init_state` instead of the other caches, and its active rows.
            cache_position: accepted for compatibility; positions follow from the cache.
        Returns:
            ``BaseModelOutputWithPast``; ``hidden_states`` are num_hidden_layers + 1, the last one normed.
        Raises:
            ValueError: neither or both of ids and embeddings, ids out of range, a cache of another model.
        """
        config = self.config
        check_one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        output_attentions = config.output_attentions if output_attentions is None else output_attentions
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states
        return_dict = config.return_dict if return_dict is None else return_dict
        use_cache = config.use_cache if use_cache is None else use_cache
        if inputs_embeds is None:
            check_ids("input_ids", input_ids, self.embed_tokens, demux=config.demux_second_text_stream)
            inputs_embeds = self.embed_tokens(input_ids)
        check_embeds("inputs_embeds", inputs_embeds, config.hidden_size)
        if config.cross_attention and condition is None:
            raise ValueError("This model attends to a condition: pass `condition` (see `cross_keys_values`).")
        if self.gradient_checkpointing and self.training:
            use_cache = False
        if state is not None:
            if any(x is not None for x in (past_key_values, attention_mask, position_ids)):
                raise ValueError(
                    "`state` holds past, mask and positions itself: pass none of them beside it."
                )
            check_ring(state, config, inputs_embeds.shape[0])
            plan: Plan | FusedPlan = state.begin(inputs_embeds.shape[1], active)
            past, legacy = None, False
        else:
            past, legacy = self._past(past_key_values, use_cache, inputs_embeds.shape[0])
            plan = self._sequence_plan(inputs_embeds, attention_mask, position_ids, past, output_attentions)
        x, states, attentions = self.run(
            inputs_embeds, plan, condition, output_attentions, output_hidden_states
        )
        if not use_cache:
            past = None
        elif legacy:
            past = to_legacy(past)
        outputs = BaseModelOutputWithPast(
            last_hidden_state=x, past_key_values=past, hidden_states=states, attentions=attentions
        )
        return outputs if return_dict else outputs.to_tuple()

    def _past(self, past: Any, use_cache: bool, rows: int) -> tuple[Cache | None, bool]:
        """The cache to work on, and whether it came as a legacy tuple."""
        if past is None:
            return (DynamicCache(config=self.config) if use_cache else None), False
        if isinstance(past, RingCache):
            raise ValueError("`past_key_values` is a ring: pass it as `state`.")
        if isinstance(past, tuple | list):
            return from_legacy(past, self.config, rows), True
        check_cache(past, self.config, rows)
        return past, False

    def _sequence_plan(
        self, x: Tensor, mask: Tensor | None, position_ids: Tensor | None, past: Cache | None, weights: bool
    ) -> SequenceCache:
        """Positions and mask of new embeddings (B, T, H) after ``past``."""
        seen = past.get_seq_length() if past is not None else 0
        rows, length = x.shape[:2]
        if mask is not None and mask.dim() == 2 and mask.shape[1] not in (length, seen + length):
            raise ValueError(
                f"`attention_mask` covers {mask.shape[1]} positions, but there are {seen} cached and {length} new."
            )
        if mask is not None and mask.dim() == 2 and mask.shape[1] != seen + length:
            mask = torch.cat([mask.new_ones(rows, seen), mask], dim=1)
        if position_ids is None:
            position_ids = torch.arange(seen, seen + length, device=x.device)[None]
            if mask is not None and mask.dim() == 2:
                # Left padding must not move a row: its first real token is position 0.
                position_ids = (mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]
        full = create_sliding_window_causal_mask(
            config=self.config,
            inputs_embeds=x,
            attention_mask=None if x.is_meta else mask,  # there are no values to read
            past_key_values=past,
            position_ids=None,
            allow_is_causal_skip=not weights,
        )
        return SequenceCache(position_ids, full, past)


class MoshiForCausalLM(MoshiPreTrainedModel, GenerationMixin):
    """The temporal transformer with text logits: a plain text language model (Helium) when nothing else is fed."""

    config_class = MoshiConfig
    _part_prefix = "decoder."
    _keys_to_ignore_on_load_unexpected: ClassVar = REST_OF_THE_WHOLE

    def __init__(self, config: MoshiConfig):
        super().__init__(config)
        self.model = MoshiModel(config)
        self.vocab_size = config.vocab_size
        # Tied, the head is the embedding without the initial token's row, which can't be produced.
        if config.tie_word_embeddings:
            self.lm_head = None
        else:
            self.lm_head = nn.Linear(config.hidden_size, config.text_output_size, bias=False)
        self.post_init()

    def text_logits(self, hidden: Tensor) -> Tensor:
        """(..., H) -> (..., V)."""
        if self.lm_head is not None:
            few = few_rows(self.lm_head, hidden) if hidden.dim() == 2 else None
            return self.lm_head(hidden) if few is None else few
        return F.linear(hidden, self.model.embed_tokens.weight[: self.config.text_output_size])

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.embed_tokens = value

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.lm_head = value

    def get_decoder(self) -> MoshiModel:
        return self.model

    def set_decoder(self, decoder: MoshiModel) -> None:
        self.model = decoder

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any
    ) -> nn.Module:
        """Resize to ``new_num_tokens`` text ids; the initial token stays behind the last of them."""
        return resize_text_vocabulary(self.config, new_num_tokens, self.model, "embed_tokens", head_of=self)

    def init_state(self, rows: int, **kwargs: Any) -> RingCache:
        """See :meth:`MoshiModel.init_state`."""
        return self.model.init_state(rows, **kwargs)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        num_logits_to_keep: int | Tensor = 0,
        logits_to_keep: int | Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Text logits, and the loss when ``labels`` (B, T) are given (shifted inside; -100 is not learned).

        Args:
            num_logits_to_keep, logits_to_keep: how many of the last positions get logits, or their indices;
                0 = all.
        """
        return_dict = self.config.return_dict if return_dict is None else return_dict
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            **kwargs,
        )
        keep = num_logits_to_keep if logits_to_keep is None else logits_to_keep
        hidden = outputs.last_hidden_state
        logits = self.text_logits(hidden[:, slice(-keep, None) if isinstance(keep, int) else keep])
        loss = None
        if labels is not None:
            if logits.shape[1] != labels.shape[1]:
                raise ValueError("`labels` need the logits of all positions: leave `logits_to_keep` at 0.")
            check_ids("labels", labels, self.model.embed_tokens, ignored=True)
            loss = causal_text_loss(logits, labels, self.config)
        result = MoshiCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            last_hidden_state=hidden,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        return result if return_dict else result.to_tuple()
