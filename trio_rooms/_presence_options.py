"""What can be set for the presence of rooms."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from attrs import validators

from ._validators import count, not_negative

if TYPE_CHECKING:
    from ._connection import Connection
    from ._room import Room

#: ``def entry(conn, room)``, or ``async def``: the first data of a connection's entry.
MakeEntry = Callable[["Connection", "Room"], Mapping[str, Any] | Awaitable[Mapping[str, Any]]]

#: ``async def fetch(room, users)``: what is shown of users besides the data of their entries.
Fetch = Callable[["Room", Sequence[str]], Awaitable[Mapping[str, Mapping[str, Any]]]]


@attrs.frozen(kw_only=True)
class PresenceOptions:
    """Who is in a room, for all its members: ``manager.room("chat.*", presence=PresenceOptions())``."""

    entry: MakeEntry | None = attrs.field(default=None, validator=validators.optional(validators.is_callable()))
    """``def entry(conn, room)`` or ``async def``: a mapping, the data that a connection's entry begins with. Called for
    each join, after ``on_join_room``, within ``hook_timeout``; raising fails the join as there. None (default): an
    entry begins with its ``id`` alone. ``conn.set_presence`` replaces the data."""

    fetch: Fetch | None = attrs.field(default=None, validator=validators.optional(validators.is_callable()))
    """``async def fetch(room, users)``: a mapping from users to what is shown in each of their entries, beneath the
    entry's own data. Called within ``hook_timeout`` with all users who came online since the last push, which waits for
    it, and for no user again until that one comes online anew. If it raises, the error is reported and the users are
    shown without. None (default): nothing is added."""

    interval: float = attrs.field(default=1.0, validator=not_negative)
    """Seconds between two pushes of changes to the members of a room. What changes in between is merged into one, and
    what comes and goes in between is not told. After a quiet time the first change is pushed at once. 0: no more is
    merged than what happens before the task that sends has its turn."""

    grace: float = attrs.field(default=10.0, validator=not_negative)
    """Seconds that a user whose last connection was lost or closed stays online, so that who comes back by then was
    never away. A user whose last connection leaves the room, or is removed from it, is offline at once. A room outlives
    its last member by that time if it must. 0: no grace."""

    max_entry_bytes: int = attrs.field(default=1024, validator=count)
    """Bytes of the data of one entry, in JSON or MessagePack, whichever is longer; and of what is fetched for one user.
    Beyond it: ``ENTRY_TOO_LARGE`` for who sets it; what is fetched is reported and not shown."""

    max_bytes: int = attrs.field(default=256 * 1024, validator=count)
    """Bytes of all entries of a room: for each its data, what is fetched, the user's name, and 64 more. So it bounds
    their number, and what a member is sent in one message. Beyond it the users in their grace are let go, the oldest
    first; then joins are ``ROOM_FULL`` and changes of entries ``ENTRY_TOO_LARGE``. What does not fit into an outbox
    is refused when the manager is served."""
