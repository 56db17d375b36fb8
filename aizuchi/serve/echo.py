"""An engine that does all its work and then says what it heard: for measuring how long the way through a server is.

What a model says has no likeness to what it hears, so no correlation can find the delay. Here the model runs as ever
and takes its time, and in place of its voice the frame goes out that this frame answers.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import Tensor

from ..engine import DuplexEngine, Sampling
from ..engine.duplex import StepOutput


class EchoEngine(DuplexEngine):
    """`DuplexEngine` whose rows say, ``lag`` steps later, what they heard; the text is the model's."""

    def __init__(self, model: Any, rows: int = 1, **options: Any):
        super().__init__(model, rows, **options)
        self._held: list[deque[Tensor]] = [deque() for _ in range(rows)]

    def join(self, row: int | None = None, sampling: Sampling | None = None) -> int:
        """Start a conversation; see `DuplexEngine.join`."""
        row = super().join(row, sampling)
        self._held[row].clear()
        return row

    def adopt(self, row: int) -> None:
        """Take a row whose state came from elsewhere: what was on its way there is lost."""
        super().adopt(row)
        self._held[row] = deque([torch.zeros(self.channels, self.frame_size)] * self.lag)

    def step(self, waveform: Tensor | None = None, *args: Any, **options: Any) -> StepOutput:
        """One frame of all active rows; see `DuplexEngine.step`."""
        out = super().step(waveform, *args, **options)
        if out.waveform is None or waveform is None:
            return out
        active = options.get("active", args[0] if args else None)
        said = torch.zeros_like(out.waveform)
        for row, held in enumerate(self._held):
            if self.joined[row] and (active is None or active[row]):
                held.append(waveform[row])
                if out.valid[row]:
                    said[row] = held.popleft().to(said)
        out.waveform = said
        return out
