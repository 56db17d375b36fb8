"""The codec's layers and its steps: whole frames in, whole frames out, with and without a state.

Module names are the names of the published checkpoint.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..stored import make_room
from .base import MimiPreTrainedModel
from .checks import check_active
from .configuration import MimiConfig
from .conv import MimiConv1d, MimiConvTranspose1d
from .fused import Part, fused_convolutions
from .quantization import MimiSplitResidualVectorQuantizer, QuantizerOutput, check_num_quantizers
from .seanet import MimiDecoder, MimiEncoder
from .streams import MimiDecoderState, MimiEncoderState, check_ring, check_state, signature
from .transformer import MimiTransformer


class MimiCore(MimiPreTrainedModel):
    """Layers, streams and steps; `MimiModel` adds the documented methods."""

    def __init__(self, config: MimiConfig):
        super().__init__(config)
        stride, hidden = config.latent_stride, config.hidden_size
        self.encoder = MimiEncoder(config)
        self.encoder_transformer = MimiTransformer(config, config.num_encoder_hidden_layers)
        self.downsample: MimiConv1d | None = None
        self.upsample: MimiConvTranspose1d | None = None
        if stride > 1:
            self.downsample = MimiConv1d(
                hidden, hidden, 2 * stride, stride=stride, bias=False, pad_mode="replicate"
            )
            self.upsample = MimiConvTranspose1d(
                hidden, hidden, 2 * stride, stride=stride, groups=config.upsample_groups, bias=False
            )
        self.decoder_transformer = MimiTransformer(config)
        self.decoder = MimiDecoder(config)
        self.quantizer = MimiSplitResidualVectorQuantizer(config)
        self.bits_per_codebook = int(math.log2(config.codebook_size))
        self._signature = signature(config)
        make_room(self)
        self.post_init()

    def narrowest_weights(self) -> torch.dtype:
        """bfloat16 where it holds every weight without loss, as of a codec that was saved in it; else float32."""
        matrices = (p for p in self.parameters() if p.dim() > 1)
        lossless = all(bool((p.detach().bfloat16() == p.detach()).all()) for p in matrices)
        return torch.bfloat16 if lossless else torch.float32

    # ------------------------------------------------------------------ streams

    def init_encoder_state(
        self,
        rows: int,
        device: Any = None,
        dtype: torch.dtype | None = None,
        ring: str = "exact",
        weights: torch.dtype | None = torch.float32,
    ) -> MimiEncoderState:
        """State of ``rows`` streams of which nothing has been encoded yet.

        Args:
            device, dtype: default to the model's.
            ring: "exact" gives every position its full attention window, so that a stream equals the whole
                signal; "original" reproduces the original server, where after 10 s the first of a frame's two
                positions sees one key less.
            weights: dtype in which the compiled kernels, where there are any, read the weights. bfloat16 halves
                what a frame has to read; what is computed with them stays float32. None: torch's operators.
        """
        device, dtype = self._placement(rows, device, dtype)
        original, config = check_ring(ring), self.config
        weights = weights if dtype == torch.float32 else None
        state = MimiEncoderState(
            pending=torch.zeros(rows, config.audio_channels, config.frame_size, device=device, dtype=dtype),
            pending_length=torch.zeros(rows, device=device, dtype=torch.long),
            seanet=self.encoder.init_state(rows, device, dtype, weights),
            transformer=self.encoder_transformer.init_state(rows, device, dtype, original, weights),
            downsample=None if self.downsample is None else self.downsample.init_state(rows, device, dtype),
            ring=ring,
            signature=self._signature,
        )
        self._fuse(self.downsample, state.downsample, weights)
        return state

    def init_decoder_state(
        self,
        rows: int,
        device: Any = None,
        dtype: torch.dtype | None = None,
        ring: str = "exact",
        weights: torch.dtype | None = torch.float32,
    ) -> MimiDecoderState:
        """State of ``rows`` streams of which nothing has been decoded yet; see `init_encoder_state`."""
        device, dtype = self._placement(rows, device, dtype)
        original = check_ring(ring)
        weights = weights if dtype == torch.float32 else None
        state = MimiDecoderState(
            seanet=self.decoder.init_state(rows, device, dtype, weights),
            transformer=self.decoder_transformer.init_state(rows, device, dtype, original, weights),
            upsample=None if self.upsample is None else self.upsample.init_state(rows, device, dtype),
            ring=ring,
            signature=self._signature,
        )
        self._fuse(self.upsample, state.upsample, weights)
        return state

    @staticmethod
    def _fuse(module: Any, state: Any, weights: torch.dtype | None) -> None:
        """Let the library run a convolution that stands alone."""
        if state is not None and weights is not None:
            state.fused = fused_convolutions(module, lambda: [Part(module.conv)], weights)

    @torch.no_grad()
    def encode_step(
        self,
        pcm: Tensor,
        state: MimiEncoderState,
        active: Tensor | None = None,
        num_quantizers: int | None = None,
    ) -> Tensor:
        """Encode the next whole frames of every row.

        Fixed shapes, state updated in place, no waiting for the device: fit for CUDA graphs and
        ``torch.compile(fullgraph=True)``. Samples are not checked, and what `encode` holds back of a stream
        (``state.pending``) is left alone: feed a stream by one of the two only.

        Args:
            pcm: (rows, channels, n * frame_size) samples.
            active: (rows,) bool, rows that take part. The others keep their state; what comes out for them
                means nothing.
            num_quantizers: codebooks to compute, default all.
        Returns:
            (rows, K, n) int64 codes
        """
        config = self.config
        if pcm.dim() != 3 or pcm.shape[1] != config.audio_channels or not pcm.shape[2]:
            raise ValueError(
                f"`pcm` has shape {tuple(pcm.shape)}; expected (rows, channels = {config.audio_channels}, "
                f"n * {config.frame_size} samples)."
            )
        if pcm.shape[-1] % config.frame_size:
            raise ValueError(
                f"`pcm` holds {pcm.shape[-1]} samples, not a multiple of the frame of {config.frame_size}: "
                "`encode(..., state=state)` takes chunks of any size."
            )
        check_state(state, MimiEncoderState, self._signature, pcm.shape[0], self._like)
        latents = self._encode_latent(pcm.to(self._like.dtype), state, check_active(active, pcm.shape[0]))
        return self.quantizer.encode(latents, num_quantizers)

    @torch.no_grad()
    def decode_step(self, codes: Tensor, state: MimiDecoderState, active: Tensor | None = None) -> Tensor:
        """Decode the next frames of every row; the counterpart of `encode_step`.

        Args:
            codes: (rows, K, n) of the first K codebooks, not checked to be in range.
            active: (rows,) bool, rows that take part. The others keep their state; what comes out for them
                means nothing.
        Returns:
            (rows, channels, n * frame_size) samples
        """
        if codes.dim() != 3 or not codes.shape[2]:
            raise ValueError(f"`codes` has shape {tuple(codes.shape)}; expected (rows, codebooks, frames).")
        check_num_quantizers(codes.shape[1], self.config, "codes")
        check_state(state, MimiDecoderState, self._signature, codes.shape[0], self._like)
        active = check_active(active, codes.shape[0])
        if active is not None:  # what stands in an idle row may not even be a code
            codes = codes.masked_fill(~active[:, None, None], 0)
        return self._decode_latent(self.quantizer.decode(codes), state, active)

    # ---------------------------------------------------- parts, for codec training

    def encode_latent(self, input_values: Tensor) -> Tensor:
        """Whole waveforms (B, channels, S) -> unquantized latents (B, hidden_size, ceil(S / frame_size)).

        Differentiable. The end is padded with zeros to a whole frame.
        """
        return self._encode_latent(self._pad(input_values))

    def quantize(self, latents: Tensor, num_quantizers: int | None = None) -> QuantizerOutput:
        """Quantize latents with straight-through gradients, and all that training the codebooks needs."""
        return self.quantizer(latents, num_quantizers)

    def dequantize(self, audio_codes: Tensor) -> Tensor:
        """Codes (B, K, F) -> quantized latents (B, hidden_size, F)."""
        return self.quantizer.decode(audio_codes)

    def decode_latent(self, latents: Tensor) -> Tensor:
        """Latents (B, hidden_size, F) -> waveforms (B, channels, F * frame_size). Differentiable."""
        return self._decode_latent(latents)

    # --------------------------------------------------------------------- inside

    def _encode_latent(
        self, x: Tensor, state: MimiEncoderState | None = None, active: Tensor | None = None
    ) -> Tensor:
        """Whole frames (rows, channels, n * frame_size) -> latents (rows, hidden_size, n)."""
        if state is None:
            x = self.encoder_transformer(self.encoder(x))
            return x if self.downsample is None else self.downsample(x)
        size = self.config.frame_size
        if state.ring == "original" and x.shape[-1] > size:  # its window is that of a chunk of one frame
            return torch.cat([self._encode_latent(chunk, state, active) for chunk in x.split(size, -1)], -1)
        x = self.encoder_transformer(self.encoder(x, state.seanet, active), state.transformer, active)
        return x if self.downsample is None else self.downsample(x, state.downsample, active)

    def _decode_latent(
        self, latents: Tensor, state: MimiDecoderState | None = None, active: Tensor | None = None
    ) -> Tensor:
        """Latents (rows, hidden_size, n) -> samples (rows, channels, n * frame_size)."""
        x = latents
        if state is None:
            x = x if self.upsample is None else self.upsample(x)
            return self.decoder(self.decoder_transformer(x))
        if state.ring == "original" and x.shape[-1] > 1:
            return torch.cat([self._decode_latent(frame, state, active) for frame in x.split(1, -1)], -1)
        x = x if self.upsample is None else self.upsample(x, state.upsample, active)
        return self.decoder(self.decoder_transformer(x, state.transformer, active), state.seanet, active)

    def _pad(self, x: Tensor) -> Tensor:
        """Zeros at the right, up to a whole frame."""
        return F.pad(x, (0, -x.shape[-1] % self.config.frame_size))

    @property
    def _like(self) -> Tensor:
        """A weight: its dtype and device are the model's."""
        return cast(MimiConv1d, self.encoder.layers[0]).conv.weight

    def _placement(self, rows: int, device: Any, dtype: torch.dtype | None) -> tuple[Any, torch.dtype]:
        if rows < 1:
            raise ValueError(f"`rows` must be at least 1, but is {rows}.")
        like = self._like
        return like.device if device is None else device, like.dtype if dtype is None else dtype
