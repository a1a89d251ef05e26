"""The bounded queue in front of one connection, and what happens at its bound.

Theory of operation. Two kinds of things are queued: *private* frames (replies, direct messages), which may
wait for room and are never dropped, and *publications*, which never wait: ``put`` decides at once, by the
policy of the room that published. A policy may remove only unwritten publications of its own room. Rooms
that drop (every policy but "close") may fill at most half of the outbox together, so that their chatter
cannot push a reply, or a room that ends its slow members, over the edge.

The queue holds the shared publication itself, so a fan-out makes no object per member. Everything that was
taken in is accounted for: enqueued = written + displaced + discarded + what is still queued.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

import attrs
import trio

from .._config import Overflow
from .._errors import ConnectionGone, MessageTooLarge, OutboxFull
from .frames import OVERHEAD, Frame

#: Results of :meth:`Outbox.put` other than a number of displaced frames.
DROPPED: Final = -1
CLOSED: Final = -2


class Item(Protocol):
    """What is queued: a publication, which is of a room and knows its frame in each format, or a private frame."""

    @property
    def room(self) -> str | None: ...

    @property
    def key(self) -> str | None: ...

    @property
    def overflow(self) -> Overflow: ...

    def frame(self, form: Any, /) -> Frame: ...


@attrs.frozen
class OutboxStatistics:
    """A snapshot of one outbox."""

    messages: int
    """Messages that wait."""
    bytes: int
    """What they are charged: their frames, plus 64 bytes each."""
    waiting: int
    """Tasks that wait for room."""
    enqueued: int
    """Taken in so far."""
    written: int
    """Handed to the transport."""
    displaced: int
    """Removed or replaced by a newer publication of the same room."""
    discarded: int
    """Never written because the connection ended first."""
    dropped: int
    """Publications that were refused (not among ``enqueued``)."""


@attrs.define(eq=False)
class _Ticket:
    """A task that waits for room for its frame."""

    task: trio.lowlevel.Task
    frame: Frame
    queued: bool = False


class Outbox(trio.abc.SendChannel[Frame]):
    """The send channel of one connection; its other end is the connection's writer.

    ``form`` is the connection's wire format, ``wake`` is called when there is something to write.
    """

    def __init__(self, form: object, *, max_messages: int, max_bytes: int, wake: Callable[[], None]) -> None:
        self._form = form
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._wake = wake
        self._queue: deque[Item] = deque()
        self._bytes = 0
        self._droppable_messages = 0
        self._droppable_bytes = 0
        self._waiting: deque[_Ticket] = deque()
        self._taken = trio.lowlevel.ParkingLot()
        self._open = True
        self.enqueued: int = 0
        self.written: int = 0
        self.displaced: int = 0
        self.discarded: int = 0
        self.dropped: int = 0

    def put(self, item: Item, /) -> int:
        """Queue a publication or apply the policy; never waits, never calls anybody but ``wake``.

        Returns how many frames it displaced, :data:`DROPPED`, or :data:`CLOSED`: the bound was met and the
        policy is to end the connection. After CLOSED and after :meth:`close` everything is DROPPED.
        """
        if not self._open:
            self.dropped += 1
            return DROPPED
        cost = self._cost_of(item)
        if item.overflow == "close":
            if self._fits(cost):
                self._append(item, cost)
                return 0
            self.dropped += 1
            self.close()
            return CLOSED
        return self._put_droppable(item, cost)

    def _put_droppable(self, item: Item, cost: int) -> int:
        gone = self._who_goes_for(item, cost)
        if gone is None:
            self.dropped += 1
            return DROPPED
        for index in reversed(gone):
            self._displace(index)
        self._droppable_messages += 1
        self._droppable_bytes += cost
        self._append(item, cost)
        return len(gone)

    def _who_goes_for(self, item: Item, cost: int) -> list[int] | None:
        """Where in the queue stands what a publication displaces, rising; None if it would not fit even so."""
        gone = self._same_key(item) if item.overflow == "conflate" else []
        freed = sum(self._cost_at(index) for index in gone)
        if self._fits_droppable(cost, len(gone), freed):
            return gone
        if item.overflow == "drop_newest" or 2 * cost > self._max_bytes:
            return None
        for index, queued in enumerate(self._queue):
            if queued.room == item.room and index not in gone:
                gone.append(index)
                freed += self._cost_at(index)
                if self._fits_droppable(cost, len(gone), freed):
                    return sorted(gone)
        return None

    def send_nowait(self, frame: Frame) -> None:
        """Queue a private frame; raises :exc:`OutboxFull`, :exc:`ConnectionGone`, :exc:`MessageTooLarge`."""
        cost = self._cost(frame)
        if self._waiting or not self._fits(cost):
            raise OutboxFull("the outbox is full")
        self._append(frame, cost)

    async def send(self, value: Frame) -> None:
        """Queue a private frame, waiting for room; first come, first served.

        Raises :exc:`ConnectionGone`, also while it waits, and :exc:`MessageTooLarge`. Always a checkpoint.
        When it is cancelled, the frame was not queued.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        cost = self._cost(value)
        if not self._waiting and self._fits(cost):
            self._append(value, cost)
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        ticket = _Ticket(trio.lowlevel.current_task(), value)
        self._waiting.append(ticket)

        def abort(_: object) -> trio.lowlevel.Abort:
            self._waiting.remove(ticket)
            self._admit_waiting()
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        if not ticket.queued:
            raise ConnectionGone("the connection has ended")

    async def wait_fits(self, size: int) -> None:
        """Wait until :meth:`fits`; what it promises holds until the caller's next checkpoint."""
        await trio.lowlevel.checkpoint()
        while not self.fits(size):
            await self._taken.park()

    def fits(self, size: int) -> bool:
        """Whether a frame of ``size`` bytes would be queued now. Raises ConnectionGone, MessageTooLarge."""
        return not self._waiting and self._fits(self._check(size))

    def take(self, max_bytes: int) -> list[Frame]:
        """The oldest frames, together at most ``max_bytes`` but one at least if there is one; makes room."""
        batch: list[Frame] = []
        size = 0
        while self._queue:
            frame = self._queue[0].frame(self._form)
            size += len(frame.data)
            if batch and size > max_bytes:
                break
            self._remove(self._queue.popleft())
            batch.append(frame)
        self._admit_waiting()
        self._taken.unpark_all()
        return batch

    def close(self) -> None:
        """Take in nothing more; who waits gets :exc:`ConnectionGone`. What is queued can still be taken."""
        self._open = False
        while self._waiting:
            trio.lowlevel.reschedule(self._waiting.popleft().task)
        self._taken.unpark_all()

    async def aclose(self) -> None:
        """As :meth:`close`."""
        self.close()
        await trio.lowlevel.checkpoint()

    def discard(self) -> None:
        """Close, and throw away what is queued; it is counted."""
        self.close()
        self.discarded += len(self._queue)
        self._queue.clear()
        self._bytes = self._droppable_messages = self._droppable_bytes = 0

    def statistics(self) -> OutboxStatistics:
        """What is in it, and what went through it."""
        return OutboxStatistics(
            messages=len(self._queue),
            bytes=self._bytes,
            waiting=len(self._waiting),
            enqueued=self.enqueued,
            written=self.written,
            displaced=self.displaced,
            discarded=self.discarded,
            dropped=self.dropped,
        )

    def __bool__(self) -> bool:
        """Whether anything is queued."""
        return bool(self._queue)

    def _check(self, size: int) -> int:
        if not self._open:
            raise ConnectionGone("the connection has ended")
        cost = size + OVERHEAD
        if cost > self._max_bytes:
            raise MessageTooLarge(f"a message of {size} bytes is larger than the outbox ({self._max_bytes} bytes)")
        return cost

    def _cost(self, frame: Frame) -> int:
        return self._check(len(frame.data))

    def _fits(self, cost: int) -> bool:
        return len(self._queue) < self._max_messages and self._bytes + cost <= self._max_bytes

    def _fits_droppable(self, cost: int, gone: int, freed: int) -> bool:
        """Whether a frame of a dropping room fits when so many of them, of so many bytes, have gone."""
        return (
            len(self._queue) - gone < self._max_messages
            and self._bytes - freed + cost <= self._max_bytes
            and 2 * (self._droppable_messages - gone + 1) <= max(2, self._max_messages)
            and 2 * (self._droppable_bytes - freed + cost) <= self._max_bytes
        )

    def _append(self, item: Item, cost: int) -> None:
        self._queue.append(item)
        self._bytes += cost
        self.enqueued += 1
        self._wake()

    def _remove(self, item: Item) -> None:
        """Settle the accounts of an item that has left the queue."""
        cost = self._cost_of(item)
        self._bytes -= cost
        if item.overflow != "close":
            self._droppable_messages -= 1
            self._droppable_bytes -= cost

    def _displace(self, index: int) -> None:
        item = self._queue[index]
        del self._queue[index]
        self._remove(item)
        self.displaced += 1

    def _same_key(self, item: Item) -> list[int]:
        if item.key is None:
            return []
        for index, queued in enumerate(self._queue):
            if queued.key == item.key and queued.room == item.room:
                return [index]
        return []

    def _cost_of(self, item: Item) -> int:
        return len(item.frame(self._form).data) + OVERHEAD

    def _cost_at(self, index: int) -> int:
        return self._cost_of(self._queue[index])

    def _admit_waiting(self) -> None:
        """Queue the frames of waiting tasks, in their order, as far as there is room."""
        while self._waiting and self._open:
            ticket = self._waiting[0]
            cost = len(ticket.frame.data) + OVERHEAD
            if not self._fits(cost):
                return
            self._waiting.popleft()
            ticket.queued = True
            self._append(ticket.frame, cost)
            trio.lowlevel.reschedule(ticket.task)
