"""The client that a program has: one connection after the other, and what outlives them.

Theory of operation. One task, :meth:`RoomsClient._run`, makes a connection, waits for its end, decides whether and when
to make another, and does so until the client ends. Every message goes through :meth:`RoomsClient._take`, which is
synchronous: it settles requests, fills the inboxes of rooms, and starts handlers, and nothing in it waits, so what the
program does with what it was given never keeps the connection from being read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Literal, TypeVar

import trio
from msgspec import UNSET

from .._rooms.history import Position
from ._asking import Asking
from ._backoff import Backoff, bounded
from ._config import ClientConfig
from ._connect import Dialer
from ._errors import ClientEnded, Refused, ServerViolation
from ._handlers import LOG, Handler, Handlers
from ._inbox import Inbox, again
from ._link import Link
from ._requests import Items, Reply, Requests
from ._room import ClientRoom
from ._rooms import Rooms
from ._statistics import ClientStatistics, Counts
from ._values import Direct, Event, Gap
from ._websocket import Closed

State = Literal["connecting", "open", "draining", "waiting", "ended"]
H = TypeVar("H", bound=Handler)

#: Close codes after which one does not come back, beside 4500 to 4999: done; refused.
_FINAL = frozenset({1000, 1008})
_REFUSED_FOR_GOOD = frozenset({401, 403})


class RoomsClient:
    """A connection to a server of rooms that comes back by itself; made by :func:`open_rooms`."""

    def __init__(self, dialer: Dialer, settings: ClientConfig, nursery: trio.Nursery) -> None:
        self.state: State = "connecting"
        """"connecting"; "open", welcomed by the server; "draining", open, but the server will close soon; "waiting",
        for the time of the next attempt; "ended", for good."""
        self.connection_id: str | None = None
        """The id that the server gave the connection; None while there is none."""
        self.restored: bool = False
        """Whether the server gave the connection the session of the one before."""
        self.trouble: Exception | Closed | None = None
        """Why the last attempt failed, or how the last connection ended; for people."""
        self._dialer = dialer
        self._settings = settings
        self._counts = Counts()
        self._backoff = Backoff(settings.backoff_base, settings.backoff_most)
        self._requests = Requests(self._counts)
        self._asking = Asking(settings, self._requests, self._wait_link)
        self._rooms = Rooms(settings, self._counts, self._requests, nursery, self._asking.request)
        self._handlers = Handlers(settings, self._counts, nursery)
        self._inbox = Inbox[Direct | Event | Gap](settings.buffer_messages, settings.buffer_bytes)
        self._link: Link | None = None
        self._session: str | None = None
        self._advice: float | None = None
        self._returning = False
        self._end: ClientEnded | None = None
        self._changed = trio.Event()
        # Whoever cancels the block must not tear the connection: it ends with `_close`, and has its time to do so.
        self._scope = trio.CancelScope(shield=True)

    def __repr__(self) -> str:
        return f"<RoomsClient {self._dialer.url} {self.state}>"

    # State

    async def wait_open(self) -> None:
        """Wait until the server has welcomed the connection. Raises ClientEnded."""
        await trio.lowlevel.checkpoint()
        while self.state not in ("open", "draining"):
            self._raise_if_ended()
            await self._changed.wait()

    async def wait_ended(self) -> ClientEnded:
        """Wait until the client has ended, and return why."""
        await trio.lowlevel.checkpoint()
        while self._end is None:
            await self._changed.wait()
        return self._end

    async def wait_change(self) -> State:
        """Wait until ``state`` is another one than now, and return it. Short ones in between may be missed."""
        before = self.state
        while self.state == before:
            await self._changed.wait()
        return self.state

    def statistics(self) -> ClientStatistics:
        """What was counted so far."""
        return self._counts.freeze()

    # Rooms

    async def join(
        self, name: str, data: object = UNSET, *, since: Position | None = None, action: str = "$join"
    ) -> ClientRoom:
        """Join a room and return it once the server has let the client in. It is joined anew with each connection.

        ``data`` is given to the room's ``authorize``. ``since`` goes on from a position that the program has kept. With
        another ``action`` the program's own handler is asked to join, with ``data``; such a room is never recovered.
        A cancel leaves the room.

        Raises:
          RequestFailed: the server refused.
          ClientEnded: the client has ended.
          UsageError: the client is in the room already.
          EncodingError: ``data``, or a name, cannot be encoded.
        """
        self._raise_if_ended()
        # Now, and not with each connection: a later one has nobody whom it could tell that this is not possible.
        form = self._dialer.form
        form.encode([name, action])
        room = self._rooms.open(name, action, UNSET if data is UNSET else form.freeze(data), since)
        try:
            await room._wait_joined()
        except BaseException:
            room.leave()
            raise
        return room

    @asynccontextmanager
    async def room(
        self, name: str, data: object = UNSET, *, since: Position | None = None, action: str = "$join"
    ) -> AsyncIterator[ClientRoom]:
        """``async with client.room(name) as room:`` is in the room for the length of the block; as :meth:`join`."""
        room = await self.join(name, data, since=since, action=action)
        try:
            yield room
        finally:
            room.leave()

    # Requests

    async def request(
        self, action: str, data: object = UNSET, *, room: str | None = None, idempotent: bool = False
    ) -> Any:
        """Ask the server, and return the ``data`` of its reply. Waits for a connection first, if there is none.

        The time is the caller's to bound, with ``trio.fail_after``: the server is told what is left of it. A cancel
        sends ``$cancel``. If the connection is lost before the reply, an ``idempotent`` request is asked again on
        the next one; any other only if it was not sent yet.

        Raises:
          RequestFailed: the reply is an error.
          NotConfirmed: the connection was lost; the request may or may not have been done.
          ClientEnded: the client has ended.
          EncodingError: ``data`` cannot be encoded.
        """
        return await self._asking.request(action, data, room=room, idempotent=idempotent)

    def stream(
        self, action: str, data: object = UNSET, *, room: str | None = None
    ) -> AbstractAsyncContextManager[Items]:
        """``async with client.stream(action) as items: async for item in items: ...`` for a streamed reply.

        Leaving the block earlier cancels the request. A loss of the connection is :exc:`NotConfirmed` behind the
        items that came. Else as :meth:`request`.
        """
        return self._asking.stream(action, data, room=room)

    async def send(self, action: str, data: object = UNSET, *, room: str | None = None) -> None:
        """Send a message that is not answered. That it arrives is not known. Waits for a connection and a place."""
        await self._asking.send(action, data, room=room)

    # Messages outside of rooms

    def on(self, action: str) -> Callable[[H], H]:
        """``@client.on(action)``: the function, async or not, is called with the data of what comes under an action.

        What it returns answers a request of the server; an ``ActionError`` is told to it, any other exception is
        logged and told as ``INTERNAL``. It runs in a task of its own, so it may ask the server itself. It is cancelled
        when the server does not wait for its answer any more, or the connection that asked is lost.
        """

        def register(handler: H) -> H:
            self._handlers.add(action, handler)
            return handler

        return register

    async def receive(self) -> Direct | Event | Gap:
        """Wait for the next message that no handler takes: a direct one, or an event of a room that the client did
        not join by itself. A cancel loses nothing. Raises ClientEnded.
        """  # noqa: D205
        return await self._inbox.receive()

    # The life of connections

    async def _run(self) -> None:
        """One connection after the other, until one ends for good."""
        with self._scope:
            while self._end is None:
                self._tell("connecting")
                advice = await self._live_once()
                if self._end is None:
                    self._counts.failures += 1
                    self._tell("waiting")
                    await trio.sleep(self._backoff.delay() if advice is None else bounded(advice))

    async def _live_once(self) -> float | None:
        """Connect, and live until the end; the seconds after which the server wants the client back, if it said."""
        self._advice = None
        try:
            stream, trailing = await self._dialer.dial(self._settings.handshake_timeout)
        except Refused as refused:
            self.trouble = refused
            if refused.status in _REFUSED_FOR_GOOD:
                self._finish(ClientEnded(1006, refused.code, status=refused.status))
            elif refused.retry_after is not None:
                # All that were refused are told the same time; they should not come in the same moment.
                return refused.retry_after + self._backoff.delay()
            return None
        except (OSError, trio.BrokenResourceError, trio.TooSlowError, ServerViolation) as exc:
            self.trouble = exc
            return None
        began = trio.current_time()
        link = Link(stream, self._dialer.form, self._settings, self._take)
        self._begin(link)
        try:
            end = await link.run(trailing)
        finally:
            self._lose()
        self._backoff.lasted(trio.current_time() - began)
        self.trouble = end
        if end.code in _FINAL or 4500 <= end.code <= 4999:
            self._finish(ClientEnded(end.code, end.reason))
        return self._advice

    def _begin(self, link: Link) -> None:
        """The handshake is done. What is asked for goes out at once, and need not wait for the welcome.

        Unless we come back to a session: the rooms that it does not restore are asked for first.
        """
        self._link = link
        self._rooms.link_up(link)
        # A server with sessions waits for the first message, to see whether it is this one. What it has to say is in
        # its welcome; the reply is asked for because a server without any may answer with an error.
        self._returning = known = self._session is not None
        session = {"session": self._session, "positions": self._rooms.positions()} if known else {}
        link.send_now({"action": "$session", "data": session, "id": self._requests.add(Reply())})
        if not known:
            self._rooms.ask_all()
        self._wake()

    def _lose(self) -> None:
        self._link = None
        self.connection_id = None
        self._handlers.cancel_all()  # first: one that waits for a reply is cancelled, not told of the loss
        self._requests.lose()
        self._rooms.link_down()

    async def _wait_link(self) -> Link:
        """The connection, as soon as there is one. Raises ClientEnded."""
        while True:
            self._raise_if_ended()  # first: a connection that is being closed is still there
            if self._link is not None and self._link.end is None and not self._returning:
                return self._link
            await self._changed.wait()

    def _finish(self, end: ClientEnded) -> None:
        """No other connection will be made."""
        if self._end is None:
            self._end = end
            self._rooms.finish(end)
            self._inbox.finish(end)
            self._tell("ended")

    async def _close(self) -> None:
        """The block is left: say so to the server. The time is the caller's to bound."""
        self._finish(ClientEnded(1000, "the block was left"))
        if self._link is not None:
            self._link.close(1000)
            await self._link.ended.wait()

    def _raise_if_ended(self) -> None:
        if self._end is not None:
            raise again(self._end)

    def _tell(self, state: State) -> None:
        if self.state != "ended":  # until it has closed, the server may still say this or that
            self.state = state
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # What the server says

    def _take(self, message: dict[str, Any], size: int) -> None:
        """Act on one message. Never waits. Raises ServerViolation."""
        action, ident = message.get("action"), message.get("id")
        if action is None and ident is not None:
            self._requests.settle(ident, message, size)
        elif isinstance(action, str) and action.startswith("$"):
            self._take_own(action, message, size)
        elif action is None and "error" in message:
            LOG.warning("the server reports an error: %r", message["error"])
        elif action is None and message.get("room") is not None:
            if not self._rooms.publication(message, size):
                self._keep(Event(str(message["room"]), message.get("data")), size)
        elif action is None:
            self._keep(Direct(None, message.get("data")), size)
        elif not isinstance(action, str) or self._link is None:
            raise ServerViolation("an action is no text")
        elif not self._handlers.take(self._link, message):
            self._keep(Direct(action, message.get("data")), size)

    def _take_own(self, action: str, message: dict[str, Any], size: int) -> None:
        """A message of the library's; those that this version does not know mean nothing to it."""
        data = message.get("data")
        if action == "$welcome" and isinstance(data, dict):
            self._counts.connections += 1
            self.connection_id, self._session = data.get("connection"), data.get("session")
            self.restored = data.get("restored") is True
            self._returning = False
            self._tell("open")
            self._rooms.welcome(data.get("rooms"), size)
        elif action == "$drain" and isinstance(data, dict):
            delay = data.get("reconnect_in_ms")
            if isinstance(delay, int | float) and delay >= 0:
                self._advice = min(delay, 1e9) / 1000  # JSON has numbers that are too large to be divided
            self._tell("draining")
        elif action == "$closed":
            self._rooms.closed(data)
        elif action == "$presence":
            self._rooms.presence(message)
        elif action == "$cancel" and isinstance(data, dict):
            self._handlers.cancel(data.get("id"))

    def _keep(self, found: Direct | Event, size: int) -> None:
        if not self._inbox.put(found, size):
            self._counts.dropped += 1
            if not isinstance(self._inbox.last, Gap):
                self._inbox.force(Gap(None, "overflow"))
