"""What can be set for the rooms whose name matches a pattern."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import attrs
from attrs import validators

from ._presence_options import PresenceOptions
from ._validators import count, flag_or_function, not_negative, positive, whole

if TYPE_CHECKING:
    from ._connection import Connection

#: What a room does with a publication that does not fit into a member's outbox.
Overflow = Literal["close", "drop_newest", "drop_oldest", "conflate"]

#: How a member that comes back is brought up to date: by all it has missed, or by the latest publication.
Recovery = Literal["stream", "cache"]

#: ``async def fill(room)``: the first publication of a room whose history is empty; None for none.
Fill = Callable[[str], Awaitable[Any]]

MIB = 1024 * 1024

#: ``async def authorize(conn, room, data)``: True, False, or a mapping that goes into the join's reply.
Authorize = Callable[["Connection", str, Any], Awaitable[bool | Mapping[str, Any]]]


#: ``async def allow_publish(conn, room, data)``: True, False, or a mapping that goes into the reply.
AllowPublish = Callable[["Connection", str, Any], Awaitable[bool | Mapping[str, Any]]]


@attrs.frozen
class Keep:
    """What a broker keeps of a room's publications; see the fields of :class:`RoomOptions` that begin with history."""

    size: int
    """Publications at most."""
    bytes: int
    """Bytes at most, of their JSON and MessagePack together."""
    ttl: float
    """Seconds that each is kept."""
    meta_ttl: float
    """Seconds of no use after which epoch and offset are forgotten."""


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

    presence: PresenceOptions | None = attrs.field(
        default=None, validator=validators.optional(validators.instance_of(PresenceOptions))
    )
    """How the members are told who is in the room. None (default): not at all, and nothing is kept."""

    allow_publish: AllowPublish | bool = attrs.field(default=False, validator=flag_or_function)
    """Asked when a member publishes by ``$publish``. False (default): that is ``DENIED``. True: any member may publish
    anything. It sees the data that is published, and cannot change it: where an event has to say who it is from, let
    a handler publish it. Who is no member is ``DENIED`` without being asked about."""

    history_size: int = attrs.field(default=0, validator=whole)
    """Publications that the broker keeps of the room, so that a member that comes back gets what it has missed.
    0 (default): no history. Beyond it the oldest go, and who has missed those is told ``recovered: false``."""

    history_bytes: int = attrs.field(default=1 * MIB, validator=count)
    """Bytes that the kept publications may take, each in JSON and in MessagePack. Beyond it the oldest go."""

    history_ttl: float = attrs.field(default=300.0, validator=positive)
    """Seconds that a publication is kept."""

    history_meta_ttl: float = attrs.field(default=86_400.0, validator=positive)
    """Seconds after the last publication or join for which the room's epoch and offset are kept; then its stream
    begins anew, with another epoch. At least ``history_ttl``. The broker of one process keeps those of rooms with
    members for as long as they have any."""

    recovery: Recovery = attrs.field(default="stream", validator=validators.in_(("stream", "cache")))
    """"stream" (default): who comes back with its position gets all that it has missed, or is told that it does not.
    "cache": who joins gets the latest publication, for rooms whose publications are each the whole state."""

    fill: Fill | None = attrs.field(default=None, validator=validators.optional(validators.is_callable()))
    """``async def fill(room)``, for "cache": what a join of a room without a publication has it publish first; None
    for nothing. It is asked by one join at a time, and may take ``config.hook_timeout`` seconds; if it raises, that is
    reported, and the join fails."""

    allow_history: bool = attrs.field(default=False, validator=validators.instance_of(bool))
    """Whether members may read the history by ``$history``. False (default): ``DENIED``."""

    @cached_property
    def keep(self) -> Keep | None:
        """What the broker is to keep; None for a room without history."""
        if not self.history_size:
            return None
        return Keep(self.history_size, self.history_bytes, self.history_ttl, self.history_meta_ttl)

    def __attrs_post_init__(self) -> None:
        if self.history_size:
            if self.overflow != "close" and (self.overflow, self.recovery) != ("conflate", "cache"):
                raise ValueError(
                    f"a room with history loses nothing unseen: not with overflow={self.overflow!r}"
                    " (conflate goes with recovery='cache')"
                )
            if self.history_meta_ttl < self.history_ttl:
                raise ValueError("history_meta_ttl is at least history_ttl")
        elif self.recovery == "cache" or self.allow_history:
            raise ValueError("recovery='cache' and allow_history need a history_size")
        if self.fill is not None and self.recovery != "cache":
            raise ValueError("fill is for recovery='cache'")
