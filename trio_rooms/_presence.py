"""The presence of one room: from joins and leaves to what its members are told.

Theory of operation. Who is present is kept by :class:`~trio_rooms._rooms.attendance.Attendance`; here it is told. All
members know the same, and what they know changes in one step with the push that tells it. So the state that a
new member gets, in the step that begins its membership, is what the others know: its own entry, as that of everybody
who has just come, is in the next push of changes. The state is encoded once between two pushes, however many join.

A task of the room sends, and exists while there is something to send. What a member's outbox does not take is lost
for it, and changes that build on it would be wrong: it is *owed* from then on, and gets the state again, in the place
of changes, as soon as there is room. Everything is a private frame: a room's policy is for its publications, and must
not drop one of these.

Rooms without presence have none of this. It is this node's: a broker carries no presence yet.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs
import msgspec
import trio

from ._chance import token
from ._errors import ConnectionGone, Denied, EntryTooLarge, OutboxFull, RoomFull, UsageError
from ._hooks import ask
from ._messages.codec import encode
from ._messages.packing import pack
from ._rooms.attendance import Attendance, Entry, Person
from ._rooms.publication import Publication
from ._user_events import UserEvents

if TYPE_CHECKING:
    from ._config import Limits
    from ._connection import Connection
    from ._joining import LeaveReason
    from ._presence_options import PresenceOptions
    from ._room import Room
    from ._room_options import RoomOptions

ACTION: Final = "$presence"

# Of each entry: its id, and what JSON puts around it and around its user. At least as much as its objects are worth.
_OVERHEAD = 64

# The longest header of a frame, what an envelope adds besides the room's name, and what an outbox charges.
_ENVELOPE = 256

# Seconds between two attempts to send somebody the state for whom there was no room.
_RETRY = 0.1


def check_presence(patterns: Iterable[tuple[str, RoomOptions]], limits: Limits) -> None:
    """Raise :exc:`UsageError` if the presence of a room may grow larger than an outbox. JSON escapes names sixfold."""
    for pattern, options in patterns:
        if options.presence is not None:
            largest = options.presence.max_bytes + 6 * limits.max_room_name_bytes + _ENVELOPE
            if largest > limits.outbox_bytes:
                raise UsageError(f"presence.max_bytes of {pattern!r} does not fit into limits.outbox_bytes")


@attrs.frozen
class Measured:
    """Data of an entry: a copy of what the program gave, as JSON has it, and its size."""

    data: dict[str, Any]
    size: int


class RoomPresence:
    """See the module's theory."""

    def __init__(self, room: Room, settings: PresenceOptions) -> None:
        self._room = room
        self._node = room._node
        self._settings = settings
        self._attendance = Attendance(self._settings.max_bytes, self._moved, fetches=self._settings.fetch is not None)
        self._events = UserEvents(room, self._attendance.people.__contains__)
        self._entries: dict[str, Entry] = {}
        """By the id of the connection."""
        self._members: dict[str, Connection] = {}
        """Those who know what was told last: members with a v1 format."""
        self._owed: dict[str, Connection] = {}
        """Those who do not, because their outbox had no room."""
        self._state: Publication | None = None
        """What was told, encoded; until the next push."""
        self._counted = 0
        self._next_push = -math.inf
        self._sends = False
        self._watches_graces = False

    # Members

    async def first_entry(self, conn: Connection) -> Entry:
        """The entry of a connection that is about to be a member. Raises what the program's function does."""
        data: object = {}
        if self._settings.entry is not None:
            data = await ask(self._settings.entry, conn, self._room, timeout=self._node.config.hook_timeout)
        measured = self._measure(data)
        user = conn.id if conn.identity.user is None else conn.identity.user
        return Entry(token(9), user, measured.data, self._cost(user, measured))

    def check_room_for(self, entry: Entry) -> None:
        """Raise :exc:`RoomFull` if an entry cannot be entered now."""
        if not self._attendance.makes_room(entry):
            self._node.counters.limit("presence_bytes")
            raise RoomFull("the presence of the room is full")

    def enter(self, conn: Connection, entry: Entry) -> None:
        """A membership begins: send what the others know."""
        self._entries[conn.id] = entry
        self._attendance.enter(entry)
        if conn._format.v1:
            self._send_state(conn)
        self._changed()

    def leave(self, conn: Connection, reason: LeaveReason | None) -> None:
        """A membership has ended. Does nothing for who has no entry."""
        entry = self._entries.pop(conn.id, None)
        if entry is None:
            return
        self._members.pop(conn.id, None)
        self._owed.pop(conn.id, None)
        lingers = reason == "disconnected" and self._settings.grace > 0
        grace_ends = trio.current_time() + self._settings.grace if lingers else None
        self._attendance.leave(entry, grace_ends=grace_ends)
        if self._attendance.next_end < math.inf and not self._watches_graces:
            self._watches_graces = True
            self._room.start_soon(self._watch_graces)
        self._changed()

    def update(self, conn: Connection, data: object) -> None:
        """Replace the data of a member's entry. Raises Denied, EntryTooLarge, EncodingError, UsageError."""
        entry = self._entries.get(conn.id)
        if entry is None:
            raise Denied("not a member of the room")
        measured = self._measure(data)
        if not self._attendance.update(entry, measured.data, self._cost(entry.user, measured)):
            self._node.counters.limit("presence_bytes")
            raise EntryTooLarge("the presence of the room is full")
        self._changed()

    def end(self) -> None:
        """The room has closed: everybody is offline, and nobody is told by the room any more."""
        self._attendance.clear()
        for pool in (self._entries, self._members, self._owed):
            pool.clear()
        self._state = None
        self._count()

    async def settle(self) -> None:
        """The tasks of the closed room are over: call the hooks that are due for who was there."""
        self.end()
        await self._events.settle()

    # What is seen

    @property
    def lingers(self) -> float:
        """Seconds that the room has to outlive its last member at least."""
        return self._settings.grace if self._attendance.next_end < math.inf else 0.0

    def users(self) -> dict[str, tuple[Mapping[str, Any], ...]]:
        """How it is, a copy."""
        people = self._attendance.people.values()
        return {person.name: tuple(map(person.shown, person.entries.values())) for person in people}

    def told(self) -> dict[str, Any]:
        """What the members know."""
        return {"users": {user: [*entries.values()] for user, entries in self._attendance.told.items()}}

    # Sending

    def _changed(self) -> None:
        self._count()
        if (self._attendance.has_news or self._owed) and not self._sends and not self._room.closed:
            self._sends = True
            self._room.start_soon(self._send)

    def _count(self) -> None:
        self._node.counters.presence_entries += self._attendance.size - self._counted
        self._counted = self._attendance.size

    async def _send(self) -> None:
        try:
            while self._attendance.has_news or self._owed:
                await trio.sleep_until(self._next_push)
                error = await self._fetch() if self._settings.fetch is not None else None
                self._push()
                pause = max(self._settings.interval, _RETRY) if self._owed else self._settings.interval
                self._next_push = trio.current_time() + pause
                if error is not None:
                    await self._node.errors.report(None, error, f"fetch of the presence of {self._room.name!r}")
        finally:
            self._sends = False

    def _push(self) -> None:
        """Tell the members what has changed, and those who are owed the state all of it."""
        joins, leaves = self._attendance.take_news()
        if joins or leaves:
            self._state = None
            changes = self._publication({"joins": joins, "leaves": leaves})
            self._node.counters.presence_pushes += 1
            if len(changes.data) > self._settings.max_bytes:
                self._owed |= self._members
                self._members.clear()
            for conn in tuple(self._members.values()):
                if not self._put(conn, changes):
                    self._owed[conn.id] = self._members.pop(conn.id)
        for conn in tuple(self._owed.values()):
            self._node.counters.presence_resyncs += self._send_state(conn)

    def _send_state(self, conn: Connection) -> bool:
        """Send somebody all that was told; whether there was room for it."""
        if self._state is None:
            self._state = self._publication(self.told())
        sent = self._put(conn, self._state)
        source, target = (self._owed, self._members) if sent else (self._members, self._owed)
        source.pop(conn.id, None)
        target[conn.id] = conn
        return sent

    def _put(self, conn: Connection, publication: Publication) -> bool:
        try:
            conn.outbox.send_nowait(publication.frame(conn._format))
        except OutboxFull:
            return False
        except ConnectionGone:
            pass  # and so will its entry be
        return True

    def _publication(self, event: dict[str, Any]) -> Publication:
        return Publication((self._room.name,), encode(event), action=ACTION, event=event)

    # What is fetched

    async def _fetch(self) -> Exception | None:
        """Fetch for who has come, and have it shown; the error if that failed."""
        assert self._settings.fetch is not None
        people = self._attendance.to_fetch()
        if not people:
            return None
        try:
            names = tuple(person.name for person in people)
            found = await ask(self._settings.fetch, self._room, names, timeout=self._node.config.hook_timeout)
            self._show(people, found)
        except Exception as exc:
            return exc
        finally:
            for person in people:
                person.fetched = True
        return None

    def _show(self, people: list[Person], found: Mapping[str, Any]) -> None:
        error: Exception | None = None
        for person in people:
            if person.name not in found:
                continue
            try:
                measured = self._measure(found[person.name])
            except Exception as exc:
                error = exc
            else:
                if not self._attendance.show(person, measured.data, measured.size):
                    self._node.counters.limit("presence_bytes")
        if error is not None:
            raise error

    # Tasks and measures

    def _moved(self, user: str) -> None:
        self._events.moved(user)

    async def _watch_graces(self) -> None:
        """Let those go who have not come back."""
        try:
            while self._attendance.next_end < math.inf:
                await trio.sleep_until(self._attendance.next_end)
                self._attendance.end_graces(trio.current_time())
                self._changed()
                self._room._grace_over()
        finally:
            self._watches_graces = False

    def _measure(self, data: object) -> Measured:
        """A copy of an entry's data. Raises EntryTooLarge, EncodingError, UsageError."""
        text = encode(data)
        copy = msgspec.json.decode(text)
        if not isinstance(copy, dict):
            raise UsageError(f"the data of an entry is a mapping, not {type(data).__name__}")
        size = max(len(text), len(pack(copy)))
        if size > self._settings.max_entry_bytes:
            self._node.counters.limit("presence_entry_bytes")
            raise EntryTooLarge(f"an entry of {size} bytes")
        return Measured(copy, size)

    def _cost(self, user: str, measured: Measured) -> int:
        return len(encode(user)) + measured.size + _OVERHEAD
