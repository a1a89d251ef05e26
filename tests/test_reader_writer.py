"""The reader and the writer of a connection, with a transport that tells each of them what the test wants."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from fakes import NoSocket
from hall import hall
from trio_rooms import Close, Config, Connection, HandshakeRequest, Identity, Manager, Message
from trio_rooms._alarm import Alarm
from trio_rooms._lifecycle import live
from trio_rooms._wire.frames import Frame
from trio_rooms._wire.transport import TransportClosed

PEER = Close(1000, "bye", "peer")
LOST = Close(1006, "", "network")


@attrs.define(eq=False)
class Told(NoSocket):
    """A transport whose two sides are told apart: what the reader gets, and what a write comes to."""

    incoming: list[str | Close] = attrs.field(factory=list)
    more: trio.Event = attrs.field(factory=trio.Event)
    writing: Close | None = None
    """What every write comes to; None: it never ends."""
    log: list[str] = attrs.field(factory=list)
    last_heard: float = math.inf
    paused: bool = False
    rtt: float | None = None
    control_due: bool = False
    on_control: Callable[[], None] = lambda: None

    async def send_control(self) -> None:
        raise AssertionError("nothing is due")

    def bring(self, *what: str | Close) -> None:
        """Let the reader get messages, or the end."""
        self.incoming += what
        self.more.set()

    async def receive(self) -> str | bytes:
        await trio.lowlevel.checkpoint()
        while not self.incoming:
            self.more = trio.Event()
            await self.more.wait()
        what = self.incoming[0]
        if isinstance(what, Close):  # which is told to each who asks
            raise TransportClosed(what)
        del self.incoming[0]
        return what

    async def send(self, frames: Sequence[Frame]) -> int:
        await trio.lowlevel.checkpoint()
        if self.writing is not None:
            raise TransportClosed(self.writing)
        await trio.sleep_forever()
        raise AssertionError

    async def ping(self) -> None:
        await trio.lowlevel.checkpoint()

    async def close(self, code: int, reason: str) -> None:
        self.log.append(f"close {code}")
        await trio.lowlevel.checkpoint()

    async def abort(self) -> None:
        self.log.append("abort")
        await trio.lowlevel.checkpoint()


@attrs.define(eq=False)
class Life:
    """A connection that lives over such a transport, and what its program has seen."""

    conn: Connection
    transport: Told
    got: list[object] = attrs.field(factory=list)
    ended: list[tuple[float, Close]] = attrs.field(factory=list)


@asynccontextmanager
async def life(config: Config | None = None) -> AsyncGenerator[Life]:
    """A connection of a program that takes notes, some of which take for ever."""
    manager = Manager(config=config)

    @manager.on("note")
    async def note(conn: Connection, message: Message) -> None:
        one.got.append(message.data)
        if message.data == "for ever":
            await trio.sleep_forever()

    @manager.on_disconnect
    def on_disconnect(conn: Connection, close: Close) -> None:
        one.ended.append((trio.current_time(), close))

    async with hall(manager) as place, trio.open_nursery() as nursery:
        one = Life(
            Connection(place.server._node, HandshakeRequest(method="GET", target="/ws"), Identity(), None), Told()
        )
        nursery.start_soon(live, one.conn, one.transport, Alarm(place.server._node.spawn))
        await wait_all_tasks_blocked()
        yield one


def note(data: str) -> str:
    """A message to the program."""
    return f'{{"action": "note", "data": "{data}"}}'


async def test_the_writer_meets_the_peers_close_first(autojump_clock: MockClock) -> None:
    """Messages that stood before the peer's close are handled, also if they reach the reader after the writer knows."""
    async with life() as one:
        one.transport.writing = PEER
        one.conn.send_nowait("x")
        await wait_all_tasks_blocked()
        assert one.conn.closed == PEER
        one.transport.bring(note("a"), note("b"), PEER)
        await one.conn.wait_closed()
    assert one.got == ["a", "b"]
    assert one.ended == [(0, PEER)]


async def test_the_writer_meets_the_networks_end_first(autojump_clock: MockClock) -> None:
    """A connection that the writer finds broken is over at once, whatever the reader waits for."""
    async with life() as one:
        one.transport.bring(note("for ever"))
        await wait_all_tasks_blocked()
        one.transport.writing = LOST
        one.conn.send_nowait("x")
        await wait_all_tasks_blocked()
        assert one.ended == [(0, LOST)]
    assert set(one.transport.log) == {"abort"}


@pytest.mark.parametrize("close_timeout", [5, 2])
async def test_the_peers_close_gives_handlers_time(autojump_clock: MockClock, close_timeout: float) -> None:
    """What a client has sent before its close is handled for the close timeout; then its close is answered."""
    async with life(Config(close_timeout=close_timeout)) as one:
        one.transport.bring(note("a"), note("for ever"), note("never"), PEER)
        await one.conn.wait_closed()
    assert one.got == ["a", "for ever"]
    assert one.ended == [(close_timeout, PEER)]
    assert one.transport.log[0] == "close 1000"


async def test_the_peers_close_discards_what_waits(autojump_clock: MockClock) -> None:
    """Invariant 6: what was queued for a peer that has closed is discarded and counted at once."""
    async with life() as one:
        one.transport.bring(note("for ever"))
        one.conn.send_nowait("in the socket")
        await wait_all_tasks_blocked()
        one.conn.send_nowait("waits")
        one.transport.bring(PEER)
        await wait_all_tasks_blocked()
        stats = one.conn.statistics()
        assert (stats.messages, stats.discarded) == (0, 1)
        await one.conn.wait_closed()
        assert one.conn.statistics().discarded == 2


async def test_lost_while_it_closes(autojump_clock: MockClock) -> None:
    """A connection that breaks while it is being closed, with a write under way, is not waited for."""
    async with life() as one:
        one.conn.send_nowait("x")
        await wait_all_tasks_blocked()
        one.conn.close(4000)
        await wait_all_tasks_blocked()
        assert one.ended == []
        one.transport.bring(LOST)
        await one.conn.wait_closed()
    assert one.ended == [(0, Close(4000))]


async def test_messages_behind_the_programs_close(autojump_clock: MockClock) -> None:
    """What comes after the program has closed is neither handled nor counted."""
    async with life() as one:
        one.conn.send_nowait("x")
        await wait_all_tasks_blocked()
        one.conn.close(4000)
        one.transport.bring(note("late"))
        await wait_all_tasks_blocked()
        assert one.conn._node.counters.messages_received == 0
        one.transport.bring(LOST)
    assert one.got == []


async def test_dead_while_it_closes(autojump_clock: MockClock) -> None:
    """The verdict that a peer is dead changes nothing about a connection that is closing, and counts nobody twice."""
    config = Config(ping_interval=1, pong_timeout=1, close_timeout=30, write_timeout=60)
    async with life(config) as one:
        one.transport.last_heard = 0
        await trio.sleep(1)  # by then there was a ping, and no verdict yet
        one.conn.send_nowait("x")
        one.conn.close(4000)
        await one.conn.wait_closed()
        assert one.conn._node.counters.dead_peers == 0
    assert one.ended[0][1] == Close(4000)
