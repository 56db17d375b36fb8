"""A whole conversation offline: what the user said in, what the model says at the same time out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import AizuchiError
from .duplex import DuplexEngine, StepOutput
from .sampling import Sampling


@dataclass
class Reply:
    """What the model said, aligned with what it heard.

    ``waveform``: (1, samples), as long as the input. ``text``: (frames,) text ids, one a frame, and ``codes``:
    (K, frames). ``seconds``: length of the input. ``elapsed``: wall time of all steps, and ``latencies``: (steps,)
    of each, in seconds.
    """

    waveform: Tensor
    text: Tensor
    codes: Tensor | None
    seconds: float
    elapsed: float
    latencies: Tensor

    @property
    def real_time_factor(self) -> float:
        """Computing time over audio time: below 1 is faster than real time."""
        return self.elapsed / self.seconds


def frames_of(wave: Tensor, size: int, extra: int) -> Iterator[Tensor]:
    """(channels, samples) -> frames (1, channels, size), the last one filled with zeros, then ``extra`` silent ones."""
    for start in range(0, wave.shape[-1], size):
        frame = wave[None, :, start : start + size]
        yield torch.nn.functional.pad(frame, (0, size - frame.shape[-1]))
    for _ in range(extra):
        yield wave.new_zeros(1, wave.shape[0], size)


@torch.no_grad()
def reply(
    model: Any,
    wave: Tensor,
    sampling: Sampling | None = None,
    conditions: Any = None,
    lmgen_compatible: bool = False,
    on_step: Callable[[StepOutput], None] | None = None,
) -> Reply:
    """Run a conversation whose user is ``wave``.

    Args:
        model: `MoshiForConditionalGeneration`. wave: (channels, samples) float at the model's rate.
        on_step: called after each step, with its output; for progress and streaming.
    Raises:
        ValueError: a wave of the wrong shape, empty, or with NaN.
    """
    engine = DuplexEngine(
        model, rows=1, sampling=sampling, conditions=conditions, lmgen_compatible=lmgen_compatible
    )
    if wave.dim() != 2 or wave.shape[0] != engine.channels:
        raise ValueError(f"`wave` must be ({engine.channels}, samples), got {tuple(wave.shape)}.")
    if wave.shape[1] == 0:
        raise ValueError("`wave` is empty.")
    if not bool(torch.isfinite(wave).all()):
        raise ValueError("`wave` holds NaN or infinite samples.")
    frames = -(-wave.shape[1] // engine.frame_size)
    engine.join(0)
    voices, texts, codes, latencies = [], [], [], []
    begin = time.perf_counter()
    # The frame that is said at a step lies `lag` steps back: so many silent ones complete the last.
    for frame in frames_of(wave.to(model.device), engine.frame_size, engine.lag):
        started = time.perf_counter()
        out = engine.step(frame)
        if bool(out.failed[0]):
            raise AizuchiError(
                "the model's numbers are not finite: its weights are damaged, or its dtype is too narrow"
            )
        if bool(out.valid[0]):
            texts.append(out.text[0])
            if out.waveform is not None and out.codes is not None:
                voices.append(out.waveform[0])
                codes.append(out.codes[0])
        latencies.append(time.perf_counter() - started)
        if on_step is not None:
            on_step(out)
    elapsed = time.perf_counter() - begin
    silent = torch.zeros(engine.channels, wave.shape[1])
    voice = torch.cat(voices[:frames], dim=-1)[:, : wave.shape[1]].float().cpu() if voices else silent
    if voice.shape[1] < wave.shape[1]:
        voice = torch.nn.functional.pad(voice, (0, wave.shape[1] - voice.shape[1]))
    return Reply(
        waveform=voice,
        text=torch.stack(texts[:frames]).cpu() if texts else torch.zeros(0, dtype=torch.long),
        codes=torch.stack(codes[:frames], dim=1).cpu() if codes else None,
        seconds=wave.shape[1] / model.config.sampling_rate,
        elapsed=elapsed,
        latencies=torch.tensor(latencies),
    )
