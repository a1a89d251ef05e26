"""``$publish``: a member publishes to its room, where the room allows it."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec

from .._authorising import authorised
from .._errors import BadMessage, Denied, EncodingError, MessageTooLarge
from .._messages.decoding import Decoders
from .._messages.requests import Request
from ._decode import decode

if TYPE_CHECKING:
    from .._connection import Connection
    from .._dispatch import Dispatcher


class _Publish(msgspec.Struct):
    room: str
    data: Any = None
    key: str | None = None
    idempotency_key: str | None = None
    echo: bool = True


_decoders = Decoders(_Publish)


async def publish(dispatcher: Dispatcher, request: Request) -> dict[str, Any]:
    """``$publish``, which has its turn like a handler, and takes until this node's members were served."""
    conn = dispatcher._conn
    data = decode(dispatcher, _decoders, request)
    most = dispatcher._limits.max_id_chars
    for key in (data.key, data.idempotency_key):
        if key is not None and not 0 < len(key) <= most:
            raise BadMessage(f"a key has 1 to {most} characters")
    room = conn.rooms.get(data.room)
    if room is None:
        raise Denied
    allow = room.options.allow_publish
    told = None if allow is True else await authorised(conn, allow or None, room.name, data.data, "allow_publish")
    if conn.rooms.get(data.room) is not room:  # it left, or was removed, while the program was asked
        raise Denied
    try:
        report = await room.publish(
            data.data,
            exclude=() if data.echo else (conn,),
            key=data.key,
            idempotency_key=None if data.idempotency_key is None else _scoped(conn, data.idempotency_key),
        )
    except (EncodingError, MessageTooLarge) as exc:
        raise BadMessage("the data cannot be published") from exc
    answer: dict[str, Any] = {}
    if report.position is not None:
        answer["epoch"], answer["offset"] = report.position.epoch, report.position.offset
    if told is not None:
        answer["data"] = dict(told)  # any mapping, but not every one can be encoded
    return answer


def _scoped(conn: Connection, key: str) -> str:
    """A key for the broker that only this user can make, or this nameless client: others' events stay theirs.

    A client without a name is its session, where there is one, so that it may repeat itself when it has come back.
    """
    if conn.identity.user is not None:
        owner = f"user {conn.identity.user}"
    elif conn.session_id is not None:
        owner = f"session {conn.session_id}"
    else:
        owner = f"connection {conn.id}"
    return "$" + sha256(f"{len(owner)} {owner} {key}".encode()).hexdigest()
