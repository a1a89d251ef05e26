"""A connection as the program sees it. How it lives and ends is in ``_lifecycle``."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from ._asks import Asks
from ._boundary import own_cancellations_only, says_only_gone
from ._chance import token
from ._context import in_handler
from ._dispatch import Dispatcher
from ._errors import ConnectionGone, OutboxFull, UsageError
from ._formats import FORMATS
from ._from_request import FromRequest
from ._go_names import GoNames
from ._hooks import HookQueue
from ._identity import Identity
from ._joined_rooms import JoinedRooms
from ._joining import Joined, LeaveReason
from ._log import ConnectionLogger
from ._membership import Memberships
from ._restorable import Restorable
from ._rooms.history import Position
from ._sending import Sending
from ._sessions import Session
from ._wire.outbox import Outbox
from ._wire.outbox_statistics import OutboxStatistics
from ._wire.request import HandshakeRequest
from ._wire.sink import Sink
from ._wire.transport import Close, Transport

if TYPE_CHECKING:
    from ._node import Node
    from ._opening import Opening
    from ._room import Room

T = TypeVar("T")


class Connection(FromRequest, Restorable, Sending, GoNames):
    """One client. Given to handlers, hooks and middleware; not made by programs."""

    # There are many of them, and most of the time most of them do nothing: what not each of them needs at any time is
    # made when it is needed.
    __slots__ = (
        "__weakref__",
        "_asks",
        "_closed",
        "_context",
        "_dispatcher",
        "_draining",
        "_flushed",
        "_format",
        "_gone",
        "_hooks",
        "_logger",
        "_memberships",
        "_metadata",
        "_node",
        "_nursery",
        "_on_connect_begun",
        "_opening",
        "_over",
        "_request",
        "_session",
        "_sink",
        "_tasks",
        "_transport",
        "_work",
        "_writing",
        "connected_at",
        "id",
        "identity",
        "outbox",
        "restored",
        "subprotocol",
    )

    def __init__(self, node: Node, request: HandshakeRequest, identity: Identity, subprotocol: str | None) -> None:
        self.id: str = token(16)
        """A random id of 128 bits, never used again."""
        self.identity: Identity = identity
        """Who it is; decided by ``authenticate`` before the upgrade and fixed."""
        self.subprotocol: str | None = subprotocol
        """The negotiated subprotocol; None for the plain format."""
        self.connected_at: datetime = datetime.now(UTC)
        """When the upgrade was accepted, in UTC."""
        self.restored: bool = False
        """Whether it has the session of a connection that came before it."""
        self._session: Session | None = None
        self._opening: Opening | None = None
        self._metadata: dict[str, Any] | None = None
        self._logger: logging.LoggerAdapter[logging.Logger] | None = None
        self._node = node
        self._request = request
        self._format = FORMATS[subprotocol]
        config = node.config
        self._sink = Sink(
            self._format,
            max_messages=config.limits.outbox_messages,
            max_bytes=config.limits.outbox_bytes,
            write_buffer_size=config.write_buffer_size,
            write_timeout=config.write_timeout,
            flusher=node.flusher,
        )
        self.outbox: Outbox = self._sink.outbox
        """The send channel to this client: bounded, and fed by rooms. For the library."""
        self._context = contextvars.Context()  # until it lives, and then that of its task
        self._hooks = HookQueue(self)
        self._memberships = Memberships(self)
        self._dispatcher = Dispatcher(self)
        self._asks: Asks | None = None
        self._transport: Transport | None = None
        self._nursery: trio.Nursery | None = None
        self._work = trio.CancelScope()
        self._tasks: dict[trio.CancelScope, None] | None = None
        self._closed: Close | None = None
        self._gone: trio.Event | None = None
        self._over = False
        self._draining: Close | None = None
        self._writing = False
        self._flushed: trio.Event | None = None
        self._on_connect_begun = False

    def __repr__(self) -> str:
        return f"<Connection {self.id} user={self.identity.user!r}{' closed' if self._closed else ''}>"

    @property
    def metadata(self) -> dict[str, Any]:
        """Yours; lives as long as the connection, what is marked with :meth:`keep` as long as its session."""
        if self._metadata is None:
            self._metadata = {}
        return self._metadata

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """The manager's logger with ``connection`` and ``user`` as extra fields of each record."""
        if self._logger is None:
            self._logger = ConnectionLogger(self._node.logger, {"connection": self.id, "user": self.identity.user})
        return self._logger

    @property
    def rtt(self) -> float | None:
        """Seconds that the last answered ping took; None before the first."""
        return None if self._transport is None else self._transport.rtt

    @property
    def rooms(self) -> Mapping[str, Room]:
        """The rooms that it is in, by name, in the order of joining. A live view; copy it to keep it.

        A loop over it, its ``values()`` or ``items()``, goes over the rooms that there were when it began: what is done
        in it may end memberships, or the connection.
        """
        return JoinedRooms(self._memberships.rooms)

    @property
    def closed(self) -> Close | None:
        """How it ended or is ending; None while it is open."""
        return self._closed

    async def join(self, room: str, *, since: Position | None = None) -> Joined:
        """Join a room; the program's own decision, so the room's ``authorize`` is not asked.

        With ``since``, in a room with history, what was published after that position is sent first, all of it and
        ahead of everything live, and the result's ``recovered`` is True. Where that is not possible (it has gone, or
        does not fit into ``limits.max_recovery`` and the outbox as it is now) it is False, and nothing of it is sent.
        Joining a room that it is in changes nothing, sends nothing and runs no hook. Raises a :exc:`JoinError`, the
        ActionError of an ``on_join_room`` hook, or :exc:`ConnectionGone`. A cancel leaves it outside the
        room, and hooks that had begun are followed by ``on_leave_room``. Always a checkpoint.
        """
        return await self._memberships.join(room, since=since)

    def leave(self, room: str) -> bool:
        """Leave a room, or give up joining it. False if it was neither. ``on_leave_room`` runs soon after.

        Synchronous, so it works in a cancelled ``finally``, too.
        """
        return self._memberships.leave(room, "left")

    def joined(self, room: str) -> AbstractAsyncContextManager[Joined]:
        """``async with conn.joined(room)``: a member for the length of the block; leaves only what it joined.

        Raises as :meth:`join` when it is entered, which is a checkpoint; leaving is not.
        """
        return self._memberships.joined(room)

    def set_presence(self, room: str, data: object) -> None:
        """Replace the data of its entry in the presence of a room: a mapping, of which a copy is kept as JSON has it.

        The members are told with the next push. Raises :exc:`Denied` unless it is a member of a room with presence,
        :exc:`EntryTooLarge`, :exc:`EncodingError`, and :exc:`UsageError` for what is no mapping.
        """
        self._memberships.set_presence(room, data)

    async def read_json(self, type: type[T] | Any = Any) -> Any:
        """The next message that no handler takes, whole, as ``type``. For ``manager.session`` only.

        It is decoded from JSON, or from MessagePack where that is what the client speaks.
        Raises :exc:`BadMessage` if it cannot be decoded, :exc:`ConnectionGone` at the end, and
        :exc:`UsageError` inside a handler (it would wait for a message that waits for the handler) or
        without a session. Always a checkpoint; a cancel loses no message.
        """
        if in_handler():
            raise UsageError("read_json inside a handler waits for what waits for the handler; use manager.session")
        if self._dispatcher.session is None:
            raise UsageError("read_json needs a function registered with manager.session")
        try:
            message = await self._dispatcher.session.messages.receive()
        except trio.EndOfChannel:
            raise ConnectionGone("the connection has ended") from None
        whole: Any = message.decode_whole(type)
        return whole

    def start_soon(self, function: Callable[..., Awaitable[Any]], *args: object) -> None:
        """Start a task that belongs to this connection and is cancelled when it ends.

        In it ``current_connection()`` is this one, whoever starts it. If it raises, the error is reported and this
        connection closed with 1011; nobody else is affected. Raises :exc:`ConnectionGone`.
        """
        if self._ending or self._nursery is None:
            raise ConnectionGone("the connection has ended")
        self._context.run(self._start_task, self._run_task, function, args)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Begin to close: what is queued is still written, then the close frame.

        Its handlers and tasks are cancelled at their next checkpoint, its rooms left at once. Idempotent; the
        first cause counts. Use codes of 4000-4499 to ask the client to reconnect, 4500-4999 to ask it not
        to. ``wait_closed`` waits for the end. Raises :exc:`UsageError` for a code that no server may send.
        """
        if not (code == 1000 or 3000 <= code <= 4999 or code in _OURS):
            raise UsageError(f"{code} cannot be sent in a close frame (RFC 6455 section 7.4)")
        if self._end(Close(code, reason)):
            self._dispatcher.inbox.close(discard=True)
            self._cancel_work("the connection is closing")

    async def wait_closed(self) -> Close:
        """Wait until nothing of the connection is left: its hooks have run and its stream is closed; how it ended.

        From a task or handler of the connection it would wait for itself. Always a checkpoint.
        """
        await trio.lowlevel.checkpoint()
        if not self._over:
            if self._gone is None:
                self._gone = trio.Event()
            await self._gone.wait()
        assert self._closed is not None
        return self._closed

    def statistics(self) -> OutboxStatistics:
        """What waits in its outbox, and what went through it."""
        return self.outbox.statistics()

    # What follows is for the library.

    @property
    def _ending(self) -> bool:
        return self._closed is not None

    @property
    def _taking_no_more(self) -> bool:
        """Whether it takes no more messages: it is ending, or about to for the sake of the server."""
        return self._closed is not None or self._draining is not None

    def _end(self, close: Close) -> bool:
        """The one place that every end goes through; the first cause counts. False if there was one."""
        if self._closed is not None:
            return False
        self._closed = close
        if self._session is not None:
            self._session.note_rooms(self)
        self._memberships.leave_all()
        self.outbox.close()
        if self._asks is not None:
            self._asks.end()
        return True

    def _died(self) -> None:
        """The pinger has heard nothing for too long."""
        if self._end(Close(1006, "nothing was heard from the peer", "network")):
            self._node.counters.dead_peers += 1
            self._cancel_all("the peer is dead")

    def _replace(self) -> None:
        """Its client has come back by another connection, so nobody is at the other end of this one."""
        self._end(Close(4501, "replaced"))
        self._sink.discard()
        self._cancel_all("replaced")

    def _overflowed(self) -> None:
        """A room's policy ends this connection. Only marks it: this runs in the middle of a fan-out."""
        if self._end(Close(4008, "slow consumer")):
            self._sink.discard()
            self._cancel_all("slow consumer")

    def _drain(self) -> None:
        """The server shuts down: no message is dispatched any more, handlers finish, replies are flushed."""
        if self._closed is None:
            self._draining = Close(self._node.close_code, "the server is shutting down")
            self._dispatcher.inbox.close(discard=True)

    def _remove_from(self, room: Room, reason: LeaveReason, code: str, message: str) -> bool:
        """Take this connection out of a room, and tell it."""
        place = self._memberships.joining.get(room.name)
        is_member = self.rooms.get(room.name) is room
        # One that still waits for ``authorize`` has no room yet; it would get this one.
        is_joining = place is not None and (place.room is room or (place.room is None and not room.closed))
        if not is_member and not is_joining:
            return False
        self._memberships.leave(room.name, reason)
        if is_member:
            self._notify("$closed", {"room": room.name, "code": code, "message": message})
        return True

    def _is_excluded(self, exclude: frozenset[str]) -> bool:
        """Whether what excludes these is not for this client."""
        return self.id in exclude or (self._session is not None and self._session.is_among(exclude))

    def _notify(self, action: str, data: object) -> None:
        """Tell a v1 client something unasked; an outbox without room drops it, counted."""
        if not self._format.v1:
            return
        try:
            self.send_nowait(data, action=action)
        except OutboxFull:
            self.outbox.dropped += 1
        except ConnectionGone:
            pass

    def _cancel_work(self, reason: str) -> None:
        self._work.cancel(reason=reason)
        for scope in self._tasks or ():
            scope.cancel(reason=reason)

    def _limit(self, deadline: float) -> None:
        """Cancel everything at ``deadline``."""
        if self._nursery is not None:
            scope = self._nursery.cancel_scope
            scope.deadline = min(scope.deadline, deadline)

    def _cancel_all(self, reason: str) -> None:
        self._cancel_work(reason)
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel(reason=reason)

    def _start_task(self, function: Callable[..., Awaitable[Any]], *args: object) -> None:
        """Start a task that ``close`` cancels, while the writer goes on."""
        assert self._nursery is not None
        self._nursery.start_soon(self._scoped, function, args)

    async def _scoped(self, function: Callable[..., Awaitable[Any]], args: tuple[object, ...]) -> None:
        if self._tasks is None:
            self._tasks = {}
        with trio.CancelScope() as scope:
            self._tasks[scope] = None
            if self._work.cancel_called:
                scope.cancel(reason="the connection is closing")
            try:
                await function(*args)
            finally:
                del self._tasks[scope]

    async def _run_task(self, function: Callable[..., Awaitable[Any]], args: tuple[object, ...]) -> None:
        try:
            with own_cancellations_only():
                await function(*args)
        except Exception as exc:
            if self._ending and says_only_gone(exc):
                return  # no news
            await self._node.errors.report(self, exc, "a task of the connection")
            self.close(1011, "internal error")


_OURS = frozenset((1001, 1003, 1007, 1008, 1009, 1011, 1012, 1013))
