"""The held-out question set of `aizuchi-mini`, and the judge of its answers.

`heldout.jsonl` was written before any training, by `write.py`, from templates that share no carrier phrase
with the training phrasings, and is spoken by voices that no training hears.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

HELDOUT = Path(__file__).with_name("heldout.jsonl")


@dataclass(frozen=True)
class Question:
    """One spoken question and the rule that its answer must meet.

    Attributes:
        id: unique name, "plus-003".
        kind: what is asked, "plus", "spell", "other" (outside of the domain), ...
        text: the words to speak.
        rule: what a right answer holds; see `recipes.mini.questions.scoring`.
        voice: held-out voice that speaks it (see `recipes.mini.voices`), and its speed.
        context: questions to ask before it, in order, waiting for each answer ("say that again" needs one).
        interrupts: when True it is spoken over the answer to the last context question.
        apart: True for questions that are scored apart from the rest (repeat after me).
    """

    id: str
    kind: str
    text: str
    rule: dict
    voice: str
    speed: float = 1.0
    context: tuple[str, ...] = ()
    interrupts: bool = False
    apart: bool = False
    split: str = field(default="heldout")

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)


def load_questions(path: Path | str = HELDOUT, kinds: Iterable[str] | None = None) -> list[Question]:
    """Questions of a JSON lines file, in order; `kinds` keeps only those kinds.

    Raises ValueError for an unknown kind and for a line that is no question, naming file and line.
    """
    questions = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            questions.append(Question(**{**row, "context": tuple(row.get("context", ()))}))
        except (TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path}, line {number}: not a question ({error})") from error
    if kinds is not None:
        kinds = set(kinds)
        unknown = kinds - {q.kind for q in questions}
        if unknown:
            known = ", ".join(sorted({q.kind for q in questions}))
            raise ValueError(f"kinds: {', '.join(sorted(unknown))} not in {path}; it has {known}")
        questions = [q for q in questions if q.kind in kinds]
    return questions


def __getattr__(name: str):
    if name in ("is_right", "judge", "Verdict", "score"):
        from recipes.mini.questions import scoring

        return getattr(scoring, name)
    raise AttributeError(name)
