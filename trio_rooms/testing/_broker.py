"""A broker that is never quick: every step takes time, as between real nodes, but in one process."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import Literal

import attrs
import msgspec
import trio

from trio_rooms import AlreadyServing, BrokerBusy, NotServing, Position, Publication, Report, Slice
from trio_rooms.brokers import Confirmation, Deliver, Keep, MemoryBroker


@attrs.define(eq=False)
class _Submission:
    publication: Publication
    over: trio.Event = attrs.field(factory=trio.Event)
    confirmation: Confirmation | None = None

    def confirm(self, confirmation: Confirmation) -> None:
        self.confirmation = confirmation
        self.over.set()

    async def wait(self) -> Confirmation:
        await self.over.wait()
        if self.confirmation is None:
            raise NotServing("the broker ended before it confirmed")
        return self.confirmation


class LaggingBroker:
    """Delivers after ``delay`` seconds, in order, and confirms before, with or after the delivery.

    What is to be kept is numbered and kept half a delay before it is delivered, so that a history that is read in
    between is ahead of what members have got. Reading takes half a delay before the look and a whole one after it, so
    that what is kept right behind the look is delivered before the slice is there.

    Args:
      delay: Seconds from a submission to its delivery, and for a subscription to become active.
      confirm: When ``publish`` hears that the broker has it, relative to the delivery on this node; "before" and
        "after" are half a delay away from it.
      bound: Submissions that are under way at most; beyond it BrokerBusy.
      step: From one offset of a room to the next. Beyond 1 they have gaps, as where a whole stream is numbered.
    """

    supports: frozenset[str] = frozenset({"history"})
    """Carrying, and history."""

    def __init__(
        self,
        *,
        delay: float = 1.0,
        confirm: Literal["before", "with", "after"] = "before",
        bound: int = 100,
        step: int = 1,
    ) -> None:
        self.delay = delay
        self.confirm = confirm
        self.bound = bound
        self.step = step
        self.subscribed: set[str] = set()
        """Rooms with an active subscription."""
        self.store: MemoryBroker = MemoryBroker()
        """Where it keeps the history, without gaps; to look at, and to ``forget`` a room's."""
        self.losing: int = 0
        """How many of the next deliveries get lost on their way, though they are kept. Yours to set."""
        self._running = False
        self._queue: deque[_Submission] = deque()
        self._work = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()

    async def run(self, deliver: Deliver, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Deliver one submission after the other until cancelled; what is queued then is lost, and its waiters told."""
        if self._running:
            raise AlreadyServing("this broker serves another manager")
        self._running = True
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(partial(self.store.run, self._note))
                task_status.started()
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

    def _note(self, publication: Publication, position: Position | None) -> Report:
        """What the store delivers, which is only on its way."""
        return Report()

    async def _carry(self, submission: _Submission, deliver: Deliver) -> None:
        await trio.sleep(self.delay / 2)
        kept = self.store.submit(submission.publication).confirmation
        assert kept is not None, "in memory, submitted is confirmed"
        position = None if kept.position is None else self._outside(kept.position)
        confirmation = Confirmation(position, kept.duplicate)
        if confirmation.duplicate or self.confirm == "before":
            submission.confirm(confirmation)
        await trio.sleep(self.delay / 2)
        if confirmation.duplicate:
            return
        if self.losing:
            self.losing -= 1
        else:
            if position is not None:
                submission.publication.after = position.offset - self.step
            deliver(submission.publication, position)
        if self.confirm == "after":
            await trio.sleep(self.delay / 2)
        submission.confirm(confirmation)

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

    async def history(
        self,
        room: str,
        *,
        keep: Keep,
        since: Position | None,
        limit: int | None,
        reverse: bool,
    ) -> Slice:
        """Read what is kept."""
        await trio.sleep(self.delay / 2)
        part = await self.store.history(
            room, keep=keep, since=self._in_store(since, reverse=reverse), limit=limit, reverse=reverse
        )
        await trio.sleep(self.delay)
        position = self._outside(part.position)
        return Slice(
            position,
            tuple(msgspec.structs.replace(item, offset=item.offset * self.step) for item in part.publications),
            part.complete and (since is None or since.offset <= position.offset),
        )

    def _outside(self, position: Position) -> Position:
        return Position(position.offset * self.step, position.epoch)

    def _in_store(self, position: Position | None, *, reverse: bool) -> Position | None:
        """One that what comes after it, or before it, is the same of."""
        if position is None:
            return None
        offset = -(-position.offset // self.step) if reverse else position.offset // self.step
        return Position(offset, position.epoch)
