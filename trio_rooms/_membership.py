"""How a connection gets into a room and out of it.

Theory of operation. A join has phases that can wait (authorize, the room's opening, hooks, the broker's
subscription) and two that cannot: *reserve*, which takes a place in the room, and *begin*, which turns the
place into membership. Between them the place can be released by anybody (a leave, a kick, the room's
close, the connection's end): the join finds out at its next step and fails. Whatever fails after the first
``on_join_room`` hook has begun is followed by ``on_leave_room``, exactly once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import attrs
import trio

from ._errors import (
    ActionError,
    ConnectionGone,
    Denied,
    InternalError,
    RoomClosed,
    RoomFull,
    TooManyRooms,
)

if TYPE_CHECKING:
    from ._config import RoomOptions
    from ._connection import Connection
    from ._room import Room

#: Why a membership, or a join whose hooks had begun, ended.
LeaveReason = Literal["left", "kicked", "closed", "disconnected", "vetoed", "cancelled"]


@attrs.frozen
class Joined:
    """The result of a join."""

    room: Room
    """The room."""
    new: bool
    """False if the connection was a member already; then no hook ran and nothing changed."""
    data: Mapping[str, Any] | None = None
    """What the room's ``authorize`` returned besides True."""


@attrs.define(eq=False)
class Place:
    """A join under way."""

    done: trio.Event = attrs.field(factory=trio.Event)
    room: Room | None = None
    hooks_begun: bool = False
    released: LeaveReason | None = None

    def check(self) -> None:
        """Raise if the place has been released."""
        if self.released == "disconnected":
            raise ConnectionGone("the connection has ended")
        if self.released is not None:
            raise RoomClosed("left, removed or closed while joining")


class Memberships:
    """The rooms of one connection, and those it is joining."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._node = conn._node
        self.rooms: dict[str, Room] = {}
        self.view = MappingProxyType(self.rooms)
        self.joining: dict[str, Place] = {}

    async def join(
        self,
        name: str,
        *,
        client_data: Any = None,
        by_client: bool = False,
        on_begin: Callable[[Joined], None] | None = None,
        before_begin: Callable[[Joined], Any] | None = None,
    ) -> Joined:
        """All phases. ``on_begin`` is called in the step that begins membership, ``before_begin`` awaited before."""
        await trio.lowlevel.checkpoint()
        options = self._node.room_options(name)
        room = await self._joined_already(name)
        if room is not None:
            return Joined(room, new=False)
        if len(self.rooms) + len(self.joining) >= self._node.config.limits.max_rooms_per_connection:
            raise TooManyRooms("this connection is in too many rooms")
        place = self.joining[name] = Place()
        try:
            data = await self._authorize(name, options, client_data) if by_client else None
            place.check()
            place.room = room = self._reserve(name, options)
            joined = Joined(room, new=True, data=data)
            await self._prepare(place, room)
            if before_begin is not None:
                await before_begin(joined)
            self._begin(place, room)
            if on_begin is not None:
                on_begin(joined)
            return joined
        except BaseException as exc:
            self._undo(place, "cancelled" if isinstance(exc, trio.Cancelled) else "vetoed")
            raise
        finally:
            del self.joining[name]
            place.done.set()

    async def _joined_already(self, name: str) -> Room | None:
        """The room if we are in it, after waiting for a join of the same room that is under way."""
        while True:
            if self._conn._ending:
                raise ConnectionGone("the connection has ended")
            if name in self.rooms or name not in self.joining:
                return self.rooms.get(name)
            await self.joining[name].done.wait()

    async def _authorize(self, name: str, options: RoomOptions, data: Any) -> Mapping[str, Any] | None:
        if options.authorize is None:
            raise Denied
        try:
            verdict = await options.authorize(self._conn, name, data)
        except ActionError:
            raise
        except Exception as exc:
            raise InternalError from exc
        if isinstance(verdict, Mapping):
            return verdict
        if verdict is not True:
            raise Denied
        return None

    def _reserve(self, name: str, options: RoomOptions) -> Room:
        room = self._node.open_room(name, options)
        if not room._roster.reserve(self._conn.id):
            room._vacated()
            raise RoomFull
        room._occupied()
        return room

    async def _prepare(self, place: Place, room: Room) -> None:
        await room._wait_open()
        place.check()
        try:
            async with self._conn._hooks.turn():
                place.check()
                place.hooks_begun = True
                await self._conn._hooks.run("on_join_room", self._conn, room)
        except (ActionError, ConnectionGone):
            raise
        except Exception as exc:
            raise InternalError from exc
        await self._node.broker.subscribe(room.name)
        place.check()

    def _begin(self, place: Place, room: Room) -> None:
        place.check()
        began = room._roster.begin(self._conn)
        assert began, "a place that was not released is reserved"
        self.rooms[room.name] = room

    def _undo(self, place: Place, reason: LeaveReason) -> None:
        room = place.room
        if room is None or room.name in self.rooms:
            return
        if place.released is None and room._roster.remove(self._conn.id):
            room._vacated()
        if place.hooks_begun:
            self._conn._hooks.post("on_leave_room", self._conn, room, place.released or reason)

    def leave(self, name: str, reason: LeaveReason) -> bool:
        """Leave a room or give up joining it; False if there was neither. Synchronous, never raises."""
        place = self.joining.get(name)
        if place is not None and place.released is None:
            place.released = reason
            if place.room is not None and place.room._roster.remove(self._conn.id):
                place.room._vacated()
            return True
        room = self.rooms.pop(name, None)
        if room is None:
            return False
        room._roster.remove(self._conn.id)
        self._conn._hooks.post("on_leave_room", self._conn, room, reason)
        room._vacated()
        return True

    def leave_all(self) -> None:
        """The connection has ended: leave in the order of joining, and give up what is being joined."""
        for name in (*self.rooms, *self.joining):
            self.leave(name, "disconnected")

    @asynccontextmanager
    async def joined(self, name: str) -> AsyncIterator[Joined]:
        """Join for the length of a block; leaves only what it joined."""
        joined = await self.join(name)
        try:
            yield joined
        finally:
            # Only this membership: after a kick the room may have been joined anew.
            if joined.new and self.rooms.get(name) is joined.room:
                self.leave(name, "left")
