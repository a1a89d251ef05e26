"""``$presence``: a member asks who is in a room."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from .._errors import Denied, NeedsV1
from .._messages.decoding import Decoders
from .._messages.requests import Request
from ._decode import decode

if TYPE_CHECKING:
    from .._dispatch import Dispatcher


class _Presence(msgspec.Struct):
    room: str


_decoders = Decoders(_Presence)


async def presence(dispatcher: Dispatcher, request: Request) -> Any:  # noqa: ASYNC124 - as the others of its table
    """``$presence``, which has its turn like a handler: what the members have been told by now."""
    conn = dispatcher._conn
    if not conn._format.v1:
        raise NeedsV1
    room = conn.rooms.get(decode(dispatcher, _decoders, request).room)
    if room is None or room._presence is None:
        raise Denied("not a member of a room with presence")
    return room._presence.told()
