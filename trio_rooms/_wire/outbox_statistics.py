"""What an outbox says of itself."""

from __future__ import annotations

import attrs


@attrs.frozen
class OutboxStatistics:
    """A snapshot of one outbox."""

    messages: int
    """Messages that wait."""
    bytes: int
    """What they are charged: their frames, plus 64 bytes each."""
    waiting: int
    """Tasks that wait for room."""
    enqueued: int
    """Taken in so far."""
    written: int
    """Handed to the transport."""
    displaced: int
    """Removed or replaced by a newer publication of the same room."""
    discarded: int
    """Never written because the connection ended first."""
    dropped: int
    """Publications that were refused (not among ``enqueued``)."""
