"""``$join``: a client joins a room."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from .._errors import BadMessage, NeedsV1
from .._joining import Joined
from .._messages.decoding import Decoders
from .._messages.requests import ANSWERED, Request
from .._rooms.history import Position
from ._decode import Since, decode

if TYPE_CHECKING:
    from .._connection import Connection
    from .._dispatch import Dispatcher
    from .._wire.frames import Frame


class _Join(msgspec.Struct):
    room: str
    since: Since | None = None
    data: Any = None


class _Room(msgspec.Struct):
    room: str


_decoders = Decoders(_Join)
_room_decoders = Decoders(_Room)


async def join(dispatcher: Dispatcher, request: Request) -> Any:
    """``$join``, which has its turn like a handler.

    The reply is queued in the step that begins membership, so every event stands behind it; or, if the client is in the
    room already, every event after the reply's position.
    """
    conn = dispatcher._conn
    data = decode(dispatcher, _decoders, request)
    if data.since is not None and not conn._format.v1:
        raise NeedsV1("since needs a trio-rooms.v1 subprotocol")

    since = None if data.since is None else data.since.position

    def reply(joined: Joined) -> Frame:
        assert request.id is not None
        return conn._format.reply(request.id, join_reply(conn, joined, since))

    await conn._memberships.join(
        data.room,
        since=since,
        client_data=data.data,
        by_client=True,
        reply=None if request.id is None else reply,
    )
    return ANSWERED


def join_reply(conn: Connection, joined: Joined, since: Position | None) -> dict[str, Any]:
    """What a client is told of a join that it has asked for."""
    answer: dict[str, Any] = {"room": joined.room.name}
    if joined.position is not None:
        answer["epoch"], answer["offset"] = joined.position.epoch, joined.position.offset
    if since is not None:
        answer["recovered"] = bool(joined.recovered)
    if joined.publications:
        answer["publications"] = [conn._format.kept(item) for item in joined.publications]
    if joined.data is not None:
        answer["data"] = dict(joined.data)  # any mapping, but not every one can be encoded
    return answer


def room_to_join(dispatcher: Dispatcher, request: Request) -> str | None:
    """The room of a ``$join``, read when it arrives: a ``$leave`` may come before its turn does."""
    try:
        return str(decode(dispatcher, _room_decoders, request).room)
    except BadMessage:
        return None  # told in its turn
