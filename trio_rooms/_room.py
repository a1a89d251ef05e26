"""A room as the program sees it: members, metadata, publishing, tasks of its own, and its end.

A room exists from the first reserved place until the last member has left and ``linger`` has passed. One
that has neither hooks, nor tasks, nor a linger time is only an entry in a dict; any other has a
:class:`~trio_rooms._room_task.RoomTask`, which opens it, owns its nursery, and closes it.
"""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ._context import enter_room
from ._errors import RoomClosed, RoomFailed, UsageError
from ._presence import RoomPresence
from ._room_options import RoomOptions
from ._room_stream import RoomStream
from ._room_task import RoomTask
from ._rooms.history import Position, Slice
from ._rooms.publication import Report, Until
from ._rooms.roster import Roster

if TYPE_CHECKING:
    from ._connection import Connection
    from ._node import Node
    from ._wire.outbox import Outbox


class Room:
    """A named group of connections. Get one from ``manager.get_room``, ``conn.join`` or a room hook."""

    __slots__ = (
        "__weakref__",
        "_failed",
        "_keep",
        "_node",
        "_presence",
        "_roster",
        "_stream",
        "_target",
        "_task",
        "closed",
        "metadata",
        "name",
        "options",
    )

    def __init__(self, node: Node, name: str, options: RoomOptions) -> None:
        self.name: str = name
        """The room's name."""
        self.options: RoomOptions = options
        """The options of the first pattern that matched the name."""
        self.metadata: dict[str, Any] = {}
        """Yours; lives as long as the room does."""
        self.closed: bool = False
        """Whether the room has ended; a later room of the same name is another object."""
        self._node = node
        self._target = (name,)
        capacity = node.config.max_connections_per_room if options.capacity is None else options.capacity
        self._roster: Roster[Connection, Outbox] = Roster(capacity)
        self._keep = options.keep
        self._stream = None if self._keep is None else RoomStream(self)
        self._failed = False
        self._task: RoomTask | None = None
        self._presence = None if options.presence is None else RoomPresence(self, options.presence)
        hooks = node.registry.hooks
        has_hooks = hooks["on_room_open"] or hooks["on_room_close"]
        if options.linger or has_hooks or self._presence is not None or name in node.closing_rooms:
            self._start_task()

    def __repr__(self) -> str:
        return f"<Room {self.name!r}: {len(self._roster.members)} members{', closed' if self.closed else ''}>"

    @property
    def members(self) -> tuple[Connection, ...]:
        """The connections that are in the room on this node, in the order in which they joined."""
        return tuple(self._roster.members.values())

    def __contains__(self, conn: object) -> bool:
        member = self._roster.members.get(getattr(conn, "id", ""))
        return member is not None and member is conn

    @property
    def presence(self) -> Mapping[str, tuple[Mapping[str, Any], ...]]:
        """The users in the room on this node, each with an entry for each connection; a copy, of now.

        Members are told the same a little later, see ``PresenceOptions.interval``. Users in their grace are among them.
        Raises :exc:`UsageError` where the room's options have no presence.
        """
        if self._presence is None:
            raise UsageError(f"the options of room {self.name!r} have no presence")
        return self._presence.users()

    async def publish(
        self,
        event: object,
        *,
        until: Until = "queued",
        exclude: Iterable[Connection | str] = (),
        key: str | None = None,
        idempotency_key: str | None = None,
        skip_history: bool = False,
    ) -> Report:
        """Publish to the room, waiting for the broker where ``publish_nowait`` would raise BrokerBusy.

        Returns when the broker has confirmed and the members of this node were served; what this task then
        sends to one of them stands behind the event. With ``until="written"`` it returns when, besides, every member
        of this node that was served has it no longer in its outbox: the system has taken it (``report.written``;
        nothing is said of the peer), or it was displaced there, or the connection has ended. So it waits for the
        slowest member, at most until ``write_timeout`` ends that one; other publishers are not held up.

        A cancel while it waits for room means that nothing was published; after that, that the outcome is unknown,
        and with an ``idempotency_key`` it may be repeated; and once it was delivered, the event stays queued for all.
        Options and exceptions are those of :meth:`publish_nowait`, without BrokerBusy; and :exc:`NotServing`. Always
        a checkpoint.
        """
        publication = self._node.publications.make(
            self._target,
            event,
            exclude=exclude,
            key=key,
            idempotency_key=idempotency_key,
            skip_history=skip_history,
        )
        return await self._node.carrier.publish(publication, until)

    def publish_nowait(
        self,
        event: object,
        *,
        exclude: Iterable[Connection | str] = (),
        key: str | None = None,
        idempotency_key: str | None = None,
        skip_history: bool = False,
    ) -> Report:
        """Publish to the room without waiting.

        With the broker of one process the members have been served when this returns (``report.final``).

        Args:
          event: What is published.
          exclude: Connections or their ids, who do not get it. Where there are sessions (``Config.session_window``),
            the connection that has come back to theirs does not either, now or out of the history. A session is known
            by the ids of its last eight connections, which may be gone.
          key: Names what a newer event replaces where the room conflates.
          idempotency_key: Of 1 to 128 characters. Of publications with the same key to the room the broker delivers the
            first alone, for five minutes at least; the report of a repeat says so (``duplicate``) and is else the
            first one's.
          skip_history: Do not keep it in the room's history. It then has no position, and who is away misses it.

        Raises :exc:`BrokerBusy` (nothing was sent), :exc:`EncodingError`, :exc:`MessageTooLarge`, :exc:`UsageError`.
        """
        return self._node.carrier.publish_nowait(
            self._node.publications.make(
                self._target,
                event,
                exclude=exclude,
                key=key,
                idempotency_key=idempotency_key,
                skip_history=skip_history,
            )
        )

    async def history(self, *, limit: int | None = None, since: Position | None = None, reverse: bool = False) -> Slice:
        """Read what is kept of the room: the oldest ``limit`` publications after ``since``, or all there are.

        With ``reverse`` the newest first, and those before ``since``. ``limit=0`` reads only the position. Raises
        :exc:`UnrecoverablePosition` if ``since`` is of another epoch or above the top, :exc:`UsageError` if the room
        has no history, and what the broker raises. Always a checkpoint.
        """
        return await self._node.history(self.name, limit=limit, since=since, reverse=reverse)

    def start_soon(self, function: Callable[..., Awaitable[Any]], *args: object) -> None:
        """Start a task that belongs to the room.

        It lives while the room has members, plus ``linger``, and is cancelled when the room closes. It runs
        in a fresh context in which only ``current_room()`` is set. If it raises, the room is closed with the
        code ``ROOM_FAILED`` and the error reported; nobody else is affected. Raises :exc:`RoomClosed`.
        """
        if self.closed:
            raise RoomClosed
        if self._task is None:
            self._start_task()
        assert self._task is not None
        self._task.start_soon(function, *args)

    def kick(self, conn: Connection, code: str = "KICKED", message: str = "") -> bool:
        """Remove a member, or stop it from joining; its connection stays open. False if it was neither.

        Clients with a v1 format are told ``$closed`` with the code and the message.
        """
        return conn._remove_from(self, "kicked", code, message)

    def close(self, code: str = "CLOSED", message: str = "") -> None:
        """End the room: members are removed as by :meth:`kick`, joins under way fail, tasks are cancelled.

        Idempotent. Connections stay open, and may join a new room of the same name.
        """
        if self.closed:
            return
        self._retire()
        for member in self.members:
            member._remove_from(self, "closed", code, message)
        for conn_id in tuple(self._roster.reserved):
            self._node.connections[conn_id]._remove_from(self, "closed", code, message)

    # What follows is for the library.

    async def _wait_open(self) -> None:
        """Wait until ``on_room_open`` has run. Raises :exc:`RoomFailed`, :exc:`RoomClosed`."""
        if self._task is not None:
            await self._task.wait_open()
        if self._failed:
            raise RoomFailed
        if self.closed:
            raise RoomClosed

    def _fail(self) -> None:
        """``on_room_open`` or a task of the room has failed."""
        self._failed = True
        told = RoomFailed()
        self.close(told.code, told.message)

    def _vacated(self) -> None:
        """A member or a reserved place has gone; the last one ends the room, now or after ``linger``."""
        if self.closed or not self._roster.empty:
            return
        if self._task is None or not self._linger:
            self._retire()
        else:
            self._task.vacated()

    @property
    def _linger(self) -> float:
        """Seconds that the room outlives its last member."""
        return self.options.linger if self._presence is None else max(self.options.linger, self._presence.lingers)

    def _grace_over(self) -> None:
        """A user's grace has ended, for which the room may have lived on."""
        if self._roster.empty and self._task is not None:
            self._task.linger_changed()

    def _occupied(self) -> None:
        """A place was reserved."""
        if self._task is not None:
            self._task.occupied()

    def _retire(self) -> None:
        """Take the room out of the index, and let its task end it."""
        if self.closed:
            return
        self.closed = True
        del self._node.rooms[self.name]
        self._node.unsubscribe(self.name)
        if self._presence is not None:
            self._presence.end()
        if self._task is not None:
            self._node.closing_rooms[self.name] = self
            self._task.closed()

    def _ended(self) -> None:
        """The task of a closed room is over."""
        if self._node.closing_rooms.get(self.name) is self:
            del self._node.closing_rooms[self.name]

    def _start_task(self) -> None:
        predecessor = self._node.closing_rooms.get(self.name)
        after = None if predecessor is None else predecessor._task
        self._task = RoomTask(self, self._node, after=after)
        context = contextvars.Context()
        context.run(enter_room, self)
        self._node.spawn(self._task.run, context)
