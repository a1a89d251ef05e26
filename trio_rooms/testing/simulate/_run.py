"""Running a plan, and what came of it."""

from __future__ import annotations

import math
import traceback

import attrs
import trio
import trio.testing

from ._application import Program
from ._check import check
from ._determinism import deterministic
from ._met import met
from ._plan import Plan, draw_plan
from ._record import Crashed, Record
from ._watchdog import watch
from ._world import World


@attrs.frozen
class Outcome:
    """A run, and what was wrong with it."""

    plan: Plan
    """What was to happen."""
    record: Record
    """What has happened."""
    violations: tuple[str, ...]
    """What must not have happened; empty if all is well."""

    @property
    def failed(self) -> bool:
        """Whether anything was wrong."""
        return bool(self.violations)

    @property
    def met(self) -> frozenset[str]:
        """The kinds of trouble that were met, such as ``"network: cut"`` or ``"close: 4008"``."""
        return met(self.record, self.plan.settings)


def run_plan(plan: Plan, program: Program | None = None) -> Outcome:
    """Run a plan to its end, and check its record. Calls ``trio.run``."""
    record = Record()

    async def main() -> None:
        trio.lowlevel.spawn_system_task(watch, trio.lowlevel.current_task(), record)
        await World(plan, record, program).run()

    clock = trio.testing.MockClock(autojump_threshold=0)
    with deterministic(plan.seed):
        try:
            trio.run(main, clock=clock)
        except Exception as exc:
            record.add_at(math.inf, Crashed(_told(exc)))
    return Outcome(plan, record, tuple(check(record, plan.settings)))


def simulate(seed: int, program: Program | None = None) -> Outcome:
    """One run in which everything follows from ``seed``: the steps, the faults, the limits, the scheduler.

    Without a ``program`` of your own it is one that uses everything. The same seed gives the same run each time.
    Calls ``trio.run``; the time in it is virtual.
    """
    speak, rooms = (None, None) if program is None else (program.speak, program.rooms)
    return run_plan(draw_plan(seed, speak=speak, rooms=rooms), program)


def _told(exc: BaseException) -> str:
    """An exception in one line; of a group what is in it, without the cancellations."""
    if isinstance(exc, BaseExceptionGroup):
        return "; ".join(filter(None, map(_told, exc.exceptions)))
    if isinstance(exc, trio.Cancelled):
        return ""
    frames = traceback.extract_tb(exc.__traceback__)
    return f"{exc!r} at {frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else repr(exc)
