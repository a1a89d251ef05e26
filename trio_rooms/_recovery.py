"""How a join of a room with history catches up: what is read, and what comes of it. Never a partial recovery."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from ._boundary import own_cancellations_only
from ._errors import ActionError, HookTimeout, RoomFailed
from ._hooks import AlreadyReported
from ._room_stream import CatchUp
from ._rooms.history import HistoryItem, Position, Slice

if TYPE_CHECKING:
    from ._connection import Connection
    from ._node import Node
    from ._room import Room
    from ._room_options import RoomOptions

# A broker whose stream begins anew again and again, while one join reads it, is not to be waited for.
_MAX_READS = 3

# What the envelope of one item adds to its bytes, at most.
_ENVELOPE = 48


@attrs.frozen
class Caught:
    """How far a join has come."""

    position: Position
    """Everything up to here the member has, or was never to have; everything after it is live."""
    recovered: bool | None = None
    """Whether nothing is missing since the position that it came with; None if it came with none."""
    items: tuple[HistoryItem, ...] = ()
    """What it gets of the history."""
    too_much: bool = False
    """Whether it is not recovered because that would be more than one join may recover."""


@attrs.define(eq=False, kw_only=True)
class Reading:
    """How one who comes to a room catches up with its stream."""

    node: Node
    name: str
    options: RoomOptions
    since: Position | None
    held: CatchUp
    part: Slice = attrs.field(init=False)
    _known: str | None = attrs.field(init=False, default=None)
    """The epoch of the room's members here when the slice was asked for."""

    async def read(self) -> None:
        """Read as much of the history as is needed. Raises :exc:`RoomFailed`, and what the broker raises."""
        keep = self.options.keep
        assert keep is not None
        cache = self.options.recovery == "cache"
        limit = 1 if cache else 0 if self.since is None else self.held.max_items + 1
        for _ in range(_MAX_READS):
            known, self._known = self.held.epoch, self._epoch_here
            self.part = await self.node.read_stream(
                self.name, keep, since=None if cache else self.since, limit=limit, reverse=cache
            )
            if self.held.goes_with(self.part, known) and not self._is_overtaken:
                return
        raise RoomFailed("the room's history begins anew again and again")

    async def read_anew(self) -> None:
        """Read again if the stream has begun anew since: for whoever cannot begin right after :meth:`read`.

        No checkpoint if it has not.
        """
        if self.held.is_apart_from(self.part) or self._is_overtaken:
            await self.read()

    @property
    def _epoch_here(self) -> str | None:
        """That of the room's members, if there are any."""
        return None

    @property
    def _is_overtaken(self) -> bool:
        """Whether the members have come to another epoch since the slice was asked for, which may be a newer one."""
        return self._epoch_here not in (self.part.position.epoch, self._known)

    def caught(self) -> Caught:
        """What would come of it if it began now, in the step in which it was read, or :meth:`read_anew` returned."""
        position, items = self.held.merged(self.part)
        if self.options.recovery == "cache":
            return self._latest(position, items)
        if self.since is None:
            return Caught(position)
        if not self.part.complete:
            return Caught(position, recovered=False)
        if items is None or not self._is_within_bounds(items):
            return Caught(position, recovered=False, too_much=not self.held.lost)
        return Caught(position, True, self._for_this_one(items))

    def _latest(self, position: Position, items: tuple[HistoryItem, ...] | None) -> Caught:
        recovered = None if self.since is None else self.since == position
        if recovered or not items:  # it has the latest, or nothing is kept
            return Caught(position, recovered)
        latest = self._for_this_one(items[-1:])
        return Caught(position, None if self.since is None else True, latest)

    def _is_within_bounds(self, items: tuple[HistoryItem, ...]) -> bool:
        return len(items) <= self.held.max_items

    def _for_this_one(self, items: tuple[HistoryItem, ...]) -> tuple[HistoryItem, ...]:
        return items


@attrs.define(eq=False, kw_only=True)
class Recovery(Reading):
    """A join's."""

    room: Room
    conn: Connection
    max_bytes: int
    """What the recovered items may take, at most."""

    @property
    def _epoch_here(self) -> str | None:
        return None if self.room._stream is None else self.room._stream.epoch

    async def read(self) -> None:
        """As :meth:`Reading.read`; and have the program fill a room that is empty."""
        await super().read()
        if self.options.fill is not None and self._is_empty():
            assert self.room._stream is not None
            await self.room._stream.filling.run(self._fill)
            await super().read()

    def _is_within_bounds(self, items: tuple[HistoryItem, ...]) -> bool:
        return super()._is_within_bounds(items) and size_of(items, self.conn) <= self.max_bytes

    def _for_this_one(self, items: tuple[HistoryItem, ...]) -> tuple[HistoryItem, ...]:
        return tuple(item for item in items if not self.conn._is_excluded(item.exclude))

    def _is_empty(self) -> bool:
        return not self.part.publications and not self.held.items

    async def _fill(self) -> None:
        room, node = self.room, self.node
        fill = self.options.fill
        assert fill is not None
        await super().read()
        if not self._is_empty():
            return  # somebody else has filled it while we waited
        try:
            event = None
            with trio.move_on_after(node.config.hook_timeout) as scope, own_cancellations_only():
                event = await fill(room.name)
            if scope.cancelled_caught:
                raise HookTimeout(f"fill ran longer than {node.config.hook_timeout} s")
            if event is not None:
                await room.publish(event)
        except ActionError:
            raise
        except Exception as exc:
            await node.errors.report(self.conn, exc, f"fill of {room.name!r}")  # noqa: ASYNC120 - logs it first
            raise AlreadyReported from exc


def size_of(items: tuple[HistoryItem, ...], conn: Connection) -> int:
    """The bytes that these take in a message to a connection, at most."""
    return sum(conn._format.size_of(item) + _ENVELOPE for item in items)
