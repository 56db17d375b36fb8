"""The prompt of `generate`: frames laid out as columns, row by row, and codes read back from columns."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .conditions import Conditions
from .validation import check_codes, check_embeds, check_ids

UNWRITTEN = -2


@dataclass
class Prompt:
    """Columns before the first new token.

    ``text``: (rows, C) text ids. ``mask``: (rows, C), 0 in front of a row's start. ``starts``: (rows,) a row's
    first column. ``codes``: (rows, streams, C + known) columns of codes, the delayed ends of the prompt and the
    user's future included; UNWRITTEN where the model writes, and the user's end is filled with ``silence``
    (user codebooks,). ``offset``: 1 with a column of initial tokens, else 0. ``embeds``: (rows, C, H) instead.
    """

    text: Tensor
    mask: Tensor
    starts: Tensor
    codes: Tensor
    silence: Tensor
    offset: int
    delays: list[int]  # of the input codebooks
    model_codebooks: int
    initial: int
    conditions: Conditions
    embeds: Tensor | None = None

    def repeat(self, copies: int) -> Prompt:
        """Every row ``copies`` times."""
        fields = {}
        for name in ("text", "mask", "starts", "codes", "embeds"):
            value = getattr(self, name)
            fields[name] = None if value is None else value.repeat_interleave(copies, dim=0)
        parts = {
            k: None if v is None else v.repeat_interleave(copies, dim=0)
            for k, v in vars(self.conditions).items()
        }
        return dataclasses.replace(self, **fields, conditions=Conditions(**parts))

    def layout(self, room: int) -> Tensor:
        """(rows, 1 + streams, C + room) columns; UNWRITTEN where a token is to be written."""
        prefix = self.mask.shape[1]
        rows, streams, known = self.codes.shape
        columns = self.codes.new_full((rows, 1 + streams, prefix + room), UNWRITTEN)
        columns[:, 0, : self.text.shape[1]] = self.text
        known = min(known, prefix + room)
        columns[:, 1:, :known] = self.codes[:, :, :known]
        user = columns[:, 1 + self.model_codebooks :]
        silence = self.silence[None, :, None].expand_as(user)
        columns[:, 1 + self.model_codebooks :] = torch.where(user == UNWRITTEN, silence, user)
        return columns

    def frames(self, model: Any, columns: Tensor, tokens: Tensor | None) -> Tensor:
        """The model's codes (rows, K, F) of complete frames; the initial token outside of a row's life."""
        delays = self.delays[: self.model_codebooks]
        last, prefix = columns.shape[2], self.mask.shape[1]
        first = self.offset
        out_of_embeds = self.embeds is not None
        if out_of_embeds:  # only what was written is known: the first new column completes no delayed frame
            first = prefix
        length = max(0, last - first - max(delays))
        rows = columns.shape[0]
        codes = torch.stack(
            [columns[:, 1 + k, first + d : first + d + length] for k, d in enumerate(delays)], dim=1
        )  # (rows, K, F)
        column = torch.arange(first, first + length, device=columns.device).expand(rows, -1)
        alive = torch.ones_like(column, dtype=torch.bool)
        if not out_of_embeds:
            alive &= column >= self.starts[:, None] + self.offset
        if tokens is not None:
            alive &= column + max(delays) < prefix + tokens[:, None]
        return torch.where(alive[:, None], codes, self.initial)

    def waveforms(self, model: Any, codes: Tensor) -> Tensor:
        """(rows, 1, 1920 F): each row decoded as if alone, silent outside of its life."""
        alive = (codes != self.initial).all(dim=1)  # (rows, F)
        size = round(model.config.sampling_rate / model.config.audio_encoder_config.frame_rate)
        channels = model.config.audio_encoder_config.audio_channels
        if codes.shape[2] == 0:
            return torch.zeros(codes.shape[0], channels, 0, device=codes.device)
        if bool(alive.all()):
            return model.audio_encoder.decode(codes, return_dict=True).audio_values
        waves = None
        for row in range(codes.shape[0]):
            here = alive[row].nonzero()[:, 0]
            if here.numel() == 0:
                continue
            begin, end = int(here[0]), int(here[-1]) + 1
            wave = model.audio_encoder.decode(
                codes[row : row + 1, :, begin:end], return_dict=True
            ).audio_values
            if waves is None:
                waves = wave.new_zeros(codes.shape[0], channels, codes.shape[2] * size)
            waves[row, :, begin * size : end * size] = wave[0]
        return torch.zeros(codes.shape[0], channels, codes.shape[2] * size) if waves is None else waves


def build_prompt(
    model: Any,
    input_ids: Tensor | None,
    user: tuple[Tensor | None, Tensor | None],
    moshi: tuple[Tensor | None, Tensor | None],
    inputs_embeds: Tensor | None,
    attention_mask: Tensor | None,
    first_column: bool,
    silence: str,
    conditions: Any,
) -> Prompt:
    """Check the inputs of `generate`, encode waveforms, and lay everything out.

    Args:
        user, moshi: (codes, waveform), the codes having priority.
    """
    config = model.config
    device = model.device
    quiet = torch.zeros(0, dtype=torch.long, device=device)
    if config.num_user_codebooks:
        quiet = model.silence_codes(config.num_user_codebooks, silence).to(device)
    shared = dict(
        silence=quiet,
        delays=config.delays[1:],
        model_codebooks=config.num_model_codebooks,
        initial=config.audio_vocab_size,
        conditions=model._resolve_conditions(conditions),
    )
    if inputs_embeds is not None and input_ids is None:
        check_embeds("inputs_embeds", inputs_embeds, config.hidden_size)
        rows, length = inputs_embeds.shape[:2]
        mask = _checked_mask(attention_mask, rows, length, device)
        codes = torch.full((rows, config.num_input_codebooks, length), UNWRITTEN, device=device)
        codes[:, config.num_model_codebooks :] = quiet[None, :, None]
        empty = torch.full((rows, length), config.text_padding_token_id, device=device)
        return Prompt(
            text=empty,
            mask=mask,
            starts=length - mask.sum(1),
            codes=codes,
            offset=0,
            embeds=inputs_embeds,
            **shared,
        )
    text, spoken, heard = _streams(model, input_ids, moshi, user)
    rows, length = text.shape
    initial = torch.full((config.num_input_codebooks,), config.audio_vocab_size, device=device)
    starts_blank = (
        bool((text[:, 0] == config.vocab_size).all())
        and bool((spoken[:, :, 0] == config.audio_vocab_size).all())
        and bool((heard[:, :, 0] == config.audio_vocab_size).all())
    )
    if starts_blank:  # the column of initial tokens was given: it is no frame
        text, spoken, heard = text[:, 1:], spoken[:, :, 1:], heard[:, :, 1:]
        if attention_mask is not None:
            attention_mask = attention_mask[:, 1:]
        length, first_column = length - 1, True
    mask = _checked_mask(attention_mask, rows, length, device)
    offset = int(first_column)
    starts = length - mask.sum(1)
    known = max(length, heard.shape[2]) + max(config.delays) + offset
    columns = torch.full((rows, config.num_input_codebooks, known), UNWRITTEN, device=device)
    lines = torch.full((rows, length + offset), config.vocab_size, device=device)
    for row in range(rows):
        start = int(starts[row])
        lines[row, :start] = text[row, :start]
        lines[row, start + offset :] = text[row, start:]
        columns[row, :, : start + offset] = config.audio_vocab_size
        for k in range(config.num_input_codebooks):
            delay = config.delays[1 + k]
            source = (
                spoken[row, k]
                if k < config.num_model_codebooks
                else heard[row, k - config.num_model_codebooks]
            )
            source = source[start:]
            begin = start + offset
            columns[row, k, begin : begin + delay] = initial[k]
            columns[row, k, begin + delay : begin + delay + source.shape[0]] = source
    mask = torch.cat([mask, mask.new_ones(rows, offset)], dim=1) if offset else mask
    return Prompt(text=lines, mask=mask, starts=starts, codes=columns, offset=offset, **shared)


def _streams(model: Any, text: Tensor | None, moshi: Any, user: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Text (B, T), the model's codes (B, K, T), the user's (B, K', T or more); nothing given = the blank column."""
    config = model.config
    counts = {"moshi": config.num_model_codebooks, "user": config.num_user_codebooks}
    given = {"moshi": moshi, "user": user}
    present = {name: given[name][0] is not None or given[name][1] is not None for name in counts}
    if text is None and not any(present.values()):
        blank = model.get_unconditional_inputs()
        return blank.input_ids, blank.moshi_audio_codes, blank.user_audio_codes
    for name, count in counts.items():
        if count and not present[name]:
            raise ValueError(
                f"`{name}_audio_codes` (or `{name}_input_values`) is missing: all streams must be given, or none. "
                "See `get_unconditional_inputs`."
            )
    if text is None:
        raise ValueError("`input_ids` (or `inputs_embeds`) is missing: all streams must be given, or none.")
    check_ids("input_ids", text, model.temporal.embed_tokens, demux=config.demux_second_text_stream)
    streams = []
    for name, count in counts.items():
        codes, wave = given[name]
        if count == 0:
            codes = text.new_zeros(text.shape[0], 0, text.shape[1])
        elif codes is None:
            codes = model.encode_audio(wave, count, f"{name}_input_values")
        check_codes(f"{name}_audio_codes", codes, count, config.audio_vocab_size)
        if codes.shape[0] != text.shape[0]:
            raise ValueError(f"`{name}_audio_codes` has {codes.shape[0]} rows, `input_ids` {text.shape[0]}.")
        longer = name == "user" and codes.shape[2] > text.shape[1]
        if codes.shape[2] != text.shape[1] and not longer:
            raise ValueError(
                f"`{name}` audio has {codes.shape[2]} frames of 80 ms, `input_ids` {text.shape[1]} tokens: the streams "
                "must be synchronised (only the user's may be longer)."
            )
        streams.append(codes)
    return text, streams[0], streams[1]


def _checked_mask(mask: Tensor | None, rows: int, length: int, device: Any) -> Tensor:
    if mask is None:
        return torch.ones(rows, length, dtype=torch.long, device=device)
    if mask.shape != (rows, length):
        raise ValueError(
            f"`attention_mask` must be ({rows}, {length}) as the prompt, got {tuple(mask.shape)}."
        )
    mask = mask.long().to(device)
    if bool((mask[:, 1:] < mask[:, :-1]).any()):
        raise ValueError("`attention_mask`: the padding of a dialogue must stand in front of it (left).")
    return mask
