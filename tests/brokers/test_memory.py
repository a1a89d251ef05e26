"""The broker of one process."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from trio_rooms import NotServing, Position, Publication, Report
from trio_rooms.brokers import Confirmation, MemoryBroker


async def test_delivers_in_the_call() -> None:
    """When submit returns, deliver has run, with the publication itself and no position."""
    calls: list[tuple[Publication, Position | None]] = []

    def deliver(publication: Publication, position: Position | None) -> Report:
        calls.append((publication, position))
        return Report(final=True)

    broker = MemoryBroker()
    async with trio.open_nursery() as nursery:
        await nursery.start(broker.run, deliver)
        publication = Publication(("r",), b"1")
        submission = broker.submit(publication)
        assert calls == [(publication, None)]
        with trio.testing.assert_checkpoints():
            assert await submission.wait() == Confirmation()
        nursery.cancel_scope.cancel()
    with pytest.raises(NotServing):
        broker.submit(publication)


async def test_everything_is_local() -> None:
    """Subscribing and waiting for room are checkpoints and nothing more."""
    broker = MemoryBroker()
    with trio.testing.assert_checkpoints():
        await broker.subscribe("r")
    with trio.testing.assert_checkpoints():
        await broker.wait_ready()
    broker.unsubscribe("r")
