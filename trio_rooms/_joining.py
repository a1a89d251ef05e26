"""A join under way, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import attrs
import trio

from ._errors import ConnectionGone, RoomClosed
from ._recovery import Recovery
from ._rooms.history import HistoryItem, Position
from ._rooms.publication import Publication
from ._wire.frames import OVERHEAD, Frame

if TYPE_CHECKING:
    from ._connection import Connection
    from ._membership import Memberships
    from ._room import Room
    from ._rooms.attendance import Entry

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
    position: Position | None = None
    """Where the membership begins in the room's stream or, if ``new`` is False, up to where this connection was sent
    everything; None if the room has no history."""
    recovered: bool | None = None
    """Whether nothing is missing between ``since`` and ``position``; None if there was no ``since``. If it is False,
    nothing of what is missing was sent: the client has to load its state anew. If ``new`` is False nothing is sent, so
    it is whether the two are equal. Without history it is always False."""
    publications: tuple[HistoryItem, ...] = ()
    """What was sent of the history, ahead of everything live: what the client has missed, or the latest publication
    where the room's ``recovery`` is "cache"."""


@attrs.define(eq=False)
class Place:
    """A join under way."""

    done: trio.Event = attrs.field(factory=trio.Event)
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    """Around everything that can wait; cancelled by the end of the connection."""
    room: Room | None = None
    entry: Entry | None = None
    """Of the room's presence, if it has one."""
    hooks_begun: bool = False
    hooks_over: bool = False
    released: LeaveReason | None = None

    def check(self) -> None:
        """Raise if the place has been released."""
        if self.released == "disconnected":
            raise ConnectionGone("the connection has ended")
        if self.released is not None:
            raise RoomClosed("left, removed or closed while joining")


@attrs.define(eq=False)
class Joining:
    """A join that has only to begin."""

    _memberships: Memberships
    _place: Place
    joined: Joined
    """What has become of it; of a room with history, as of the last :meth:`outcome`."""
    recovery: Recovery | None = None
    begun: bool = False
    _too_much: bool = False

    def outcome(self) -> Joined:
        """What it would be if it began now. Raises if the place has been released, or the presence has no room."""
        self._place.check()
        if self.joined.room._presence is not None and self._place.entry is not None:
            self.joined.room._presence.check_room_for(self._place.entry)
        if self.recovery is not None:
            caught = self.recovery.caught()
            self._too_much = caught.too_much
            self.joined = attrs.evolve(
                self.joined, position=caught.position, recovered=caught.recovered, publications=caught.items
            )
        return self.joined

    def begin(self) -> None:
        """Begin, in the step in which :meth:`outcome` was asked last, or has not changed since."""
        self._place.check()
        room = self.joined.room
        if self._too_much:
            self._memberships._node.counters.limit("max_recovery")
        self._memberships._begin(room, self.joined.position)
        self._memberships._joined(room.name)
        self.begun = True
        if room._presence is not None and self._place.entry is not None:
            room._presence.enter(self._memberships._conn, self._place.entry)

    def begin_and_push(self) -> None:
        """Begin, and send what is recovered as publications; what does not fit into the outbox now is not recovered."""
        joined = self.outcome()
        frames = [self._frame(item) for item in joined.publications]
        conn = self._memberships._conn
        if frames and not _has_room_for(conn, frames):
            self.joined = attrs.evolve(joined, recovered=None if joined.recovered is None else False, publications=())
            self._too_much = True
            frames = []
        for frame in frames:
            conn.outbox.send_nowait(frame)
        self.begin()

    def _frame(self, item: HistoryItem) -> Frame:
        conn = self._memberships._conn
        return conn._format.publication(
            Publication((self.joined.room.name,), item.raw, packed=item.packed, offset=item.offset)
        )


def _has_room_for(conn: Connection, frames: Sequence[Frame]) -> bool:
    """Whether all of these would be queued now."""
    there, limits = conn.outbox.statistics(), conn._node.config.limits
    return (
        not there.waiting
        and there.messages + len(frames) <= limits.outbox_messages
        and there.bytes + sum(len(frame.data) + OVERHEAD for frame in frames) <= limits.outbox_bytes
    )
