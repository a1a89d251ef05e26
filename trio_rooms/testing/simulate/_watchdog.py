"""Ends a run that does not end by itself: shielded tasks that wait for ever would hold it."""

from __future__ import annotations

import trio

from ._record import Crashed, Record

# Virtual seconds: more than the world gives itself, and how often it is looked again.
_PATIENCE = 4000.0
_AGAIN = 60.0


async def watch(main: trio.lowlevel.Task, record: Record) -> None:
    """Watch the run whose main task is given. To be run as a system task, which ends with the run."""
    await trio.sleep(_PATIENCE)
    record.add(Crashed("the run does not end; held by: " + ", ".join(sorted({task.name for task in _below(main)}))))
    while True:
        for task in (main, *_below(main)):
            for nursery in task.child_nurseries:
                nursery.cancel_scope.cancel(reason="the run does not end")
        await trio.sleep(_AGAIN)


def _below(task: trio.lowlevel.Task) -> list[trio.lowlevel.Task]:
    found = []
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            found += [child, *_below(child)]
    return found
