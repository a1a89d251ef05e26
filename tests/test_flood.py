"""The short version of ``nox -s flood``, and that it would see what is kept."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

import flood as flooding
from flood import flood
from trio_rooms.brokers import MemoryBroker


class Loose(MemoryBroker):
    """Keeps to its own bounds, whatever it is told."""

    def __init__(self, **_: int) -> None:
        super().__init__()


async def test_nothing_grows(autojump_clock: MockClock) -> None:
    """Must hold 5: history, keys, sessions and presence stay within their bounds, whatever clients make up."""
    assert await flood(6, rise=1000) == []


async def test_growth_is_seen(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker with larger bounds than it should have is told of."""
    monkeypatch.setattr(flooding, "MemoryBroker", Loose)
    problems = await flood(12, rise=1000)
    names = {problem.partition(":")[0] for problem in problems}
    assert {"streams", "bytes of history", "keys"} <= names
