"""Plots as SVG: bars and lines, readable on a light and on a dark page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from xml.sax.saxutils import escape, quoteattr

import attrs

WIDTH = 720
LEFT, RIGHT, TOP = 230, 90, 46
BAR, GAP = 16, 8
LINE = 14

_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #333; }
.title { font-size: 15px; font-weight: 600; }
.small { font-size: 11px; fill: #666; }
.grid { stroke: #8884; stroke-width: 1; }
.us { fill: #0a7d5a; stroke: #0a7d5a; } .us-text { font-weight: 700; }
.floor { fill: #8a8f98; stroke: #8a8f98; }
.peer { fill: #5b8def; stroke: #5b8def; }
polyline { fill: none; stroke-width: 2; }
@media (prefers-color-scheme: dark) {
  text { fill: #ddd; } .small { fill: #aaa; }
  .us { fill: #2fc796; stroke: #2fc796; } .peer { fill: #7ea6f7; stroke: #7ea6f7; }
}
"""


@attrs.frozen
class Bar:
    """One row of a bar plot; ``kind`` is us, floor or peer."""

    label: str
    value: float
    kind: str = "peer"
    shown: str = ""


@attrs.frozen
class Line:
    """One line of a line plot: points of x and y."""

    label: str
    points: Sequence[tuple[float, float]]
    kind: str = "peer"


def bars(title: str, unit: str, rows: Sequence[Bar], *, log: bool = False) -> str:
    """A horizontal bar for each row. ``log``: lengths are logarithmic, which the plot says."""
    height = TOP + len(rows) * (BAR + GAP) + 12
    values = [row.value for row in rows if row.value > 0]
    low, high = (min(values) / 2, max(values)) if values else (0.5, 1.0)
    room = WIDTH - LEFT - RIGHT
    parts = [_text(12, 22, title, "title"), _text(12, 38, unit + (", logarithmic" if log else ""), "small")]
    for i, row in enumerate(rows):
        y = TOP + i * (BAR + GAP)
        share = math.log(row.value / low) / math.log(high / low) if log and row.value > 0 else row.value / high
        length = max(1.0, room * share)
        name = "us-text" if row.kind == "us" else ""
        parts += [
            _text(LEFT - 8, y + BAR - 3, row.label, name, anchor="end"),
            f'<rect class="{row.kind}" x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2"/>',
            _text(LEFT + length + 6, y + BAR - 3, row.shown or f"{row.value:.3g}", name),
        ]
    return _page(title, height, parts)


def lines(title: str, unit: str, x_unit: str, rows: Sequence[Line]) -> str:
    """Lines over logarithmic axes, each named at its right end."""
    height, bottom = 380, 330
    xs = [x for row in rows for x, _ in row.points]
    ys = [y for row in rows for _, y in row.points]
    left, right = 60, WIDTH - 210
    x_low, x_high = (min(xs), max(xs)) if xs else (1, 10)
    y_low, y_high = (10 ** math.floor(math.log10(min(ys))), 10 ** math.ceil(math.log10(max(ys)))) if ys else (1, 10)

    def at(x: float, y: float) -> tuple[float, float]:
        across = math.log(x / x_low) / (math.log(x_high / x_low) or 1)
        up = math.log(y / y_low) / (math.log(y_high / y_low) or 1)
        return left + across * (right - left), bottom - up * (bottom - TOP - 10)

    parts = [_text(12, 22, title, "title"), _text(12, 38, unit, "small")]
    for tick in _decades(y_low, y_high):
        _, y = at(x_low, tick)
        parts += [
            f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>',
            _text(left - 6, y + 4, f"{tick:g}", "small", anchor="end"),
        ]
    for x in sorted(set(xs)):
        parts.append(_text(at(x, y_low)[0], bottom + 18, f"{x:,g}", "small", anchor="middle"))
    parts.append(_text((left + right) / 2, bottom + 38, x_unit, "small", anchor="middle"))
    named = sorted(rows, key=lambda row: -row.points[-1][1])
    heights = _apart([at(*row.points[-1])[1] + 4 for row in named], most=bottom + 4)
    for row, label_y in zip(named, heights, strict=True):
        corners = [at(*point) for point in row.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
        parts += [
            f'<polyline class="{row.kind}" style="fill:none" points="{path}"/>',
            *(f'<circle class="{row.kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in corners),
            _text(corners[-1][0] + 10, label_y, row.label, "us-text" if row.kind == "us" else ""),
        ]
    return _page(title, height, parts)


def _apart(heights: Sequence[float], *, most: float) -> list[float]:
    """Rising heights, moved so far apart that text can be read, down to ``most``."""
    moved: list[float] = []
    for height in heights:
        moved.append(max([height, *(above + LINE for above in moved[-1:])]))
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], most - LINE * (len(moved) - 1 - i))
    return moved


def _decades(low: float, high: float) -> Iterable[float]:
    return [10.0**n for n in range(round(math.log10(low)), round(math.log10(high)) + 1)]


def _text(x: float, y: float, text: str, name: str = "", *, anchor: str = "start") -> str:
    named = f' class="{name}"' if name else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _page(title: str, height: float, parts: Sequence[str]) -> str:
    size = f'viewBox="0 0 {WIDTH} {height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label={quoteattr(title)}>'
    return "\n".join([head, f"<style>{_STYLE}</style>", *parts, "</svg>", ""])
