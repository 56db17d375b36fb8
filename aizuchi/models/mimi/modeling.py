"""The Mimi codec: waveforms to codes and back, for whole signals and for streams.

- One arithmetic: a whole signal is padded with zeros to whole frames and runs through the layers that a
  stream runs through, chunk by chunk, with a state.
- A state is an object of the caller (`init_encoder_state`, `init_decoder_state`), with a row per stream.
- `encode_step` and `decode_step` take whole frames, have fixed shapes, work in place and never wait for the
  device. `encode` and `decode` accept anything sensible and check it.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from .checks import check_codes, check_mask_frames, check_values, one_state
from .core import MimiCore
from .outputs import MimiDecoderOutput, MimiEncoderOutput, MimiOutput
from .padding import Spans
from .quantization import check_num_quantizers
from .streams import MimiDecoderState, MimiEncoderState, check_state

# Longer signals run as a stream of blocks when no gradient is asked for: memory doesn't grow with them then.
BLOCK_FRAMES = 512


class MimiModel(MimiCore):
    """The Mimi neural audio codec (arXiv 2410.00037, section 3.3)."""

    @torch.no_grad()
    def encode(
        self,
        input_values: Tensor,
        padding_mask: Tensor | None = None,
        num_quantizers: int | None = None,
        encoder_past_key_values: MimiEncoderState | None = None,
        return_dict: bool | None = None,
        padding_cache: MimiEncoderState | None = None,
        use_streaming: bool | None = None,
        *,
        state: MimiEncoderState | None = None,
        final: bool = False,
        sampling_rate: int | None = None,
    ) -> MimiEncoderOutput | tuple:
        """Encode waveforms: whole ones, or with a state the next chunk of streams.

        A whole waveform is padded with zeros to a multiple of ``frame_size``. A chunk may have any length:
        what doesn't fill a frame waits in the state for the next call, or for ``final=True``.

        Args:
            input_values: (B, channels, S) float samples.
            padding_mask: (B, S), 1 for samples and 0 for padding at the left or right. Each row then gets the
                codes it has alone; `get_audio_codes_mask` says where they are.
            num_quantizers: codebooks to compute, default all.
            state: streams from `init_encoder_state`. ``encoder_past_key_values`` and ``padding_cache`` are
                transformers' names for the same object.
            use_streaming: without a state, start streams; the state comes back as ``padding_cache``.
            final: the signals end here: pad what is left with zeros and encode it.
            sampling_rate: refuse a rate that is not the model's, when given.
        Returns:
            `MimiEncoderOutput`, codes (B, K, ceil(S / frame_size)); a tuple with ``return_dict=False``.
        Raises:
            ValueError: the message names the argument and what is wrong with it.
        """
        if sampling_rate is not None and sampling_rate != self.config.sampling_rate:
            raise ValueError(
                f"`sampling_rate` is {sampling_rate}, the model works at {self.config.sampling_rate}: "
                "resample first."
            )
        state = one_state(
            state=state, padding_cache=padding_cache, encoder_past_key_values=encoder_past_key_values
        )
        if state is None and (self.config.use_streaming if use_streaming is None else use_streaming):
            check_values(input_values, self.config.audio_channels, allow_empty=True)
            state = self.init_encoder_state(input_values.shape[0])
        check_values(input_values, self.config.audio_channels, allow_empty=state is not None)
        num_quantizers = check_num_quantizers(num_quantizers, self.config)
        x = input_values.to(self._like.dtype)
        spans = Spans.read(padding_mask, x.shape[0], x.shape[-1], self.config.frame_size)
        if state is not None:
            check_state(state, MimiEncoderState, self._signature, x.shape[0], self._like)
            if spans is not None:
                raise ValueError("`padding_mask` has padding: a stream's chunks must be all samples.")
            codes = self._encode_chunk(x, state, final, num_quantizers)
        elif spans is not None:
            codes = spans.shift_frames(self._encode_whole(spans.align_samples(x), num_quantizers))
        else:
            codes = self._encode_whole(x, num_quantizers)
        out = MimiEncoderOutput(audio_codes=codes, encoder_past_key_values=state, padding_cache=state)
        return out if self._return_dict(return_dict) else out.to_tuple()

    def decode(
        self,
        audio_codes: Tensor,
        padding_mask: Tensor | None = None,
        decoder_past_key_values: MimiDecoderState | None = None,
        return_dict: bool | None = None,
        use_streaming: bool | None = None,
        *,
        state: MimiDecoderState | None = None,
    ) -> MimiDecoderOutput | tuple:
        """Decode codes: of whole signals, or with a state the next frames of streams.

        Args:
            audio_codes: (B, K, F) integers, of the first K codebooks.
            padding_mask: (B, S) the mask that the signals were encoded with: trims the end, and puts each
                row's samples where they were, with zeros in the padding.
            state: streams from `init_decoder_state`; ``decoder_past_key_values`` is transformers' name.
            use_streaming: without a state, start streams; it comes back as ``decoder_past_key_values``.
        Returns:
            `MimiDecoderOutput`, samples (B, channels, F * frame_size); a tuple with ``return_dict=False``.
        Raises:
            ValueError: the message names the argument and what is wrong with it.
        """
        state = one_state(state=state, decoder_past_key_values=decoder_past_key_values)
        check_codes(audio_codes, self.config, allow_empty=state is not None)
        if state is None and (self.config.use_streaming if use_streaming is None else use_streaming):
            state = self.init_decoder_state(audio_codes.shape[0])
        if state is not None:
            check_state(state, MimiDecoderState, self._signature, audio_codes.shape[0], self._like)
            audio_values = self._decode_chunk(audio_codes, state)
        else:
            spans = None
            if padding_mask is not None:
                spans = Spans.read(
                    padding_mask, audio_codes.shape[0], padding_mask.shape[-1], self.config.frame_size
                )
            if padding_mask is not None and spans is not None:
                check_mask_frames(padding_mask, audio_codes, self.config)
                audio_codes = spans.shift_frames(audio_codes, back=True)
            audio_values = self._decode_whole(audio_codes)
            if spans is not None:
                audio_values = spans.place_samples(audio_values)
            elif padding_mask is not None:
                audio_values = audio_values[..., : padding_mask.shape[-1]]
        out = MimiDecoderOutput(audio_values=audio_values, decoder_past_key_values=state)
        return out if self._return_dict(return_dict) else out.to_tuple()

    def forward(
        self,
        input_values: Tensor | None = None,
        padding_mask: Tensor | None = None,
        num_quantizers: int | None = None,
        audio_codes: Tensor | None = None,
        encoder_past_key_values: MimiEncoderState | None = None,
        decoder_past_key_values: MimiDecoderState | None = None,
        return_dict: bool | None = None,
    ) -> MimiOutput | tuple:
        """Encode and decode again: what the codec makes of waveforms (B, channels, S), or of given codes.

        Args:
            audio_codes: used instead of encoding ``input_values``.
            Others as in `encode` and `decode`.
        Returns:
            `MimiOutput`, its ``audio_values`` as long as the input; a tuple with ``return_dict=False``.
        """
        if audio_codes is None:
            if input_values is None:
                raise ValueError("`input_values` and `audio_codes` are both missing: give one of them.")
            encoded = self.encode(
                input_values, padding_mask, num_quantizers, encoder_past_key_values, return_dict=True
            )
            audio_codes, encoder_past_key_values = encoded.audio_codes, encoded.encoder_past_key_values
        if padding_mask is None and input_values is not None and encoder_past_key_values is None:
            padding_mask = torch.ones_like(input_values[:, 0], dtype=torch.bool)
        decoded = self.decode(
            cast(Tensor, audio_codes),
            None if decoder_past_key_values is not None else padding_mask,
            decoder_past_key_values,
            return_dict=True,
        )
        out = MimiOutput(
            audio_codes=audio_codes,
            audio_values=decoded.audio_values,
            encoder_past_key_values=encoder_past_key_values,
            decoder_past_key_values=decoded.decoder_past_key_values,
        )
        return out if self._return_dict(return_dict) else out.to_tuple()

    def get_encoded_length(self, input_length: Any) -> Any:
        """Frames that a signal of ``input_length`` samples (an integer or a tensor of them) is encoded to."""
        return -(-input_length // self.config.frame_size)

    def get_audio_codes_mask(self, padding_mask: Tensor, padding_side: str = "right") -> Tensor:
        """Which frames of a padded batch are a row's own.

        Args:
            padding_mask: (B, S) or (B, channels, S), 1 for samples.
            padding_side: "right" or "left".
        Returns:
            (B, frames of the longest row) bool
        """
        if padding_side not in ("right", "left"):
            raise ValueError(f'`padding_side` must be "right" or "left", but is {padding_side!r}.')
        if padding_mask.dim() == 3:
            padding_mask = padding_mask[:, 0]
        frames = self.get_encoded_length(padding_mask.long().sum(-1))
        mask = torch.arange(int(frames.max()), device=frames.device) < frames[:, None]
        return mask if padding_side == "right" else mask.flip(-1)

    def _encode_whole(self, x: Tensor, num_quantizers: int) -> Tensor:
        x = self._pad(x)
        block = BLOCK_FRAMES * self.config.frame_size
        if x.shape[-1] <= block:
            return self.quantizer.encode(self._encode_latent(x), num_quantizers)
        state = self.init_encoder_state(x.shape[0], device=x.device)
        return torch.cat(
            [
                self.quantizer.encode(self._encode_latent(chunk, state), num_quantizers)
                for chunk in x.split(block, -1)
            ],
            dim=-1,
        )

    def _encode_chunk(self, x: Tensor, state: MimiEncoderState, final: bool, num_quantizers: int) -> Tensor:
        """What a stream's next samples complete, the rest being kept in the state."""
        size = self.config.frame_size
        held = state.pending_length.tolist()
        if len(set(held)) > 1:
            raise ValueError(
                f"`state` holds back a different number of samples for each row ({held}), as after resetting "
                "some rows in the middle of a frame: reset between whole frames, or keep a state for each stream."
            )
        if held[0]:
            x = torch.cat([state.pending[..., : held[0]], x], dim=-1)
        if final:
            x = self._pad(x)
        rest = x.shape[-1] % size
        whole, left = x.split([x.shape[-1] - rest, rest], dim=-1)
        state.pending.zero_()
        state.pending[..., :rest].copy_(left)
        state.pending_length.fill_(rest)
        codes = [
            self.quantizer.encode(self._encode_latent(chunk, state), num_quantizers)
            for chunk in whole.split(BLOCK_FRAMES * size, -1)
            if chunk.shape[-1]
        ]
        if not codes:
            return torch.zeros(x.shape[0], num_quantizers, 0, device=x.device, dtype=torch.long)
        return torch.cat(codes, dim=-1)

    def _decode_whole(self, codes: Tensor) -> Tensor:
        if codes.shape[-1] <= BLOCK_FRAMES or torch.is_grad_enabled():
            return self._decode_latent(self.quantizer.decode(codes))
        return self._decode_chunk(codes, self.init_decoder_state(codes.shape[0]))

    @torch.no_grad()
    def _decode_chunk(self, codes: Tensor, state: MimiDecoderState) -> Tensor:
        chunks = [
            self._decode_latent(self.quantizer.decode(chunk), state)
            for chunk in codes.split(BLOCK_FRAMES, -1)
            if chunk.shape[-1]
        ]
        if not chunks:
            return torch.zeros(
                codes.shape[0], self.config.audio_channels, 0, device=codes.device, dtype=self._like.dtype
            )
        return torch.cat(chunks, dim=-1)

    def _return_dict(self, return_dict: bool | None) -> bool:
        return bool(self.config.return_dict) if return_dict is None else return_dict
