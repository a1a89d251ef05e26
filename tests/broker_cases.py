"""Every kind of broker, and a node as a broker sees one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import attrs
import trio

from trio_rooms import BrokerBusy, Position, Publication, Report
from trio_rooms.brokers import Broker, MemoryBroker
from trio_rooms.testing import LaggingBroker

#: Seconds within which a broker has done what it was asked.
PATIENCE = 60.0


@attrs.frozen
class Case:
    """One kind of broker: how a node gets one, and the most submissions it takes at once (None: any number)."""

    make: Callable[[], Broker]
    bound: int | None = None


BROKERS = {
    "memory": Case(MemoryBroker),
    "lagging-before": Case(partial(LaggingBroker, confirm="before", bound=3), bound=3),
    "lagging-with": Case(partial(LaggingBroker, confirm="with", bound=3), bound=3),
    "lagging-after": Case(partial(LaggingBroker, confirm="after", bound=3), bound=3),
    "lagging-with-gaps": Case(partial(LaggingBroker, confirm="with", bound=3, step=7), bound=3),
}


@attrs.define(eq=False)
class Node:
    """What a broker sees of a node: a ``deliver`` that writes down what it is called with."""

    delivered: list[Publication] = attrs.field(factory=list)
    positions: list[Position | None] = attrs.field(factory=list)
    _arrived: trio.Event = attrs.field(factory=trio.Event)

    def deliver(self, publication: Publication, position: Position | None) -> Report:
        assert position is None or isinstance(position, Position)
        self.delivered.append(publication)
        self.positions.append(position)
        publication.report = Report(final=True)
        if publication.on_delivered is not None:
            publication.on_delivered()
        self._arrived.set()
        return publication.report

    async def received(self, number: int) -> list[Publication]:
        with trio.fail_after(PATIENCE):
            while len(self.delivered) < number:
                self._arrived = trio.Event()
                await self._arrived.wait()
        return self.delivered

    def data(self, room: str) -> list[bytes]:
        return [one.data for one in self.delivered if room in one.rooms]


@asynccontextmanager
async def running(broker: Broker, node: Node | None = None) -> AsyncIterator[Node]:
    """Run a broker for the length of the block."""
    node = node or Node()
    async with trio.open_nursery() as nursery:
        await nursery.start(broker.run, node.deliver)
        yield node
        nursery.cancel_scope.cancel()


def event(number: int, *rooms: str) -> Publication:
    return Publication(rooms or ("r",), b"%d" % number)


async def submit(broker: Broker, publication: Publication) -> None:
    while True:  # noqa: ASYNC913 - a submission that is taken at once need not wait
        try:
            broker.submit(publication)
            return
        except BrokerBusy:
            await broker.wait_ready()
