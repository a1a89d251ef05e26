"""How a connection gets into a room and out of it.

Theory of operation. A join has phases that can wait (authorize, the room's opening, hooks, the broker's
subscription) and two that cannot: *reserve*, which takes a place in the room, and *begin*, which turns the
place into membership. Between them the place can be released by anybody (a leave, a kick, the room's
close, the connection's end): the join finds out at its next step and fails; when the connection has ended, what it
waits for is cancelled, too. Whatever fails after the first ``on_join_room`` hook has begun is followed by
``on_leave_room``, exactly once, and queued in the step in which the place was released, so that it stands
before the hooks of everything that happens later.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import trio

from ._authorising import authorised
from ._errors import (
    ActionError,
    ConnectionGone,
    Denied,
    JoinError,
    RoomClosed,
    RoomFull,
    TooManyRooms,
)
from ._hooks import AlreadyReported
from ._joining import Joined, Joining, LeaveReason, Place
from ._recovery import Recovery
from ._rooms.history import Position

if TYPE_CHECKING:
    from ._connection import Connection
    from ._room import Room
    from ._room_options import RoomOptions
    from ._wire.frames import Frame

_NONE: Final[Mapping[str, Any]] = MappingProxyType({})


class Memberships:
    """The rooms of one connection, and those it is joining."""

    __slots__ = ("_conn", "_joining", "_node", "_scoped", "rooms")

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._node = conn._node
        self.rooms: dict[str, Room] = {}
        # Both are made when the first one comes; for most connections they would be empty for ever.
        self._joining: dict[str, Place] | None = None
        self._scoped: dict[str, Joined] | None = None

    @property
    def joining(self) -> Mapping[str, Place]:
        """The joins under way by the room's name."""
        return self._joining or _NONE

    async def join(
        self,
        name: str,
        *,
        since: Position | None = None,
        client_data: Any = None,
        by_client: bool = False,
        reply: Callable[[Joined], Frame] | None = None,
    ) -> Joined:
        """All phases. What ``reply`` makes is queued in the step that begins membership, ahead of everything live."""
        await trio.lowlevel.checkpoint()
        options = self._node.room_options(name)
        room = await self._joined_already(name)
        if room is not None:
            return await self._tell_again(room, since, reply)
        self._check_bound()
        if not by_client and self._nothing_to_wait_for(name):
            return self._join_now(name, options, since)
        async with self.joining_room(name, options, since=since, client_data=client_data, by_client=by_client) as one:
            outbox = self._conn.outbox
            joined = one.outcome()
            if reply is None:
                one.begin_and_push()
            else:
                while not outbox.fits(len((frame := reply(joined)).data)):
                    await outbox.wait_fits(len(frame.data))
                    if one.recovery is not None:
                        await self._read(one.recovery.read_anew)
                    joined = one.outcome()
                outbox.send_nowait(frame)
                one.begin()
            return one.joined
        raise ConnectionGone("the connection has ended")

    @asynccontextmanager
    async def joining_room(
        self,
        name: str,
        options: RoomOptions,
        *,
        since: Position | None = None,
        client_data: Any = None,
        by_client: bool = False,
        max_items: int | None = None,
        max_bytes: int | None = None,
    ) -> AsyncIterator[Joining]:
        """All of a join that can wait. In the block :meth:`Joining.begin` makes it a membership, else it is undone.

        ``max_items`` and ``max_bytes`` are the most that is recovered; defaults are ``limits.max_recovery`` and a
        quarter of an outbox.
        """
        if self._joining is None:
            self._joining = {}
        place = self._joining[name] = Place()
        one: Joining | None = None
        try:
            with place.scope:
                data = (
                    await authorised(self._conn, options.authorize, name, client_data, "authorize")
                    if by_client
                    else None
                )
                place.check()
                place.room = room = self._reserve(name, options)
                await self._prepare(place, room)
                one = Joining(self, place, Joined(room, new=True, data=data, recovered=_of_nothing(since)))
                if room._stream is None:
                    yield one
                else:
                    limits = self._node.config.limits
                    if max_bytes is None:
                        max_bytes = limits.outbox_bytes // 4
                    if max_items is None:
                        max_items = limits.max_recovery
                    with room._stream.catching_up(max_items) as held:
                        one.recovery = Recovery(
                            node=self._node,
                            name=name,
                            options=room.options,
                            since=since,
                            held=held,
                            room=room,
                            conn=self._conn,
                            max_bytes=max_bytes,
                        )
                        await self._read(one.recovery.read)
                        place.check()
                        yield one
            if one is None or not one.begun:
                place.check()
                raise ConnectionGone("the connection has ended")
        except BaseException as exc:
            if one is None or not one.begun:
                self._undo(place, "cancelled" if isinstance(exc, trio.Cancelled) else "vetoed")
            raise
        finally:
            if self._joining.get(name) is place:
                del self._joining[name]
            place.done.set()

    def _check_bound(self) -> None:
        if len(self.rooms) + len(self.joining) >= self._node.config.limits.max_rooms_per_connection:
            self._node.counters.limit("max_rooms_per_connection")
            raise TooManyRooms("this connection is in too many rooms")

    async def _read(self, read: Callable[[], Awaitable[None]]) -> None:
        try:
            await read()
        except (ActionError, ConnectionGone):
            raise
        except Exception as exc:
            await self._node.errors.report(self._conn, exc, "the broker's history")  # noqa: ASYNC120 - logs it first
            raise AlreadyReported from exc

    def _nothing_to_wait_for(self, name: str) -> bool:
        """Whether the room is open, the broker brings its publications, and no hook is due or under way.

        Most joins are such: on a node that has members in the room, of a program without hooks.
        """
        room = self._node.rooms.get(name)
        return (
            room is not None
            and room._stream is None
            and room._task is None
            and bool(room._roster.outboxes)
            and not self._node.registry.hooks["on_join_room"]
            and not self._conn._hooks.busy
        )

    def _join_now(self, name: str, options: RoomOptions, since: Position | None) -> Joined:
        room = self._reserve(name, options)
        self._begin(room)
        return Joined(room, new=True, recovered=_of_nothing(since))

    async def _tell_again(self, room: Room, since: Position | None, reply: Callable[[Joined], Frame] | None) -> Joined:
        """The outcome where there is a membership; the reply is queued in the step in which its position is true."""
        outbox = self._conn.outbox
        joined = self._joined_before(room, since)
        if reply is not None:
            while not outbox.fits(len((frame := reply(joined)).data)):
                await outbox.wait_fits(len(frame.data))
                if self.rooms.get(room.name) is not room:
                    raise RoomClosed("left, removed or closed while joining")
                joined = self._joined_before(room, since)
            outbox.send_nowait(frame)
        return joined

    def _joined_before(self, room: Room, since: Position | None) -> Joined:
        position = None if room._stream is None else room._stream.position_of(self._conn)
        recovered = _of_nothing(since) if position is None or since is None else since == position
        return Joined(room, new=False, position=position, recovered=recovered)

    async def _joined_already(self, name: str) -> Room | None:
        """The room if we are in it, after waiting for a join of the same room that is under way."""
        while True:
            if self._conn._ending:
                raise ConnectionGone("the connection has ended")
            if name in self.rooms or name not in self.joining:
                return self.rooms.get(name)
            place = self.joining[name]
            if self._conn._hooks.inside and not place.hooks_over:
                raise JoinError("the room is being joined, by a task that waits for this hook")
            await place.done.wait()

    def _reserve(self, name: str, options: RoomOptions) -> Room:
        room = self._node.open_room(name, options)
        if not room._roster.reserve(self._conn.id):
            raise RoomFull
        room._occupied()
        return room

    async def _prepare(self, place: Place, room: Room) -> None:
        await room._wait_open()
        place.check()
        what = "on_join_room"
        try:
            async with self._conn._hooks.turn():
                place.check()
                place.hooks_begun = True
                await self._conn._hooks.run("on_join_room", self._conn, room)
            place.hooks_over = True
            place.check()
            if room._presence is not None:
                what = "entry of the presence"
                place.entry = await room._presence.first_entry(self._conn)
            what = "the broker's subscribe"
            await self._node.subscribe(room.name)
        except (ActionError, ConnectionGone):
            raise
        except Exception as exc:
            await self._node.errors.report(self._conn, exc, what)  # noqa: ASYNC120 - which logs it first
            raise AlreadyReported from exc
        place.check()

    def _begin(self, room: Room, position: Position | None = None) -> None:
        began = room._roster.begin(self._conn, self._conn.outbox)
        assert began, "a place that was not released is reserved"
        self.rooms[room.name] = room
        if room._stream is not None and position is not None:
            room._stream.begin(self._conn, position)

    def _joined(self, name: str) -> None:
        """A join has become a membership, and is no place any more that could be released."""
        assert self._joining is not None
        self._joining.pop(name).done.set()

    def _undo(self, place: Place, reason: LeaveReason) -> None:
        """Release a place, unless that has been done."""
        if place.released is not None:
            return
        place.released = reason
        if place.room is not None:
            self._vacate(place.room, reason if place.hooks_begun else None)

    def _vacate(self, room: Room, reason: LeaveReason | None) -> None:
        """Give up a membership or a reserved place; with a reason, tell the hooks."""
        room._roster.remove(self._conn.id)
        if room._presence is not None:
            room._presence.leave(self._conn, reason)
        if room._stream is not None:
            room._stream.leave(self._conn)
        if reason is not None:
            self._conn._hooks.post("on_leave_room", self._conn, room, reason)
        room._vacated()

    def leave(self, name: str, reason: LeaveReason) -> bool:
        """Leave a room or give up joining it; False if there was neither. Synchronous, never raises."""
        place = self.joining.get(name)
        if place is not None and place.released is None:
            self._undo(place, reason)
            if reason == "disconnected":
                place.scope.cancel(reason="the connection has ended")
            return True
        room = self.rooms.pop(name, None)
        if room is None:
            session = self._conn._session
            return session is not None and session.give_up(self._conn, name)
        if self._scoped is not None:
            self._scoped.pop(name, None)
        self._vacate(room, reason)
        return True

    def set_presence(self, name: str, data: object) -> None:
        """Replace the data of the entry in a room's presence."""
        room = self.rooms.get(name)
        if room is None or room._presence is None:
            raise Denied("not a member of a room with presence")
        room._presence.update(self._conn, data)

    def lasting(self) -> list[str]:
        """The rooms that it is in for longer than a block."""
        return [name for name in self.rooms if self._scoped is None or name not in self._scoped]

    def leave_all(self) -> None:
        """The connection has ended: leave in the order of joining, and give up what is being joined."""
        for name in (*self.rooms, *self.joining):
            self.leave(name, "disconnected")

    @asynccontextmanager
    async def joined(self, name: str) -> AsyncIterator[Joined]:
        """Join for the length of a block; leaves only what it joined."""
        joined = await self.join(name)
        if self._scoped is None:
            self._scoped = {}
        if joined.new:
            self._scoped[name] = joined
        try:
            yield joined
        finally:
            # Only this membership: after a kick the room may have been joined anew.
            if self._scoped.get(name) is joined:
                self.leave(name, "left")


def _of_nothing(since: Position | None) -> bool | None:
    """Whether a join is recovered from a room that keeps nothing; None if that was not asked for."""
    return None if since is None else False
