"""The broker that is never quick: when things happen, in virtual time. Its contract is in tests/brokers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import pytest
import trio
from trio.testing import MockClock

from trio_rooms import BrokerBusy, Position, Publication, Report
from trio_rooms.testing import LaggingBroker


@asynccontextmanager
async def running(broker: LaggingBroker) -> AsyncIterator[list[tuple[float, bytes]]]:
    """Run a broker; what it delivers, and when."""
    delivered: list[tuple[float, bytes]] = []

    def deliver(publication: Publication, position: Position | None) -> Report:
        delivered.append((trio.current_time(), publication.data))
        return Report(final=True)

    async with trio.open_nursery() as nursery:
        await nursery.start(broker.run, deliver)
        yield delivered
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("confirm", "confirmed"), [("before", 1.0), ("with", 2.0), ("after", 3.0)])
async def test_when_it_confirms(
    confirm: Literal["before", "with", "after"], confirmed: float, autojump_clock: MockClock
) -> None:
    """A publication is delivered after the delay, and confirmed half a delay before it, with it or after it."""
    broker = LaggingBroker(delay=2.0, confirm=confirm)
    async with running(broker) as delivered:
        start = trio.current_time()
        submission = broker.submit(Publication(("r",), b"1"))
        assert not delivered
        await submission.wait()
        assert trio.current_time() == start + confirmed
        await trio.sleep_until(start + 4)
        assert delivered == [(start + 2.0, b"1")]


async def test_one_after_the_other(autojump_clock: MockClock) -> None:
    """Each publication takes the delay for itself, so that what was sent at once arrives apart."""
    broker = LaggingBroker(delay=2.0)
    async with running(broker) as delivered:
        for number in range(3):
            broker.submit(Publication(("r",), b"%d" % number))
        await trio.sleep(10)
        assert delivered == [(2.0, b"0"), (4.0, b"1"), (6.0, b"2")]


async def test_subscriptions(autojump_clock: MockClock) -> None:
    """A subscription becomes active after the delay, ends at once, and is shown."""
    broker = LaggingBroker(delay=2.0)
    async with running(broker):
        with trio.move_on_after(1):
            await broker.subscribe("never")
        await broker.subscribe("r")
        assert trio.current_time() == 3.0
        assert broker.subscribed == {"r"}
        broker.unsubscribe("r")
        assert broker.subscribed == set()
        await broker.subscribe("r")
    assert broker.subscribed == set()


async def test_bound(autojump_clock: MockClock) -> None:
    """The one that is on its way counts among those under way."""
    broker = LaggingBroker(delay=2.0, bound=1)
    async with running(broker):
        broker.submit(Publication(("r",), b"1"))
        await trio.sleep(1)
        with pytest.raises(BrokerBusy):
            broker.submit(Publication(("r",), b"2"))
        await broker.wait_ready()
        assert trio.current_time() == 2.0
