"""The bounded queue in front of one connection, and what happens at its bound.

Theory of operation. Two kinds of things are queued: *private* frames (replies, direct messages), which may
wait for room and are never dropped, and *publications*, which never wait: ``put`` decides at once, by the
policy of the room that published. At the bound the sink is offered to the socket first, so that the policy
applies to what the peer does not take and not to what came between two checkpoints. A policy may remove only
unwritten publications of its own room. Rooms that drop (every policy but "close") may fill at most half of the
outbox together, so that their chatter cannot push a reply, or a room that ends its slow members, over the edge.

What waits is in one slot, ``backlog``: a :class:`~trio_rooms._wire.backlog.Backlog`, which may be shared with other
members and is copied before it is changed here; None if nothing waits and what comes may be left to the flusher,
so that a fan-out (see ``fanout``) has to look at no more than that. While the connection's writer sleeps,
``send_now`` is the plain socket's own send, and whoever has the turn may :meth:`Outbox.flush`: the fewer objects a
flush touches, the cheaper it is, since the kernel's work on the write before has pushed them out of the caches.

Everything that was taken in is accounted for: enqueued = written + displaced + discarded + what is still queued.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import trio

from .._errors import ConnectionGone, MessageTooLarge, OutboxFull
from .backlog import NOTHING, Backlog, Item, begin, join
from .departures import Delivery, Departures
from .frames import OVERHEAD, Frame
from .outbox_statistics import OutboxStatistics
from .outlet import Outlet
from .overflow import bounds, same_key
from .senders import Senders

#: Results of :meth:`Outbox.put` other than a number of displaced frames.
DROPPED: Final = -1
CLOSED: Final = -2


class _Touched:
    """What a fan-out and a flush touch: slots of a base class are the first, so these share the fewest cache lines."""

    __slots__ = ("_departures", "_empty", "_passed", "_senders", "backlog", "form", "send_now")


class Outbox(_Touched, trio.abc.SendChannel[Frame]):
    """The send channel of one connection; its other end is the connection's sink.

    ``form`` is the connection's wire format; ``max_write`` the most bytes of one write.
    """

    __slots__ = (
        "_bounds",
        "_enqueued",
        "_max_write",
        "_open",
        "_written",
        "discarded",
        "displaced",
        "dropped",
        "outlet",
    )

    def __init__(
        self, form: object, *, max_messages: int, max_bytes: int, outlet: Outlet, max_write: int = 65536
    ) -> None:
        self.form: object = form
        self.outlet: Outlet = outlet
        self.send_now: Callable[[bytes], int] | None = None
        self._max_write = max_write
        self.backlog: Backlog | None = NOTHING
        self._empty: Backlog | None = NOTHING
        self._bounds = bounds(max_messages, max_bytes)
        self._senders: Senders | None = None
        self._departures: Departures | None = None
        self._open = True
        # A counter is an object, too: what a flush writes of a shared backlog counts in one instead of both others.
        self._passed = 0
        self._enqueued = 0
        self._written = 0
        self.displaced: int = 0
        self.discarded: int = 0
        self.dropped: int = 0

    # Publications

    def put(self, item: Item, /) -> int:
        """Queue a publication or apply the policy; never waits, never calls anybody but the sink.

        Returns how many frames it displaced, :data:`DROPPED`, or :data:`CLOSED`: the bound was met and the
        policy is to end the connection. After CLOSED and after :meth:`close` everything is DROPPED.
        """
        if not self._open:
            self.dropped += 1
            return DROPPED
        cost = len(item.frame(self.form).data) + OVERHEAD
        if item.overflow == "close":
            if self._fits_or_is_taken(cost):
                self._append(item, cost)
                return 0
            self.dropped += 1
            self.close()
            return CLOSED
        return self._put_droppable(item, cost)

    def _put_droppable(self, item: Item, cost: int) -> int:
        while not self._bounds.fits_droppable(self.backlog, cost, same_key(item, self.backlog)):
            if not self._is_taken():
                break
        gone = self._bounds.who_goes_for(item, self.backlog, cost)
        if gone is None:
            self.dropped += 1
            return DROPPED
        if gone and self._departures is not None:
            self._departures.displaced(self._items, gone)
        for index in reversed(gone):
            self._own().remove(index)
        self.displaced += len(gone)
        self._append(item, cost)
        return len(gone)

    def stand_apart(self, owner: object) -> None:
        """Share nothing any more with ``owner``, whose next publication is not for this outbox."""
        if self.backlog is not None and self.backlog.owner is owner:
            self._own()

    def watch(self, item: Item, delivery: Delivery) -> None:
        """Tell ``delivery`` when ``item``, which :meth:`put` has just taken in, was written or never will be."""
        items = self._items
        behind = next((count for count, queued in enumerate(reversed(items)) if queued is item), len(items))
        until = self.enqueued - self.displaced - behind
        if self.written < until:
            self._departing().watch(item, until, delivery)
        else:
            delivery.written += 1  # in the fan-out itself

    # Private frames

    def send_nowait(self, frame: Frame) -> None:
        """Queue a private frame; raises :exc:`OutboxFull`, :exc:`ConnectionGone`, :exc:`MessageTooLarge`."""
        if self.backlog is None and len(frame.data) + OVERHEAD <= self._bounds.max_bytes:  # as of most replies
            self.backlog = begin(frame, self.form, frame.data)
            self._enqueued += 1
            self.outlet.wake()
            return
        cost = self._check(len(frame.data))
        if self._senders or not self._fits_or_is_taken(cost):
            raise OutboxFull("the outbox is full")
        self._append(frame, cost)

    async def send(self, value: Frame) -> None:
        """Queue a private frame, waiting for room; first come, first served.

        Raises :exc:`ConnectionGone`, also while it waits, and :exc:`MessageTooLarge`. Always a checkpoint.
        When it is cancelled, the frame was not queued.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        cost = self._check(len(value.data))
        if not self._senders and self._fits_or_is_taken(cost):
            self._append(value, cost)
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        if self._senders is None:
            self._senders = Senders(self)
        if not await self._senders.wait(value):
            raise ConnectionGone("the connection has ended")

    async def wait_fits(self, size: int) -> None:
        """Wait until :meth:`fits`; what it promises holds until the caller's next checkpoint."""
        await trio.lowlevel.checkpoint()
        while not self.fits(size):
            await self._departing().room_made.park()

    def fits(self, size: int) -> bool:
        """Whether a frame of ``size`` bytes would be queued now. Raises ConnectionGone, MessageTooLarge."""
        return not self._senders and self._fits_or_is_taken(self._check(size))

    # The sink's side

    def take(self, max_bytes: int) -> list[Frame]:
        """The oldest frames, together at most ``max_bytes`` but one at least if there is one; makes room."""
        return self.take_first(self.backlog.fit(max_bytes)) if self.backlog is not None and self.backlog.items else []

    def take_first(self, count: int) -> list[Frame]:
        """The oldest ``count`` frames; makes room."""
        backlog = self._own()
        taken = backlog.cut(count)
        if not backlog.items:
            self.backlog = self._empty
        self._make_room()
        return [item.frame(self.form) for item in taken]

    def flush(self) -> None:
        """Write what is queued as far as the socket takes it without waiting; what is left is the writer's.

        Does nothing while the writer is at work, or where there is no plain socket. Never raises.
        """
        flush_all((self,))

    def _flush_in_batches(self, send: Callable[[bytes], int]) -> None:
        while self.send_now is not None and (backlog := self.backlog) is not None and backlog.items:
            count = backlog.fit(self._max_write)
            data = join(backlog.items[:count], self.form)
            try:
                taken = send(data)
            except BlockingIOError:
                taken = 0
            except OSError:
                self.outlet.failed()
                return
            if taken < len(data):
                self.outlet.blocked(count, data, taken)
            else:
                self.take_first(count)
                self.wrote(count)  # after it, for it may end in a flush of what it has made room for

    def wrote(self, count: int) -> None:
        """Count messages as written that were taken before."""
        self._written += count
        self._tell()

    def gave_up(self, count: int) -> None:
        """Count messages as discarded that were taken before. Nothing is written any more."""
        self.discarded += count
        if self._departures is not None:
            self._departures.discarded()

    def _make_room(self) -> None:
        if self._senders is not None:
            self._senders.admit()
        self._tell()

    def _tell(self) -> None:
        if self._departures is not None and not self._departures.look(self.written):
            self._departures = None

    def _departing(self) -> Departures:
        self._departures = self._departures or Departures()
        return self._departures

    def leave_to_flusher(self) -> None:
        """From now on a fan-out may leave publications to the flusher, which writes without waiting."""
        if self._open:
            self._empty = None
            if not self:
                self.backlog = None

    def close(self) -> None:
        """Take in nothing more; who waits gets :exc:`ConnectionGone`. What is queued can still be taken."""
        self._open = False
        self._empty = NOTHING
        if self:
            self._own()  # or who shares it with this one would still add to it
        else:
            self.backlog = NOTHING
        if self._senders is not None:
            self._senders.end()
        self._tell()

    async def aclose(self) -> None:
        """As :meth:`close`."""
        self.close()
        await trio.lowlevel.checkpoint()

    def discard(self) -> None:
        """Close, and throw away what is queued; it is counted."""
        self.close()
        self.discarded += len(self._items)
        if self._departures is not None:
            self._departures.discarded(self._items)
        self.backlog = NOTHING

    # What is in it

    @property
    def enqueued(self) -> int:
        """How many messages were taken in so far."""
        shared = self.backlog is not None and self.backlog.owner is not None
        return self._passed + self._enqueued + (len(self._items) if shared else 0)

    @property
    def written(self) -> int:
        """How many messages the transport has taken so far."""
        return self._passed + self._written

    def statistics(self) -> OutboxStatistics:
        """What is in it, and what went through it."""
        return OutboxStatistics(
            messages=len(self._items),
            bytes=0 if self.backlog is None else self.backlog.cost,
            waiting=len(self._senders or ()),
            enqueued=self.enqueued,
            written=self.written,
            displaced=self.displaced,
            discarded=self.discarded,
            dropped=self.dropped,
        )

    def __bool__(self) -> bool:
        """Whether anything is queued."""
        return self.backlog is not None and bool(self.backlog.items)

    @property
    def _items(self) -> list[Item]:
        return [] if self.backlog is None else self.backlog.items

    def _own(self) -> Backlog:
        """The backlog, as one that is changed here alone."""
        backlog = self.backlog
        if backlog is None or backlog is NOTHING:
            self.backlog = backlog = Backlog(self.form)
        elif backlog.owner is not None:
            self._enqueued += len(backlog.items)
            self.backlog = backlog = backlog.copy()
        return backlog

    def _append(self, item: Item, cost: int) -> None:
        self._own().add(item, cost)
        self._enqueued += 1
        self.outlet.wake()

    def _check(self, size: int) -> int:
        if not self._open:
            raise ConnectionGone("the connection has ended")
        cost = size + OVERHEAD
        largest = self._bounds.max_bytes
        if cost > largest:
            raise MessageTooLarge(f"a message of {size} bytes is larger than the outbox of {largest} bytes")
        return cost

    def _fits_or_is_taken(self, cost: int) -> bool:
        """Whether there is room, if need be after the socket was offered what waits."""
        while not self._bounds.fits(self.backlog, cost):
            if not self._is_taken():
                return self._bounds.fits(self.backlog, cost)  # a part of what waits makes room, too
        return True

    def _is_taken(self) -> bool:
        """Offer the socket what waits. If it takes any, ask again: tasks that wait may have got the room first."""
        written = self.written
        self.flush()
        return self.written > written

    def append_if_fits(self, senders: Senders) -> bool:
        """Queue the first frame of those that wait, if there is room for it; whether there was."""
        cost = len(senders.first.data) + OVERHEAD
        if not self._open or not self._bounds.fits(self.backlog, cost):
            return False
        self._append(senders.pop(), cost)
        return True


def flush_all(outboxes: Iterable[Outbox]) -> None:
    """As :meth:`Outbox.flush` of each, in order.

    What those have in common who share a backlog is found out once: nothing in a flush changes a shared one, for who
    goes on alone, because its peer is slow, takes a copy.
    """
    last, data, count, size, shared = None, b"", 0, 0, False
    for outbox in outboxes:
        send, backlog = outbox.send_now, outbox.backlog
        if send is None or backlog is None:
            continue
        if backlog is not last:
            if backlog is NOTHING:
                continue
            if backlog.cost > outbox._max_write:
                outbox._flush_in_batches(send)
                continue
            last, data, count = backlog, backlog.joined(), len(backlog.items)
            size, shared = len(data), backlog.owner is not None
        try:
            taken = send(data)
        except BlockingIOError:
            taken = 0
        except OSError:
            outbox.outlet.failed()
            continue
        if taken < size:
            outbox.outlet.blocked(count, data, taken)
            continue
        if shared:
            outbox._passed += count  # no copy has been made, where it would have been counted as enqueued
        else:
            outbox._written += count
        outbox.backlog = outbox._empty
        if outbox._senders or outbox._departures is not None:
            outbox._make_room()
