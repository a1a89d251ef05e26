"""What waits for one connection, or for many that wait for exactly the same.

Theory of operation. Members of a busy room mostly wait for the same publications, in the same order. So they
share one backlog: a publication is added to it once, its bytes are joined once, and each member costs a pointer
and a write. That is only right while all who share it get the same, so a shared backlog has an *owner*, the
members of one room, and:

- what is published to exactly those members may be added in place, and nothing else may;
- whoever is to get anything else (a reply, another room's publication), or is not to get the next one (it is
  excluded, leaves, ends), first gets a copy of its own;
- it is never partly taken: a write takes all of it, or its member gets a copy to take from.

A backlog without an owner belongs to one outbox, which alone changes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Protocol

import msgspec

from .._room_options import Overflow
from .frames import OVERHEAD, Frame


class Item(Protocol):
    """What is queued: a publication, which is of a room and knows its frame in each format, or a private frame."""

    @property
    def room(self) -> str | None: ...

    @property
    def key(self) -> str | None: ...

    @property
    def overflow(self) -> Overflow: ...

    def frame(self, form: Any, /) -> Frame: ...


class Backlog(msgspec.Struct, eq=False):
    """Items in the order in which they will be written, and what they are charged.

    A Struct because one is made for each reply and each publication to a small room, see ``_rooms.publication``. It is
    known to the garbage collector, for its owner may hold those who hold it.
    """

    form: object
    owner: object = None
    """Whose publications may be added in place; None for a backlog of one outbox."""
    items: list[Item] = []
    last: Item | None = None
    """The item that was added last, if it is still there."""
    cost: int = 0
    """Bytes of the frames, and the overhead of each."""
    droppable_items: int = 0
    droppable_cost: int = 0
    """The part of rooms with a policy that drops."""
    data: bytes | None = None
    """The bytes of all items, once :meth:`joined` has been asked for them."""

    def add(self, item: Item, cost: int) -> None:
        """Put an item at the end."""
        self.items.append(item)
        self.last = item
        self.cost += cost
        self.data = None
        if item.overflow != "close":
            self.droppable_items += 1
            self.droppable_cost += cost

    def replace_first(self, frame: Frame) -> None:
        """Put a private frame in the place of another, which was the first."""
        self.cost += self.cost_of(frame) - self.cost_of(self.items[0])
        self.items[0] = frame
        self.last = self.items[-1]
        self.data = None

    def remove(self, index: int) -> None:
        """Take out an item that will not be written."""
        self._forget((self.items.pop(index),))

    def cut(self, count: int) -> list[Item]:
        """Take out the oldest ``count`` items."""
        taken = self.items[:count]
        del self.items[:count]
        self._forget(taken)
        return taken

    def _forget(self, items: Iterable[Item]) -> None:
        for item in items:
            cost = self.cost_of(item)
            self.cost -= cost
            if item.overflow != "close":
                self.droppable_items -= 1
                self.droppable_cost -= cost
        self.last = self.items[-1] if self.items else None
        self.data = None

    def copy(self) -> Backlog:
        """The same for one outbox."""
        copy = Backlog(self.form)
        copy.items = self.items.copy()
        copy.last = self.last
        copy.cost = self.cost
        copy.droppable_items = self.droppable_items
        copy.droppable_cost = self.droppable_cost
        return copy

    def fit(self, max_bytes: int) -> int:
        """How many of the oldest items are together at most ``max_bytes`` on the wire; one at least if there is one."""
        if self.cost - OVERHEAD * len(self.items) <= max_bytes:
            return len(self.items)
        size = 0
        for count, item in enumerate(self.items):
            size += len(item.frame(self.form).data)
            if size > max_bytes:
                return count or 1
        return len(self.items)

    def joined(self) -> bytes:
        """The bytes of all of it; made once, however many share it."""
        if self.data is None:
            self.data = join(self.items, self.form)
        return self.data

    def cost_of(self, item: Item) -> int:
        """What an item is charged."""
        return len(item.frame(self.form).data) + OVERHEAD


def begin(item: Item, form: object, data: bytes, owner: object = None) -> Backlog:
    """A backlog with one item, whose bytes in that format are given."""
    cost = len(data) + OVERHEAD
    if item.overflow == "close":
        return Backlog(form, owner, [item], item, cost, 0, 0, data)
    return Backlog(form, owner, [item], item, cost, 1, cost, data)


def join(items: list[Item], form: object) -> bytes:
    """The bytes of items, one behind the other."""
    if len(items) == 1:
        return items[0].frame(form).data
    return b"".join([item.frame(form).data for item in items])


#: In an outbox: nothing waits, but what comes is not for the flusher. Never added to.
NOTHING: Final = Backlog(None)
