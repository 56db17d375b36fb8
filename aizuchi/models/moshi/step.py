"""One frame: a column in, the next frame's text and codes out. The engine and `generate` both run this."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .depth import DepthState

ChooseText = Callable[[Tensor], Tensor]  # logits (rows, V) float32 -> ids (rows,)
ChooseAudio = Callable[[Tensor, int], Tensor]  # logits (rows, A) float32, codebook -> ids (rows,)


@dataclass
class Frame:
    """What a step gives.

    ``text``: (rows,). ``codes``: (rows, K) or None. ``hidden``: (rows, 1, H). ``logits``: (rows, V).
    """

    text: Tensor
    codes: Tensor | None
    hidden: Tensor
    logits: Tensor


def frame_step(
    model: Any,
    column: Tensor,
    run: Callable[[Tensor], Tensor],
    choose_text: ChooseText,
    choose_audio: ChooseAudio,
    depth_state: DepthState | None = None,
    null_column: Tensor | None = None,
    guidance: float = 1.0,
    guide_text: bool = True,
    condition_sum: Tensor | None = None,
    codebooks: int | None = None,
) -> Frame:
    """Temporal step, text, depth steps.

    Args:
        column: (rows, 1 + num_input_codebooks, 1) ids: text, then the codes of all streams.
        run: the temporal transformer over embeddings (rows, 1, H), however its past is kept.
        choose_text, choose_audio: sampling, or what is forced.
        depth_state: buffers for the depth decoder.
        null_column: for classifier-free guidance, the column as it is without its conditions; the rows of
            ``run``, ``depth_state`` and ``condition_sum`` are then twice as many.
        guidance: how far beyond the unconditional logits; 1 = none.
        guide_text: whether the text logits are guided too.
        codebooks: write only this many codebooks (None = all).
    """
    guided = null_column is not None
    columns = torch.cat([column, null_column]) if guided else column
    hidden = run(model.embed_columns(columns, condition_sum))  # (rows, 1, H)

    def guide(logits: Tensor) -> Tensor:
        if not guided:
            return logits.float()
        conditional, null = logits.float().chunk(2)
        return null + (conditional - null) * guidance

    logits = model.decoder.text_logits(hidden[:, 0])
    logits = guide(logits) if guide_text or not guided else logits.chunk(2)[0].float()
    text = choose_text(logits)
    if model.depth_decoder is None:
        return Frame(text, None, hidden, logits)

    def choose(step_logits: Tensor, codebook: int) -> Tensor:
        token = choose_audio(guide(step_logits), codebook)
        return token.repeat(2) if guided else token

    start = text.repeat(2) if guided else text
    codes = model.depth_decoder.write_frame(start, hidden, choose, depth_state, codebooks)
    return Frame(text, codes[: text.shape[0]], hidden, logits)
