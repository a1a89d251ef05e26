"""One room as its member sees it.

Theory of operation. A room is *away* (no membership, and nothing asked), *asked* (a join is under way), *in*, or
*over*. The protocol puts every event of a membership behind the reply that begins it, so what comes while the room is
not *in* is of an earlier membership, or of one that was given up, and is dropped; except that a room that is joined by
a handler of the server's is open from the question on. ``_arrived`` is the position up to which everything is in the
inbox or was taken: it is what a join asks to go on from, and what duplicates are told by.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import trio
from msgspec import UNSET

from .._rooms.history import Position
from ._errors import ClientEnded, ServerViolation
from ._inbox import Inbox, again
from ._presence import Presence
from ._values import Event, Gap

if TYPE_CHECKING:
    from ._rooms import Rooms


class ClientRoom:
    """A room that the client is in, and is in again after each loss of the connection. Made by ``client.join``.

    ``async for item in room`` receives its events (:class:`Event`), and a :class:`Gap` wherever something may be
    missing. One task at a time is meant to receive.
    """

    def __init__(self, rooms: Rooms, name: str, action: str, request: object, since: Position | None) -> None:
        self.name = name
        """Its name."""
        self.data: Any = None
        """What the server added to its reply to the last join: of ``$join`` what ``authorize`` returned, of an action
        of the program the whole reply."""
        self.recovered: bool | None = None
        """Of the last join: True, everything since the position has come; False, it has not, and a :class:`Gap` says
        so; None if there was no position to go on from."""
        self.presence: Presence = Presence()
        """Who is in the room, if the room has presence."""
        self._rooms = rooms
        self._action = action
        self._request = request
        self._arrived = since
        self._handed = since
        self._state: Literal["away", "asked", "in", "over"] = "away"
        self._asked_since: Position | None = None
        self._asked_by: int | None = None  # the request whose reply is to begin the membership
        self._was_in = False
        self._overflown = False
        self._retries = 0
        self._settled = trio.Event()
        self._end: Exception | None = None
        settings = rooms.settings
        self._inbox = Inbox[Event | Gap](settings.buffer_messages, settings.buffer_bytes)

    def __repr__(self) -> str:
        return f"<ClientRoom {self.name!r} {self._state}>"

    @property
    def joined(self) -> bool:
        """Whether the client is a member at this moment, as far as it knows."""
        return self._state == "in"

    @property
    def position(self) -> Position | None:
        """Up to where everything was received by the program; None in a room without history."""
        return self._arrived if self._inbox.empty else self._handed

    async def receive(self) -> Event | Gap:
        """Wait for the next event, or gap. A cancel loses nothing.

        Raises:
          RoomEnded: the server ended the membership for good, or does not let the client in again.
          ClientEnded: the client has ended, or has left the room.
        """
        if self._overflown and self._inbox.empty:
            self._overflown = False
            self._rooms.ask(self)
        item = await self._inbox.receive()
        if isinstance(item, Event) and item.position is not None:  # not everything that a room with history has is kept
            self._handed = item.position
        return item

    def __aiter__(self) -> ClientRoom:
        """Itself: each event is received once."""
        return self

    async def __anext__(self) -> Event | Gap:
        """As :meth:`receive`; leaving the room ends the iteration."""
        try:
            return await self.receive()
        except _Left:
            raise StopAsyncIteration from None

    async def publish(
        self, data: object, *, key: str | None = None, idempotency_key: str | None = None
    ) -> Position | None:
        """Publish to the room, where it allows that (``allow_publish``); the position, if the room has a history.

        With ``idempotency_key``, which the program makes, the publication is sent again after a loss of the connection,
        and the server drops the second one; if the client has no user's name, the server must have sessions for that.
        Without it the outcome of a loss is :exc:`NotConfirmed`. ``key`` names what a newer event replaces where the
        room conflates. Both have 1 to 64 characters.

        Raises as ``client.request`` does.
        """
        request = {"room": self.name, "data": data}
        if key is not None:
            request["key"] = key
        if idempotency_key is not None:
            request["idempotency_key"] = idempotency_key
        reply = await self._rooms.request("$publish", request, idempotent=idempotency_key is not None)
        return position_in(reply) if isinstance(reply, dict) else None

    def leave(self) -> None:
        """Leave the room, without waiting for an answer. Idempotent. What has come already can still be received."""
        self._rooms.leave(self)

    # From here on: for Rooms.

    def _question(self) -> dict[str, Any]:
        """The message that asks to join, without its id."""
        self._asked_since = self._arrived if self._action == "$join" else None
        self._state = "asked"
        if self._action != "$join":
            asked = {"action": self._action}
            return asked if self._request is UNSET else asked | {"data": self._request}
        data: dict[str, Any] = {"room": self.name}
        if self._asked_since is not None:
            data["since"] = {"epoch": self._asked_since.epoch, "offset": self._asked_since.offset}
        if self._request is not UNSET:
            data["data"] = self._request
        return {"action": "$join", "data": data}

    def _begin(self, reply: object, size: int) -> None:
        """The reply to a join: from here on the client is a member."""
        self._state, self._asked_by = "in", None
        self._retries = 0
        publications: Sequence[object] = ()
        if self._action != "$join":
            self.data, self.recovered, top = reply, None, None
        elif isinstance(reply, dict):
            self.data, self.recovered, top = reply.get("data"), reply.get("recovered"), position_in(reply)
            publications = reply.get("publications") or ()
        else:
            raise ServerViolation("a reply to $join without data")
        if not isinstance(publications, Sequence):
            raise ServerViolation("publications are no list")
        if self._asked_since is not None and self.recovered is not True:
            self._skip("not recovered")
        elif self._asked_since is None and self._was_in:
            self._skip("no history")
        self._was_in = True
        epoch = (top or self._asked_since or Position(0, "")).epoch
        for publication in publications:
            self._take(publication, epoch, size // len(publications), force=True)
        if top is not None and not self._has(top):
            self._arrived = top
        if self._inbox.empty:
            self._handed = self._arrived
        self._settled.set()

    def _skip(self, reason: Literal["not recovered", "no history"]) -> None:
        self._arrived = None
        self._inbox.force(Gap(self.name, reason))

    @property
    def _hears(self) -> bool:
        """Whether what comes is of this membership."""
        return self._state == "in" or (self._state == "asked" and self._action != "$join")

    def _publication(self, message: dict[str, Any], size: int) -> None:
        """An event of the room, or the marker of one that is not for this client."""
        if self._hears:
            self._take(message, self._arrived.epoch if self._arrived else "", size)

    def _take(self, message: object, epoch: str, size: int, *, force: bool = False) -> None:
        if not isinstance(message, dict):
            raise ServerViolation("a publication is no object")
        offset = message.get("offset")
        position = None if offset is None or not epoch else Position(_whole(offset), epoch)
        if position is not None and self._has(position):
            self._rooms.counts.duplicates += 1
            return
        if "data" in message:
            event = Event(self.name, message["data"], position)
            if force:
                self._inbox.force(event, size)
            elif not self._inbox.put(event, size):
                self._rooms.overflow(self)
                return
        if position is not None:
            self._arrived = position

    def _has(self, position: Position) -> bool:
        """Whether everything up to there has arrived."""
        arrived = self._arrived
        return arrived is not None and arrived.epoch == position.epoch and position.offset <= arrived.offset

    def _away(self) -> None:
        """The connection was lost, or the room was left to be joined anew."""
        self._asked_by = None
        if self._state != "over":
            self._state = "away"

    def _overflow(self) -> None:
        """The room was left for what was not received; it is joined anew when all is. So it has been in, in a way."""
        self._overflown = self._was_in = True
        self._away()
        self._settled.set()

    def _finish(self, end: Exception | None = None) -> None:
        """No member any more, for good; None: it has left."""
        self._state, self._asked_by = "over", None
        self.presence._clear()
        if self._end is None:
            self._end = _Left(1000, "the room was left") if end is None else end
            self._inbox.finish(self._end)
        self._settled.set()

    async def _wait_joined(self) -> None:
        """Until the first join was answered. Raises RequestFailed, ClientEnded, RoomEnded."""
        await self._settled.wait()
        if self._end is not None and not self._was_in:
            raise again(self._end)


class _Left(ClientEnded):
    """The client has left the room."""


def position_in(found: dict[str, Any]) -> Position | None:
    """The position in a reply, if there is one. Raises ServerViolation."""
    epoch, offset = found.get("epoch"), found.get("offset")
    if epoch is None or offset is None:
        return None
    if not isinstance(epoch, str):
        raise ServerViolation("an epoch is no text")
    return Position(_whole(offset), epoch)


def _whole(offset: object) -> int:
    if not isinstance(offset, int) or isinstance(offset, bool):
        raise ServerViolation("an offset is no whole number")
    return offset
