"""``$leave``: a client leaves a room."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from .._errors import BadMessage, RequestCancelled
from .._messages.decoding import Decoders
from .._messages.requests import Request
from ._decode import decode

if TYPE_CHECKING:
    from .._dispatch import Dispatcher


class _Leave(msgspec.Struct):
    room: str


_decoders = Decoders(_Leave)


async def leave(dispatcher: Dispatcher, request: Request) -> None:
    """``$leave``: acts when it is read, also on a ``$join`` of the same room that waits or is under way."""
    try:
        room = decode(dispatcher, _decoders, request).room
    except BadMessage as exc:
        await dispatcher.in_flight.tell(request, exc)
        return
    cancelled = [one for one in dispatcher.in_flight if one.joins == room and one.cancel()]
    dispatcher._conn.leave(room)
    for one in cancelled:
        await dispatcher.in_flight.tell(one, RequestCancelled())
    rest = dispatcher.in_flight.answer(request, {"room": room})
    if rest is not None:
        await rest
