"""Tables of measures and of published figures, as HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from aizuchi.evaluate.report.published import FULL_DUPLEX_BENCH, Published
from aizuchi.evaluate.results import Measure, Section

ARROWS = {"higher": " ↑", "lower": " ↓", "": ""}
NAMES = {
    "smooth_turn_taking": "smooth turn-taking",
    "pause_handling": "pause handling",
    "backchannel": "backchannel",
    "user_interruption": "user interruption",
    "silence_and_noise": "silence and noise",
}
Rows = Mapping[str, Mapping[str, Measure]]


def measures_table(title: str, rows: Rows) -> str:
    """A table of measures: a row a name, a column a figure, with its interval and count."""
    columns: dict[str, Measure] = {}
    for row in rows.values():
        for name, cell in row.items():
            columns.setdefault(name, cell)
    # Rows with few columns in common would make a table of holes: a line for each figure then.
    filled = sum(len(row) for row in rows.values())
    if len(rows) > 1 and filled < 0.45 * len(rows) * len(columns):
        return _list_table(title, rows)
    mixed = {name for name in columns if len({row[name].better for row in rows.values() if name in row}) > 1}
    head = "".join(
        f"<th>{escape(name)}{_unit(cell, name not in mixed)}</th>" for name, cell in columns.items()
    )
    body = []
    for name, row in rows.items():
        cells = "".join(_cell(row.get(column), column in mixed) for column in columns)
        body.append(f"<tr><th>{escape(NAMES.get(name, name))}</th>{cells}</tr>")
    return _table(title, f"<tr><th></th>{head}</tr>", "".join(body))


def published_table(table: Published, ours: Mapping[str, Sequence[float | None]] | None = None) -> str:
    """Published figures, each row marked as such; rows of ours above them, if there are any."""
    head = "<tr><th></th>" + "".join(f"<th>{escape(column)}</th>" for column in table.columns) + "</tr>"
    rows = []
    for name, values in (ours or {}).items():
        rows.append(f'<tr class="ours"><th>{escape(name)}</th>{_plain(values, table.decimals)}</tr>')
    for name, values in table.rows.items():
        badge = '<span class="badge">published</span>'
        rows.append(
            f'<tr class="published"><th>{escape(name)} {badge}</th>{_plain(values, table.decimals)}</tr>'
        )
    note = f"{table.note} Published in: {table.source}. Not measured here; other data and recognisers."
    return _table(table.title, head, "".join(rows), note.strip())


def benchmark_row(section: Section) -> tuple[float | None, ...] | None:
    """Our figures in the columns of Full-Duplex-Bench's table; None without any."""
    rules = section.tables.get("Full-Duplex-Bench v1.0 rules")
    if not rules:
        return None

    def figure(kind: str, column: str, scale: float = 1.0) -> float | None:
        cell = rules.get(kind, {}).get(column)
        return None if cell is None or cell.value is None else cell.value * scale

    row = (
        figure("pause_handling", "take-over rate", 0.01),
        figure("backchannel", "take-over rate", 0.01),
        figure("backchannel", "frequency"),
        figure("backchannel", "JSD"),
        figure("smooth_turn_taking", "take-over rate", 0.01),
        figure("smooth_turn_taking", "latency"),
        figure("user_interruption", "take-over rate", 0.01),
        figure("user_interruption", "latency"),
    )
    assert len(row) == len(FULL_DUPLEX_BENCH.columns)
    return row


def format_value(value: float | None, unit: str = "") -> str:
    """A figure with as many digits as it deserves."""
    if value is None:
        return "–"
    if unit == "%":
        return f"{value:.1f}"
    if unit in ("s", "MOS", "Np", "bits", "1/min"):
        return f"{value:.2f}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}" if abs(value) < 0.1 and value else f"{value:.2f}".rstrip("0").rstrip(".")


def _list_table(title: str, rows: Rows) -> str:
    body = []
    for name, row in rows.items():
        for i, (column, cell) in enumerate(row.items()):
            label = f'<th rowspan="{len(row)}">{escape(NAMES.get(name, name))}</th>' if i == 0 else ""
            body.append(f"<tr>{label}<td class='name'>{escape(column)}{_unit(cell)}</td>{_cell(cell)}</tr>")
    return _table(title, "<tr><th></th><th></th><th>value (95 % interval)</th></tr>", "".join(body))


def _table(title: str, head: str, body: str, note: str = "") -> str:
    after = f'<p class="small">{escape(note)}</p>' if note else ""
    caption = f"<caption>{escape(title)}</caption>"
    return (
        f'<div class="wide"><table>{caption}<thead>{head}</thead><tbody>{body}</tbody></table></div>{after}'
    )


def _unit(cell: Measure, arrow: bool = True) -> str:
    note = f", {cell.note}" if cell.note and len(cell.note) < 24 else ""
    unit = f' <span class="unit">{escape(cell.unit + note).strip(", ")}</span>' if cell.unit or note else ""
    return unit + (ARROWS.get(cell.better, "") if arrow else "")


def _cell(cell: Measure | None, arrow: bool = False) -> str:
    """A figure; with an arrow where the rows of its column differ in which way is better."""
    if cell is None:
        return '<td class="none"></td>'
    interval = ""
    if cell.low is not None and cell.high is not None:
        low, high = format_value(cell.low, cell.unit), format_value(cell.high, cell.unit)
        interval = f' <span class="interval">{low} to {high}</span>'
    title = f"n = {cell.n}" + (f"; {cell.note}" if cell.note else "")
    value = format_value(cell.value, cell.unit) + (ARROWS.get(cell.better, "") if arrow else "")
    return f'<td title="{escape(title)}">{value}{interval}</td>'


def _plain(values: Sequence[float | None], decimals: int) -> str:
    return "".join(f"<td>{'–' if value is None else format(value, f'.{decimals}f')}</td>" for value in values)
