"""A broker that is never quick: every step takes time, as between real nodes, but in one process."""

from __future__ import annotations

from collections import deque
from typing import Literal

import attrs
import trio

from trio_rooms import AlreadyServing, BrokerBusy, NotServing, Publication
from trio_rooms.brokers import Deliver, Position


@attrs.define(eq=False)
class _Submission:
    publication: Publication
    over: trio.Event = attrs.field(factory=trio.Event)
    confirmed: bool = False

    def confirm(self) -> None:
        self.confirmed = True
        self.over.set()

    async def wait(self) -> Position | None:
        await self.over.wait()
        if not self.confirmed:
            raise NotServing("the broker ended before it confirmed")
        return None


class LaggingBroker:
    """Delivers after ``delay`` seconds, in order, and confirms before, with or after the delivery.

    Args:
      delay: Seconds from a submission to its delivery, and for a subscription to become active.
      confirm: When ``publish`` hears that the broker has it, relative to the delivery on this node; "before" and
        "after" are half a delay away from it.
      bound: Submissions that are under way at most; beyond it BrokerBusy.
    """

    supports: frozenset[str] = frozenset()
    """Nothing beyond carrying."""

    def __init__(
        self, *, delay: float = 1.0, confirm: Literal["before", "with", "after"] = "before", bound: int = 100
    ) -> None:
        self.delay = delay
        self.confirm = confirm
        self.bound = bound
        self.subscribed: set[str] = set()
        """Rooms with an active subscription."""
        self._running = False
        self._queue: deque[_Submission] = deque()
        self._work = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()

    async def run(self, deliver: Deliver, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Deliver one submission after the other until cancelled; what is queued then is lost, and its waiters told."""
        if self._running:
            raise AlreadyServing("this broker serves another manager")
        self._running = True
        task_status.started()
        try:
            while True:
                while not self._queue:
                    await self._work.park()
                await self._carry(self._queue[0], deliver)
                self._queue.popleft()
                self._room.unpark_all()
        finally:
            self._running = False
            for submission in self._queue:
                submission.over.set()
            self._queue.clear()
            self._room.unpark_all()
            self.subscribed.clear()

    async def _carry(self, submission: _Submission, deliver: Deliver) -> None:
        await trio.sleep(self.delay / 2)
        if self.confirm == "before":
            submission.confirm()
        await trio.sleep(self.delay / 2)
        deliver(submission.publication, None)
        if self.confirm == "after":
            await trio.sleep(self.delay / 2)
        submission.confirm()

    def submit(self, publication: Publication) -> _Submission:
        """Queue a publication. Raises :exc:`BrokerBusy` at ``bound``, :exc:`NotServing` unless it runs."""
        if not self._running:
            raise NotServing("the broker is not running")
        if len(self._queue) >= self.bound:
            raise BrokerBusy("too many publications are under way")
        submission = _Submission(publication)
        self._queue.append(submission)
        self._work.unpark()
        return submission

    async def wait_ready(self) -> None:
        """Wait for a place in the queue."""
        await trio.lowlevel.checkpoint()
        while len(self._queue) >= self.bound:
            await self._room.park()

    async def subscribe(self, room: str) -> None:
        """Active after ``delay`` seconds."""
        await trio.sleep(self.delay)
        self.subscribed.add(room)

    def unsubscribe(self, room: str) -> None:
        """Inactive at once."""
        self.subscribed.discard(room)
