"""Actions of the library itself; their names start with ``$``. They pass no middleware and no ``on_message``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ._errors import BadMessage, NeedsV1, RequestCancelled
from ._membership import Joined
from ._messages.decoding import Decoders
from ._messages.requests import ANSWERED, Request

if TYPE_CHECKING:
    from ._dispatch import Dispatcher


class _Since(msgspec.Struct):
    epoch: str
    offset: int


class _Join(msgspec.Struct):
    room: str
    since: _Since | None = None
    data: Any = None


class _Leave(msgspec.Struct):
    room: str


class _Cancel(msgspec.Struct):
    id: int | str


_join_decoders = Decoders(_Join)
_leave_decoders = Decoders(_Leave)
_cancel_decoders = Decoders(_Cancel)


async def join(dispatcher: Dispatcher, request: Request) -> Any:
    """``$join``, which has its turn like a handler.

    The reply is queued in the step that begins membership, so every event stands behind it.
    """
    conn = dispatcher._conn
    data = _decode(dispatcher, _join_decoders, request)
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


async def leave(dispatcher: Dispatcher, request: Request) -> None:
    """``$leave``: acts when it is read, also on a ``$join`` of the same room that waits or is under way."""
    try:
        room = _decode(dispatcher, _leave_decoders, request).room
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


async def cancel(dispatcher: Dispatcher, request: Request) -> None:
    """``$cancel``: no reply of its own; the cancelled request is answered with ``CANCELLED``."""
    try:
        ident = _decode(dispatcher, _cancel_decoders, request).id
    except BadMessage as exc:
        await dispatcher.in_flight.tell(request, exc)
        return
    cancelled = dispatcher.in_flight.find(ident)
    if cancelled is not None and cancelled.cancel():
        await dispatcher.in_flight.tell(cancelled, RequestCancelled())


#: What acts when it is read, and never waits for a handler.
AT_ONCE: Final[dict[str | None, Callable[[Dispatcher, Request], Awaitable[None]]]] = {
    "$cancel": cancel,
    "$leave": leave,
}


def _decode(dispatcher: Dispatcher, decoders: Decoders, request: Request) -> Any:
    message = request.message
    assert message is not None
    return message._build(decoders, message.raw, dispatcher._limits.max_depth)


def room_to_join(dispatcher: Dispatcher, request: Request) -> str | None:
    """The room of a ``$join``, read when it arrives: a ``$leave`` may come before its turn does."""
    try:
        return str(_decode(dispatcher, _leave_decoders, request).room)
    except BadMessage:
        return None  # told in its turn
