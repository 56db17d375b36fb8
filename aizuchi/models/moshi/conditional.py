"""The whole model: Mimi, the temporal transformer over all streams, and the depth decoder.

`forward` sees columns (see delays.py); `generate` takes time-aligned frames; the engine calls `frame_step`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, GenerationMixin

from ...kernels.few import sum_of_entries
from ..cache import RingCache
from ..layers import TokenEmbedding
from ..mimi import MimiModel
from ..stored import make_room
from .base import MoshiPreTrainedModel
from .conditions import ConditionProvider, Conditions
from .configuration import MoshiConfig
from .decoder import MoshiForCausalLM, MoshiModel
from .delays import apply_delay_pattern_mask, build_delay_pattern_mask
from .depth import MoshiDepthDecoder
from .generation import DuplexGeneration
from .losses import audio_loss_parts, normalised, text_loss_parts
from .outputs import MoshiConditionalGenerationOutputWithPast, MoshiUnconditionalInput
from .resize import resize_embedding, resize_text_vocabulary
from .training import TrainingInputs
from .validation import check_codes, check_embeds, check_ids, check_range, check_same_length


class MoshiForConditionalGeneration(DuplexGeneration, TrainingInputs, MoshiPreTrainedModel, GenerationMixin):
    """Moshi and its relatives: text and audio in, text and audio out, frame by frame."""

    config_class = MoshiConfig
    main_input_name = "input_ids"
    input_modalities = ("audio", "text")
    output_modalities = ("audio", "text")
    # As in the original. In bfloat16 the codec would give other codes for every tenth.
    _keep_in_fp32_modules_strict = ["condition_provider", "audio_encoder"]

    def __init__(self, config: MoshiConfig):
        super().__init__(config)
        # The model's own codebooks first, then the user's.
        self.embed_tokens = nn.ModuleList(
            TokenEmbedding(config.audio_vocab_size + 1, config.hidden_size)
            for _ in range(config.num_input_codebooks)
        )
        mimi = config.audio_encoder_config.model_type == "mimi"
        self.audio_encoder = (MimiModel if mimi else AutoModel.from_config)(config.audio_encoder_config)
        self.decoder = MoshiForCausalLM(config)
        self.depth_decoder = None
        if config.depth_decoder_config is not None:
            self.depth_decoder = MoshiDepthDecoder(config.depth_decoder_config)
        self.extra_heads = nn.ModuleList(
            nn.Linear(config.hidden_size, config.extra_heads_dim, bias=False)
            for _ in range(config.extra_heads_num_heads)
        )
        self.condition_provider = None
        if config.conditioners:
            self.condition_provider = ConditionProvider(config.conditioners, config.fuser, config.hidden_size)
        self.num_codebooks = config.num_codebooks
        make_room(self)
        self.post_init()

    # -- parts ---------------------------------------------------------------------------------------------
    def get_audio_encoder(self) -> nn.Module:
        """The codec."""
        return self.audio_encoder

    def get_depth_decoder(self) -> MoshiDepthDecoder | None:
        """The depth decoder, None in families without one."""
        return self.depth_decoder

    def get_decoder(self) -> MoshiForCausalLM:
        """The temporal transformer with its text head."""
        return self.decoder

    def get_input_embeddings(self) -> nn.Module:
        return self.decoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.decoder.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.decoder.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.decoder.set_output_embeddings(value)

    def freeze_audio_encoder(self) -> None:
        """Take the codec out of training."""
        self.audio_encoder.requires_grad_(False)

    def freeze_depth_decoder(self) -> None:
        """Take the depth decoder out of training."""
        if self.depth_decoder is not None:
            self.depth_decoder.requires_grad_(False)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any
    ) -> nn.Module:
        """Resize the text vocabulary everywhere; the initial token stays behind the last id."""
        resized = resize_text_vocabulary(
            self.config, new_num_tokens, self.decoder.model, "embed_tokens", head_of=self.decoder
        )
        depth = self.depth_decoder
        if depth is not None and new_num_tokens and depth.config.vocab_size != new_num_tokens:
            resize_embedding(depth.text_embed_tokens, new_num_tokens, depth.config.initializer_range)
            depth.config.vocab_size = new_num_tokens
        return resized

    def build_delay_pattern_mask(
        self, input_ids: Tensor, bos_token_id: int, pad_token_id: int, max_length: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `delays.build_delay_pattern_mask`."""
        max_length = self.generation_config.max_length if max_length is None else max_length
        return build_delay_pattern_mask(input_ids, bos_token_id, pad_token_id, max_length)

    apply_delay_pattern_mask = staticmethod(apply_delay_pattern_mask)

    def get_unconditional_inputs(self, num_samples: int = 1) -> MoshiUnconditionalInput:
        """The column of initial tokens that every conversation starts from."""
        config, device = self.config, self.device

        def full(*shape: int, value: int) -> Tensor:
            return torch.full(shape, value, dtype=torch.long, device=device)

        return MoshiUnconditionalInput(
            input_ids=full(num_samples, 1, value=config.vocab_size),
            user_audio_codes=full(num_samples, config.num_user_codebooks, 1, value=config.audio_vocab_size),
            moshi_audio_codes=full(num_samples, config.num_model_codebooks, 1, value=config.audio_vocab_size),
            attention_mask=full(num_samples, 1, value=1),
        )

    # -- pieces of a forward -------------------------------------------------------------------------------
    @property
    def initial_tokens(self) -> Tensor:
        """(1 + num_input_codebooks,) the initial token of each stream."""
        audio = [self.config.audio_vocab_size] * self.config.num_input_codebooks
        return torch.tensor([self.config.vocab_size, *audio], device=self.device)

    def init_state(self, rows: int, **kwargs: Any) -> RingCache:
        """An empty ring for the temporal transformer, see :meth:`MoshiModel.init_state`."""
        return self.decoder.model.init_state(rows, **kwargs)

    @property
    def temporal(self) -> MoshiModel:
        """The temporal transformer without its head."""
        return self.decoder.model

    def embed_columns(self, columns: Tensor, condition_sum: Tensor | None = None) -> Tensor:
        """Columns (B, 1 + num_input_codebooks, T) -> the temporal model's input (B, T, H)."""
        if columns.shape[2] == 1 and condition_sum is None:
            tables = [self.temporal.embed_tokens, *self.embed_tokens]
            few = sum_of_entries(self, tables, columns[:, :, 0])
            if few is not None:
                return few[:, None]
        x = self.embed_tokens[0](columns[:, 1])
        for i, table in enumerate(self.embed_tokens[1:], start=2):
            x = x + table(columns[:, i])
        x = x + self.temporal.embed_tokens(columns[:, 0])
        return x if condition_sum is None else x + condition_sum.to(x)

    def prepare_conditions(self, rows: list[dict[str, Any]]) -> Conditions:
        """Conditions of each row, by name, ready for `forward`; see `ConditionProvider`."""
        if self.condition_provider is None:
            raise ValueError("This model has no conditions (`config.conditioners` is empty).")
        return self.condition_provider(rows)

    def _resolve_conditions(self, conditions: Any, rows: int) -> Conditions:
        if self.condition_provider is None:
            if conditions is not None:
                raise ValueError("`conditions` were given, but `config.conditioners` is empty.")
            return Conditions()
        if conditions is None:
            raise ValueError(
                f"This model needs `conditions`: one dict a row naming {list(self.condition_provider.conditioners)}."
            )
        if not isinstance(conditions, Conditions):
            conditions = self.prepare_conditions(conditions)
        return conditions.expand(rows)

    def _check_columns(self, text: Tensor | None, moshi: Tensor | None, user: Tensor | None) -> None:
        config = self.config
        sizes = {
            "moshi_audio_codes": (moshi, config.num_model_codebooks),
            "user_audio_codes": (user, config.num_user_codebooks),
        }
        missing = [name for name, (codes, count) in sizes.items() if count and codes is None]
        if missing:
            raise ValueError(
                f"`{missing[0]}` (or its waveform) is missing: the model reads every stream at each step. "
                "See `get_unconditional_inputs` for the initial tokens."
            )
        for name, (codes, count) in sizes.items():
            if codes is not None:
                check_codes(name, codes, count, config.audio_vocab_size)
        if text is not None:
            check_ids("input_ids", text, self.temporal.embed_tokens, demux=config.demux_second_text_stream)
            check_same_length(input_ids=text, moshi_audio_codes=moshi, user_audio_codes=user)
        else:
            check_same_length(moshi_audio_codes=moshi, user_audio_codes=user)
        rows = {t.shape[0] for t in (text, moshi, user) if t is not None}
        if len(rows) > 1:
            raise ValueError(f"The streams have different batch sizes: {sorted(rows)}.")

    # -- the documented forward ----------------------------------------------------------------------------
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        user_input_values: Tensor | None = None,
        user_audio_codes: Tensor | None = None,
        moshi_input_values: Tensor | None = None,
        moshi_audio_codes: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        text_labels: Tensor | None = None,
        audio_labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        conditions: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Text logits of columns, and with labels the losses of text and audio.

        Args:
            input_ids: (B, T) text ids of each column.
            attention_mask: (B, past + T), 0 = padding.
            user_audio_codes, moshi_audio_codes: (B, K, T) codes of each column, initial tokens and delays
                already applied. They have priority over the waveforms.
            user_input_values, moshi_input_values: (B, 1, S) waveforms; encoded, then laid out as columns.
            inputs_embeds: (B, T, H) the sum of all embeddings, instead of all of the above.
            text_labels: (B, T), audio_labels: (B, K, T): columns again, shifted inside. Never learned: -100,
                -1, and the initial tokens. Each alone gives its own loss; audio labels need codes or waveforms
                and ``input_ids``, since the depth decoder reads the inputs of the column it predicts.
            conditions: what `prepare_conditions` gives, or what it takes.
            kwargs: ``decoder_*``, ``depth_*`` or ``depth_decoder_*``, ``audio_encoder_*`` go to the parts;
                the rest (``position_ids``, ``num_logits_to_keep``, ...) to the temporal decoder.
        Raises:
            ValueError: a stream is missing, lengths differ, ids out of range; the message names the argument.
        """
        config = self.config
        parts = _by_prefix(kwargs)
        return_dict = config.return_dict if return_dict is None else return_dict
        columns = None
        if inputs_embeds is None:
            if input_ids is None and all(
                x is None
                for x in (user_input_values, user_audio_codes, moshi_input_values, moshi_audio_codes)
            ):
                raise ValueError(
                    "No input was given: pass `input_ids` and both audio streams, or `inputs_embeds`."
                )
            moshi_audio_codes = self._columns_of(
                "moshi", moshi_audio_codes, moshi_input_values, parts["audio_encoder"]
            )
            user_audio_codes = self._columns_of(
                "user", user_audio_codes, user_input_values, parts["audio_encoder"]
            )
            self._check_columns(input_ids, moshi_audio_codes, user_audio_codes)
            columns = self._stack(input_ids, moshi_audio_codes, user_audio_codes)
            conditions = self._resolve_conditions(conditions, columns.shape[0])
            inputs_embeds = self.embed_columns(columns, conditions.sum)
        else:
            check_embeds("inputs_embeds", inputs_embeds, config.hidden_size)
            conditions = self._resolve_conditions(conditions, inputs_embeds.shape[0])
        cross = None if conditions.cross is None else conditions.cross.to(inputs_embeds)
        options = dict(
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            condition=None if cross is None else self.temporal.cross_keys_values(cross),
        )
        outputs = self.decoder(
            inputs_embeds=inputs_embeds, **(options | parts["decoder"] | {"return_dict": True})
        )
        hidden = outputs.last_hidden_state
        result = MoshiConditionalGenerationOutputWithPast(
            logits=outputs.logits,
            last_hidden_state=hidden,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            extra_logits=tuple(head(hidden) for head in self.extra_heads) or None,
        )
        losses = []
        if text_labels is not None:
            check_ids(
                "text_labels", text_labels, self.temporal.embed_tokens, config.demux_second_text_stream, True
            )
            if text_labels.shape != outputs.logits.shape[:2]:
                raise ValueError(
                    f"`text_labels` {tuple(text_labels.shape)} must label each of the "
                    f"{tuple(outputs.logits.shape[:2])} columns."
                )
            result.text_loss = normalised(
                *text_loss_parts(outputs.logits[:, :-1], text_labels[:, 1:], config)
            )
            losses.append(result.text_loss)
        if audio_labels is not None:
            self._depth_losses(
                result, columns, hidden, audio_labels, output_attentions, output_hidden_states, parts
            )
            losses.append(result.depth_loss)
        if losses:
            result.loss = sum(losses)
        return result if return_dict else result.to_tuple()

    def _depth_losses(
        self,
        result: MoshiConditionalGenerationOutputWithPast,
        columns: Tensor | None,
        hidden: Tensor,
        labels: Tensor,
        output_attentions: bool | None,
        output_hidden_states: bool | None,
        parts: dict[str, dict[str, Any]],
    ) -> None:
        """Depth logits and loss: hidden of column t with the inputs and labels of column t + 1.

        In training, columns of which no code is learned are left out; their logits are 0.
        """
        config = self.config
        if self.depth_decoder is None:
            raise ValueError("`audio_labels` were given, but this model has no depth decoder.")
        if columns is None or columns.shape[-1] != hidden.shape[1]:
            raise ValueError(
                "`audio_labels` need the columns themselves (`input_ids` and both streams' codes)."
            )
        codebooks = config.num_generated_codebooks
        check_codes("audio_labels", labels.clamp(min=-1), codebooks, config.audio_vocab_size)
        check_range("audio_labels", labels, -100, config.audio_vocab_size)
        check_same_length(audio_labels=labels, input_ids=columns)
        if labels.shape[-1] < 2:
            raise ValueError("`audio_labels` need at least two columns: each column predicts the next.")
        # (B, K, T - 1) -> (B * (T - 1), K): text and codes of the column that is predicted
        tokens = columns[:, :codebooks, 1:].transpose(1, 2).flatten(0, 1)
        targets = labels[:, :, 1:].transpose(1, 2).flatten(0, 1)
        contexts = hidden[:, :-1].flatten(0, 1)[:, None]  # (B * (T - 1), 1, H)
        options = dict(
            use_cache=False, output_attentions=output_attentions, output_hidden_states=output_hidden_states
        )
        learned = None
        if self.training and not output_attentions and not output_hidden_states:
            learned = (targets >= 0).any(-1)
            learned[0] |= ~learned.any()  # one at least, so that all weights have a gradient
            tokens, contexts, targets = tokens[learned], contexts[learned], targets[learned]
        depth = self.depth_decoder(
            input_ids=tokens, last_hidden_state=contexts, **(options | parts["depth"] | {"return_dict": True})
        )
        result.audio_logits = depth.logits
        if learned is not None and len(depth.logits) < len(learned):
            none = depth.logits.new_zeros(len(learned), *depth.logits.shape[1:])
            result.audio_logits = none.index_put(
                (learned,), depth.logits
            )  # losses of others' own have their slope
        result.depth_past_key_values = depth.past_key_values
        result.depth_hidden_states = depth.hidden_states
        result.depth_attentions = depth.attentions
        result.depth_loss = normalised(*audio_loss_parts(depth.logits, targets, config))

    def _stack(self, text: Tensor | None, moshi: Tensor | None, user: Tensor | None) -> Tensor:
        """Streams -> columns (B, 1 + num_input_codebooks, T); no text is the zero token."""
        codes = [x for x in (moshi, user) if x is not None and x.shape[1]]
        if text is None:
            text = torch.full_like(codes[0][:, 0], -1)
        return torch.cat([text[:, None], *codes], dim=1)


def _by_prefix(kwargs: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Keyword arguments of the parts; both spellings of the depth decoder's; the rest is the temporal decoder's."""
    parts: dict[str, dict[str, Any]] = {"audio_encoder": {}, "depth": {}, "decoder": {}}
    prefixes = {
        "audio_encoder_": "audio_encoder",
        "depth_decoder_": "depth",
        "depth_": "depth",
        "decoder_": "decoder",
    }
    for name, value in kwargs.items():
        for prefix, part in prefixes.items():
            if name.startswith(prefix):
                parts[part][name.removeprefix(prefix)] = value
                break
        else:
            parts["decoder"][name] = value
    return parts
