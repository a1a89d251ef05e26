"""Ends a run that does not end by itself.

Everything is cancelled, nursery by nursery, which gets by the shields around them. What shields itself within its own
task and waits for ever cannot be cancelled by anybody; such a run has to be stopped from outside.
"""

from __future__ import annotations

import trio

from ._record import Crashed, Record

# Virtual seconds: more than the world gives itself, and how often everything is cancelled again.
_PATIENCE = 4000.0
_AGAIN = 60.0


async def watch(main: trio.lowlevel.Task, record: Record) -> None:
    """Watch the run whose main task is given. To be run as a system task, which ends with the run."""
    await trio.sleep(_PATIENCE)
    names = dict.fromkeys(task.name for task in _below(main))
    record.add(Crashed(f"the run does not end; held by: {', '.join(sorted(names))}"))
    while True:
        for task in (main, *_below(main)):
            for nursery in task.child_nurseries:
                nursery.cancel_scope.cancel(reason="the run does not end")
        await trio.sleep(_AGAIN)


def _below(task: trio.lowlevel.Task) -> list[trio.lowlevel.Task]:
    found: list[trio.lowlevel.Task] = []
    for nursery in task.child_nurseries:
        # In an order of their own: a nursery's tasks are a set.
        for child in sorted(nursery.child_tasks, key=lambda child: child.name):
            found += [child, *_below(child)]
    return found
