"""What has come and was not asked for yet: bounded, in order, with an end."""

from __future__ import annotations

import copy
from collections import deque
from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class Inbox(Generic[T]):
    """A queue between the reader of a connection, which never waits, and a task of the program, which may."""

    def __init__(self, most_messages: int, most_bytes: int) -> None:
        self._most_messages = most_messages
        self._most_bytes = most_bytes
        self._items: deque[tuple[T, int]] = deque()
        self._size = 0
        self._end: Exception | None = None
        self._changed = trio.Event()

    @property
    def empty(self) -> bool:
        """Whether everything was taken."""
        return not self._items

    @property
    def last(self) -> T | None:
        """What was put last, if it is still there."""
        return self._items[-1][0] if self._items else None

    def put(self, item: T, size: int) -> bool:
        """Put something to the end; False if there is no room. An empty inbox takes anything."""
        if self._items and (len(self._items) >= self._most_messages or self._size + size > self._most_bytes):
            return False
        self.force(item, size)
        return True

    def force(self, item: T, size: int = 0) -> None:
        """Put something to the end, room or not: what is bounded elsewhere."""
        self._items.append((item, size))
        self._size += size
        self._changed.set()

    def finish(self, end: Exception) -> None:
        """Nothing more will come: once the inbox is empty, ``end`` is raised. The first call counts."""
        if self._end is None:
            self._end = end
            self._changed.set()

    async def receive(self) -> T:
        """Wait for the next item. Raises a copy of the end. A cancel loses nothing."""
        await trio.lowlevel.checkpoint()
        while not self._items:
            if self._end is not None:
                raise again(self._end)
            if self._changed.is_set():  # else others wait for it
                self._changed = trio.Event()
            await self._changed.wait()
        item, size = self._items.popleft()
        self._size -= size
        return item


def again(error: Exception) -> Exception:
    """A copy of an error that may be raised several times: the same one would collect tracebacks."""
    return copy.copy(error)
