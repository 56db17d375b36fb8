"""The page of a report: one HTML file with its plots, players and style inside."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from aizuchi.errors import AizuchiError
from aizuchi.evaluate.report import published, svg
from aizuchi.evaluate.report.document import Report
from aizuchi.evaluate.report.samples import marks_of, pick, sample_html
from aizuchi.evaluate.report.style import SCRIPT, STYLE
from aizuchi.evaluate.report.tables import (
    ARROWS,
    benchmark_row,
    format_value,
    measures_table,
    published_table,
)
from aizuchi.evaluate.results import Measure, Section
from aizuchi.evaluate.scenario_set import read_truth
from aizuchi.files import write_text

HEADINGS = {
    "turns": "Turn-taking",
    "dialogue": "Dialogue statistics",
    "speech": "Speech",
    "codec": "Codec",
    "latency": "Latency",
}
# What stands at the top, where it was measured: (section, table, row, column, label).
KEY_FIGURES = (
    ("turns", "Exact events", "smooth_turn_taking", "answers", "takes the turn"),
    ("turns", "Exact events", "smooth_turn_taking", "latency", "median latency"),
    ("turns", "Exact events", "pause_handling", "silent in pauses", "waits through pauses"),
    ("turns", "Exact events", "user_interruption", "stops within 0.6 s", "stops within 0.6 s"),
    ("turns", "Exact events", "silence_and_noise", "false starts", "false starts"),
    ("speech", "Answers", "all", "right", "answers right"),
    ("speech", "Answers in noise", "all", "right", "answers right in noise"),
    ("speech", "Monologue against what is heard", "Answers", "WER", "monologue against sound"),
    ("codec", "Codecs on the same speech", "Mimi, 8 codebooks", "DistillMOS", "coded speech"),
    ("codec", "Codecs on the same speech", "Mimi, 8 codebooks", "WER", "words lost in coding"),
    ("latency", "Mouth to ear", "all", "latency", "mouth to ear"),
)


def write_page(report: Report, path: str | Path, audio: bool = True, samples: int = 2) -> None:
    """Write a report's page.

    Args:
        report: to be shown.
        path: of the HTML file.
        audio: put players into it.
        samples: dialogues of each kind to show.
    """
    body = [_header(report), _key_figures(report)]
    makers: dict[str, Callable[[Section], list[str]]] = {
        "turns": lambda section: _turns(report, section, audio, samples),
        "dialogue": _dialogue,
        "speech": _speech,
        "codec": _codec,
        "latency": _latency,
    }
    for name, section in report.sections.items():
        parts = makers.get(name, _plain)(section)
        parts.append(_left_out(section))
        heading = HEADINGS.get(name, escape(name))
        body.append(f'<section id="{escape(name)}"><h2>{heading}</h2>{"".join(parts)}</section>')
    write_text(path, page_html(f"{report.system} · aizuchi eval", "".join(body)))


def page_html(title: str, body: str) -> str:
    """A whole page around a body."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><main>{body}</main><script>{SCRIPT}</script></body></html>\n"
    )


def _header(report: Report) -> str:
    facts = " · ".join(f"{escape(str(k))} {escape(str(v))}" for k, v in report.about.items())
    links = " ".join(
        f'<a href="#{escape(name)}">{HEADINGS.get(name, escape(name))}</a>' for name in report.sections
    )
    return f'<header><h1>{escape(report.system)}</h1><p class="small">{facts}</p><nav>{links}</nav></header>'


def _key_figures(report: Report) -> str:
    cards = []
    for name, table, row, column, label in KEY_FIGURES:
        section = report.sections.get(name)
        cell = section.tables.get(table, {}).get(row, {}).get(column) if section else None
        if cell is not None and cell.value is not None:
            cards.append(_card(cell, label))
    return f'<div class="cards">{"".join(cards)}</div>' if cards else ""


def _card(cell: Measure, label: str) -> str:
    interval = ""
    if cell.low is not None and cell.high is not None:
        interval = f"{format_value(cell.low, cell.unit)} to {format_value(cell.high, cell.unit)}, "
    return (
        f'<div class="card"><b>{format_value(cell.value, cell.unit)} {escape(cell.unit)}</b>'
        f"<span>{escape(label)}{ARROWS.get(cell.better, '')}</span>"
        f'<span class="small">{interval}n = {cell.n}</span></div>'
    )


def _turns(report: Report, section: Section, audio: bool, samples: int) -> list[str]:
    parts = []
    if "Exact events" in section.tables:
        parts.append(measures_table("Exact events (on the sound itself)", section.tables["Exact events"]))
    offsets = _offsets(section, "smooth_turn_taking")
    after = _offsets(section, "user_interruption")
    if offsets or after:
        series = [("after a finished question", "model", offsets), ("after an interruption", "other", after)]
        lines = [(f"median {np.median(offsets):.2f} s", float(np.median(offsets)))] if offsets else []
        drawing = svg.histogram([s for s in series if s[2]], "seconds after the user's end", lines)
        parts.append(_figure("When the answer starts", drawing))
    stops = [
        item["events"]["stop"]
        for item in section.items
        if item.get("events") and item["events"].get("stop") is not None
    ]
    if stops:
        series = [("stop latency", "model", stops)]
        drawing = svg.histogram(series, "seconds from the interruption's start", [("0.6 s", 0.6)])
        parts.append(_figure("How soon it stops when interrupted", drawing))
    row = benchmark_row(section)
    if row:
        ours = {f"{report.system} (on this set)": row}
        parts.append(published_table(published.FULL_DUPLEX_BENCH, ours))
    for title in ("Full-Duplex-Bench v1.0 rules", "Full-Duplex-Bench v1.5 timing"):
        if title in section.tables:
            parts.append(measures_table(f"{title}, with intervals", section.tables[title]))
    shown = pick(section.items, samples)
    if shown:
        parts.append("<h3>Sample dialogues</h3>")
    for item in shown:
        truth = _truth(item)
        if truth is not None:
            item = item | {"user_words": [(w.text, w.start, w.end) for w in truth.words]}
        parts.append(sample_html(item, marks_of(item, truth), audio))
    return parts


def _offsets(section: Section, kind: str) -> list[float]:
    found = [
        item["events"]["offset"] for item in section.items if item["kind"] == kind and item.get("events")
    ]
    return [offset for offset in found if offset is not None]


def _truth(item: dict[str, Any]) -> Any:
    try:
        return read_truth(Path(item["files"][0]).parent) if item.get("events") else None
    except AizuchiError:
        return None


def _dialogue(section: Section) -> list[str]:
    ours = {}
    for name, row in section.tables.get("Dialogue statistics", {}).items():
        ours[name] = tuple(row[column].value for column in ("IPU", "pause", "gap", "overlap"))
    parts = [published_table(published.DIALOGUE, ours)]
    parts += [
        measures_table(title, rows)
        for title, rows in section.tables.items()
        if title != published.DIALOGUE.title  # whose figures are in the table above
    ]
    offsets = [offset for item in section.items for offset in item.get("offsets", [])]
    if offsets:
        drawing = svg.histogram([("changes of speaker", "model", offsets)], "seconds (negative: overlap)")
        parts.append(_figure("Offsets at changes of speaker", drawing))
    return parts


def _speech(section: Section) -> list[str]:
    parts = [measures_table(title, rows) for title, rows in section.tables.items()]
    if any("Answers" in title for title in section.tables):
        parts.append(published_table(published.ANSWERS))
    if "Word errors" in section.tables:
        parts.append(published_table(published.WORDS))
    if "Likelihood pairs" in section.tables:
        parts.append(published_table(published.LIKELIHOOD))
    wrong = [item for item in section.items if item.get("right") is False]
    if wrong:
        rows = "".join(
            f"<tr><th>{escape(item['id'])}</th><td class='name'>{escape(item['asked'])}</td>"
            f"<td class='name'>{escape(item['heard'] or '(nothing)')}</td>"
            f"<td class='name'>{escape(item['reason'])}</td></tr>"
            for item in wrong[:60]
        )
        more = f"<p class='small'>and {len(wrong) - 60} more, in the JSON</p>" if len(wrong) > 60 else ""
        table = (
            '<div class="wide"><table><thead><tr><th></th><th>asked</th><th>heard</th><th>why it is wrong</th></tr>'
            f"</thead><tbody>{rows}</tbody></table></div>{more}"
        )
        parts.append(f"<details><summary>{len(wrong)} wrong answers</summary>{table}</details>")
    return parts


def _codec(section: Section) -> list[str]:
    table = section.tables.get("Codecs on the same speech", {})
    parts = [measures_table("Codecs on the same speech", table)] if table else []
    for column in ("DistillMOS", "WER", "mel distance"):
        points = []
        for name, row in table.items():
            kbps, value = row["bit rate"].value, row[column].value if column in row else None
            if kbps is not None and value is not None and name != "original":
                points.append((name, "other" if name.startswith("Opus") else "model", kbps, value))
        if len(points) > 1:
            arrow = ARROWS[next(iter(r[column] for r in table.values() if column in r)).better]
            drawing = svg.scatter(points, "kilobits a second", column + arrow)
            parts.append(_figure(f"{column} against bit rate", drawing))
            break
    parts += [measures_table(t, rows) for t, rows in section.tables.items() if rows is not table]
    parts.append(published_table(published.CODECS))
    return parts


def _latency(section: Section) -> list[str]:
    parts = [measures_table(title, rows) for title, rows in section.tables.items()]
    parts.append(published_table(published.LATENCY))
    return parts


def _plain(section: Section) -> list[str]:
    return [measures_table(title, rows) for title, rows in section.tables.items()]


def _left_out(section: Section) -> str:
    about = " · ".join(f"{escape(str(k))}: {escape(str(v))}" for k, v in section.about.items())
    parts = [f'<p class="small">{about}</p>'] if about else []
    if section.skipped or section.broken:
        rows = "".join(
            f"<li>{escape(str(row['what']))}: {escape(str(row['reason']))} ({row['count']} times)</li>"
            for row in section.skipped
        )
        rows += "".join(
            f"<li><code>{escape(row['path'])}</code>: {escape(row['reason'])}</li>" for row in section.broken
        )
        count = sum(row["count"] for row in section.skipped)
        label = f"Left out: {count} measurements skipped, {len(section.broken)} files broken"
        parts.append(f'<details class="left-out"><summary>{label}</summary><ul>{rows}</ul></details>')
    return "".join(parts)


def _figure(caption: str, drawing: str) -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>{drawing}</figure>"
