"""One step of the engine that no single row can spoil, and 16-bit samples of what it says."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch

from ..engine import DuplexEngine
from .intake import Samples

log = logging.getLogger("aizuchi.serve")


def step_rows(
    engine: DuplexEngine,
    wave: torch.Tensor,
    active: torch.Tensor,
    forced: torch.Tensor,
    failed: Callable[[], None],
) -> dict[int, tuple[np.ndarray, int, bool] | None]:
    """Each active row's (samples, text id, valid); None for a row that failed.

    When a step raises, its rows are stepped one by one, so that only those that raise again are lost. (The
    others' codec may then hear that frame twice.)
    """
    device = engine.model.device
    masks = [active]
    results: dict[int, tuple[np.ndarray, int, bool] | None] = {}
    force = bool((forced != -2).any())
    while masks:
        mask = masks.pop()
        rows = mask.nonzero()[:, 0].tolist()
        try:
            out = engine.step(wave.to(device), mask.to(device), forced=forced.to(device) if force else None)
            voice = (
                np.zeros_like(wave.numpy()) if out.waveform is None else out.waveform.float().cpu().numpy()
            )
            text, valid = out.text.tolist(), out.valid.tolist()
        except Exception:
            failed()
            log.exception("a step raised", extra={"rows": rows})
            if len(rows) == 1:
                results[rows[0]] = None
            else:
                for row in rows:
                    alone = torch.zeros_like(mask)
                    alone[row] = True
                    masks.append(alone)
            continue
        for row in rows:
            if np.isfinite(voice[row]).all():
                results[row] = (voice[row].mean(axis=0), text[row], valid[row])
            else:
                failed()
                log.error("a row gave NaN", extra={"row": row})
                results[row] = None
    return results


def to_int16(voice: np.ndarray) -> Samples:
    """Float samples, full scale at 1.0, as 16-bit ones, clipped; n / 32768 becomes n again."""
    return np.clip(np.rint(voice * 32768.0), -32768, 32767).astype(np.int16)
