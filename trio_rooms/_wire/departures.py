"""Who waits for what is in an outbox to leave it.

Theory of operation. Hardly ever does anybody, so an outbox has one slot for all of it, which is None then, and a
fan-out and a flush do for a publication that somebody waits for what they do for any other. Only after the fan-out
each outbox that took it is asked to *watch* it.

A queue that is first in, first out need not mark what is watched, which it may share with other outboxes: it is
known what the count of written messages will be when that one is the last of them. What is displaced in front of it
lowers that number. So each watched publication is told apart in the end: it was written, or it was displaced or
discarded and never will be.

Who does not wait any more (a publisher that was cancelled) leaves the watching behind. There is never more of it than
there are messages in the outbox and in the hands of its writer.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import attrs
import trio

from .backlog import Item


class Delivery:
    """What has become of one publication in the outboxes that took it."""

    __slots__ = ("_open", "_waiting", "written")

    def __init__(self) -> None:
        self.written: int = 0
        """Outboxes whose transport has taken it."""
        self._open = 0
        self._waiting = trio.lowlevel.ParkingLot()

    def opened(self) -> None:
        """One more outbox has it."""
        self._open += 1

    def ended(self, *, written: bool = False) -> None:
        """One outbox has it no more."""
        self.written += written
        self._open -= 1
        if not self._open:
            self._waiting.unpark_all()

    @property
    def over(self) -> bool:
        """Whether no outbox has it any more."""
        return not self._open

    async def wait(self) -> None:
        """Wait until no outbox has it any more. Always a checkpoint; a cancel changes nothing."""
        await trio.lowlevel.checkpoint()
        while self._open:
            await self._waiting.park()


@attrs.define(eq=False)
class _Watched:
    """One publication in one outbox."""

    item: Item
    until: int
    """How many messages that outbox has written once it has written this one."""
    delivery: Delivery

    def place(self, items: Sequence[Item]) -> int:
        """Where it stands; -1 if it has been taken out to be written."""
        for index, queued in enumerate(items):
            if queued is self.item:
                return index
        return -1


class Departures:
    """Those who wait at one outbox."""

    __slots__ = ("_watched", "room_made")

    def __init__(self) -> None:
        self.room_made = trio.lowlevel.ParkingLot()
        """Tasks that wait for room, to look again."""
        self._watched: list[_Watched] = []

    def watch(self, item: Item, until: int, delivery: Delivery) -> None:
        """Tell ``delivery`` once of an item that is the last of the first ``until`` that are written."""
        delivery.opened()
        self._watched.append(_Watched(item, until, delivery))

    def look(self, written: int) -> bool:
        """Room was made, or messages were written, ``written`` so far; whether anybody is left to be told."""
        self.room_made.unpark_all()
        if self._watched:
            self._watched = [one for one in self._watched if not self._has_ended(one, written)]
        return bool(self._watched)

    def _has_ended(self, watched: _Watched, written: int) -> bool:
        if written < watched.until:
            return False
        watched.delivery.ended(written=True)
        return True

    def displaced(self, items: Sequence[Item], gone: Collection[int]) -> None:
        """The items at the places ``gone`` are about to be removed from the queue."""
        left = []
        for watched in self._watched:
            place = watched.place(items)
            if place in gone:
                watched.delivery.ended()
                continue
            watched.until -= sum(index < place for index in gone)
            left.append(watched)
        self._watched = left

    def discarded(self, items: Sequence[Item] | None = None) -> None:
        """These are thrown away; without any, nothing is written any more."""
        left = []
        for watched in self._watched:
            if items is not None and watched.place(items) < 0:
                left.append(watched)
            else:
                watched.delivery.ended()
        self._watched = left
