"""What can be set for the rooms whose name matches a pattern."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import attrs
from attrs import validators

from ._presence_options import Presence
from ._validators import count, not_negative

if TYPE_CHECKING:
    from ._connection import Connection

#: What a room does with a publication that does not fit into a member's outbox.
Overflow = Literal["close", "drop_newest", "drop_oldest", "conflate"]

#: ``async def authorize(conn, room, data)``: True, False, or a mapping that goes into the join's reply.
Authorize = Callable[["Connection", str, Any], Awaitable[bool | Mapping[str, Any]]]


@attrs.frozen(kw_only=True)
class RoomOptions:
    """Options of the rooms whose name matches a pattern; see ``manager.room``."""

    capacity: int | None = attrs.field(default=None, validator=validators.optional(count))
    """Members, joins under way included. None (default): ``config.max_connections_per_room``.
    Beyond it: ``ROOM_FULL``."""

    overflow: Overflow = attrs.field(
        default="close", validator=validators.in_(("close", "drop_newest", "drop_oldest", "conflate"))
    )
    """What happens to a member whose outbox has no room for a publication: "close" (default) ends its
    connection with 4008, which asks the client to reconnect; "drop_newest" drops the publication;
    "drop_oldest" removes the oldest unwritten publications of this room; "conflate" replaces the unwritten
    publication with the same ``key``, and drops the oldest where there is none. Every loss is counted."""

    linger: float = attrs.field(default=0.0, validator=not_negative)
    """Seconds that the room, its metadata and its tasks outlive the last member. 0 (default): not at all."""

    authorize: Authorize | None = attrs.field(default=None, validator=validators.optional(validators.is_callable()))
    """Asked when a client joins by ``$join``. None (default): such joins are ``DENIED``; a join that a handler
    makes is the program's own decision and is not asked about."""

    presence: Presence | None = attrs.field(
        default=None, validator=validators.optional(validators.instance_of(Presence))
    )
    """Who is in the room, for its members: a :class:`Presence`. None (default): nobody is told, and nothing kept."""
