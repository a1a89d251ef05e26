"""Publishing over real sockets, where most writes are the flusher's: bursts, slow peers, ends, and the books."""

from __future__ import annotations

import math
import random
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from plain_sockets import CutSocket
from trio_rooms import Close, Config, Connection, Limits, Manager, Report, Server, serve_rooms
from trio_rooms._room_options import Overflow
from trio_rooms.testing import (
    Closed,
    Opcode,
    TestClient,
    close_payload,
    handshake_bytes,
    parse_server_frames,
)
from trio_rooms.testing._raw import split_response

pytestmark = pytest.mark.sockets

V1 = "trio-rooms.v1.json"
POLICIES: list[Overflow] = ["close", "drop_newest", "drop_oldest", "conflate"]


@attrs.define(eq=False)
class Guest:
    """A client and the server's end of it."""

    client: TestClient
    conn: Connection


@attrs.define(eq=False)
class House:
    """A manager that is served over TCP."""

    manager: Manager
    server: Server
    stack: AsyncExitStack
    closes: dict[str, Close]
    welcomes: int = 0

    async def enter(self, *rooms: str, v1: bool = False, receive_buffer: int | None = None) -> Guest:
        """A new client, a member of these rooms."""
        known = set(self.manager.connections)
        sock = trio.socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await sock.connect(("127.0.0.1", self.server.port))
        stream = trio.SocketStream(sock)
        client = await TestClient.connect(stream, host=f"127.0.0.1:{self.server.port}", subprotocol=V1 if v1 else None)
        self.stack.push_async_callback(client.aclose)
        if v1:
            assert (await client.receive_json())["action"] == "$welcome"
            self.welcomes += 1
        while len(known) == len(self.manager.connections):  # noqa: ASYNC110 - nobody tells
            await trio.lowlevel.checkpoint()
        (ident,) = set(self.manager.connections) - known
        guest = Guest(client, self.manager.connections[ident])
        for room in rooms:
            await guest.conn.join(room)
        await wait_all_tasks_blocked()
        return guest

    def check(self, **more: int) -> None:
        """Invariant 6: the server's books balance. ``more``: what some of the numbers must be, without ``$welcome``."""
        stats = self.server.statistics()
        stats = attrs.evolve(stats, enqueued=stats.enqueued - self.welcomes, written=stats.written - self.welcomes)
        waiting = sum(conn.statistics().messages for conn in self.manager.connections.values())
        counted = stats.written + stats.displaced + stats.discarded + waiting
        assert stats.enqueued - counted in range(len(self.manager.connections) * 1000)  # others are being written
        assert {name: getattr(stats, name) for name in more} == more


@asynccontextmanager
async def house(*, send_buffer: int | None = None, linger: float = 0, **config: Any) -> AsyncIterator[House]:
    """A house with a room for each policy; at the end nothing of it is left, and the books balance."""
    manager = Manager(config=Config(**{"ping_interval": 1000, **config}))
    closes: dict[str, Close] = {}
    for policy in POLICIES:
        manager.room(f"{policy}*", overflow=policy)
    manager.on_disconnect(lambda conn, close: closes.update({conn.id: close}))
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    if send_buffer is not None:
        listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    async with AsyncExitStack() as stack, serve_rooms(manager, listeners=[listener], transport="native") as server:
        yield House(manager, server, stack, closes)
        await stack.aclose()
    server.assert_quiescent()
    stats = server.statistics()
    assert stats.enqueued == stats.written + stats.displaced + stats.discarded
    flusher = server._node.flusher
    assert not flusher._ones
    assert not flusher.many
    assert not flusher._under_way


async def received(client: TestClient, count: int) -> list[Any]:
    return [await client.receive_json() for _ in range(count)]


async def rest_of(client: TestClient) -> tuple[list[Any], Closed]:
    """The messages up to the end, and the end. Fails if what came is not whole frames."""
    messages = []
    try:
        while True:
            messages.append(await client.receive_json())
    except Closed as end:
        return messages, end


def enqueued(count: int) -> Report:
    return Report(final=True, enqueued=count)


# Bursts


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_burst_hurts_no_healthy_member(policy: str) -> None:
    """S1: 1,000 publications without a checkpoint to members that read: nobody is closed, nothing is lost."""
    async with house() as found:
        guests = [await found.enter(policy, v1=v1) for v1 in (False, True, False, True)]
        data = [{"n": n, "filler": "x" * 50} for n in range(1000)]
        assert [found.manager.broadcast_to_room(policy, one) for one in data] == [enqueued(4)] * 1000
        found.check(enqueued=4000, dropped=0, displaced=0, discarded=0)
        for number, guest in enumerate(guests):
            messages = await received(guest.client, 1000)
            assert messages == ([{"room": policy, "data": one} for one in data] if number % 2 else data)
        found.check(written=4000)


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_burst_among_other_messages(policy: str) -> None:
    """S1, invariant 6: bursts to several rooms and private messages in between arrive in the order of sending."""
    async with house() as found:
        guests = [await found.enter(policy, f"{policy}-2") for _ in range(3)]
        expected: list[list[int]] = [[], [], []]
        rng = random.Random(1)
        for n in range(1500):
            choice = rng.random()
            if choice < 0.1:
                chosen = rng.randrange(3)
                guests[chosen].conn.send_nowait(n)
                expected[chosen].append(n)
                continue
            if choice < 0.2:
                found.manager.broadcast_to_all(n)
            elif choice < 0.3:
                found.manager.broadcast_to_rooms([f"{policy}-2", policy], n)
            else:
                found.manager.broadcast_to_room(policy if choice < 0.8 else f"{policy}-2", n)
            for one in expected:
                one.append(n)
        for guest, one in zip(guests, expected, strict=True):
            assert await received(guest.client, len(one)) == one
        found.check(dropped=0, displaced=0, discarded=0)


async def test_what_is_replaced_is_not_written() -> None:
    """S2: of a burst with keys only the last of each key leaves, but what was taken before stays taken."""
    async with house() as found:
        guests = [await found.enter("conflate") for _ in range(2)]
        reports = [found.manager.broadcast_to_room("conflate", n, key=str(n % 3)) for n in range(300)]
        assert sum(report.displaced for report in reports) == 2 * 297
        for guest in guests:
            assert await received(guest.client, 3) == [297, 298, 299]
        found.check(displaced=2 * 297, written=2 * 3)


# Slow peers


async def publish_until_full(found: House, room: str, guest: Guest, data: dict[str, Any], most: int) -> list[Report]:
    """Publish until a policy applies to the guest, with checkpoints, and some more."""
    reports: list[Report] = []
    extra = 0
    while extra < 20:
        assert len(reports) < most, "the kernel hides too much"
        reports.append(found.manager.broadcast_to_room(room, {"n": len(reports), **data}))
        extra += reports[-1] != enqueued(2)
        await trio.lowlevel.checkpoint()
        if guest.conn.closed is not None:
            break
    return reports


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_peer_that_does_not_read(policy: str) -> None:
    """S1, S5: the policy applies to what the socket refuses, which is soon; others get everything, and so it goes on.

    The kernel hides some 100 KiB for it, not megabytes.
    """
    async with house(limits=Limits(outbox_messages=64), write_buffer_size=16384) as found:
        slow = await found.enter(policy, receive_buffer=4096)
        healthy = await found.enter(policy)
        got: list[Any] = []

        async def read() -> None:
            while True:
                got.append(await healthy.client.receive_json())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            filler = {"filler": "x" * 1000}
            reports = await publish_until_full(found, policy, slow, filler, 600)
            while len(got) < len(reports):  # noqa: ASYNC110 - real sockets
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert [one["n"] for one in got] == list(range(len(reports)))
        hidden = slow.conn.statistics().written
        assert hidden < 400
        found.check()
        if policy == "close":
            assert [report.closed for report in reports] == [0] * (len(reports) - 1) + [1]
            messages, end = await rest_of(slow.client)
            assert (end.code, end.reason) == (4008, "slow consumer")
            # What a write had begun is completed ahead of the close frame.
            assert [one["n"] for one in messages] == list(range(len(messages)))
            assert hidden <= len(messages) < len(reports)
        else:
            refused = sum(report.dropped for report in reports) + sum(report.displaced for report in reports)
            assert refused == 20
            expected = len(reports) - refused
            numbers = [one["n"] for one in await received(slow.client, expected)]
            assert numbers == sorted(set(numbers))
            if policy == "drop_newest":
                assert numbers == list(range(expected))
            else:
                assert numbers[-1] == len(reports) - 1
            await wait_all_tasks_blocked()
            assert slow.conn.statistics().written == expected
            assert found.manager.broadcast_to_room(policy, "again") == enqueued(2)
            assert await slow.client.receive_json() == "again"


async def test_small_buffers() -> None:
    """Invariant 3: large messages through sockets that take a little at a time are whole, in order, for all readers."""
    async with house(send_buffer=2048) as found:
        guests = [await found.enter("close", v1=v1, receive_buffer=2048) for v1 in (False, True, False)]
        expected = [{"n": n, "filler": "y" * (n * 997 % 30_000)} for n in range(30)]
        got: dict[int, list[Any]] = {}

        async def read(number: int, client: TestClient) -> None:
            got[number] = await received(client, 30)

        async with trio.open_nursery() as nursery:
            for number, guest in enumerate(guests):
                nursery.start_soon(read, number, guest.client)
            for one in expected:
                await trio.lowlevel.checkpoint()
                assert found.manager.broadcast_to_room("close", one) == enqueued(3)
        assert got[0] == got[2] == expected
        assert got[1] == [{"room": "close", "data": one} for one in expected]
        await wait_all_tasks_blocked()
        found.check(written=3 * 30)


async def test_pings_to_a_peer_with_a_backlog() -> None:
    """Invariant 4: a ping is answered by a server that has more for the peer than its socket takes."""
    async with house(send_buffer=2048, write_buffer_size=1000) as found:
        guest = await found.enter("close", receive_buffer=2048)
        for n in range(50):
            found.manager.broadcast_to_room("close", {"n": n, "filler": "x" * 1000})
        await wait_all_tasks_blocked()
        await guest.client.ping(b"hello")
        assert await guest.client.receive_pong() == b"hello"
        before = len(guest.client.pending)
        numbers = [one["n"] for one in await received(guest.client, 50)]
        assert numbers == list(range(50))
        assert before <= 50


# What a report says, while members share what waits for them


async def test_reports_while_members_come_and_go() -> None:
    """Invariant 6: enqueued + dropped + closed = members less excluded, also within a burst that members share."""
    async with house() as found:
        a, b, c, d = [await found.enter("close", v1=v1) for v1 in (False, True, False, True)]
        publish = found.manager.broadcast_to_room
        assert publish("close", 0) == enqueued(4)
        assert publish("close", 1, exclude=[a.conn]) == enqueued(3)
        assert publish("close", 2) == enqueued(4)
        b.conn.leave("close")
        assert publish("close", 3) == enqueued(3)
        c.conn.send_nowait("c")
        assert publish("close", 4, exclude=[b.conn, c.conn.id, "unknown"]) == enqueued(2)
        d.conn.close(4500, "enough")
        assert publish("close", 5) == enqueued(2)
        assert found.manager.broadcast_to_all(6) == Report(final=True, enqueued=3, dropped=1)
        found.check(enqueued=4 + 3 + 4 + 3 + 1 + 2 + 2 + 3, dropped=1)
        assert await received(a.client, 6) == [0, 2, 3, 4, 5, 6]
        assert [one["data"] for one in await received(b.client, 4)] == [0, 1, 2, 6]
        assert await received(c.client, 7) == [0, 1, 2, 3, "c", 5, 6]
        messages, end = await rest_of(d.client)
        assert [one["data"] for one in messages] == [0, 1, 2, 3, 4]
        assert (end.code, end.reason) == (4500, "enough")


async def test_who_joins_within_a_burst() -> None:
    """A new member gets what is published from then on, whatever the others share with each other."""
    async with house() as found:
        a, b = [await found.enter("close") for _ in range(2)]
        new = await found.enter()
        joined = trio.Event()

        async def join() -> None:
            await new.conn.join("close")
            joined.set()

        published = 0
        first: int | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(join)
            while first is None or published < first + 10:
                report = found.manager.broadcast_to_room("close", published)
                if report.enqueued == 3 and first is None:
                    first = published
                published += 1
                if not joined.is_set():
                    await trio.lowlevel.checkpoint()
        assert await received(new.client, 10) == list(range(first, first + 10))
        for guest in (a, b):
            assert await received(guest.client, published) == list(range(published))


# Ends


@pytest.mark.parametrize("end", ["close", "shutdown", "shutdown at once", "leave the block", "kick"])
async def test_what_was_published_before_the_end(end: str) -> None:
    """What was published before a polite end, in the same step, leaves ahead of the close frame."""
    async with house() as found:
        guests = [await found.enter("close") for _ in range(3)]
        for n in range(300):
            found.manager.broadcast_to_room("close", n)
        if end == "close":
            for guest in guests:
                guest.conn.close(4000, "bye")
        elif end == "shutdown":
            found.manager.begin_shutdown()
        elif end == "shutdown at once":
            found.manager.begin_shutdown()
            await trio.lowlevel.checkpoint()
        elif end == "kick":
            room = found.manager.get_room("close")
            assert room is not None
            room.close()
            for guest in guests:
                guest.conn.close(4000, "bye")
        else:
            await trio.lowlevel.checkpoint()
            found.manager.begin_shutdown(returning=False)
        for guest in guests:
            messages, closed = await rest_of(guest.client)
            assert messages == list(range(300))
            code = {"close": 4000, "kick": 4000, "leave the block": 1001}.get(end, 1012)
            assert closed.code == code
        assert found.server.statistics().discarded == 0


async def test_cancelled_after_publishing() -> None:
    """D5: a server that is cancelled in the step of a publication leaves nothing, and no half frame."""
    ends: list[tuple[list[Any], Closed]] = []

    async def read(client: TestClient) -> None:
        async with client:
            ends.append(await rest_of(client))

    async with trio.open_nursery() as readers:
        with trio.CancelScope() as scope:
            async with house() as found:
                for _ in range(3):
                    guest = await found.enter("close")
                    readers.start_soon(read, guest.client)  # noqa: ASYNC111 - they outlive the server
                found.stack.pop_all()
                for n in range(300):
                    found.manager.broadcast_to_room("close", n)
                scope.cancel()
                await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        found.server.assert_quiescent()
    assert len(ends) == 3
    for messages, closed in ends:
        assert messages == list(range(len(messages)))
        assert closed.code == 1001


async def test_peers_that_vanish_within_a_burst() -> None:
    """Invariants 1 and 2: members that reset their connections in the middle end alone; the others get everything."""
    async with house() as found:
        guests = [await found.enter("close") for _ in range(6)]
        n = 0
        for gone in guests[:3]:
            for _ in range(50):
                found.manager.broadcast_to_room("close", n)
                n += 1
            raw = gone.client._stream
            assert isinstance(raw, trio.SocketStream)
            raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            await gone.client.aclose()
        for gone in guests[:3]:
            assert (await gone.conn.wait_closed()).by == "network"
        assert found.manager.broadcast_to_room("close", n) == enqueued(3)
        for guest in guests[3:]:
            assert await received(guest.client, n + 1) == list(range(n + 1))
        room = found.manager.get_room("close")
        assert room is not None
        assert room.members == tuple(guest.conn for guest in guests[3:])
        found.check()


@attrs.define(eq=False)
class Cut:
    """A connection whose socket is reset after so many bytes of frames, as its peer sees it."""

    size: float
    sock: CutSocket = attrs.field(factory=lambda: CutSocket(math.inf))
    seen: bytes = b""

    async def read(self) -> None:
        """Everything, up to the end."""
        try:
            while chunk := await self.sock.peer.receive_some():
                self.seen += chunk
        except trio.BrokenResourceError:
            pass


async def cut_after(size: float) -> tuple[bytes, Close]:
    """What a member sees that is cut off after ``size`` bytes of frames, and how it ended; another sees all."""
    manager = Manager(config=Config(ping_interval=1000))
    closes: list[tuple[str, Close]] = []
    manager.on_disconnect(lambda conn, close: closes.append((conn.id, close)))
    cut, whole = Cut(size), Cut(math.inf)
    async with serve_rooms(manager, listeners=[], transport="native") as server, trio.open_nursery() as nursery:
        for one in (cut, whole):
            nursery.start_soon(manager.handle_connection, one.sock.stream)
            await one.sock.peer.send_all(handshake_bytes())
            response = split_response(bytes(await one.sock.peer.receive_some()))
            assert response is not None
            assert response[2] == b""
            one.sock.left = one.size
            nursery.start_soon(one.read)
        await wait_all_tasks_blocked()
        conns = list(manager.connections.values())
        for conn in conns:
            await conn.join("r")
        for n in range(3):
            manager.broadcast_to_room("r", "first")
            manager.broadcast_to_room("r", n)
            if not closes:
                conns[0].send_nowait(n * 10)
            await wait_all_tasks_blocked()
        assert manager.broadcast_to_room("r", "last") == enqueued(2 - len(closes))
        conns[0].close(4000, "over")
        await wait_all_tasks_blocked()
        if not closes:
            await cut.sock.peer.send_eof()  # the peer's answer to the close frame, in short
        await conns[0].wait_closed()
        conns[1].close(4000)
        await whole.sock.peer.send_eof()
    server.assert_quiescent()
    messages = [one.payload for one in parse_server_frames(whole.seen)]
    assert messages == [b'"first"', b"0", b'"first"', b"1", b'"first"', b"2", b'"last"', close_payload(4000)]
    assert [ident for ident, _ in closes] == [conn.id for conn in conns]
    await cut.sock.peer.aclose()
    await whole.sock.peer.aclose()
    return cut.seen, closes[0][1]


async def test_cut_after_every_byte() -> None:
    """Invariant 3, P7: a connection that is lost after any byte has seen exactly those, and everything ends as it must.

    The frames of the flusher, a private message joined with a publication, the close frame: all are cut everywhere.
    """
    expected, close = await cut_after(math.inf)
    assert close == Close(4000, "over", "server")
    frames = parse_server_frames(expected)
    assert [one.opcode for one in frames] == [Opcode.TEXT] * 10 + [Opcode.CLOSE]
    close_begins = len(expected) - 2 - len(frames[-1].payload)
    for size in range(len(expected)):
        seen, close = await cut_after(size)
        assert seen == expected[:size]
        lost = Close(1006, "", "network")
        assert close == (lost if size < close_begins - len(b'\x81\x06"last"') else Close(4000, "over", "server"))
