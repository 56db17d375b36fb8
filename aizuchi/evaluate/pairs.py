"""Likelihood pairs: does a model find the real one of two likelier?

As sWUGGY (a word against one that does not exist), sBLIMP (a grammatical sentence against one that is not)
and the story clozes do (Nguyen et al., arXiv 2011.11588). Pairs are JSON lines with `id`, `kind`, `good` and
`bad`, which hold whatever the scorer takes: text, or sound files (relative to the pairs' file).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aizuchi.errors import AizuchiError
from aizuchi.evaluate.results import Measure, Section, proportion, run_items

Nll = Callable[[str], tuple[float, int]]  # nats of a whole example, and over how many tokens


@dataclass(frozen=True)
class Pair:
    """Two examples of which `good` should be likelier."""

    id: str
    kind: str
    good: str
    bad: str


def read_pairs(path: str | Path) -> list[Pair]:
    """Read pairs; names of files that lie beside the pairs' file become paths.

    Raises:
        AizuchiError: the file can't be read, or a line is no pair.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AizuchiError(f"can't read the pairs {path}: {error}") from error
    pairs = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            sides = [_place(path.parent, row[side]) for side in ("good", "bad")]
            pairs.append(Pair(str(row["id"]), str(row.get("kind", "pairs")), *sides))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise AizuchiError(f"{path}, line {number} is no pair: {type(error).__name__} {error}") from error
    if not pairs:
        raise AizuchiError(f"{path} holds no pair")
    return pairs


def score_pairs(
    pairs: Sequence[Pair], nll: Nll, section: Section, per_token: bool = True, progress: bool = True
) -> dict[str, dict[str, Measure]]:
    """The share of pairs in which the good example is likelier; a tie counts as half right.

    Args:
        pairs: any kinds.
        nll: negative log likelihood of one example in nats, and its number of tokens.
        section: receives the items, and what is broken.
        per_token: compare means over tokens, so that a longer example is not punished for its length.
        progress: show a bar.

    Returns:
        kind -> "accuracy" (and "ties").
    """

    def cost(example: str) -> float:
        total, tokens = nll(example)
        if not math.isfinite(total) or tokens < 1:
            raise AizuchiError(f"no likelihood for {example!r}: {total} nats over {tokens} tokens")
        return total / tokens if per_token else total

    def compare(pair: Pair) -> dict[str, Any]:
        good, bad = cost(pair.good), cost(pair.bad)
        return {"id": pair.id, "kind": pair.kind, "good": good, "bad": bad}

    items = run_items(pairs, compare, section, name=lambda pair: pair.id, label="pairs", progress=progress)
    section.items += items
    table: dict[str, dict[str, Measure]] = {}
    for kind in dict.fromkeys(item["kind"] for item in items):
        mine = [item for item in items if item["kind"] == kind]
        ties = sum(item["good"] == item["bad"] for item in mine)
        right = sum(item["good"] < item["bad"] for item in mine)
        share = proportion([item["good"] < item["bad"] for item in mine])
        accuracy = 100 * (right + ties / 2) / len(mine)
        table[kind] = {
            "accuracy": Measure(accuracy, len(mine), "%", "higher", share.low, share.high),
            "ties": Measure(100 * ties / len(mine), len(mine), "%"),
        }
    return table


def _place(folder: Path, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("good and bad must be strings")
    # A long text is no file name, and asking whether it is one can fail.
    return str(folder / value) if len(value) < 200 and (folder / value).is_file() else value
