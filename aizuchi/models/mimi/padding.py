"""Batches of signals of different lengths: where each row's samples and frames lie."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Spans:
    """Where the samples of each row of a padded batch are.

    Attributes:
        start: (B,) first sample of each row.
        length: (B,) number of samples.
        total: samples of the padded batch.
        frame_size: samples per frame.
    """

    start: Tensor
    length: Tensor
    total: int
    frame_size: int

    @classmethod
    def read(cls, padding_mask: Tensor | None, rows: int, total: int, frame_size: int) -> Spans | None:
        """Spans of a mask (B, S) or (B, channels, S), 1 = a sample; None when there is no padding.

        Raises:
            ValueError: another shape, a row without samples, or padding between samples.
        """
        if padding_mask is None:
            return None
        mask = padding_mask[:, 0] if padding_mask.dim() == 3 else padding_mask
        if mask.dim() != 2 or mask.shape[0] != rows or mask.shape[1] != total:
            raise ValueError(
                f"`padding_mask` has shape {tuple(padding_mask.shape)}; expected ({rows}, {total}), "
                "one value for each sample."
            )
        mask = mask.bool()
        if mask.all():
            return None
        length = mask.sum(-1)
        start = mask.long().argmax(-1)
        last = total - 1 - mask.flip(-1).long().argmax(-1)
        if (length == 0).any():
            raise ValueError(
                f"`padding_mask` leaves row {int((length == 0).long().argmax())} without a sample."
            )
        broken = last - start + 1 != length
        if broken.any():
            raise ValueError(
                f"`padding_mask` has padding between the samples of row {int(broken.long().argmax())}; "
                "padding must be at the left or the right."
            )
        return cls(start, length, total, frame_size)

    @property
    def frames(self) -> Tensor:
        """(B,) frames of each row."""
        return -(-self.length // self.frame_size)

    def align_samples(self, x: Tensor) -> Tensor:
        """(B, channels, S) -> same, each row's samples moved to the front and zeros after them."""
        steps = torch.arange(self.total, device=x.device)
        index = (self.start[:, None] + steps).clamp(max=self.total - 1)
        valid = steps < self.length[:, None]
        return x.gather(-1, index[:, None].expand_as(x)) * valid[:, None]

    def place_samples(self, x: Tensor) -> Tensor:
        """(B, channels, S') with samples in front -> (B, channels, S) where they belong, zeros elsewhere."""
        steps = torch.arange(self.total, device=x.device) - self.start[:, None]
        valid = (steps >= 0) & (steps < self.length[:, None])
        index = steps.clamp(0, x.shape[-1] - 1)[:, None].expand(-1, x.shape[1], -1)
        return x.gather(-1, index) * valid[:, None]

    def shift_frames(self, codes: Tensor, back: bool = False) -> Tensor:
        """Codes (B, K, F): rows whose samples lie at the right have their frames there too.

        Frames move from the front to the right end (or ``back``), the padding's frames to the other side.
        """
        total = codes.shape[-1]
        right = (self.start > 0) & (self.start + self.length == self.total)
        shift = (total - self.frames) * right
        steps = torch.arange(total, device=codes.device)
        index = (steps + shift[:, None] if back else steps - shift[:, None]) % total
        return codes.gather(-1, index[:, None].expand_as(codes))
