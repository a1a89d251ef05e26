"""What is measured: each scenario a row of a table, its steps in the language of load.c.

Names of steps are the names of columns in the reports. ``{s}`` is the length of a measurement in seconds. A server
is started anew for each scenario, and warmed up by its first connections and by the traffic before a measurement.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from ._subjects import Subject


def everyone(subject: Subject) -> bool:
    """All servers; a variant stands only beside the features."""
    return subject.kind != "variant"


def ours_and_floor(subject: Subject) -> bool:
    """This library on both transports beside the floor, which alone can publish from within ("sweep")."""
    return subject.kind == "floor" or (subject.kind == "ours" and subject.has_tools)


def ours_and_variants(subject: Subject) -> bool:
    """This library with and without its features."""
    return subject.kind == "variant" or subject.name == "trio_rooms"


@attrs.frozen(kw_only=True)
class Scenario:
    """Steps that run on the same connections, by name."""

    name: str
    title: str
    steps: dict[str, str]
    subjects: Callable[[Subject], bool] = everyone
    #: Part of ``--quick``.
    quick: bool = False

    def commands(self, *, seconds: float, gc: bool) -> dict[str, str]:
        """The steps for the load client; those that ask about the garbage collector only where there is an answer."""
        steps = {name: step.replace("{s}", f"{seconds:g}") for name, step in self.steps.items()}
        return {name: step for name, step in steps.items() if gc or not step.startswith("ask:")}


def _fanout(size: int) -> dict[str, str]:
    return {
        "warm": "connect:conns=50,rooms=0",
        "connect": "connect:conns=1000",
        "before": "ask:action=gc",
        "w1": f"traffic:fan=1,window=1,size={size},seconds={{s}}",
        "gc1": "ask:action=gc",
        "w64": f"traffic:fan=1,window=64,size={size},seconds={{s}},warm=0",
        "gc64": "ask:action=gc",
    }


def _members(members: int) -> dict[str, str]:
    return {"connect": f"connect:conns={members}", "w1": "traffic:fan=0,window=1,seconds={s}"}


SCENARIOS: tuple[Scenario, ...] = (
    Scenario(name="fanout-128", title="1,000 members, 128 B", steps=_fanout(128), quick=True),
    Scenario(name="fanout-1024", title="1,000 members, 1 KiB", steps=_fanout(1024)),
    Scenario(name="fanout-16384", title="1,000 members, 16 KiB", steps=_fanout(16384)),
    Scenario(name="members-10", title="10 members", steps=_members(10)),
    Scenario(name="members-100", title="100 members", steps=_members(100)),
    Scenario(name="members-10000", title="10,000 members", steps=_members(10_000)),
    Scenario(
        name="rooms-1000",
        title="1,000 rooms of 10",
        steps={"connect": "connect:conns=10000,rooms=1000", "w1": "traffic:fan=0,window=1,seconds={s}"},
    ),
    Scenario(
        name="sweep-one",
        title="one room of 10,000, published to from within the server",
        steps={"connect": "connect:conns=10000", "sweep": "traffic:fan=0,sweep=1,seconds={s}"},
        subjects=ours_and_floor,
    ),
    Scenario(
        name="sweep-many",
        title="10,000 rooms of one member, each published to from within the server",
        steps={"connect": "connect:conns=10000,rooms=10000", "sweep": "traffic:fan=0,sweep=1,seconds={s}"},
        subjects=ours_and_floor,
    ),
    Scenario(
        name="echo",
        title="echo, 200 connections",
        steps={"connect": "connect:conns=200,rooms=0", "w1": "traffic:ask=0,seconds={s}"},
        quick=True,
    ),
    Scenario(
        name="connections",
        title="5,000 connections: memory, connecting, closing, coming back",
        steps={
            "warm": "connect:conns=500",
            "connect": "connect:conns=5000",
            "idle": "idle:seconds=3",
            "storm": "storm:group=1",
            "close": "close:group=1",
        },
        quick=True,
    ),
    Scenario(
        name="latency",
        title="at a fixed rate",
        steps={
            "members": "connect:conns=100",
            "askers": "connect:conns=200,rooms=0",
            "fan": "traffic:fan=0,rate=50,seconds=3,spin=1",
            "echo": "traffic:ask=1,ask_rate=1000,seconds=3,spin=1",
        },
    ),
    Scenario(
        name="beside",
        title="echo beside a fan-out at full rate to 1,000 members",
        steps={
            "members": "connect:conns=1000",
            "askers": "connect:conns=20,rooms=0",
            "alone": "traffic:ask=1,ask_rate=500,seconds=3",
            "before": "ask:action=gc",
            "w1": "traffic:fan=0,window=1,ask=1,ask_rate=500,seconds=3",
            "w64": "traffic:fan=0,window=64,ask=1,ask_rate=500,seconds=3,warm=0",
            "gc": "ask:action=gc",
        },
    ),
    Scenario(
        name="delay",
        title="echo beside one publication a second to 10,000 members",
        steps={
            "members": "connect:conns=10000",
            "askers": "connect:conns=20,rooms=0",
            "alone": "traffic:ask=1,ask_rate=500,seconds=3",
            "fan": "traffic:fan=0,rate=1,ask=1,ask_rate=500,seconds=5",
        },
        subjects=ours_and_floor,
    ),
    Scenario(
        name="features",
        title="one feature at a time: 1,000 members, 128 B",
        steps={**_fanout(128), "echo": "traffic:ask=1,seconds={s},warm=0.5"},
        subjects=ours_and_variants,
    ),
)
