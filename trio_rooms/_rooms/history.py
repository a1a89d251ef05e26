"""What is kept of a room: publications with their positions, and what is read of them."""

from __future__ import annotations

from typing import Any

import attrs
import msgspec


@attrs.frozen
class Position:
    """Where a publication stands in its room's stream. Offsets rise, but need not be contiguous."""

    offset: int
    """The number within the epoch."""
    epoch: str
    """Which run of the stream the offset belongs to: offsets of different epochs cannot be compared."""


class HistoryItem(msgspec.Struct, frozen=True, gc=False):
    """A publication that was kept. There may be millions, so it is a Struct that the garbage collector passes by."""

    offset: int
    """Its number within the epoch."""
    raw: bytes
    """The event in JSON."""
    packed: bytes
    """The event in MessagePack."""
    exclude: frozenset[str] = frozenset()
    """The ids of connections and sessions that were not to get it."""

    @property
    def data(self) -> Any:
        """The event as builtins, decoded at each call."""
        return msgspec.json.decode(self.raw)

    def decode(self, type: Any) -> Any:
        """The event as ``type``. Raises ``msgspec.ValidationError``."""
        return msgspec.json.decode(self.raw, type=type)


@attrs.frozen
class Slice:
    """A part of a room's stream, as a broker reads it."""

    position: Position
    """The top of the stream when it was read: the last publication's, kept or not, or beyond it where a broker numbers
    several rooms together; offset 0 before the first."""
    publications: tuple[HistoryItem, ...]
    """What was asked for, oldest first, or newest first if that was asked for."""
    complete: bool = True
    """Without ``since`` always true. Else whether nothing is missing between ``since`` and the first of
    ``publications``: the epoch is the same, the offset is not above the top, and nothing after it has gone."""
