"""The stream of a room with history, as this node's members see it.

Theory of operation. Publications come from the broker in order, each with its position. A member has a position, too:
that of its join, and from then on what it was sent. The two must meet without a gap and without an overlap, though the
history that a join reads may be ahead of what has been delivered here. So a join under way has a :class:`CatchUp`,
which holds what is delivered while the history is being read. In the step in which membership begins both are merged by
offset. If the history was ahead, the member is skipped (*ahead*) until the deliveries have caught up with it.

Members whose stream has a hole (the broker says that it has lost something, or ``_positions`` finds it; a new epoch)
are closed with 4010. They come back with their position, and are told whether they are recovered.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import attrs

from ._errors import CloseCode
from ._rooms.history import HistoryItem, Position, Slice
from ._rooms.publication import Marker, Publication
from ._single_flight import SingleFlight
from ._wire.fanout import Outcome
from ._wire.outbox import CLOSED

if TYPE_CHECKING:
    from ._connection import Connection
    from ._room import Room


@attrs.define(eq=False)
class CatchUp:
    """What is delivered to a room while one join reads its history."""

    max_items: int
    latest_only: bool = False
    """Whether only the newest is of use."""
    items: list[HistoryItem] = attrs.field(factory=list)
    epoch: str | None = None
    top: int = 0
    after: int = 0
    """What came before the first of them, where the broker has lost that."""
    overrun: bool = False
    """Whether more came than is held."""
    lost: bool = False
    """Whether the broker has lost something between what came."""

    def add(self, publication: Publication, position: Position) -> None:
        """One more was delivered."""
        after = publication.after or 0
        if position.epoch != self.epoch:
            self.items.clear()
            self.epoch, self.after, self.overrun, self.lost = position.epoch, after, False, False
        elif after > self.top:
            self.lost = True
        self.top = position.offset
        if self.latest_only:
            self.items.clear()
        if len(self.items) < self.max_items:
            self.items.append(publication.kept(position.offset))
        else:
            self.overrun = True

    def goes_with(self, part: Slice, known: str | None) -> bool:
        """Whether the slice is no older than what was delivered; else it has to be read again.

        ``known`` is the epoch of what had been delivered when it was asked for. Only that is older for sure.
        """
        if self.epoch is None or self.epoch == part.position.epoch:
            return self.after <= part.position.offset
        if self.epoch != known:
            return False
        self.items.clear()
        self.epoch, self.top, self.after, self.overrun, self.lost = None, 0, 0, False, False
        return True

    def is_apart_from(self, part: Slice) -> bool:
        """Whether something was delivered of another epoch than the slice's, which :meth:`merged` has no use for."""
        return self.epoch is not None and self.epoch != part.position.epoch

    def merged(self, part: Slice) -> tuple[Position, tuple[HistoryItem, ...] | None]:
        """The top of both, and all items of both, or the latest; None in their place if some are not held."""
        top = part.position.offset
        if self.top <= top:
            return part.position, part.publications
        position = Position(self.top, part.position.epoch)
        if self.latest_only:
            return position, tuple(self.items)
        if self.after > top:
            self.lost = True
        if self.overrun or self.lost:
            return position, None
        return position, (*part.publications, *(item for item in self.items if item.offset > top))


class RoomStream:
    """Of one room, while it exists."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._node = room._node
        self.epoch: str | None = None
        self.filling = SingleFlight()
        """Of joins that ask the program for the first publication."""
        self._delivered = 0
        self._past: str | None = None
        self._catching_up: list[CatchUp] = []
        self._ahead: dict[str, int] = {}

    def get_position(self) -> Position | None:
        """How far all of this node's members have come; None as long as that is not known."""
        if self.epoch is None:
            return None
        all_ahead = self._ahead and len(self._ahead) == len(self._room._roster.members)
        return Position(min(self._ahead.values()) if all_ahead else self._delivered, self.epoch)

    def position_of(self, conn: Connection) -> Position | None:
        """Up to where a member was sent everything; None as long as that is not known."""
        if self.epoch is None:
            return None
        return Position(max(self._delivered, self._ahead.get(conn.id, 0)), self.epoch)

    @contextmanager
    def catching_up(self, max_items: int) -> Iterator[CatchUp]:
        """While the block runs, what is delivered is held, as far as it may be recovered."""
        latest_only = self._room.options.recovery == "cache"
        one = CatchUp(max(1, max_items) if latest_only else max_items, latest_only)  # whose one item no budget denies
        self._catching_up.append(one)
        try:
            yield one
        finally:
            self._catching_up.remove(one)

    def begin(self, conn: Connection, position: Position) -> None:
        """A member begins at a position."""
        if self.epoch is not None and position.epoch != self.epoch:
            self.lose_members(but=conn)
            self._past, self._delivered = self.epoch, 0
            self._ahead.clear()
        self.epoch = position.epoch
        if position.offset > self._delivered:
            self._ahead[conn.id] = position.offset

    def leave(self, conn: Connection) -> None:
        """A member has gone."""
        self._ahead.pop(conn.id, None)

    def deliver(self, publication: Publication, position: Position) -> Outcome | None:
        """Serve the members; None if the broker has delivered this before."""
        if position.epoch != self.epoch and not self._enter(position.epoch):
            return None
        if position.offset <= self._delivered:
            self._node.counters.repeated += 1
            return None
        if publication.after is not None and publication.after > self._delivered:
            self.lose_members(publication.after)
        self._delivered = position.offset
        publication.offset = position.offset
        for one in self._catching_up:
            one.add(publication, position)
        outboxes = self._room._roster.outboxes
        if not publication.exclude and not self._ahead:
            return self._node.put_all(publication, outboxes)
        ahead = self._pass_ahead(position.offset)
        outcome = self._node.put_all(publication, outboxes, publication.exclude.union(ahead))
        self._mark(publication, ahead)
        return outcome

    def lose_members(self, before: float = math.inf, *, but: Connection | None = None) -> None:
        """Those that have not got so far have missed something: they come back, to recover or to know that they cannot.

        ``before`` is an offset of the present epoch.
        """
        for member in self._room.members:
            if member is not but and max(self._delivered, self._ahead.get(member.id, 0)) < before:
                self._node.counters.insufficient += 1
                member.close(CloseCode.INSUFFICIENT_STATE, "insufficient state")

    def _enter(self, epoch: str) -> bool:
        """Go over to another epoch; False if it is that which the present one has followed."""
        if epoch == self._past:
            self._node.counters.repeated += 1
            return False
        if self.epoch is not None:
            self.lose_members()
            self._past = self.epoch
        self.epoch, self._delivered = epoch, 0
        self._ahead.clear()
        return True

    def _pass_ahead(self, offset: int) -> Sequence[str]:
        """Who has got this offset already."""
        if not self._ahead:
            return ()
        passed = [ident for ident, ahead in self._ahead.items() if ahead >= offset]
        self._ahead = {ident: ahead for ident, ahead in self._ahead.items() if ahead > offset}
        return passed

    def _mark(self, publication: Publication, ahead: Sequence[str]) -> None:
        """Move the position of the excluded members on."""
        marker = Marker(publication)
        members = self._room._roster.members
        for ident in sorted(publication.exclude):
            member = None if ident in ahead else members.get(ident)
            if member is not None and member._format.v1 and member.outbox.put(marker) == CLOSED:
                member._overflowed()
