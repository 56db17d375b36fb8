"""Free running on tokens: what a model makes of given streams, through the engine's own loop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aizuchi.engine.sampling import Sampling
from aizuchi.engine.tokens import FREE, ZERO, TokenLoop


@torch.no_grad()
def roll_out(
    model: Any,
    user: Tensor | None = None,
    text: Tensor | None = None,
    frames: int | None = None,
    sampling: Sampling | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Run rows side by side; each writes its text and its codes.

    Args:
        user: (B, num_user_codebooks, T) codes of what the model hears, where it hears anything.
        text: (B, T) text to say, where it is given (synthesis); -1, and what lies behind its end, is no text at all.
        frames: how many to run; default: as many as the streams given.
        sampling: of all rows, the default is greedy.
    Returns:
        text (B, frames), codes (B, num_generated_codebooks, frames) or None, of complete frames
    """
    given = user if user is not None else text
    if given is None:
        raise ValueError("`user` or `text` must be given.")
    rows, frames = given.shape[0], given.shape[-1] if frames is None else frames
    config, device = model.config, model.device
    training = model.training
    model.eval()
    try:
        loop = TokenLoop(model, rows)
        for row in range(rows):
            loop.configure(row, sampling or Sampling.greedy())
        width = 1 + config.num_generated_codebooks
        texts: list[Tensor] = []
        codes: list[Tensor] = []
        # The first step runs the column of initial tokens; the user's frame n follows it at step n + 1.
        for step in range(frames + loop.lag + 1):
            forced = None
            said = step - config.delays[0]
            if text is not None and said >= 0:
                forced = torch.full((rows, width), FREE, device=device)
                forced[:, 0] = text[:, said] if said < text.shape[1] else ZERO
            heard = None
            if config.num_user_codebooks:
                heard = _frame(user, step - 1, loop, device)
            if step == 0 and config.num_user_codebooks:
                out = loop.start(loop.everyone)  # nothing was heard yet
            else:
                out = loop.step(heard, forced=forced)
            if out is not None and bool(out.valid.all()):
                texts.append(out.text)
                if out.codes is not None:
                    codes.append(out.codes)
            if len(texts) == frames:
                break
    finally:
        model.train(training)
    return torch.stack(texts, 1), torch.stack(codes, 2) if codes else None


def _frame(user: Tensor | None, n: int, loop: Any, device: Any) -> Tensor:
    """(B, K, 1) codes of frame n; behind the end of what was given, the last frame again."""
    if user is None:
        raise ValueError("This model hears a user: `user` must be given.")
    return user[:, :, min(max(n, 0), user.shape[2] - 1), None].to(device)
