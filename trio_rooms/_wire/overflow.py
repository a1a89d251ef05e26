"""What fits into an outbox, and what has to go for what does not: the policies of rooms as arithmetic."""

from __future__ import annotations

from functools import lru_cache

import attrs

from .backlog import NOTHING, Backlog, Item


@attrs.frozen
class Bounds:
    """The two bounds of an outbox. Rooms that drop may fill half of each."""

    max_messages: int
    max_bytes: int

    def fits(self, backlog: Backlog | None, cost: int) -> bool:
        """Whether something of that cost fits behind what waits."""
        if backlog is None:
            return cost <= self.max_bytes
        return len(backlog.items) < self.max_messages and backlog.cost + cost <= self.max_bytes

    def fits_droppable(self, backlog: Backlog | None, cost: int, gone: list[int]) -> bool:
        """Whether a frame of a dropping room fits when those at the places ``gone`` have gone."""
        backlog = backlog or NOTHING
        freed = sum([backlog.cost_of(backlog.items[index]) for index in gone])
        return (
            len(backlog.items) - len(gone) < self.max_messages
            and backlog.cost - freed + cost <= self.max_bytes
            and 2 * (backlog.droppable_items - len(gone) + 1) <= max(2, self.max_messages)
            and 2 * (backlog.droppable_cost - freed + cost) <= self.max_bytes
        )

    def who_goes_for(self, item: Item, backlog: Backlog | None, cost: int) -> list[int] | None:
        """Where in the queue stands what a publication displaces, rising; None if it would not fit even so."""
        gone = same_key(item, backlog)
        if self.fits_droppable(backlog, cost, gone):
            return gone
        if item.overflow == "drop_newest" or backlog is None or 2 * cost > self.max_bytes:
            return None
        for index, queued in enumerate(backlog.items):
            if queued.room == item.room and index not in gone:
                gone.append(index)
                if self.fits_droppable(backlog, cost, gone):
                    return sorted(gone)
        return None


def same_key(item: Item, backlog: Backlog | None) -> list[int]:
    """Where in the queue stands what a publication replaces."""
    if item.overflow != "conflate" or item.key is None or backlog is None:
        return []
    for index, queued in enumerate(backlog.items):
        if queued.key == item.key and queued.room == item.room:
            return [index]
    return []


@lru_cache(maxsize=64)
def bounds(max_messages: int, max_bytes: int) -> Bounds:
    """The bounds with these values; all outboxes of a server share one object."""
    return Bounds(max_messages, max_bytes)
