"""Conditions: what a model is told beside its streams (a voice, a quality), added to its input or attended to.

The configuration is the original's: ``conditioners`` names each condition and its kind ("lut": one of a list of
words; "tensor": vectors), ``fuser`` says which are summed into the input and which are attended to.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Conditions:
    """Conditions ready for the model: ``sum`` (B, 1, H) or None, ``cross`` (B, S, H) or None."""

    sum: Tensor | None = None
    cross: Tensor | None = None

    def expand(self, rows: int) -> Conditions:
        """The same for ``rows`` rows: one row of conditions is everybody's.

        Raises:
            ValueError: another number of rows than 1 or ``rows``.
        """
        for value in (self.sum, self.cross):
            if value is not None and value.shape[0] not in (1, rows):
                raise ValueError(f"`conditions` are of {value.shape[0]} rows, the input has {rows}.")
        return Conditions(
            *(None if value is None else value.expand(rows, -1, -1) for value in (self.sum, self.cross))
        )

    @staticmethod
    def cat(parts: list[Conditions]) -> Conditions:
        """Rows of several, one below the other (for guidance: with and without)."""
        sums = [part.sum for part in parts if part.sum is not None]
        crosses = [part.cross for part in parts if part.cross is not None]
        return Conditions(torch.cat(sums) if sums else None, torch.cat(crosses) if crosses else None)


class Conditioner(nn.Module):
    """One condition: a table of words or plain vectors, projected to the model's width; absent = learnt padding."""

    def __init__(self, name: str, config: dict[str, Any], width: int):
        super().__init__()
        kind = config.get("type")
        if kind not in ("lut", "tensor"):
            raise ValueError(f"`conditioners[{name!r}]`: type {kind!r} is not known, use 'lut' or 'tensor'.")
        options = config[kind]
        self.name, self.kind, self.dim = name, kind, options["dim"]
        self.words: list[str] | None = None
        if kind == "lut":
            if options.get("tokenizer", "noop") != "noop":
                raise ValueError(
                    f"`conditioners[{name!r}]`: tokenizer {options['tokenizer']!r} is not known."
                )
            self.words = options.get("possible_values")
            self.bins = options["n_bins"]
            self.embed = nn.Embedding(self.bins + 1, self.dim)  # the last row stands for "not given"
        self.output_proj = nn.Linear(self.dim, width, bias=False)
        learnt = torch.zeros(1, 1, width) if options.get("learn_padding", True) else None
        self.learnt_padding = None if learnt is None else nn.Parameter(learnt)

    def _word_index(self, word: str | None) -> int:
        if word is None:
            return self.bins
        if self.words is None:  # no list: words are hashed to rows, as the original does
            return int(hashlib.sha256(word.encode()).hexdigest(), 16) % self.bins
        if word not in self.words:
            raise ValueError(f"Condition {self.name!r} must be one of {self.words}, got {word!r}.")
        return self.words.index(word)

    def forward(self, values: list[Any]) -> Tensor:
        """One value a row -> (B, S, width): a word or None for "lut", (S, dim) or None for "tensor"."""
        weight = self.output_proj.weight
        if self.kind == "lut":
            index = torch.tensor([self._word_index(value) for value in values], device=weight.device)
            raw = self.embed(index)[:, None]  # (B, 1, dim)
            given = torch.tensor([[value is not None] for value in values], device=weight.device)
        else:
            raw, given = self._stack(values, weight)
        out = self.output_proj(raw)
        blank = 0 if self.learnt_padding is None else self.learnt_padding
        return torch.where(given[..., None], out, blank)

    def _stack(self, values: list[Any], weight: Tensor) -> tuple[Tensor, Tensor]:
        length = max([1, *(value.shape[0] for value in values if value is not None)])
        raw = weight.new_zeros(len(values), length, self.dim)
        given = torch.zeros(len(values), length, dtype=torch.bool, device=weight.device)
        for row, value in enumerate(values):
            if value is None:
                continue
            if value.dim() != 2 or value.shape[1] != self.dim:
                raise ValueError(
                    f"Condition {self.name!r} must be (length, {self.dim}), got {tuple(value.shape)}."
                )
            raw[row, : value.shape[0]] = value.to(raw)
            given[row, : value.shape[0]] = True
        return raw, given


class ConditionProvider(nn.Module):
    """All conditioners of a model, kept in float32 as the original keeps them, and the rule that fuses them."""

    def __init__(self, conditioners: dict[str, Any], fuser: dict[str, Any] | None, width: int):
        super().__init__()
        self.conditioners = nn.ModuleDict(
            {name: Conditioner(name, options, width) for name, options in conditioners.items()}
        )
        fuser = fuser or {}
        self.summed: list[str] = list(fuser.get("sum", []))
        self.attended: list[str] = list(fuser.get("cross", []))
        self.cross_positions = fuser.get("cross_attention_pos_emb", False)
        self.cross_positions_scale = fuser.get("cross_attention_pos_emb_scale", 1.0)
        if fuser.get("prepend"):
            raise ValueError("`fuser`: 'prepend' is not supported, use 'sum' or 'cross'.")
        if unknown := [name for name in self.summed + self.attended if name not in self.conditioners]:
            raise ValueError(f"`fuser` names {unknown[0]!r}, which `conditioners` lacks.")

    def forward(self, rows: list[dict[str, Any]]) -> Conditions:
        """One dict a row: condition name -> word, (S, dim) tensor, or None where it is not given.

        Raises:
            ValueError: an unknown name, or one that is missing (pass None to leave it out).
        """
        for row in rows:
            if wrong := set(row) ^ set(self.conditioners):
                raise ValueError(
                    f"`conditions` must name each of {list(self.conditioners)}; wrong: {sorted(wrong)}."
                )
        values = {name: module([row[name] for row in rows]) for name, module in self.conditioners.items()}
        total = None
        for name in self.summed:
            if values[name].shape[1] != 1:
                raise ValueError(
                    f"Condition {name!r} is summed: it must have length 1, got {values[name].shape[1]}."
                )
            total = values[name] if total is None else total + values[name]
        cross = None
        if self.attended:
            cross = torch.cat([values[name] for name in self.attended], dim=1)
            if self.cross_positions:
                cross = cross + self.cross_positions_scale * sinusoids(cross.shape[1], cross.shape[2], cross)
        return Conditions(total, cross)


def sinusoids(length: int, width: int, like: Tensor) -> Tensor:
    """(1, length, width) cosines then sines, periods from 1 to 10,000 (moshi/modules/transformer.py)."""
    half = width // 2
    steps = torch.arange(half, device=like.device, dtype=torch.float32) / (half - 1)
    phase = torch.arange(length, device=like.device, dtype=torch.float32)[:, None] / 10000.0**steps
    return torch.cat([phase.cos(), phase.sin()], dim=-1)[None].to(like)
