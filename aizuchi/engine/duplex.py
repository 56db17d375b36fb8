"""The duplex engine: waveforms in, waveforms and text out, a frame at a time, for a fixed number of rows.

A row is one conversation. One `step` hears 80 ms of every active row and says 80 ms in return; rows join, leave,
pause and resume at any step without touching the others. The engine knows tokens, frames and rows, nothing of
files or sockets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..models.mimi import MimiModel
from ..models.moshi.conditions import Conditions
from ..models.state import State
from .sampling import Sampling
from .tokens import Guidance, TokenLoop, TokenState


@dataclass
class EngineState(State):
    """All that rows carry: tokens, and both halves of the codec."""

    tokens: TokenState
    encoder: Any
    decoder: Any


@dataclass
class StepOutput:
    """What a step says, one row each.

    ``waveform``: (rows, channels, samples of a frame), silent where ``valid`` is False. ``text``: (rows,) the text
    id of that frame, and ``codes``: (rows, K), both -2 where not valid. ``valid``: (rows,) whether the row said a
    frame: active, and past the first steps that fill the delays. ``heard``: (rows, K', 1) codes of the user.
    ``failed``: (rows,) active rows whose input or numbers are not finite: what they say means nothing, and they
    have to leave; the other rows are not touched by it.
    """

    waveform: Tensor | None
    text: Tensor
    codes: Tensor | None
    valid: Tensor
    heard: Tensor | None
    failed: Tensor


class DuplexEngine:
    """Full-duplex conversations in a fixed number of rows.

    Args:
        model: `MoshiForConditionalGeneration`, in eval mode.
        rows: how many conversations fit.
        sampling: settings of rows that join without their own (default: those of the model).
        conditions: of all rows, for models that need them.
        lmgen_compatible: lose the first frame, as the original's `LMGen` does.
        guidance: classifier-free guidance.
        codec_weights: dtype in which the compiled kernels read the codec's weights (float32 or bfloat16, with
            float32 activations); None for bfloat16 where that loses nothing, else float32. docs/performance.md says
            what bfloat16 changes.
        sinks: attention sinks, the first columns of a conversation that the language model sees for good (the very
            first is the one that runs on joining); see `aizuchi.models.cache`.
        kv: "int8" to hold the language model's keys and values in 8 bits; None for its dtype. docs/performance.md
            says what that costs.

    The first frame that a row says comes ``lag`` steps after it joins (0 for Moshi, whose acoustic codes lag by
    one frame and whose first column runs on joining), and from then on one a step.
    """

    def __init__(
        self,
        model: Any,
        rows: int = 1,
        sampling: Sampling | None = None,
        conditions: Conditions | None = None,
        lmgen_compatible: bool = False,
        guidance: Guidance | None = None,
        codec_weights: torch.dtype | None = None,
        sinks: int = 0,
        kv: str | None = None,
    ):
        if model.training:
            raise ValueError("`model` is in training mode: call `model.eval()` first.")
        self.model, self.rows = model, rows
        self.config = model.config
        self.codec = model.audio_encoder
        codec = self.config.audio_encoder_config
        self.frame_size = round(codec.sampling_rate / codec.frame_rate)
        self.channels = codec.audio_channels
        self.sampling = sampling or Sampling.of_model(model)
        self.loop = TokenLoop(model, rows, conditions, lmgen_compatible, guidance, sinks, kv)
        fused: dict[str, Any] = {}
        self.codec_weights = codec_weights
        if isinstance(self.codec, MimiModel) and self.codec.device.type == "cpu":
            self.codec_weights = codec_weights or self.codec.narrowest_weights()
            fused["weights"] = self.codec_weights
        self.state = EngineState(
            tokens=self.loop.state,
            encoder=self.codec.init_encoder_state(rows, **fused),
            decoder=self.codec.init_decoder_state(rows, **fused),
        )
        self.joined = [False] * rows
        self._present = torch.zeros(rows, dtype=torch.bool, device=model.device)

    @property
    def lag(self) -> int:
        """Steps after joining until a row says its first frame."""
        return self.loop.lag if self.loop.lmgen_compatible else self.loop.lag - 1

    def free_rows(self) -> list[int]:
        """Rows that nobody uses."""
        return [row for row, taken in enumerate(self.joined) if not taken]

    @torch.no_grad()
    def join(self, row: int | None = None, sampling: Sampling | None = None) -> int:
        """Start a conversation in ``row`` (None: the first free one); returns the row.

        Raises:
            ValueError: the row is taken, or none is free.
        """
        if row is None:
            free = self.free_rows()
            if not free:
                raise ValueError(f"All {self.rows} rows are taken.")
            row = free[0]
        self.check_row(row)
        if self.joined[row]:
            raise ValueError(f"Row {row} is taken: `leave` it first.")
        self._wipe(row)
        self.configure(row, sampling or self.sampling)
        self.joined[row] = True
        self._present[row] = True
        alone = torch.zeros_like(self._present)
        alone[row] = True
        self.loop.start(alone)
        return row

    def leave(self, row: int) -> None:
        """End the row's conversation; its state is wiped."""
        self.check_row(row, joined=True)
        self.joined[row] = False
        self._present[row] = False
        self._wipe(row)

    def _wipe(self, row: int) -> None:
        self.state.reset([row])
        self.loop.reset_null(row)

    def configure(self, row: int, sampling: Sampling) -> None:
        """Change a row's sampling from its next frame on."""
        self.check_row(row)
        self.loop.configure(row, sampling)

    @torch.no_grad()
    def step(
        self,
        waveform: Tensor | None = None,
        active: Tensor | None = None,
        user_codes: Tensor | None = None,
        forced: Tensor | None = None,
        decode: bool = True,
    ) -> StepOutput:
        """One frame of all active rows.

        Args:
            waveform: (rows, channels, frame_size) samples that the users say now. Rows that are not active may
                hold anything.
            active: (rows,) bool, None = every row that joined. A row that is left out is paused.
            user_codes: (rows, num_user_codebooks, 1) instead of ``waveform``.
            forced: (rows, 1 + num_model_codebooks) tokens of the column written now, -2 where free.
            decode: make the waveform.
        """
        active = self._present if active is None else active & self._present
        heard = user_codes
        if heard is None and self.loop.streams_heard:
            if waveform is None:
                raise ValueError("`waveform` or `user_codes` must be given.")
            expected = (self.rows, self.channels, self.frame_size)
            if tuple(waveform.shape) != expected:
                raise ValueError(f"`waveform` must be {expected}, one frame, got {tuple(waveform.shape)}.")
            wave = waveform.to(self.codec.dtype)
            heard = self.codec.encode_step(wave, self.state.encoder, active, self.loop.streams_heard)
        out = self.loop.step(heard, active, forced)
        finite = torch.isfinite(out.logits).all(dim=1)
        if waveform is not None:
            finite &= torch.isfinite(waveform).flatten(1).all(dim=1)
        said = None
        if decode and out.codes is not None:
            voice = out.codes.clamp(min=0)[:, :, None]
            said = self.codec.decode_step(voice, self.state.decoder, out.valid)
            said = torch.where(out.valid[:, None, None], said, 0)
            finite &= torch.isfinite(said).flatten(1).all(dim=1)
        return StepOutput(said, out.text, out.codes, out.valid, heard, active & ~finite)

    def adopt(self, row: int) -> None:
        """Take a row whose state was put there from elsewhere as joined."""
        self.joined[row] = True
        self._present[row] = True
        self.loop.adopt(row)

    def check_row(self, row: int, joined: bool = False) -> None:
        """A ValueError where there is no such row, or (``joined``) no conversation in it."""
        if not 0 <= row < self.rows:
            raise ValueError(f"`row` must lie between 0 and {self.rows - 1}, got {row}.")
        if joined and not self.joined[row]:
            raise ValueError(f"Row {row} holds no conversation.")
