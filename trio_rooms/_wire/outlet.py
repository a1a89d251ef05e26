"""Where the messages of an outbox go."""

from __future__ import annotations

from typing import Protocol


class Outlet(Protocol):
    """What an outbox asks of the sink that it belongs to."""

    def wake(self) -> None:
        """Something is queued, and is to be written soon."""

    def blocked(self, count: int, data: bytes, taken: int) -> None:
        """The socket has taken so many bytes of ``data``, which are those of the oldest ``count`` messages."""

    def failed(self) -> None:
        """The socket takes nothing any more."""
