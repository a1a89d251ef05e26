"""What a client receives."""

from __future__ import annotations

from typing import Any, Literal

import attrs

from .._rooms.history import Position


@attrs.frozen
class Event:
    """Something that was published to a room."""

    room: str
    """Its name."""
    data: Any
    """What was published."""
    position: Position | None = None
    """Where it stands in the room's stream; None if the room has no history. A program that keeps it can join there
    later, with ``since``."""


@attrs.frozen
class Gap:
    """Here something may be missing, and nothing will bring it back: load the state anew, then go on.

    It stands in its place among the events. It has no ``data``, so that what takes it for an event fails.
    """

    room: str | None
    """The room; None among the messages of ``client.receive``."""
    reason: Literal["not recovered", "no history", "overflow"]
    """"not recovered": the room has a history, and what came since the position is not in it any more. "no history":
    the room was joined anew, and has none. "overflow": messages were dropped because nobody received them."""


@attrs.frozen
class Direct:
    """A message to this client, or to everybody, outside of any room."""

    action: str | None
    """What it is for, if the program says so."""
    data: Any
    """What was sent; bytes if it was a binary message."""
