"""Waking many tasks, each at its own time, out of one.

Theory of operation. A task that sleeps on ``trio.sleep_until`` holds a cancel scope with its status and three
coroutines, more than all that a pinger has besides; and a pinger sleeps for nearly all of its life. So pingers are
parked here, with a place in a heap by the time of their waking, and one task for all of them, the keeper, sleeps until
the first is due. It is there only while anybody sleeps, and so nobody has to end it.

A sleeper that is cancelled leaves an empty place, in which there is only the time. When more than half of all places
are empty the heap is made anew, so that they never outnumber the sleepers.
"""

from __future__ import annotations

import contextvars
import heapq
from collections.abc import Awaitable, Callable
from typing import Any, final

import trio

#: Starts a task in a context.
Spawn = Callable[[Callable[[], Awaitable[None]], contextvars.Context], None]


@final
class Alarm:
    """A place to sleep in.

    ``spawn`` starts the keeper, in a nursery that outlives every task that sleeps here.
    """

    __slots__ = ("_empty", "_heap", "_kept", "_scope", "_spawn")

    def __init__(self, spawn: Spawn) -> None:
        self._spawn = spawn
        self._heap: list[_Place] = []
        self._empty = 0
        self._kept = False
        self._scope: trio.CancelScope | None = None

    @property
    def sleepers(self) -> int:
        """How many tasks sleep."""
        return len(self._heap) - self._empty

    def sleep_until(self, deadline: float) -> Awaitable[Any]:
        """As ``trio.sleep_until``; not a coroutine itself, to save one in each sleeper."""
        place = _Place(self, deadline, trio.lowlevel.current_task())
        heapq.heappush(self._heap, place)
        if not self._kept:
            self._kept = True
            self._spawn(self._keep, contextvars.Context())
        elif self._scope is not None and self._heap[0] is place:
            self._scope.deadline = deadline
        return trio.lowlevel.wait_task_rescheduled(place.leave)  # noqa: ASYNC105 - the caller awaits it

    async def _keep(self) -> None:
        """The keeper."""
        try:
            while self._wake():
                with trio.CancelScope(deadline=self._heap[0].deadline) as self._scope:
                    await trio.sleep_forever()
        finally:
            self._kept = False
            self._scope = None

    def _wake(self) -> bool:
        """Wake those who are due; whether anybody else sleeps."""
        now = trio.current_time()
        while self._heap and (self._heap[0].task is None or self._heap[0].deadline <= now):
            task = heapq.heappop(self._heap).task
            if task is None:
                self._empty -= 1
            else:
                trio.lowlevel.reschedule(task)
        return bool(self._heap)

    def _left(self) -> None:
        """A place is empty."""
        self._empty += 1
        if 2 * self._empty > len(self._heap):
            self._heap = [place for place in self._heap if place.task is not None]
            heapq.heapify(self._heap)
            self._empty = 0
        if not self._heap and self._scope is not None:
            self._scope.cancel(reason="nobody sleeps")


class _Place:
    """Where one task sleeps, or has slept until it was cancelled."""

    __slots__ = ("_alarm", "deadline", "task")

    def __init__(self, alarm: Alarm, deadline: float, task: trio.lowlevel.Task) -> None:
        self._alarm = alarm
        self.deadline = deadline
        self.task: trio.lowlevel.Task | None = task

    def __lt__(self, other: _Place) -> bool:
        return self.deadline < other.deadline

    def leave(self, _: object) -> trio.lowlevel.Abort:
        """The task is cancelled."""
        self.task = None
        self._alarm._left()
        return trio.lowlevel.Abort.SUCCEEDED
