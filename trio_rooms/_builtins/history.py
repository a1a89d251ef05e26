"""``$history``: a member reads what is kept of its room."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from .._errors import Denied, NeedsV1
from .._messages.decoding import Decoders
from .._messages.requests import Request
from .._rooms.history import HistoryItem
from ._decode import Since, decode

if TYPE_CHECKING:
    from .._connection import Connection
    from .._dispatch import Dispatcher


class _History(msgspec.Struct):
    room: str
    since: Since | None = None
    limit: int | None = None
    reverse: bool = False


_decoders = Decoders(_History)


async def history(dispatcher: Dispatcher, request: Request) -> dict[str, Any]:
    """At most ``limits.max_recovery`` publications, and a quarter of an outbox; the client asks for more from there."""
    conn = dispatcher._conn
    data = decode(dispatcher, _decoders, request)
    if not conn._format.v1:
        raise NeedsV1("history needs a trio-rooms.v1 subprotocol")
    room = conn.rooms.get(data.room)
    if room is None or not room.options.allow_history:
        raise Denied
    most = conn._node.config.limits.max_recovery
    limit = most if data.limit is None else max(0, min(data.limit, most))
    since = None if data.since is None else data.since.position
    part = await room.history(limit=limit, since=since, reverse=data.reverse)
    return {
        "epoch": part.position.epoch,
        "offset": part.position.offset,
        "publications": _fitting(conn, part.publications),
        "complete": part.complete,
    }


def _fitting(conn: Connection, items: tuple[HistoryItem, ...]) -> list[dict[str, Any]]:
    """As many as one message may hold, one at least. Of what this client was excluded from, only the offset.

    Else a page could be empty although more comes behind it.
    """
    left = conn._node.config.limits.outbox_bytes // 4
    fitting: list[dict[str, Any]] = []
    for item in items:
        left -= conn._format.size_of(item)
        if left < 0 and fitting:
            break
        fitting.append({"offset": item.offset} if conn._is_excluded(item.exclude) else conn._format.kept(item))
    return fitting
