"""Two reports side by side: every figure that both have, and whether it really moved."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from aizuchi.evaluate.report.document import Report
from aizuchi.evaluate.report.page import HEADINGS, page_html
from aizuchi.evaluate.report.tables import ARROWS, NAMES, format_value
from aizuchi.evaluate.results import Measure
from aizuchi.files import write_text


@dataclass(frozen=True)
class Difference:
    """One figure in two reports.

    Attributes:
        section, table, row, column: where it stands.
        before, after: the figures.
        verdict: "better", "worse", "moved" (neither way is better), "within noise" (their 95 % intervals
            overlap), "same", or "no interval" where a difference has none to judge it by.
    """

    section: str
    table: str
    row: str
    column: str
    before: Measure
    after: Measure
    verdict: str

    @property
    def change(self) -> float:
        assert self.before.value is not None and self.after.value is not None
        return self.after.value - self.before.value


def compare(before: Report, after: Report) -> tuple[list[Difference], list[str]]:
    """Figures that both reports have, and the names of those that only one has."""
    found, lonely = [], []
    old, new = _flat(before), _flat(after)
    for place, cell in old.items():
        other = new.get(place)
        if other is None or cell.value is None or other.value is None:
            lonely.append(f"only in {before.system}: {' / '.join(place)}")
        else:
            found.append(Difference(*place, cell, other, _verdict(cell, other)))
    lonely += [f"only in {after.system}: {' / '.join(place)}" for place in new if place not in old]
    return found, lonely


def write_comparison(before: Report, after: Report, path: str | Path) -> list[Difference]:
    """Write a comparison's page, and its JSON beside it."""
    found, lonely = compare(before, after)
    path = Path(path)
    write_text(path, page_html(f"{before.system} and {after.system}", _body(before, after, found, lonely)))
    data: dict[str, Any] = {
        "format": "aizuchi-comparison",
        "version": 1,
        "before": before.system,
        "after": after.system,
        "differences": [asdict(difference) | {"change": difference.change} for difference in found],
        "lonely": lonely,
    }
    import json

    write_text(path.with_suffix(".json"), json.dumps(data, ensure_ascii=False, indent=1) + "\n")
    return found


def _verdict(before: Measure, after: Measure) -> str:
    assert before.value is not None and after.value is not None
    if before.value == after.value:
        return "same"
    if None in (before.low, before.high, after.low, after.high):
        return "no interval"
    if before.low <= after.high and after.low <= before.high:  # type: ignore[operator]
        return "within noise"
    if not before.better:
        return "moved"
    return "better" if (after.value > before.value) == (before.better == "higher") else "worse"


def _flat(report: Report) -> dict[tuple[str, str, str, str], Measure]:
    return {
        (name, title, row, column): cell
        for name, section in report.sections.items()
        for title, rows in section.tables.items()
        for row, cells in rows.items()
        for column, cell in cells.items()
    }


def _body(before: Report, after: Report, found: list[Difference], lonely: list[str]) -> str:
    counts = {
        v: sum(d.verdict == v for d in found) for v in ("better", "worse", "within noise", "no interval")
    }
    parts = [
        f"<header><h1>{escape(before.system)} → {escape(after.system)}</h1>"
        f'<p class="small">{escape(str(before.about.get("date", "")))} → {escape(str(after.about.get("date", "")))}'
        f" · better {counts['better']}, worse {counts['worse']}, within noise {counts['within noise']}, "
        f"no interval to judge by {counts['no interval']}</p></header>"
    ]
    titles = dict.fromkeys((d.section, d.table) for d in found)
    for name, title in titles:
        rows = "".join(_line(d) for d in found if (d.section, d.table) == (name, title))
        head = "<tr><th></th><th></th><th>before</th><th>after</th><th>change</th><th></th></tr>"
        caption = f"<caption>{HEADINGS.get(name, escape(name))}: {escape(title)}</caption>"
        parts.append(
            f'<div class="wide"><table>{caption}<thead>{head}</thead><tbody>{rows}</tbody></table></div>'
        )
    if lonely:
        items = "".join(f"<li>{escape(text)}</li>" for text in lonely)
        parts.append(
            f"<details><summary>{len(lonely)} figures in one report only</summary><ul>{items}</ul></details>"
        )
    return "".join(parts)


def _line(difference: Difference) -> str:
    before, after = difference.before, difference.after
    state = {"better": "good", "worse": "bad"}.get(difference.verdict, "small")
    unit = f' <span class="unit">{escape(before.unit)}</span>' if before.unit else ""
    sign = "+" if difference.change > 0 else ""
    return (
        f"<tr><th>{escape(NAMES.get(difference.row, difference.row))}</th>"
        f'<td class="name">{escape(difference.column)}{unit}{ARROWS.get(before.better, "")}</td>'
        f"<td>{_with_interval(before)}</td><td>{_with_interval(after)}</td>"
        f"<td>{sign}{format_value(difference.change, before.unit)}</td>"
        f'<td class="name {state}">{difference.verdict}</td></tr>'
    )


def _with_interval(cell: Measure) -> str:
    value = format_value(cell.value, cell.unit)
    if cell.low is None or cell.high is None:
        return value
    low, high = format_value(cell.low, cell.unit), format_value(cell.high, cell.unit)
    return f'{value} <span class="interval">{low} to {high}</span>'
