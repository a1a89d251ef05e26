"""The plots of docs/performance.md."""

from __future__ import annotations

from . import _goals
from ._figures import Results
from ._svg import Bar, Line, bars, lines

#: name of the file -> title, figure, unit, logarithmic, the table that it stands above
_BARS: dict[str, tuple[str, str, str, bool, str]] = {
    "idle-room.svg": ("Idle room of 1,000: one delivery", "fanout-128:w1.cpu_us", "µs of CPU", True, "Overview"),
    "busy-room.svg": (
        "Busy room of 1,000, 64 in flight: one delivery",
        "fanout-128:w64.cpu_us",
        "µs of CPU",
        True,
        "Overview",
    ),
    "echo.svg": ("Echo through the router, 200 connections", "echo:w1.cpu_us", "µs of CPU", False, "Overview"),
    "memory.svg": (
        "Memory of an idle connection",
        "connections:connect.kib_per_conn",
        "KiB",
        False,
        "Overview",
    ),
    "beside.svg": (
        "999th of 1,000 echoes beside a fan-out to 1,000",
        "beside:w1.echo_p999_us",
        "µs, one publication in flight",
        True,
        "An echo beside a fan-out",
    ),
    "storm.svg": (
        "5,000 connections come back",
        "connections:storm.elapsed_s",
        "seconds until all are subscribed",
        False,
        "Coming back",
    ),
}

_MEMBERS = {10: "members-10", 100: "members-100", 1_000: "fanout-128", 10_000: "members-10000"}


def plots(results: Results) -> dict[str, tuple[str, str, str]]:
    """Name of the file -> title, table that it belongs to, SVG; only what there are figures for."""
    drawn: dict[str, tuple[str, str, str]] = {}
    for name, (title, key, unit, log, table) in _BARS.items():
        scenario, figure = key.split(":")
        values = {subject: results.median(scenario, subject, figure) for subject in results.subjects(scenario)}
        found = sorted((value, subject) for subject, value in values.items() if value is not None)
        if found:
            rows = [Bar(subject, max(value, 0.0), _kind(subject)) for value, subject in found]
            drawn[name] = (title, table, bars(title, unit, rows, log=log))
    growth = _growth(results)
    if growth:
        title = "Growth with members, one publication in flight"
        drawn["growth.svg"] = (title, "Growth", lines(title, "µs of CPU for one delivery", "members", growth))
    return drawn


def _growth(results: Results) -> list[Line]:
    rows = []
    for subject in results.subjects("members-10000"):
        costs = {n: results.median(scenario, subject, "w1.cpu_us") for n, scenario in _MEMBERS.items()}
        points = [(float(n), cost) for n, cost in costs.items() if cost]
        if len(points) > 1:
            rows.append(Line(subject, points, _kind(subject)))
    return rows


def _kind(subject: str) -> str:
    return {_goals.US: "us", _goals.FLOOR: "floor", _goals.PYTHON_FLOOR: "floor"}.get(subject, "peer")
