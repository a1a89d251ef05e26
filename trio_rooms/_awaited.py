"""Who waits until a publication was delivered on this node, or never will be.

The one whose publication it is hears of a delivery from that. Here are those that hear of it from what comes behind:
what stands before it in the room's stream, and has not been delivered, is lost. Many may wait in one room, so they
stand in line by their offsets, and a delivery touches those alone that it leaves behind.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from operator import attrgetter

import attrs
import trio

from ._rooms.history import Position

_offset = attrgetter("position.offset")


@attrs.define(eq=False)
class Waiting:
    """A publication whose delivery is waited for."""

    over: trio.Event = attrs.field(factory=trio.Event)
    position: Position | None = None
    """As the broker has confirmed it."""
    confirmed_at: float = math.inf
    epoch_before: str | None = None
    """That of what was being delivered when it was confirmed: if its own is another one, that comes after it."""

    def is_of(self, epoch: str) -> bool:
        """Whether it is confirmed to stand in an epoch."""
        return self.position is not None and self.position.epoch == epoch

    def is_behind(self, position: Position | None) -> bool:
        """Whether it should have been delivered before what stands there."""
        own = self.position
        if own is None or position is None:
            return False
        if own.epoch == position.epoch:
            return own.offset < position.offset
        return position.epoch != self.epoch_before


@attrs.define(eq=False)
class Awaited:
    """What is waited for in one room."""

    waiting: dict[Waiting, None] = attrs.field(factory=dict)
    passed: Position | None = None
    """Where that stands which was delivered last, since the first of them was submitted."""
    line: list[Waiting] = attrs.field(factory=list)
    """Those that are confirmed in the epoch of ``passed``, by offset: a delivery looks at no others."""

    def confirm(self, waiting: Waiting, position: Position | None, now: float) -> bool:
        """The broker has taken it; whether its delivery is still to come."""
        waiting.position, waiting.confirmed_at = position, now
        if self.passed is None or position is None:
            return True
        waiting.epoch_before = self.passed.epoch
        if waiting.is_behind(self.passed):
            return False
        if waiting.is_of(self.passed.epoch):
            insort(self.line, waiting, key=_offset)
        return True

    def advance(self, position: Position) -> None:
        """What stands there is being delivered: those before it wait no longer."""
        if self.passed is None or position.epoch != self.passed.epoch:
            over = [one for one in self.waiting if one.is_behind(position)]
            self.line = sorted((one for one in self.waiting if one.is_of(position.epoch)), key=_offset)
        else:
            number = bisect_left(self.line, position.offset, key=_offset)
            over = self.line[:number]
            del self.line[:number]
        self.passed = position
        for one in over:
            one.over.set()

    def leave(self, waiting: Waiting) -> None:
        """Nobody waits for it any more."""
        del self.waiting[waiting]
        if waiting.position is not None:
            index = bisect_left(self.line, waiting.position.offset, key=_offset)
            if index < len(self.line) and self.line[index] is waiting:
                del self.line[index]
