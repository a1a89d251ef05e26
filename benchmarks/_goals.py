"""What the library must hold, each bound beside what was measured. It reports; nothing fails because of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import attrs

from ._figures import Results

US = "trio_rooms"
FLOOR = "C floor"
PYTHON_FLOOR = "Python floor"
SOCKETIFY = ("socketify", "socketify, native loop")
NAIVE = ["trio-websocket, loop", "trio-websocket, channel + writer"]

Measured = Callable[[Results], float | None]


@attrs.frozen
class Goal:
    """One bound. ``aim`` is what we would like, where that is more."""

    number: int
    text: str
    measured: Measured
    bound: float
    sign: Literal["<=", ">="] = "<="
    aim: float | None = None
    unit: str = "x"

    def verdict(self, results: Results) -> str:
        """Whether it holds, or that it was not measured."""
        value = self.measured(results)
        if value is None:
            return "not measured"
        return "holds" if (value <= self.bound if self.sign == "<=" else value >= self.bound) else "MISSED"


def _to(scenario: str, figure: str, *others: str) -> Measured:
    """Ours to the cheapest of some others."""

    def measured(results: Results) -> float | None:
        other = results.cheapest(scenario, figure, list(others))
        return None if other is None else results.ratio((scenario, US, figure), (scenario, other, figure))

    return measured


def _of(scenario: str, figure: str, *others: str) -> Measured:
    """The cheapest of some others to ours; without names all but the floors, socketify and ourselves."""

    def measured(results: Results) -> float | None:
        names = list(others) or [
            name for name in results.subjects(scenario) if name not in (FLOOR, *SOCKETIFY) and not name.startswith(US)
        ]
        other = results.cheapest(scenario, figure, names)
        return None if other is None else results.ratio((scenario, other, figure), (scenario, US, figure))

    return measured


def _own(scenario: str, figure: str) -> Measured:
    return lambda results: results.median(scenario, US, figure)


def _own_ratio(this: tuple[str, str], other: tuple[str, str]) -> Measured:
    return lambda results: results.ratio((this[0], US, this[1]), (other[0], US, other[1]))


def _later(step: str) -> Measured:
    """By how many ms the 999th of 1,000 echoes is later than without a fan-out."""

    def measured(results: Results) -> float | None:
        beside = results.median("beside", US, f"{step}.echo_p999_us")
        alone = results.median("beside", US, "alone.echo_p999_us")
        return None if beside is None or alone is None else (beside - alone) / 1000

    return measured


def _with(variant: str, step: str) -> Measured:
    return lambda results: results.ratio(("features", variant, f"{step}.cpu_us"), ("features", US, f"{step}.cpu_us"))


def _with_all_on(step: str) -> Measured:
    return _with("+ logger, recovery, hooks, typed", step)


def _millions_where_the_floor_can(results: Results) -> float | None:
    floor = results.median("fanout-128", FLOOR, "w64.rate")
    ours = results.median("fanout-128", US, "w64.rate")
    return None if floor is None or ours is None else ours / 1e6 * max(1.0, 150_000 / floor)


def _growth_beyond_floor(results: Results) -> float | None:
    """The kernel's part of a write grows with the sockets, too: they are no longer in the processor's caches."""
    ours, floors = (
        results.ratio(("members-10000", name, "w1.cpu_us"), ("members-100", name, "w1.cpu_us")) for name in (US, FLOOR)
    )
    return None if ours is None or floors is None else ours / floors


W1, W64 = "w1.cpu_us", "w64.cpu_us"
GOALS: tuple[Goal, ...] = (
    Goal(
        1,
        "idle room: to the cheaper of websockets on uvloop and aiohttp",
        _to("fanout-128", W1, "websockets, uvloop", "aiohttp, uvloop"),
        0.8,
    ),
    Goal(1, "idle room: to the C floor", _to("fanout-128", W1, FLOOR), 1.4, aim=1.2),
    Goal(1, "idle room: to picows", _to("fanout-128", W1, "picows"), 1.0),
    Goal(2, "busy room: socketify to ours", _of("fanout-128", W64, *SOCKETIFY), 2, ">="),
    Goal(2, "busy room: the cheapest other server to ours", _of("fanout-128", W64), 10, ">="),
    Goal(2, "busy room: to the C floor", _to("fanout-128", W64, FLOOR), 0.1),
    Goal(
        2,
        "busy room: million deliveries/s, for a C floor of 150,000 or more",
        _millions_where_the_floor_can,
        1.0,
        ">=",
        unit="M/s",
    ),
    Goal(3, "echo: to websockets on asyncio", _to("echo", W1, "websockets, asyncio"), 0.8),
    Goal(3, "echo: to aiohttp (an aim)", _to("echo", W1, "aiohttp, uvloop"), 1.0),
    Goal(3, "echo: to the cheaper naive trio-websocket", _to("echo", W1, *NAIVE), 1 / 3),
    Goal(4, "memory of an idle connection", _own("connections", "connect.kib_per_conn"), 15, aim=12, unit="KiB"),
    Goal(4, "connecting: to aiohttp", _to("connections", "connect.cpu_us", "aiohttp, uvloop"), 1.0),
    Goal(4, "connecting: to the C floor (an aim)", _to("connections", "connect.cpu_us", FLOOR), 200 / 30),
    Goal(
        4, "a close to a connect", _own_ratio(("connections", "close.cpu_us"), ("connections", "connect.cpu_us")), 1.5
    ),
    Goal(5, "idle room: 10,000 members to 100", _own_ratio(("members-10000", W1), ("members-100", W1)), 1.3),
    Goal(5, "the same, less by what the C floor's grows", _growth_beyond_floor, 1.3),
    Goal(
        5,
        "10,000 rooms of one to one room of 10,000",
        _own_ratio(("sweep-many", "sweep.cpu_us"), ("sweep-one", "sweep.cpu_us")),
        1.5,
    ),
    Goal(
        5,
        "latest echo beside a fan-out to 10,000, to the length of that fan-out",
        _own_ratio(("delay", "fan.echo_max_us"), ("delay", "fan.last_max_us")),
        1.0,
    ),
    Goal(6, "p999 of an echo beside a fan-out, one in flight: later by", _later("w1"), 10, unit="ms"),
    Goal(6, "p999 of an echo beside a fan-out, 64 in flight: later by", _later("w64"), 10, unit="ms"),
    Goal(6, "full collections during a fan-out, one in flight", _own("fanout-128", "gc1.full"), 0, unit=""),
    Goal(6, "full collections during a fan-out, 64 in flight", _own("fanout-128", "gc64.full"), 0, unit=""),
    Goal(7, "idle room: with logger, hooks and typed decoding, to without", _with_all_on("w1"), 1.2),
    Goal(7, "busy room: with logger, hooks and typed decoding, to without", _with_all_on("w64"), 1.2),
    Goal(9, "idle room: with history and presence, to without", _with("+ history, presence", "w1"), 1.2),
    Goal(9, "busy room: with history and presence, to without", _with("+ history, presence", "w64"), 1.2),
)


def rows(results: Results) -> list[tuple[str, str, str, str, str]]:
    """Number, what, measured, bound, verdict: as text, for a table."""
    table = []
    for goal in GOALS:
        value = goal.measured(results)
        unit = f" {goal.unit}" if goal.unit else ""
        aim = f", aim {goal.aim:g}" if goal.aim is not None else ""
        table.append(
            (
                str(goal.number),
                goal.text,
                "-" if value is None else f"{value:.3g}{unit}",
                f"{goal.sign} {goal.bound:.3g}{unit}{aim}",
                goal.verdict(results),
            )
        )
    return [*table, ("8", "every must-hold of the core, on both transports", "by the tests", "", "")]
