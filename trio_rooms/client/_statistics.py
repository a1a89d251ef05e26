"""What a client has counted."""

from __future__ import annotations

import attrs


@attrs.frozen
class ClientStatistics:
    """Counts since ``open_rooms``."""

    connections: int
    """Connections that the server has welcomed."""
    failures: int
    """Attempts to connect that failed, and connections that were lost, before the client ended."""
    duplicates: int
    """Events that had been received before, and were dropped for it."""
    overflows: int
    """Times that a room was left because its events were not received fast enough."""
    dropped: int
    """Messages outside of rooms that were dropped, because nobody received them or too many handlers ran."""
    unexpected: int
    """Messages that were asked for by nobody, such as answers to requests that were cancelled."""


@attrs.define(eq=False)
class Counts:
    """The same while it is counted."""

    connections: int = 0
    failures: int = 0
    duplicates: int = 0
    overflows: int = 0
    dropped: int = 0
    unexpected: int = 0

    def freeze(self) -> ClientStatistics:
        """As they are now."""
        return ClientStatistics(**attrs.asdict(self))
