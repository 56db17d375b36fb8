"""The training phrasings, read from `phrases/*.txt`: sections of one template or value a line.

A spoken question of training is an opener ("Hey,"), a template of its kind with its slots filled, and a
closer ("please"). Its slots are those of the held-out templates, with which it shares no carrier phrase.
"""

from __future__ import annotations

from pathlib import Path

PHRASES = Path(__file__).with_name("phrases")
_SUMS = {"plus": "{a} plus {b}", "minus": "{a} minus {b}", "times": "{a} times {b}"}


def read_sections(path: Path) -> dict[str, tuple[str, ...]]:
    """Sections of a phrase file: "[name]" starts one, each further line is an entry, "#" a comment.

    Raises ValueError for an entry before the first section and for a section given twice.
    """
    sections: dict[str, list[str]] = {}
    current: list[str] | None = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        line = line.rstrip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            name = line.strip("[]")
            if name in sections:
                raise ValueError(f"{path}, line {number}: section [{name}] is there already")
            current = sections[name] = []
        elif current is None:
            raise ValueError(f"{path}, line {number}: a [section] has to come first")
        else:
            current.append(line)
    return {name: tuple(lines) for name, lines in sections.items()}


def read_phrases(folder: Path) -> dict[str, tuple[str, ...]]:
    """The sections of all files of a folder; those of one name are one.

    Raises ValueError as `read_sections` does, and for an entry that two files have.
    """
    found: dict[str, tuple[str, ...]] = {}
    for path in sorted(folder.glob("*.txt")):
        for name, lines in read_sections(path).items():
            if twice := set(lines) & set(found.get(name, ())):
                raise ValueError(f"{path}, section [{name}]: {min(twice)!r} is in another file already")
            found[name] = found.get(name, ()) + lines
    return found


_domain = read_phrases(PHRASES)
_other = {
    name: _domain.pop(name)
    for name in list(_domain)
    if name.startswith(("other", "slot ", "story ", "phrase "))
}

OPENERS = _domain.pop("openers")
CLOSERS = _domain.pop("closers")
_sums = _domain.pop("sums")
TRAIN_TEMPLATES: dict[str, tuple[str, ...]] = {
    kind: (*(t.replace("{x}", _SUMS[kind]) for t in _sums if kind in _SUMS), *templates)
    for kind, templates in _domain.items()
}
OTHER_TEMPLATES = _other["other"]
OTHER_SLOTS = {
    name.removeprefix("slot "): lines for name, lines in _other.items() if name.startswith("slot ")
}
STORY_STARTS, STORY_MIDDLES, STORY_ENDS = (_other[f"story {part}"] for part in ("start", "middle", "end"))
PHRASE_WORDS = {name.removeprefix("phrase "): v for name, v in _other.items() if name.startswith("phrase ")}

# Kinds whose phrases are whole by themselves: they get no opener and no closer.
BARE_KINDS = frozenset({"greeting", "goodbye", "thanks", "praise", "stop", "again", "repeat", "hear_me"})
