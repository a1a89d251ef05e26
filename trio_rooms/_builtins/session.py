"""``$session``: a client that has been here before. Its first message or none; acted upon in ``_opening``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from .._errors import BadMessage, NeedsV1
from .._messages.decoding import Decoders
from .._messages.requests import Request
from ._decode import Since, decode

if TYPE_CHECKING:
    from .._dispatch import Dispatcher

_TOO_LATE: Final = "$session is the first message of a connection, or none"


class Returning(msgspec.Struct):
    """The data of ``$session``."""

    session: str | None = None
    """The token; None: there is none, and the client does not want to wait for its first message."""
    positions: dict[str, Since] = {}
    """How far the client has come in rooms with history, by the room's name."""


_decoders: Final = Decoders(Returning | None)


def returning(dispatcher: Dispatcher, request: Request) -> Returning:
    """What a first message says of the session to be restored. Raises :exc:`BadMessage`."""
    found: Returning | None = decode(dispatcher, _decoders, request)
    return found or Returning()


async def session(dispatcher: Dispatcher, request: Request) -> Any:  # noqa: ASYNC124 - as all of its kind
    """``$session`` in its turn: it has come too late, or there are no sessions."""
    conn = dispatcher._conn
    if not conn._format.v1:
        raise NeedsV1
    if conn._node.sessions is not None:
        raise BadMessage(_TOO_LATE)
    return {"connection": conn.id, "restored": False}
