"""The rooms of a client: asked for, begun, given up, and joined anew with every connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import attrs
import trio

from .._errors import UsageError
from .._rooms.history import Position
from ._backoff import Backoff
from ._config import ClientConfig
from ._errors import RequestFailed, RoomEnded, ServerViolation
from ._requests import Requests, failure
from ._room import ClientRoom
from ._statistics import Counts

if TYPE_CHECKING:
    from ._link import Link


class Rooms:
    """All of them, by name."""

    def __init__(
        self,
        settings: ClientConfig,
        counts: Counts,
        requests: Requests,
        nursery: trio.Nursery,
        request: Callable[..., Awaitable[Any]],
    ) -> None:
        self.settings = settings
        self.counts = counts
        self.request = request
        self._requests = requests
        self._nursery = nursery
        self._link: Link | None = None
        self._rooms: dict[str, ClientRoom] = {}
        self._offered: dict[str, ClientRoom] = {}
        # What still comes from these is of a membership that was left.
        self._left: dict[str, _Leave] = {}

    def open(self, name: str, action: str, request: object, since: Position | None) -> ClientRoom:
        """A new room, asked for at once if there is a connection."""
        if name in self._rooms:
            raise UsageError(f"the client is in {name!r} already")
        room = self._rooms[name] = ClientRoom(self, name, action, request, since)
        self.ask(room)
        return room

    def ask(self, room: ClientRoom) -> None:
        """Ask to join, unless that is not possible now, or not necessary."""
        if self._link is None or self._link.end is not None or room._state != "away" or room._overflown:
            return
        question = room._question()
        room._asked_by = self._requests.add(_Join(self, room))
        self._link.send_now(question | {"id": room._asked_by})

    def leave(self, room: ClientRoom) -> None:
        """The program does not want it any more."""
        if self._rooms.get(room.name) is room:
            del self._rooms[room.name]
            if room._state in ("asked", "in"):
                self._give_up(room)
        room._finish()

    def overflow(self, room: ClientRoom) -> None:
        """Its events are not received fast enough: leave it until they are. The position says where to go on."""
        self.counts.overflows += 1
        self._give_up(room)
        room._overflow()

    def _give_up(self, room: ClientRoom) -> None:
        if self._link is not None and room._asked_by is not None and room._action != "$join":
            # A handler that is at work may not have joined yet, and would do so after the leave.
            self._link.send_now({"action": "$cancel", "data": {"id": room._asked_by}})
        self._send_leave(room.name)

    def _send_leave(self, name: str) -> None:
        if self._link is not None and self._link.end is None:
            self._left[name] = leave = _Leave(self, name)
            self._link.send_now({"action": "$leave", "data": {"room": name}, "id": self._requests.add(leave)})

    # Connections

    def positions(self) -> dict[str, dict[str, Any]]:
        """Where each room would go on, for ``$session``; they count as asked for from here on."""
        found = {}
        for room in self._rooms.values():
            if room._state == "away" and not room._overflown:
                question = room._question()
                self._offered[room.name] = room
                if room._asked_since is not None:
                    found[room.name] = question["data"]["since"]
        return found

    def link_up(self, link: Link) -> None:
        """A new connection, on which nothing was asked yet."""
        self._link = link

    def ask_all(self) -> None:
        """Ask for every room that is to be joined."""
        for room in list(self._rooms.values()):
            self.ask(room)

    def link_down(self) -> None:
        """The connection is lost, and with it every membership."""
        self._link = None
        self._left.clear()
        self._offered.clear()
        for room in self._rooms.values():
            room._away()

    def welcome(self, restored: object, size: int) -> None:
        """The rooms that the server has restored; whatever was offered and is not among them is asked for."""
        replies = restored if isinstance(restored, dict) else {}
        offered, self._offered = self._offered, {}
        for name, reply in replies.items():
            room = self._rooms.get(_name(name))
            if room is None or room._overflown:
                self._send_leave(name)  # left while there was no connection
            elif offered.get(name) is not room:
                pass  # joined anew meanwhile: it waits for the reply to that
            elif isinstance(reply, dict) and "error" not in reply:
                room._begin(room.data if room._action != "$join" else reply, size // len(replies))
            elif room._action == "$join":
                self.refused(room, failure(reply.get("error") if isinstance(reply, dict) else None))
        for room in offered.values():
            if room._state == "asked":
                room._away()
                self.ask(room)

    def finish(self, end: Exception) -> None:
        """The client ends."""
        rooms, self._rooms = self._rooms, {}
        for room in rooms.values():
            room._finish(end)

    # Messages

    def publication(self, message: dict[str, Any], size: int) -> bool:
        """An event; whether it is of one of the rooms, or of one that was left."""
        name = _name(message["room"])
        room = self._rooms.get(name)
        if room is not None:
            room._publication(message, size)
        return room is not None or name in self._left

    def presence(self, message: dict[str, Any]) -> None:
        """The state of a room's presence, or a difference."""
        room = self._rooms.get(_name(message.get("room")))
        if room is not None and room._hears:
            room.presence._take(message.get("data"))

    def closed(self, data: object) -> None:
        """The server has ended a membership."""
        if not isinstance(data, dict):
            raise ServerViolation("$closed without data")
        room = self._rooms.get(_name(data.get("room")))
        if room is not None and room._state == "in":
            del self._rooms[room.name]
            room._finish(RoomEnded(str(data.get("code") or ""), str(data.get("message") or "")))

    def refused(self, room: ClientRoom, error: RequestFailed) -> None:
        """A join was refused. The first one is the program's to judge; a later one is tried again if that may help."""
        room._away()
        if not room._was_in:
            self._rooms.pop(room.name, None)
            room._finish(error)
        elif error.temporary:
            self._nursery.start_soon(self._retry, room)
        else:
            self._rooms.pop(room.name, None)
            room._finish(RoomEnded(error.code, error.message))

    async def _retry(self, room: ClientRoom) -> None:
        """Ask again after a while; a new connection may be faster, and then there is nothing left to ask."""
        room._retries += 1
        backoff = Backoff(self.settings.backoff_base, self.settings.backoff_most, attempt=room._retries)
        await trio.sleep(backoff.delay())
        if self._rooms.get(room.name) is room:
            self.ask(room)

    def has_left(self, leave: _Leave) -> None:
        """A ``$leave`` was answered: what comes from now on is of another membership."""
        if self._left.get(leave.name) is leave:
            del self._left[leave.name]


def _name(found: object) -> str:
    if not isinstance(found, str):
        raise ServerViolation("the name of a room is no text")
    return found


@attrs.frozen(eq=False)
class _Join:
    """Waits for the reply to a join."""

    rooms: Rooms
    room: ClientRoom

    def take(self, message: dict[str, Any], size: int) -> bool:
        if self.room._asked_by == message["id"]:
            if "error" in message:
                self.rooms.refused(self.room, failure(message["error"]))
            else:
                self.room._begin(message.get("data"), size)
        return True

    def lose(self) -> None:
        pass  # the rooms learn of it themselves


@attrs.frozen(eq=False)
class _Leave:
    """Waits for the reply to a ``$leave``."""

    rooms: Rooms
    name: str

    def take(self, message: dict[str, Any], size: int) -> bool:
        self.rooms.has_left(self)
        return True

    def lose(self) -> None:
        pass
