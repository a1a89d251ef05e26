"""How a connection begins where there are sessions, until its ``$welcome`` is out.

Theory of operation. A client that has a session says so in its first message, so nothing of the program runs before
that has come, or a second has passed. ``$welcome`` is the first frame whatever happens meanwhile: what anybody sends is
queued, and held back, until it stands in front. For a new session that is as soon as the wait is over. For one that is
restored it is when ``on_connect`` has run and its rooms have been joined, because it tells how that went. What
``on_connect`` sends, and what is published to a room once it is joined, so stands behind it.

A message that asks for no session waits for its turn, as it does where there are none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import trio

from ._builtins import join_reply, returning
from ._builtins.session import Returning
from ._errors import (
    ActionError,
    BadMessage,
    ConnectionGone,
    DeadlineExceeded,
    EncodingError,
    InternalError,
    MessageTooLarge,
    UsageError,
    is_ours,
)
from ._joining import Joined
from ._recovery import size_of
from ._rooms.history import Position

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._connection import Connection
    from ._messages.requests import Request
    from ._sessions import Session
    from ._wire.transport import Transport

# Seconds that a client may take for its first message. The next thing that it hears is that it has none.
_FIRST_MESSAGE: Final = 1.0


class Opening:
    """The beginning of one connection."""

    __slots__ = (
        "_asked",
        "_bytes_left",
        "_conn",
        "_items_left",
        "_request",
        "_rooms",
        "_size",
        "_task",
        "_token",
        "_transport",
    )

    def __init__(self, conn: Connection, transport: Transport, start_writer: Callable[[], object]) -> None:
        self._conn = conn
        self._transport = transport
        self._task = trio.lowlevel.current_task()
        self._request: Request | None = None
        self._asked = Returning()
        self._token = ""
        self._rooms: dict[str, Any] = {}
        # What the replies are together; and what of it may still be of histories, which is as much as for one $join.
        self._size = 0
        self._items_left = conn._node.config.limits.max_recovery
        self._bytes_left = conn._node.config.limits.outbox_bytes // 4
        conn._sink.hold(transport, start_writer)

    def check_task(self) -> None:
        """Raise :exc:`UsageError` in the task that makes ``$welcome``: it must not wait for what stands behind that."""
        if trio.lowlevel.current_task() is self._task:
            raise UsageError(
                "what is sent stands behind $welcome, which comes when on_connect has run and the rooms are joined"
                " again: wait for it in a task, by conn.start_soon"
            )

    async def begin(self) -> None:
        """Wait for the first message, and give the connection its session; a new one is told at once."""
        conn = self._conn
        sessions = conn._node.sessions
        assert sessions is not None
        problem = await self._first_message()
        token = None if self._asked.session is None else sessions.restore(conn, self._asked.session)
        if token is not None:
            self._token = token
            await self._wait_for_those_before(conn._session)
            return
        self._token = sessions.begin(conn)
        self.welcome()
        await self._answer(problem)

    async def _first_message(self) -> BadMessage | None:
        """What is wrong with the first message, if that is about the session."""
        conn = self._conn
        first = None
        with trio.move_on_after(_FIRST_MESSAGE):
            first = await conn._dispatcher.inbox.first()
        if first is None or first.message is None or first.message.action != "$session":
            return None
        self._request = await conn._dispatcher.inbox.take()
        try:
            self._asked = returning(conn._dispatcher, first)
        except BadMessage as exc:
            return exc
        return None

    async def _wait_for_those_before(self, session: Session | None) -> None:
        """Until their hooks are over, but no longer than those may take; then have what they have kept."""
        assert session is not None
        with trio.move_on_after(self._conn._node.config.hook_timeout + 1):
            while len(session.holders) > 1:
                if session.parked is None:
                    session.parked = trio.lowlevel.ParkingLot()
                await session.parked.park()
        session.hand_over(self._conn)

    async def join_again(self) -> None:
        """Join the rooms of a restored session, in the order of its joins, and tell the client."""
        conn = self._conn
        session = conn._session
        assert session is not None
        for name in tuple(session.rooms):
            if name in session.rooms:  # nobody has left it meanwhile
                self._rooms[name] = await self._join(name)
                session.rooms.pop(name, None)
        self.welcome()
        await self._answer(None)

    async def _join(self, name: str) -> dict[str, Any]:
        """As ``$join``; its reply, or the error."""
        conn = self._conn
        try:
            with trio.move_on_after(2 * conn._node.config.hook_timeout):
                return await self._join_and_recover(name)
            raise DeadlineExceeded
        except ActionError as exc:
            return self._told(exc)
        except (EncodingError, MessageTooLarge) as exc:
            await conn._node.errors.report(conn, exc, f"the reply to the join of {name!r}")
            return self._told(conn._node.told(exc))

    async def _join_and_recover(self, name: str) -> dict[str, Any]:
        conn, memberships = self._conn, self._conn._memberships
        asked = self._asked.positions.get(name)
        since = None if asked is None else asked.position
        options = conn._node.room_options(name)
        room = await memberships._joined_already(name)
        if room is not None:
            # No position: what was sent since it was joined, by on_connect, stands behind $welcome.
            return join_reply(conn, Joined(room, new=False), since)
        memberships._check_bound()
        joining = memberships.joining_room(
            name, options, since=since, by_client=True, max_items=self._items_left, max_bytes=self._bytes_left
        )
        async with joining as one:
            reply = self._charge(one.outcome(), since)
            one.begin()
            return reply
        raise ConnectionGone("the connection has ended")

    def _charge(self, joined: Joined, since: Position | None) -> dict[str, Any]:
        """The reply, which takes a part of what all of them may. Raises :exc:`MessageTooLarge`, EncodingError."""
        reply = join_reply(self._conn, joined, since)
        size = self._size + len(self._conn._format.reply(0, reply).data)
        if size > self._conn._node.config.limits.outbox_bytes // 2:
            raise MessageTooLarge("what authorize says of the rooms is together larger than half of an outbox")
        self._size = size
        self._items_left = max(0, self._items_left - len(joined.publications))
        self._bytes_left = max(0, self._bytes_left - size_of(joined.publications, self._conn))
        return reply

    def _told(self, error: ActionError) -> dict[str, Any]:
        node = self._conn._node
        if isinstance(error, InternalError) and error.__cause__ is not None:  # which has been reported
            error = node.told(error.__cause__)
        node.counters.errors_told[error.code if is_ours(error) else "custom"] += 1
        return {"error": {"code": error.code, "message": error.message, "temporary": error.temporary}}

    def welcome(self) -> None:
        """Put ``$welcome`` in front of what waits, and let it go. Idempotent; without a session there is none."""
        conn = self._conn
        conn._opening = None
        if not self._token:
            return
        told: dict[str, Any] = {"connection": conn.id, "session": self._token, "restored": conn.restored}
        if conn.restored:
            told["rooms"] = self._rooms
        conn._sink.release(self._transport, conn._format.direct(told, "$welcome"))

    async def _answer(self, problem: BadMessage | None) -> None:
        """Answer ``$session``, as every message that has an id; what is told is in ``$welcome``."""
        request, conn = self._request, self._conn
        if request is None or request.cancelled:  # and so answered
            return
        if problem is not None:
            await conn._dispatcher.in_flight.tell(request, problem)
            return
        rest = conn._dispatcher.in_flight.answer(request, {"connection": conn.id, "restored": conn.restored})
        if rest is not None:
            await rest
