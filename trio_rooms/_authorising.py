"""What the program allows a client: its authorisers are asked here, and their verdicts are read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from ._boundary import own_cancellations_only
from ._errors import ActionError, Denied
from ._hooks import AlreadyReported

if TYPE_CHECKING:
    from ._connection import Connection


async def authorised(
    conn: Connection,
    authoriser: Callable[[Connection, str, Any], Awaitable[bool | Mapping[str, Any]]] | None,
    room: str,
    data: Any,
    what: str,
) -> Mapping[str, Any] | None:
    """The mapping that the authoriser returned, None for True. Raises :exc:`Denied`, and what it raises for the client.

    Whatever else it raises is reported, and the client is told ``INTERNAL``. Without one it is denied.
    """
    if authoriser is None:
        raise Denied
    try:
        with own_cancellations_only():
            verdict = await authoriser(conn, room, data)
    except ActionError:
        raise
    except Exception as exc:
        await conn._node.errors.report(conn, exc, f"{what} of {room!r}")  # noqa: ASYNC120 - which logs it first
        raise AlreadyReported from exc
    if isinstance(verdict, Mapping):
        return verdict
    if verdict is not True:
        raise Denied
    return None
