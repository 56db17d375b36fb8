"""From time-aligned text and audio to the columns and labels that `forward` takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .delays import delay_frames
from .outputs import MoshiTrainingInputs
from .validation import check_codes, check_range, check_same_length, check_waveform

IGNORED = -100


class TrainingInputs:
    """The part of the model class that encodes waveforms and lays out columns."""

    if TYPE_CHECKING:
        config: Any
        audio_encoder: Any
        device: Any
        initial_tokens: Tensor

    def encode_audio(
        self, wave: Tensor, codebooks: int | None = None, name: str = "input_values", **kwargs: Any
    ) -> Tensor:
        """Codes (B, codebooks, ceil(S / 1920)) of waveforms (B, 1, S) at ``config.sampling_rate``."""
        check_waveform(name, wave, self.config.audio_encoder_config.audio_channels)
        count = self.config.num_codebooks if codebooks is None else codebooks
        return self.audio_encoder.encode(wave, num_quantizers=count, return_dict=True, **kwargs).audio_codes

    def _stream_codebooks(self, stream: str) -> tuple[int, list[int]]:
        """How many input codebooks the "moshi" or "user" stream has, and their delays."""
        config = self.config
        start = 1 if stream == "moshi" else 1 + config.num_model_codebooks
        count = config.num_model_codebooks if stream == "moshi" else config.num_user_codebooks
        return count, config.delays[start : start + count]

    def _columns_of(
        self, stream: str, codes: Tensor | None, wave: Tensor | None, kwargs: dict[str, Any]
    ) -> Tensor | None:
        """A stream's columns: codes as they are, a waveform encoded and delayed, with no initial column."""
        count, delays = self._stream_codebooks(stream)
        if codes is not None or wave is None or count == 0:
            return codes
        frames = self.encode_audio(wave, count, f"{stream}_input_values", **kwargs)
        initial = torch.full((count,), self.config.audio_vocab_size, device=frames.device)
        return delay_frames(frames, delays, initial, first_column=False)

    def prepare_training_inputs(
        self,
        text_ids: Tensor | None = None,
        moshi_input_values: Tensor | None = None,
        moshi_audio_codes: Tensor | None = None,
        user_input_values: Tensor | None = None,
        user_audio_codes: Tensor | None = None,
        lengths: Tensor | None = None,
        delays: Sequence[int] | None = None,
    ) -> MoshiTrainingInputs:
        """Columns and labels of time-aligned dialogues, for ``model(**inputs)``.

        Args:
            text_ids: (B, T) one text id a frame; -1 masks a frame's text, None all of it.
            moshi_audio_codes, user_audio_codes: (B, K, T), or their waveforms (B, 1, S). Codes of -1 are blank.
            lengths: (B,) frames of each row that count; what is behind them is not learned.
            delays: other delays than the configuration's (a stage of training may have its own).
        Returns:
            T + 1 columns, the initial one first, and labels that are -100 where there is nothing to learn.
        Raises:
            ValueError: a stream is missing, or lengths, batch sizes or ids are wrong.
        """
        config = self.config
        streams: list[Tensor] = []
        given = {
            "moshi": (moshi_audio_codes, moshi_input_values),
            "user": (user_audio_codes, user_input_values),
        }
        for stream, (codes, wave) in given.items():
            count, _ = self._stream_codebooks(stream)
            if count == 0:
                continue
            if codes is None and wave is None:
                raise ValueError(f"`{stream}_audio_codes` (or `{stream}_input_values`) must be given.")
            if codes is None:
                codes = self.encode_audio(wave, count, f"{stream}_input_values")
            check_codes(f"{stream}_audio_codes", codes, count, config.audio_vocab_size - 1)
            streams.append(codes)
        if text_ids is None:
            text_ids = streams[0].new_full((streams[0].shape[0], streams[0].shape[2]), -1)
        check_range("text_ids", text_ids, -1, config.vocab_size - 1)
        named = {"text_ids": text_ids} | {f"audio {i}": codes for i, codes in enumerate(streams)}
        length = check_same_length(**named)
        if len({t.shape[0] for t in named.values()}) > 1:
            raise ValueError("The streams have different batch sizes.")
        frames = torch.cat([text_ids[:, None], *streams], dim=1)  # (B, 1 + num_input_codebooks, T)
        targets = torch.where(frames < 0, IGNORED, frames)
        if lengths is not None:
            if lengths.shape != (frames.shape[0],) or int(lengths.max()) > length:
                raise ValueError(
                    f"`lengths` must hold a frame count up to {length} for each row, got {lengths}."
                )
            behind = torch.arange(length, device=frames.device) >= lengths[:, None].to(frames.device)
            targets = targets.masked_fill(behind[:, None], IGNORED)
            frames = frames.masked_fill(behind[:, None], -1)
        used = config.delays if delays is None else list(delays)
        columns = delay_frames(frames, used, self.initial_tokens)
        labels = delay_frames(targets, used, torch.full_like(self.initial_tokens, IGNORED))
        model, written = config.num_model_codebooks, config.num_generated_codebooks
        return MoshiTrainingInputs(
            input_ids=columns[:, 0],
            moshi_audio_codes=columns[:, 1 : 1 + model] if model else None,
            user_audio_codes=columns[:, 1 + model :] if config.num_user_codebooks else None,
            text_labels=labels[:, 0],
            audio_labels=labels[:, 1 : 1 + written] if written else None,
        )
