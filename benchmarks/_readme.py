"""The few figures that README.md shows, between two markers like those of docs/performance.md."""

from __future__ import annotations

from pathlib import Path

from . import _goals
from ._figures import Results
from ._report import between, circumstances, markdown_table

#: Whom most readers know, beside the floors.
SHOWN = {
    _goals.FLOOR: "that server in C",
    _goals.US: f"**{_goals.US}**",
    _goals.PYTHON_FLOOR: "the same in bare Python",
    "socketify": "socketify (uWebSockets, C++)",
    "picows": "picows (Cython)",
    "Node ws": "Node.js, ws",
    "aiohttp, uvloop": "aiohttp on uvloop",
    "websockets, asyncio": "websockets",
    "Starlette, uvicorn": "Starlette on uvicorn",
    "trio-websocket, channel + writer": "trio-websocket with a channel and a writer each",
    "python-socketio, uvicorn": "python-socketio on uvicorn",
}
COLUMNS = {
    "a delivery, one at a time": ("fanout-128", "w1.cpu_us"),
    "a delivery, 64 in flight": ("fanout-128", "w64.cpu_us"),
    "an echo": ("echo", "w1.cpu_us"),
}


def readme(text: str, results: Results) -> str:
    """README.md with its generated part made anew. Raises ValueError without the markers."""
    rows = [("", *COLUMNS, "KiB of an idle connection")]
    for subject, shown in SHOWN.items():
        memory = results.median("connections", subject, "connect.kib_per_conn")
        costs = (_ratio(results, subject, *figure) for figure in COLUMNS.values())
        rows.append((shown, *costs, "-" if memory is None else f"{memory:.2g}"))
    measured = {circumstances(results.about_of(scenario)): None for scenario in ("fanout-128", "echo", "connections")}
    return between(text, "\n\n".join([markdown_table(rows), f"({'; '.join(measured)}.)"]))


def write(results: Results, path: Path) -> Path:
    """Write it into the file."""
    path.write_text(readme(path.read_text(encoding="utf-8"), results), encoding="utf-8")
    return path


def _ratio(results: Results, subject: str, scenario: str, figure: str) -> str:
    ratio = results.ratio((scenario, subject, figure), (scenario, _goals.FLOOR, figure))
    return "-" if ratio is None else f"{ratio:.2g}" if ratio < 10 else f"{ratio:.0f}"
