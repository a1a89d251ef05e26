"""``$cancel``: a client does not want the answer to a request any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from .._errors import BadMessage, RequestCancelled
from .._messages.decoding import Decoders
from .._messages.requests import Request
from ._decode import decode

if TYPE_CHECKING:
    from .._dispatch import Dispatcher


class _Cancel(msgspec.Struct):
    id: int | str


_decoders = Decoders(_Cancel)


async def cancel(dispatcher: Dispatcher, request: Request) -> None:
    """``$cancel``: no reply of its own; the cancelled request is answered with ``CANCELLED``."""
    try:
        ident = decode(dispatcher, _decoders, request).id
    except BadMessage as exc:
        await dispatcher.in_flight.tell(request, exc)
        return
    cancelled = dispatcher.in_flight.find(ident)
    if cancelled is not None and cancelled.cancel():
        await dispatcher.in_flight.tell(cancelled, RequestCancelled())
