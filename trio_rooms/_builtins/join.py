"""``$join``: a client joins a room."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from .._errors import BadMessage, NeedsV1
from .._membership import Joined
from .._messages.decoding import Decoders
from .._messages.requests import ANSWERED, Request
from ._decode import decode

if TYPE_CHECKING:
    from .._dispatch import Dispatcher


class _Since(msgspec.Struct):
    epoch: str
    offset: int


class _Join(msgspec.Struct):
    room: str
    since: _Since | None = None
    data: Any = None


class _Room(msgspec.Struct):
    room: str


_decoders = Decoders(_Join)
_room_decoders = Decoders(_Room)


async def join(dispatcher: Dispatcher, request: Request) -> Any:
    """``$join``, which has its turn like a handler.

    The reply is queued in the step that begins membership, so every event stands behind it.
    """
    conn = dispatcher._conn
    data = decode(dispatcher, _decoders, request)
    if data.since is not None and not conn._format.v1:
        raise NeedsV1("since needs a trio-rooms.v1 subprotocol")

    def result(joined: Joined) -> dict[str, Any]:
        answer: dict[str, Any] = {"room": data.room}
        if data.since is not None:
            answer["recovered"] = False  # no room has a history yet
        if joined.data is not None:
            answer["data"] = dict(joined.data)  # any mapping, but not every one can be encoded
        return answer

    async def wait_for_reply_to_fit(joined: Joined) -> None:
        if request.id is not None:
            await conn.outbox.wait_fits(len(conn._format.reply(request.id, result(joined)).data))

    def queue_reply(joined: Joined) -> None:
        if request.id is not None:
            conn.outbox.send_nowait(conn._format.reply(request.id, result(joined)))

    joined = await conn._memberships.join(
        data.room, client_data=data.data, by_client=True, before_begin=wait_for_reply_to_fit, on_begin=queue_reply
    )
    return ANSWERED if joined.new else result(joined)


def room_to_join(dispatcher: Dispatcher, request: Request) -> str | None:
    """The room of a ``$join``, read when it arrives: a ``$leave`` may come before its turn does."""
    try:
        return str(decode(dispatcher, _room_decoders, request).room)
    except BadMessage:
        return None  # told in its turn
