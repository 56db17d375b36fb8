"""Sampling with settings of each row, and with random numbers that belong to the row.

The noise of a choice is a function of (the row's seed, frame, codebook, token id), never of a shared generator: a
seed reproduces a conversation whatever else runs beside it, and however the candidates are ordered.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..kernels import few as kernels
from ..models.state import State

_MASK = {shift: (1 << (64 - shift)) - 1 for shift in (27, 30, 31, 11)}
_GAMMA = -7046029254386353131  # 2**64 / golden ratio, as a signed 64-bit integer
_MIX_1 = -4658895280553007687
_MIX_2 = -7723592293110705685


def _mix(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele et al., 2014) on int64, wrapping around."""
    x = (x ^ ((x >> 30) & _MASK[30])) * _MIX_1
    x = (x ^ ((x >> 27) & _MASK[27])) * _MIX_2
    return x ^ ((x >> 31) & _MASK[31])


def uniform(seed: Tensor, frame: Tensor, codebook: int, ids: Tensor) -> Tensor:
    """Numbers in (0, 1) keyed by their arguments.

    Args:
        seed, frame: (rows,) int64. codebook: 0 = text, k + 1 = codebook k. ids: (rows, n) token ids.
    Returns:
        (rows, n) float64
    """
    key = _mix(seed + _GAMMA)
    key = _mix(key ^ (frame * 4096 + codebook) * _GAMMA)
    bits = _mix(key[:, None] ^ (ids + 1) * _GAMMA)
    return (((bits >> 11) & _MASK[11]).double() + 0.5) * 2.0**-53


@dataclass
class Sampling:
    """How a row chooses its tokens; the defaults are the original server's.

    Args:
        temperature, top_k, top_p: of the codebooks; text_temperature, text_top_k, text_top_p: of the text.
            A temperature of 0 is greedy; ``top_k`` 0 and ``top_p`` 1 keep every token.
        seed: of the row's random numbers.
        padding_bonus: added to the text padding's logit (above 0 the model speaks less).
        repetition_penalty: above 1, text tokens of the last ``repetition_context`` frames become less likely;
            padding is left out.
    """

    temperature: float = 0.8
    top_k: int = 250
    top_p: float = 1.0
    text_temperature: float = 0.7
    text_top_k: int = 25
    text_top_p: float = 1.0
    seed: int = 0
    padding_bonus: float = 0.0
    repetition_penalty: float = 1.0
    repetition_context: int = 64

    def __post_init__(self) -> None:
        for name in ("temperature", "text_temperature"):
            if not 0 <= getattr(self, name) <= 100:
                raise ValueError(f"`{name}` must lie between 0 and 100, got {getattr(self, name)}.")
        for name in ("top_k", "text_top_k"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"`{name}` must not be negative, got {getattr(self, name)}; 0 keeps every token."
                )
        for name in ("top_p", "text_top_p"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must lie above 0 and up to 1, got {getattr(self, name)}.")
        if not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"`seed` must fit 64 bits, got {self.seed}.")
        if self.repetition_penalty <= 0:
            raise ValueError(
                f"`repetition_penalty` must be above 0, got {self.repetition_penalty}; 1 is none."
            )
        if not 0 <= self.repetition_context <= MAX_CONTEXT:
            raise ValueError(f"`repetition_context` must lie between 0 and {MAX_CONTEXT}.")

    @classmethod
    def greedy(cls, **others: float) -> Sampling:
        """Always the likeliest token."""
        return cls(temperature=0.0, text_temperature=0.0, **others)  # type: ignore[arg-type]

    @classmethod
    def of_model(cls, model: Any) -> Sampling:
        """What a model's generation_config asks for; the original server's settings where it asks for nothing."""
        config = getattr(model, "generation_config", None)
        values: dict[str, Any] = {}
        if getattr(config, "do_sample", None):
            values |= {f"text_{name}": getattr(config, name) for name in ("temperature", "top_k", "top_p")}
        voice = getattr(config, "depth_decoder_config", None) or {}
        voice = voice if isinstance(voice, dict) else voice.to_dict()
        if voice.get("do_sample"):
            values |= {name: voice.get(name) for name in ("temperature", "top_k", "top_p")}
        return cls(**{name: value for name, value in values.items() if value is not None})


MAX_CONTEXT = 256


@dataclass
class RowSettings(State):
    """The settings of all rows as tensors (rows,), and each row's last text tokens (rows, MAX_CONTEXT)."""

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    text_temperature: Tensor
    text_top_k: Tensor
    text_top_p: Tensor
    seed: Tensor
    padding_bonus: Tensor
    repetition_penalty: Tensor
    repetition_context: Tensor
    history: Tensor = dataclasses.field(metadata={"reset": -1})

    @classmethod
    def create(cls, rows: int, device: torch.device | str | None = None) -> RowSettings:
        """The default settings in every row."""
        fields = {}
        for field in dataclasses.fields(Sampling):
            dtype = torch.long if isinstance(field.default, int) else torch.float32
            fields[field.name] = torch.full((rows,), field.default, dtype=dtype, device=device)
        return cls(**fields, history=torch.full((rows, MAX_CONTEXT), -1, dtype=torch.long, device=device))

    def put(self, row: int, sampling: Sampling) -> None:
        """Give a row its settings, from its next frame on."""
        for field in dataclasses.fields(Sampling):
            getattr(self, field.name)[row] = getattr(sampling, field.name)

    def get(self, row: int) -> Sampling:
        """A row's settings."""
        return Sampling(**{f.name: getattr(self, f.name)[row].item() for f in dataclasses.fields(Sampling)})

    def remember(self, text: Tensor, active: Tensor) -> None:
        """Append the text tokens (rows,) of active rows to their history."""
        shifted = torch.cat([self.history[:, 1:], text[:, None]], dim=1)
        self.history.copy_(torch.where(active[:, None], shifted, self.history))


def shape_text(logits: Tensor, settings: RowSettings, padding: int, quiet: tuple[int, ...]) -> Tensor:
    """Padding bonus and repetition penalty on text logits (rows, V), a new tensor.

    Args:
        padding: id of the padding. quiet: ids that are never penalised (padding and its end).
    """
    history = settings.history
    bonus, penalty, context = (
        settings.padding_bonus,
        settings.repetition_penalty,
        settings.repetition_context,
    )
    few = kernels.shape_text(logits, padding, torch.tensor(quiet), (bonus, penalty, context), history)
    if few is not None:
        return few
    logits = logits.clone()
    logits[:, padding] += settings.padding_bonus
    # Count from the newest: entry i is MAX_CONTEXT - i frames old.
    age = torch.arange(MAX_CONTEXT, 0, -1, device=logits.device)
    heard = (settings.history >= 0) & (age <= settings.repetition_context[:, None])
    for token in quiet:
        heard &= settings.history != token
    heard &= settings.history < logits.shape[1]  # ids that carry two tokens are no candidates
    ids = settings.history.clamp(min=0, max=logits.shape[1] - 1)
    seen = torch.zeros_like(logits).scatter_add_(1, ids, heard.to(logits.dtype)) > 0
    penalty = settings.repetition_penalty[:, None]
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def choose(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    seed: Tensor,
    frame: Tensor,
    codebook: int,
    candidates: int | None = None,
) -> Tensor:
    """One token a row.

    Args:
        logits: (rows, n) float32. temperature, top_k, top_p, seed, frame: (rows,).
        codebook: 0 = text, k + 1 = codebook k.
        candidates: at least every row's ``top_k``: only so many are looked at; None = all.
    Returns:
        (rows,) ids
    """
    few = kernels.choose(logits, (temperature, top_k, top_p, seed, frame), codebook)
    if few is not None:
        return few
    size = logits.shape[1]
    count = size if candidates is None else min(candidates, size)
    values, ids = logits.topk(count, dim=-1)  # (rows, count), best first
    rank = torch.arange(count, device=logits.device)
    limit = torch.where(top_k > 0, top_k, size)[:, None]
    # Sampled like softmax(logits / t): the largest of logits / t + Gumbel noise. t = 0 leaves the best, ids[:, 0].
    warm = temperature > 0
    scaled = values / torch.where(warm, temperature, 1.0)[:, None]
    scaled = scaled.masked_fill(rank >= limit, float("-inf"))
    probability = scaled.softmax(-1)
    before = probability.cumsum(-1) - probability
    kept = before < top_p[:, None]
    noise = -torch.log(-torch.log(uniform(seed, frame, codebook, ids)))
    noisy = (scaled + noise.to(scaled.dtype)).masked_fill(~kept, float("-inf"))
    best = torch.where(warm, noisy.argmax(-1), 0)
    return ids.gather(1, best[:, None])[:, 0]
