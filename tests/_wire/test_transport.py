"""How connections end, as a value."""

from __future__ import annotations

import pytest

from trio_rooms import Close
from trio_rooms._wire.transport import TransportClosed


@pytest.mark.parametrize(
    ("code", "reconnect"),
    [
        (1000, False),
        (1001, True),
        (1002, False),
        (1006, True),
        (1009, False),
        (1011, False),
        (1012, True),
        (1013, True),
        (3999, False),
        (4000, True),
        (4499, True),
        (4500, False),
        (4999, False),
    ],
)
def test_reconnect(code: int, reconnect: bool) -> None:
    """The code says whether the client is asked to connect again."""
    assert Close(code).reconnect is reconnect


def test_transport_closed_carries_the_close() -> None:
    """What a transport raises at its end says how it ended."""
    close = Close(4000, "bye", "peer")
    assert TransportClosed(close).close is close
