"""Sampling settings as callers send them: a mapping of names to numbers, checked."""

from __future__ import annotations

import dataclasses
import math
import re
import secrets
from collections.abc import Mapping
from typing import Any

from ..engine import Sampling
from ..errors import AizuchiError

NAMES = tuple(field.name for field in dataclasses.fields(Sampling))
_WHOLE = {field.name for field in dataclasses.fields(Sampling) if isinstance(field.default, int)}
_LARGEST = {"top_k": 1 << 20, "text_top_k": 1 << 20, "padding_bonus": 100.0, "repetition_penalty": 100.0}


def with_settings(base: Sampling, changes: Mapping[str, Any]) -> Sampling:
    """``base`` with some settings changed.

    Args:
        changes: names of `Sampling`'s fields to numbers. A ``seed`` of None is drawn at random.
    Raises:
        AizuchiError: an unknown name or a value out of range; the message names it.
    """
    values: dict[str, Any] = {}
    for name, value in changes.items():
        if name not in NAMES:
            raise AizuchiError(f"there is no setting {str(name)[:40]!r}; the settings are {', '.join(NAMES)}")
        if name == "seed" and value is None:
            values[name] = random_seed()
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise AizuchiError(f"{name} must be a number")
        if isinstance(value, float) and not math.isfinite(value):
            raise AizuchiError(f"{name} must be finite")
        if name in _WHOLE and value != int(value):
            raise AizuchiError(f"{name} must be a whole number")
        if abs(value) > _LARGEST.get(name, math.inf):
            raise AizuchiError(f"{name} must not be beyond {_LARGEST[name]}")
        try:
            values[name] = int(value) if name in _WHOLE else float(value)
        except OverflowError as error:
            raise AizuchiError(f"{name} is too large") from error
    try:
        return dataclasses.replace(base, **values)
    except ValueError as error:
        raise AizuchiError(str(error)) from error


def number(name: str, text: str) -> float:
    """A number from a query.

    Raises:
        AizuchiError: it is none, or out of range.
    """
    try:
        value = float(text)
    except ValueError as error:
        raise AizuchiError(f"{name} must be a number, not {text[:40]!r}") from error
    if not abs(value) <= 2.0**62:
        raise AizuchiError(f"{name} is out of range")
    if re.fullmatch(r"[+-]?\d{1,18}", text.strip()):  # seeds have more digits than a float keeps
        return int(text)
    return int(value) if value == int(value) else value


def random_seed() -> int:
    """A seed that is easy to write down."""
    return secrets.randbelow(1_000_000_000)


def as_dict(sampling: Sampling) -> dict[str, float]:
    """The settings by name."""
    return dataclasses.asdict(sampling)
