"""The depth decoder: a small transformer along the codebooks of one frame, with weights of its own for each.

Step 0 reads the frame's text token, step k > 0 codebook k - 1; every step also reads the temporal model's hidden
state through a projection of its own, and predicts codebook k.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import DynamicCache, GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from ...kernels.few import prepared
from ...kernels.stack import FusedDepth, Past, try_fused, wanted
from ...kernels.weights import Prepared
from ..cache import Plan, SequenceCache, window_mask
from ..layers import PerCodebookLinear, TokenEmbedding, make_norm
from ..state import State
from .base import REST_OF_THE_WHOLE, MoshiPreTrainedModel
from .caches import check_cache, from_legacy, to_legacy
from .configuration import MoshiDepthConfig
from .decoder import MoshiDecoderLayer
from .fused import fused_depth
from .losses import audio_loss_parts, normalised
from .validation import check_embeds, check_one_of, check_range


@dataclass
class DepthState(State):
    """Keys and values of one frame, per layer (rows, kv_heads, K, head_dim), written anew each frame."""

    keys: list[Tensor]
    values: list[Tensor]
    fused: Prepared | None = (
        None  # gives a `FusedDepth`, the steps in one call each, where the library has them
    )

    def steps(self) -> tuple[FusedDepth, Past] | None:
        """The library's steps and its view of these buffers; None where torch has to do it."""
        fused = self.fused.get() if self.fused is not None and wanted() else None
        if fused is None:
            return None
        if not hasattr(self, "_view"):
            self._view = try_fused(Past, self.keys, self.values)
        return None if self._view is None else (fused, self._view)


class _FrameStep:
    """Codebook step ``index`` of a frame: writes slot ``index``, sees slots 0 to ``index``."""

    positions = torch.zeros(1, 1, dtype=torch.long)
    mask = None

    def __init__(self, state: DepthState, index: int):
        self.state, self.index = state, index

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        here = slice(self.index, self.index + 1)
        seen = slice(0, self.index + 1)
        self.state.keys[layer][:, :, here] = keys
        self.state.values[layer][:, :, here] = values
        return self.state.keys[layer][:, :, seen], self.state.values[layer][:, :, seen]


class MoshiDepthDecoder(MoshiPreTrainedModel, GenerationMixin):
    """The depth decoder. `forward` is the documented call; `write_frame` writes a frame, codebook by codebook."""

    config_class = MoshiDepthConfig
    main_input_name = "input_ids"
    input_modalities = ("text", "audio")
    _part_prefix = "depth_decoder."
    _keys_to_ignore_on_load_unexpected: ClassVar = [*REST_OF_THE_WHOLE, r"^decoder\."]

    def __init__(self, config: MoshiDepthConfig):
        super().__init__(config)
        hidden, rank = config.hidden_size, config.low_rank_embeddings
        self.text_embed_tokens = TokenEmbedding(
            config.vocab_size + 1, hidden, low_rank=rank, demux=config.demux_second_text_stream
        )
        # The last codebook is never an input of its own frame.
        self.embed_tokens = nn.ModuleList(
            TokenEmbedding(config.audio_vocab_size + 1, hidden, low_rank=rank)
            for _ in range(config.num_codebooks - 1)
        )
        self.input_projections = PerCodebookLinear(
            config.input_size, hidden, config.num_step_weights, config.weights_per_step_schedule
        )
        self.layers = nn.ModuleList(
            MoshiDecoderLayer(config, i, per_codebook=True) for i in range(config.num_hidden_layers)
        )
        self.norms = None
        if config.output_norm is not None:
            self.norms = nn.ModuleList(
                make_norm(config.output_norm, hidden) for _ in range(config.num_codebooks)
            )
        self.lm_heads = PerCodebookLinear(hidden, config.audio_vocab_size, config.num_codebooks)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.text_embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_embed_tokens = value

    def init_state(self, rows: int, device: Any = None, dtype: Any = None, fused: bool = True) -> DepthState:
        """Buffers for the keys and values of one frame of ``rows`` conversations.

        ``fused``: let the library run the steps, where it can.
        """
        config = self.config
        shape = (rows, config.num_key_value_heads, config.num_codebooks, config.head_dim)
        make = dict(device=device or self.device, dtype=dtype or self.dtype)
        sources = [*self.parameters(), *self.buffers()]
        return DepthState(
            keys=[torch.zeros(shape, **make) for _ in range(config.num_hidden_layers)],
            values=[torch.zeros(shape, **make) for _ in range(config.num_hidden_layers)],
            fused=prepared(self, "steps", lambda: fused_depth(self), sources) if fused else None,
        )

    def _layers(self, x: Tensor, plan: Plan, first: int) -> Tensor:
        for layer in self.layers:
            x, _ = layer(x, plan, first=first)
        return x

    def _head(self, x: Tensor, first: int) -> Tensor:
        """(rows, S, hidden) of steps from ``first`` on -> logits (rows, S, A)."""
        if self.norms is not None:
            x = torch.stack([self.norms[first + s](x[:, s]) for s in range(x.shape[1])], dim=1)
        return self.lm_heads(x, first=first)

    def embed(self, tokens: Tensor, hidden: Tensor, first: int = 0) -> Tensor:
        """Inputs of steps ``first``, ...: tokens (rows, S), hidden (rows, 1 or S, input_size) -> (rows, S, width)."""
        parts = []
        for s in range(tokens.shape[1]):
            table = self.text_embed_tokens if first + s == 0 else self.embed_tokens[first + s - 1]
            parts.append(table(tokens[:, s]))
        hidden = hidden.expand(-1, tokens.shape[1], -1)
        return torch.stack(parts, dim=1) + self.input_projections(hidden, first=first)

    def teacher_forced(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        """Logits (rows, K, A) of whole frames: tokens (rows, K) are text, then codebooks 0 to K - 2."""
        plan = SequenceCache(torch.zeros_like(tokens), None)
        return self._head(self._layers(self.embed(tokens, hidden), plan, first=0), first=0)

    def write_frame(
        self,
        text: Tensor,
        hidden: Tensor,
        choose: Callable[[Tensor, int], Tensor],
        state: DepthState | None = None,
        steps: int | None = None,
    ) -> Tensor:
        """Write the codes of one frame.

        Args:
            text: (rows,) this frame's text ids. hidden: (rows, 1, input_size) of the temporal model.
            choose: (logits (rows, A), codebook) -> ids (rows,): the sampling, or what is forced.
            state: buffers of :meth:`init_state`, written anew; None makes them.
            steps: stop after this many codebooks; None = all.
        Returns:
            (rows, steps) codes
        """
        if state is None:
            state = self.init_state(text.shape[0], dtype=hidden.dtype, fused=False)
        token, codes = text, []
        fused = state.steps()
        wide = hidden if fused is None else hidden.float().contiguous()
        for k in range(self.config.num_codebooks if steps is None else steps):
            if fused is not None:
                logits = fused[0].step(k, token, wide, fused[1])
            else:
                x = self._layers(self.embed(token[:, None], hidden, first=k), _FrameStep(state, k), first=k)
                logits = self._head(x, first=k)[:, 0]
            token = choose(logits, k)
            codes.append(token)
        return torch.stack(codes, dim=1)

    def forward(
        self,
        input_ids: Tensor | None = None,
        last_hidden_state: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        cache_position: Tensor | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> Any:
        """Logits of codebook steps.

        Args:
            input_ids: (B, S) the text id, then codes; with a cache, those of the next steps.
            last_hidden_state: (B, 1, input_size) hidden state of the temporal model.
            inputs_embeds: (B, S, hidden_size) token embeddings instead of ids.
            labels: (B, S) the codes that these steps predict (not shifted: the step's own input is the code
                before); -100, -1 and the initial token are not learned.
            attention_mask, position_ids, cache_position: accepted for compatibility; a frame has no padding.
        Returns:
            ``CausalLMOutputWithPast`` with logits (B, S, audio_vocab_size)
        Raises:
            ValueError: more steps than codebooks, ids that a step has no row for, a missing hidden state.
        """
        config = self.config
        check_one_of(input_ids=input_ids, inputs_embeds=inputs_embeds)
        if last_hidden_state is None:
            raise ValueError("`last_hidden_state` (batch, 1, input_size) must be given.")
        check_embeds("last_hidden_state", last_hidden_state, config.input_size)
        output_attentions = config.output_attentions if output_attentions is None else output_attentions
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states
        use_cache = config.use_cache if use_cache is None else use_cache
        legacy = isinstance(past_key_values, tuple | list)
        rows, steps = (input_ids if inputs_embeds is None else inputs_embeds).shape[:2]
        past = from_legacy(past_key_values, config, rows) if legacy else past_key_values
        if past is None and use_cache and not (self.gradient_checkpointing and self.training):
            past = DynamicCache()
        elif past is not None and not legacy:
            check_cache(past, config, rows)
        first = past.get_seq_length() if past is not None else 0
        first = int(first)  # a static cache counts in a tensor
        if first + steps > config.num_codebooks:
            raise ValueError(
                f"A frame has `num_codebooks={config.num_codebooks}` steps (the text token, then all codes but the "
                f"last): step {first + steps} was asked for. Generate at most {config.num_codebooks} codes."
            )
        if inputs_embeds is None:
            self._check_tokens(input_ids, first)
            x = self.embed(input_ids, last_hidden_state, first)
        else:
            check_embeds("inputs_embeds", inputs_embeds, config.hidden_size)
            projected = self.input_projections(last_hidden_state.expand(-1, steps, -1), first=first)
            x = inputs_embeds + projected
        plan = self._plan(x, past, first)
        states, attentions = [], []
        for layer in self.layers:
            states.append(x)
            x, weights = layer(x, plan, None, None, output_attentions, first=first)
            attentions.append(weights)
        states.append(x)
        logits = self._head(x, first)
        loss = None if labels is None else self._loss(logits, labels)
        logits = logits[:, -logits_to_keep:]
        cache = None
        if use_cache and past is not None:
            cache = to_legacy(past) if legacy else past
        outputs = CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=cache,
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )
        return_dict = config.return_dict if return_dict is None else return_dict
        return outputs if return_dict else outputs.to_tuple()

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of logits (B, S, A) for labels (B, S)."""
        if labels.shape != logits.shape[:2]:
            raise ValueError(
                f"`labels` {tuple(labels.shape)} must label each of the {tuple(logits.shape[:2])} steps."
            )
        check_range("labels", labels, -100, self.config.audio_vocab_size)
        return normalised(*audio_loss_parts(logits, labels, self.config))

    def _plan(self, x: Tensor, past: Any, first: int) -> SequenceCache:
        positions = torch.arange(first, first + x.shape[1], device=x.device)[None]
        if past is None:
            return SequenceCache(positions, None)
        length, offset = past.get_mask_sizes(x.shape[1], 0)
        keys = torch.arange(offset, offset + length, device=x.device)[None]
        return SequenceCache(positions, window_mask(positions, keys, None), past)

    def _check_tokens(self, ids: Tensor, first: int) -> None:
        if ids.dim() != 2:
            raise ValueError(f"`input_ids` must have shape (batch, steps), got {tuple(ids.shape)}.")
        codes = ids
        if first == 0:
            size = self.text_embed_tokens.num_embeddings
            check_range(
                "input_ids",
                ids[:, :1],
                -1,
                size * (size + 1) - 1 if self.text_embed_tokens.demux else size - 1,
            )
            codes = ids[:, 1:]
        check_range("input_ids", codes, -1, self.config.audio_vocab_size)
