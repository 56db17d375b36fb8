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
SILENCES = ("steady", "first_frame")


@dataclass
class Prompt:
    """Columns before the first new token.

    ``text``: (rows, C) text ids. ``mask``: (rows, C), 0 in front of a row's start. ``starts``: (rows,) a row's
    first column. ``codes``: (rows, streams, C + known) columns of codes, the delayed ends of the prompt and the
    user's future included; UNWRITTEN where the model writes, and where the user is silent in the way that
    ``silence`` says. ``offset``: 1 with a column of initial tokens, else 0. ``written_from``: the column that the
    first known codes of the model stand in. ``embeds``: (rows, C, H) that replace what is embedded.
    """

    text: Tensor
    mask: Tensor
    starts: Tensor
    codes: Tensor
    silence: str
    offset: int
    written_from: int
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

    def layout(self, model: Any, room: int) -> Tensor:
        """(rows, 1 + streams, C + room) columns; UNWRITTEN where a token is to be written."""
        prefix = self.mask.shape[1]
        rows, streams, known = self.codes.shape
        columns = self.codes.new_full((rows, 1 + streams, prefix + room), UNWRITTEN)
        columns[:, 0, : self.text.shape[1]] = self.text
        known = min(known, prefix + room)
        columns[:, 1:, :known] = self.codes[:, :, :known]
        user = columns[:, 1 + self.model_codebooks :, :-1]  # the last column is written, never read
        if bool((user == UNWRITTEN).any()):  # a silence is encoded only where one is needed
            silence = model.silence_codes(user.shape[1], self.silence).to(user)
            user.copy_(torch.where(user == UNWRITTEN, silence[None, :, None], user))
        return columns

    def frames(self, model: Any, columns: Tensor, tokens: Tensor | None) -> Tensor:
        """The model's codes (rows, K, F) of complete frames; the initial token outside of a row's life."""
        delays = self.delays[: self.model_codebooks]
        last, prefix, first = columns.shape[2], self.mask.shape[1], self.written_from
        length = max(0, last - first - max(delays))
        rows = columns.shape[0]
        codes = torch.stack(
            [columns[:, 1 + k, first + d : first + d + length] for k, d in enumerate(delays)], dim=1
        )  # (rows, K, F)
        column = torch.arange(first, first + length, device=columns.device).expand(rows, -1)
        alive = column >= self.starts[:, None] + self.offset
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
    if silence not in SILENCES:
        raise ValueError(f"`user_silence` must be one of {SILENCES}, got {silence!r}.")
    text, spoken, heard = _streams(model, input_ids, moshi, user, inputs_embeds)
    if inputs_embeds is not None:
        first_column = False
    elif _initial(text, config.vocab_size) and _initial(spoken, config.audio_vocab_size):
        # The column of initial tokens was given: it is no frame. The user may begin with it, or with frame 0.
        text, spoken, first_column = text[:, 1:], spoken[:, :, 1:], True
        attention_mask = None if attention_mask is None else attention_mask[:, 1:]
        if _initial(heard, config.audio_vocab_size):
            heard = heard[:, :, 1:]
    rows, length = text.shape
    mask = _checked_mask(attention_mask, rows, length, device)
    offset = int(first_column)
    starts = length - mask.sum(1)
    known = max(length, heard.shape[2]) + max(config.delays) + offset
    columns = torch.full((rows, config.num_input_codebooks, known), UNWRITTEN, device=device)
    lines = torch.full((rows, length + offset), config.vocab_size, device=device)
    for row, start in enumerate(starts.tolist()):
        begin = start + offset
        lines[row, :start] = text[row, :start]
        lines[row, begin:] = text[row, start:]
        columns[row, :, :begin] = config.audio_vocab_size
        for k, source in enumerate([*spoken[row], *heard[row]]):
            delay, source = config.delays[1 + k], source[start:]
            columns[row, k, begin : begin + delay] = config.audio_vocab_size
            columns[row, k, begin + delay : begin + delay + source.shape[0]] = source
    written_from = offset
    if inputs_embeds is not None and moshi[0] is None and moshi[1] is None:
        # What was said is not known: its delayed ends are the model's to write.
        columns[:, : config.num_model_codebooks] = UNWRITTEN
        written_from = length
    return Prompt(
        text=lines,
        mask=torch.cat([mask, mask.new_ones(rows, offset)], dim=1) if offset else mask,
        starts=starts,
        codes=columns,
        silence=silence,
        offset=offset,
        written_from=written_from,
        delays=config.delays[1:],
        model_codebooks=config.num_model_codebooks,
        initial=config.audio_vocab_size,
        conditions=model._resolve_conditions(conditions, rows),
        embeds=inputs_embeds,
    )


def _initial(stream: Tensor, token: int) -> bool:
    """Whether a stream (rows, ..., T) begins with its initial token in all rows; one without codebooks does."""
    return stream.shape[-1] > 0 and bool((stream[..., 0] == token).all())


def _streams(
    model: Any, text: Tensor | None, moshi: Any, user: Any, embeds: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Text (B, T), the model's codes (B, K, T), the user's (B, K', T or more); nothing given = the blank column.

    Beside ``embeds`` each stream may be left out: text is then padding, codes are not known (UNWRITTEN).
    """
    config = model.config
    counts = {"moshi": config.num_model_codebooks, "user": config.num_user_codebooks}
    given = {"moshi": moshi, "user": user}
    present = {name: given[name][0] is not None or given[name][1] is not None for name in counts}
    if embeds is not None:
        check_embeds("inputs_embeds", embeds, config.hidden_size)
        rows, length = embeds.shape[:2]
        if text is None:
            text = torch.full((rows, length), config.text_padding_token_id, device=model.device)
        elif text.shape != (rows, length):
            raise ValueError(
                f"`input_ids` {tuple(text.shape)} must be ({rows}, {length}) as `inputs_embeds` are."
            )
    elif text is None and not any(present.values()):
        blank = model.get_unconditional_inputs()
        return blank.input_ids, blank.moshi_audio_codes, blank.user_audio_codes
    for name, count in counts.items():
        if count and not present[name] and embeds is None:
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
        if count == 0 or not present[name]:
            streams.append(text.new_full((text.shape[0], count, text.shape[1]), UNWRITTEN))
            continue
        if codes is None:
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
