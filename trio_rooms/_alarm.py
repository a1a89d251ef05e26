"""Calling many functions and waking many tasks, each at its own time, out of one task.

Theory of operation. A task that sleeps on ``trio.sleep_until`` holds a cancel scope with its status and three
coroutines, more than all that a pinger has besides; and a pinger sleeps for nearly all of its life. So pingers are
parked here, with a place in a heap by the time of their waking, and one task for all of them, the keeper, sleeps until
the first is due. It is there only while there are places, and so nobody has to end it. Whoever has nothing to do at
all until its time has come need not be a task until then: it has a place with a function, which starts it.

A place that is given up stays, empty, and there is only the time in it. When more than half of all places are empty
the heap is made anew, so that they never outnumber the others.
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
    """A place to sleep in, and to leave calls for later.

    ``spawn`` starts the keeper, in a nursery that outlives whoever uses this.
    """

    __slots__ = ("_empty", "_heap", "_kept", "_scope", "_spawn")

    def __init__(self, spawn: Spawn) -> None:
        self._spawn = spawn
        self._heap: list[Place] = []
        self._empty = 0
        self._kept = False
        self._scope: trio.CancelScope | None = None

    @property
    def sleepers(self) -> int:
        """How many places are taken."""
        return len(self._heap) - self._empty

    def sleep_until(self, deadline: float) -> Awaitable[Any]:
        """As ``trio.sleep_until``; not a coroutine itself, to save one in each sleeper."""
        place = self._place(deadline, trio.lowlevel.current_task())
        return trio.lowlevel.wait_task_rescheduled(place.abort)  # noqa: ASYNC105 - the caller awaits it

    def call_at(self, deadline: float, call: Callable[[], object]) -> Place:
        """Have ``call()`` called in the keeper's task, unless its place is left before. It must not raise."""
        return self._place(deadline, call)

    def _place(self, deadline: float, call: Callable[[], object] | trio.lowlevel.Task) -> Place:
        place = Place(self, deadline, call)
        heapq.heappush(self._heap, place)
        if not self._kept:
            self._kept = True
            self._spawn(self._keep, contextvars.Context())
        elif self._scope is not None and self._heap[0] is place:
            self._scope.deadline = deadline
        return place

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
        """Make the calls that are due; whether there are others."""
        now = trio.current_time()
        while self._heap and (self._heap[0].call is None or self._heap[0].deadline <= now):
            place = heapq.heappop(self._heap)
            call, place.call = place.call, None
            if call is None:
                self._empty -= 1
            elif isinstance(call, trio.lowlevel.Task):
                trio.lowlevel.reschedule(call)
            else:
                call()
        return bool(self._heap)

    def _left(self) -> None:
        """A place is empty."""
        self._empty += 1
        if 2 * self._empty > len(self._heap):
            self._heap = [place for place in self._heap if place.call is not None]
            heapq.heapify(self._heap)
            self._empty = 0
        if not self._heap and self._scope is not None:
            self._scope.cancel(reason="there is nothing to wait for")


@final
class Place:
    """A call to come; empty when it has been made or is no longer wanted. Made by :meth:`Alarm.call_at`."""

    __slots__ = ("_alarm", "call", "deadline")

    def __init__(self, alarm: Alarm, deadline: float, call: Callable[[], object] | trio.lowlevel.Task) -> None:
        self._alarm = alarm
        self.deadline = deadline
        # A task itself, and not what wakes it: there are as many of them as connections.
        self.call: Callable[[], object] | trio.lowlevel.Task | None = call

    def __lt__(self, other: Place) -> bool:
        return self.deadline < other.deadline

    def leave(self) -> None:
        """The call is not wanted any more. Idempotent, and does nothing when it has been made."""
        if self.call is not None:
            self.call = None
            self._alarm._left()

    def abort(self, _: object) -> trio.lowlevel.Abort:
        """The task that sleeps here is cancelled."""
        self.leave()
        return trio.lowlevel.Abort.SUCCEEDED
