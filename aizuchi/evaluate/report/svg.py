"""Plots as SVG text; colours come from the page's style, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

WIDTH = 880
LANE = 40
LEFT = 78  # room for the lanes' names


def timeline(
    duration: float,
    lanes: Sequence[tuple[str, str, Sequence[Sequence[float]]]],
    words: Sequence[Sequence[tuple[str, float, float]]],
    marks: Sequence[tuple[str, str, float, float]] = (),
) -> str:
    """Who speaks when.

    Args:
        duration: seconds.
        lanes: (name, class, [(start, end), ...]) of each speaker, from the top.
        words: of each lane, (text, start, end).
        marks: (text, class, start, end) of events, drawn behind the lanes; a line where start = end.
    """
    top, height = 20, 20 + LANE * len(lanes) + 26
    scale = (WIDTH - LEFT - 12) / max(duration, 1e-6)

    def x(seconds: float) -> float:
        return round(LEFT + min(max(seconds, 0.0), duration) * scale, 1)

    parts = [
        _open(height, "timeline", f"{len(lanes)} lanes over {duration:.1f} seconds", start=LEFT, scale=scale)
    ]
    bottom = top + LANE * len(lanes)
    for text, kind, start, end in marks:
        if end - start < 1e-3:
            parts.append(f'<line class="mark {kind}" x1="{x(start)}" y1="8" x2="{x(start)}" y2="{bottom}"/>')
        else:
            width = max(1.0, x(end) - x(start))
            parts.append(
                f'<rect class="span {kind}" x="{x(start)}" y="8" width="{width:.1f}" height="{bottom - 8}"/>'
            )
        parts.append(f'<text class="small {kind}" x="{x(start) + 3:.1f}" y="14">{escape(text)}</text>')
    for i, (name, kind, spans) in enumerate(lanes):
        y = top + i * LANE
        parts.append(f'<text class="lane" x="0" y="{y + 20}">{escape(name)}</text>')
        parts.append(f'<line class="rule" x1="{LEFT}" y1="{y + 15}" x2="{WIDTH - 12}" y2="{y + 15}"/>')
        for start, end in spans:
            width = max(1.5, x(end) - x(start))
            title = f"<title>{start:.2f} to {end:.2f} s</title>"
            parts.append(
                f'<rect class="{kind}" x="{x(start)}" y="{y + 6}" width="{width:.1f}" height="18" rx="3">{title}</rect>'
            )
        starts = [start for start, _ in spans] + [duration]
        for k, (start, end) in enumerate(spans):
            said = " ".join(w for w, a, b in words[i] if min(b, end) - max(a, start) > 0 or start <= a < end)
            room = int((x(starts[k + 1]) - x(start)) / 6) - 1
            if said and room >= 3:
                text = said if len(said) <= room else said[: room - 1].rstrip() + "…"
                parts.append(f'<text class="word" x="{x(start) + 2:.1f}" y="{y + 35}">{escape(text)}</text>')
    parts.append(_seconds_axis(duration, x, bottom + 8))
    parts.append(f'<line class="playhead" x1="{LEFT}" y1="8" x2="{LEFT}" y2="{bottom + 6}"/></svg>')
    return "".join(parts)


def histogram(
    series: Sequence[tuple[str, str, Sequence[float]]],
    label: str,
    lines: Sequence[tuple[str, float]] = (),
    bins: int = 24,
) -> str:
    """Histograms over one another.

    Args:
        series: (name, class, values).
        label: of the horizontal axis.
        lines: (name, value) of vertical lines, such as a median.
        bins: at most so many.
    """
    values = [value for _, _, some in series for value in some if math.isfinite(value)]
    height, base, top = 190, 150, 22
    highest = top + (14 if lines else 0)  # the names of lines stand above the bars
    parts = [_open(height, "histogram", f"histogram of {label}")]
    if not values:
        return "".join(
            [*parts, f'<text class="small" x="8" y="40">nothing measured: {escape(label)}</text></svg>']
        )
    low, high, step = _nice_range(min(values), max(values), bins)
    edges = np.arange(low, high + step / 2, step)
    counts = [np.histogram(some, edges)[0] for _, _, some in series]
    peak = max(1, max(int(count.max()) for count in counts))
    scale = (WIDTH - 60) / (high - low)

    def x(value: float) -> float:
        return round(40 + (value - low) * scale, 1)

    share = 1 / len(series)
    for i, ((name, kind, some), count) in enumerate(zip(series, counts)):
        for k, number in enumerate(count):
            if number:
                size = (base - highest) * number / peak
                width = scale * step * share - 1
                left = x(edges[k]) + i * scale * step * share
                parts.append(
                    f'<rect class="{kind}" x="{left:.1f}" y="{base - size:.1f}" width="{max(1, width):.1f}" '
                    f'height="{size:.1f}"><title>{escape(name)}: {number} from {edges[k]:.2f} to '
                    f"{edges[k + 1]:.2f}</title></rect>"
                )
        parts.append(f'<rect class="{kind}" x="{40 + 210 * i}" y="4" width="10" height="10" rx="2"/>')
        parts.append(f'<text class="small" x="{55 + 210 * i}" y="13">{escape(name)} (n = {len(some)})</text>')
    for name, value in lines:
        if low <= value <= high:
            parts.append(f'<line class="mark" x1="{x(value)}" y1="{top}" x2="{x(value)}" y2="{base}"/>')
            parts.append(f'<text class="small" x="{x(value) + 3:.1f}" y="{top + 9}">{escape(name)}</text>')
    parts.append(f'<line class="rule" x1="40" y1="{base}" x2="{WIDTH - 20}" y2="{base}"/>')
    parts.append(f'<text class="small right" x="34" y="{highest + 8}">{peak}</text>')
    parts.append(f'<text class="small right" x="34" y="{base}">0</text>')
    for tick in _ticks(low, high):
        parts.append(f'<text class="small middle" x="{x(tick)}" y="{base + 14}">{tick:g}</text>')
    parts.append(f'<text class="small middle" x="{WIDTH / 2}" y="{base + 32}">{escape(label)}</text></svg>')
    return "".join(parts)


def scatter(points: Sequence[tuple[str, str, float, float]], x_label: str, y_label: str) -> str:
    """Named points: (name, class, x, y), the horizontal axis logarithmic."""
    height, base, top = 260, 216, 14
    parts = [_open(height, "scatter", f"{y_label} against {x_label}")]
    some = [p for p in points if p[2] > 0 and math.isfinite(p[3])]
    if not some:
        return "".join([*parts, '<text class="small" x="8" y="40">nothing measured</text></svg>'])
    low, high = math.log(min(p[2] for p in some) * 0.8), math.log(max(p[2] for p in some) * 1.6)
    bottom, up, _ = _nice_range(min(p[3] for p in some), max(p[3] for p in some), 5)

    def x(value: float) -> float:
        return 46 + (math.log(value) - low) / (high - low) * (WIDTH - 66)

    def y(value: float) -> float:
        return base - (value - bottom) / (up - bottom) * (base - top)

    for tick in _ticks(bottom, up):
        parts.append(f'<line class="rule" x1="46" y1="{y(tick):.1f}" x2="{WIDTH - 20}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text class="small right" x="40" y="{y(tick) + 4:.1f}">{tick:g}</text>')
    for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200):
        if low <= math.log(tick) <= high:
            parts.append(f'<text class="small middle" x="{x(tick):.1f}" y="{base + 15}">{tick:g}</text>')
    taken: list[tuple[float, float, float, float]] = [
        (x(p[2]) - 6, x(p[2]) + 6, y(p[3]) - 6, y(p[3]) + 6) for p in some
    ]
    taken.append((46, 46 + 6.2 * len(y_label), 0, 12))
    for name, kind, px, py in some:
        parts.append(f'<circle class="{kind}" cx="{x(px):.1f}" cy="{y(py):.1f}" r="5"/>')
        at, line, anchor, box = _free_place(x(px), y(py), 6.2 * len(name), taken, base)
        taken.append(box)
        parts.append(f'<text class="small {anchor}" x="{at:.1f}" y="{line:.1f}">{escape(name)}</text>')
    parts.append(f'<text class="small middle" x="{WIDTH / 2}" y="{base + 33}">{escape(x_label)}</text>')
    parts.append(f'<text class="small" x="46" y="10">{escape(y_label)}</text></svg>')
    return "".join(parts)


Box = tuple[float, float, float, float]  # left, right, top, bottom


def _free_place(
    x: float, y: float, width: float, taken: Sequence[Box], base: float
) -> tuple[float, float, str, Box]:
    """Where the name of a point goes so that it hides no other: x, y, the class of its anchor, and its box."""
    places = []
    for rise in (4, -10, 18, -24, 32, -38, 46):
        places.append((x + 9, y + rise, "", (x + 9, x + 9 + width, y + rise - 11, y + rise + 2)))
        places.append((x - 9, y + rise, "right", (x - 9 - width, x - 9, y + rise - 11, y + rise + 2)))
    places = [
        p for p in places if 46 <= p[3][0] and p[3][1] <= WIDTH - 4 and 0 <= p[3][2] and p[3][3] <= base + 4
    ] or places

    def hidden(box: Box) -> int:
        return sum(box[0] < b[1] and b[0] < box[1] and box[2] < b[3] and b[2] < box[3] for b in taken)

    return min(places, key=lambda place: hidden(place[3]))


def _open(height: int, kind: str, label: str, **data: float) -> str:
    extra = "".join(f' data-{name}="{value:.4f}"' for name, value in data.items())
    return (
        f'<svg class="{kind}" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}"{extra} '
        'xmlns="http://www.w3.org/2000/svg">'
    )


def _seconds_axis(duration: float, x: Any, y: float) -> str:
    parts = []
    for tick in _ticks(0.0, duration, 12):
        parts.append(f'<line class="rule" x1="{x(tick)}" y1="{y - 4}" x2="{x(tick)}" y2="{y}"/>')
        parts.append(f'<text class="small middle" x="{x(tick)}" y="{y + 11}">{tick:g} s</text>')
    return "".join(parts)


def _ticks(low: float, high: float, most: int = 8) -> list[float]:
    """Round numbers between two values."""
    span = max(high - low, 1e-9)
    raw = span / most
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw - 1e-12)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _nice_range(low: float, high: float, bins: int) -> tuple[float, float, float]:
    """Round limits around values, and a round step that gives at most `bins` of them."""
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / bins
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw - 1e-12)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if last * step <= high:
        last += 1  # the largest value gets a bin of its own, not an edge
    return first * step, last * step, step
