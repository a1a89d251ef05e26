"""Where the running code is: the connection and the room it works for, if any.

Child tasks inherit it. A task of a room sees the room only; a task of a connection the connection only.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._connection import Connection
    from ._room import Room

_connection: ContextVar[Connection | None] = ContextVar("trio_rooms_connection", default=None)
_room: ContextVar[Room | None] = ContextVar("trio_rooms_room", default=None)
_in_handler: ContextVar[bool] = ContextVar("trio_rooms_in_handler", default=False)


def current_connection() -> Connection | None:
    """The connection that the calling task works for: in its handlers, hooks, session and tasks; else None."""
    return _connection.get()


def current_room() -> Room | None:
    """The room that the calling task was started by (``room.start_soon``, room hooks); else None."""
    return _room.get()


def enter_connection(conn: Connection | None) -> None:
    """Mark the calling task as the connection's; None: as nobody's."""
    _connection.set(conn)


def enter_room(room: Room) -> None:
    """Mark the calling task as the room's."""
    _room.set(room)


def enter_handler(inside: bool) -> None:
    """Mark the calling task as running a handler, where ``read_json`` would wait for what never comes."""
    _in_handler.set(inside)


def in_handler() -> bool:
    """Whether the calling task runs a handler."""
    return _in_handler.get()
