"""What leaves and what comes in, from the program to the bytes: sends, slow peers, torn writes, the reading gate."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from hall import Gate, Guest, Hall, hall, of, record
from trio_rooms import (
    Close,
    Config,
    Connection,
    ConnectionGone,
    EncodingError,
    Identity,
    Limits,
    Manager,
    Message,
    MessageTooLarge,
    NotServing,
    OutboxFull,
    Report,
    serve_rooms,
)
from trio_rooms.testing import (
    FaultyStream,
    Opcode,
    ServerFrame,
    client_frame,
    close_payload,
    handshake_bytes,
    parse_server_frames,
)
from trio_rooms.testing._raw import split_response

V1 = "trio-rooms.v1.json"
PATIENT = Config(write_timeout=1000, ping_interval=10_000)


def limited(config: Config = PATIENT, **limits: Any) -> Config:
    """A patient configuration with other limits."""
    return attrs.evolve(config, limits=Limits(**limits))


@attrs.define(eq=False)
class Stalled(Guest):
    """A guest whose connection takes nothing until it is told to."""

    faults: FaultyStream


async def enter_stalled(place: Hall, *, after: int = 0, block: bool = True) -> Stalled:
    """A new guest who takes ``after`` bytes more; unless not to ``block``, a first message hangs in the socket."""
    streams: list[FaultyStream] = []

    def wrap(stream: trio.abc.Stream) -> trio.abc.Stream:
        streams.append(FaultyStream(stream))
        return streams[0]

    guest = await place.enter(wrap=wrap)
    streams[0].stall_sending(after)
    if block:
        guest.conn.send_nowait("in the socket")
        await wait_all_tasks_blocked()
    return Stalled(guest.client, guest.conn, streams[0])


async def messages(guest: Guest, count: int) -> list[Any]:
    """The next messages of a guest."""
    return [await guest.client.receive_json() for _ in range(count)]


# The ways to send

SENDS: dict[str, Callable[[Manager, Connection, object], object]] = {
    "send": lambda manager, conn, obj: conn.send(obj),
    "send_nowait": lambda manager, conn, obj: conn.send_nowait(obj),
    "write_json": lambda manager, conn, obj: conn.write_json(obj),
    "send_to_connection": lambda manager, conn, obj: manager.send_to_connection(conn, obj),
    "send_to_connection by id": lambda manager, conn, obj: manager.send_to_connection(conn.id, obj),
    "send_to_user": lambda manager, conn, obj: manager.send_to_user("ann", obj),
}


async def do(way: str, manager: Manager, conn: Connection, obj: object) -> None:
    """Send in one of the ways."""
    result: Any = SENDS[way](manager, conn, obj)
    if hasattr(result, "__await__"):
        await result


def anns() -> Manager:
    """A manager whose clients are all the same user."""
    manager = Manager(config=limited(outbox_messages=4, outbox_bytes=1000))

    @manager.authenticate
    async def authenticate(request: object) -> Identity:
        return Identity(user="ann")

    return manager


@pytest.mark.parametrize("way", SENDS)
async def test_each_way_arrives(autojump_clock: MockClock, way: str) -> None:
    """Plain clients get the object as it is, v1 clients as data."""
    manager = anns()
    async with hall(manager) as place:
        plain = await place.enter()
        await do(way, manager, plain.conn, {"n": 1})
        assert await messages(plain, 1) == [{"n": 1}]
        v1 = await place.enter(v1=True)
        await do(way, manager, v1.conn, {"n": 2})
        assert await messages(v1, 1) == [{"data": {"n": 2}}]
        assert place.server.statistics().written >= 3


async def test_with_an_action(autojump_clock: MockClock) -> None:
    """With an action both formats get the same."""
    manager = anns()
    async with hall(manager) as place:
        for v1 in (False, True):
            guest = await place.enter(v1=v1)
            await guest.conn.send(1, action="a")
            guest.conn.send_nowait(2, action="b")
            manager.send_to_connection(guest.conn, 3, action="c")
            assert await messages(guest, 3) == [{"action": a, "data": n} for a, n in (("a", 1), ("b", 2), ("c", 3))]
        manager.send_to_user("ann", 4, action="d")
        assert await messages(guest, 1) == [{"action": "d", "data": 4}]


@pytest.mark.parametrize("way", SENDS)
async def test_what_cannot_be_encoded(autojump_clock: MockClock, way: str) -> None:
    """An object that is no JSON is the caller's mistake, and nothing is sent."""
    manager = anns()
    async with hall(manager) as place:
        guest = await place.enter()
        with pytest.raises(EncodingError):
            await do(way, manager, guest.conn, object())
        assert guest.conn.statistics().enqueued == 0


@pytest.mark.parametrize("way", SENDS)
async def test_outbox_bytes(autojump_clock: MockClock, way: str) -> None:
    """L1: what is larger than an outbox could ever hold is refused at once; what just fits is sent."""
    manager = anns()
    async with hall(manager) as place:
        guest = await place.enter()
        largest = "x" * (1000 - 64 - 4 - 2)  # charge, header, quotes
        await do(way, manager, guest.conn, largest)
        assert await messages(guest, 1) == [largest]
        with pytest.raises(MessageTooLarge):
            await do(way, manager, guest.conn, largest + "x")
        assert guest.conn.statistics().enqueued == 1


@pytest.mark.parametrize("way", ["send_nowait", "send_to_connection", "send_to_connection by id"])
async def test_outbox_messages(autojump_clock: MockClock, way: str) -> None:
    """L1: with a full outbox the ways that do not wait raise OutboxFull, and nothing is sent."""
    manager = anns()
    async with hall(manager) as place:
        guest = await enter_stalled(place)
        for n in range(4):
            await do(way, manager, guest.conn, n)
        with pytest.raises(OutboxFull):
            await do(way, manager, guest.conn, "too much")
        guest.faults.resume_sending()
        assert await messages(guest, 5) == ["in the socket", 0, 1, 2, 3]
        await do(way, manager, guest.conn, "again")
        assert await messages(guest, 1) == ["again"]


@pytest.mark.parametrize("way", ["send", "write_json"])
async def test_sending_waits_for_room(autojump_clock: MockClock, way: str) -> None:
    """The ways that wait do so until there is room, first come, first served."""
    manager = anns()
    async with hall(manager) as place:
        guest = await enter_stalled(place)
        async with trio.open_nursery() as nursery:
            for n in range(7):
                nursery.start_soon(do, way, manager, guest.conn, n)
                await wait_all_tasks_blocked()
            assert guest.conn.statistics().messages == 4
            assert guest.conn.statistics().waiting == 3
            guest.faults.resume_sending()
            assert await messages(guest, 8) == ["in the socket", *range(7)]


async def test_cancelled_send(autojump_clock: MockClock) -> None:
    """A send that is cancelled while it waits has sent nothing."""
    manager = anns()
    async with hall(manager) as place:
        guest = await enter_stalled(place)
        for n in range(4):
            guest.conn.send_nowait(n)
        with trio.move_on_after(5) as scope:
            await guest.conn.send("never")
        assert scope.cancelled_caught
        guest.faults.resume_sending()
        assert await messages(guest, 5) == ["in the socket", 0, 1, 2, 3]
        guest.conn.send_nowait("next")
        assert await messages(guest, 1) == ["next"]


async def test_a_user_is_sent_to_in_order(autojump_clock: MockClock) -> None:
    """The oldest connection first: nothing hangs on where objects lie in memory."""
    async with hall(anns()) as place:
        guests = [await place.enter() for _ in range(12)]
        assert [*guests[0].conn._node.users["ann"].values()] == [guest.conn for guest in guests]


async def test_send_to_a_user(autojump_clock: MockClock) -> None:
    """Every connection of the user gets it; the report counts those without room and those that are ending."""
    manager = anns()
    async with hall(manager) as place:
        healthy = [await place.enter(), await place.enter(v1=True)]
        slow = await enter_stalled(place)
        for n in range(4):
            slow.conn.send_nowait(n)
        ending = await enter_stalled(place)
        ending.conn.close()
        assert manager.send_to_user("ann", "hello") == Report(final=True, enqueued=2, dropped=2)
        assert await messages(healthy[0], 1) == ["hello"]
        assert await messages(healthy[1], 1) == [{"data": "hello"}]
        assert manager.send_to_user("bob", "hello") == Report(final=True)
        slow.faults.resume_sending()
        ending.faults.resume_sending()


@pytest.mark.parametrize("way", [way for way in SENDS if way != "send_to_user"])
async def test_to_a_connection_that_is_gone(autojump_clock: MockClock, way: str) -> None:
    """To a connection that is ending or has ended nothing is sent, and the caller is told."""
    manager = anns()
    async with hall(manager) as place:
        guest = await place.enter()
        guest.conn.close()
        with pytest.raises(ConnectionGone):
            await do(way, manager, guest.conn, 1)
        await guest.client.expect_close(1000)
        await guest.client.aclose()
        await guest.conn.wait_closed()
        with pytest.raises(ConnectionGone):
            await do(way, manager, guest.conn, 1)


async def test_to_an_id_that_never_was(autojump_clock: MockClock) -> None:
    """An unknown id is a connection that is gone."""
    manager = anns()
    async with hall(manager):
        with pytest.raises(ConnectionGone):
            manager.send_to_connection("nobody", 1)


def test_without_a_server() -> None:
    """By id and to users can only be sent while serving."""
    with pytest.raises(NotServing):
        Manager().send_to_connection("x", 1)
    with pytest.raises(NotServing):
        Manager().send_to_user("ann", 1)


async def test_everything_in_one_order(autojump_clock: MockClock) -> None:
    """What is sent, published and answered leaves in the order in which it was queued."""
    manager = Manager(config=limited())

    @manager.on("ask")
    async def ask(conn: Connection) -> str:
        conn.send_nowait("sent")
        manager.broadcast_to_room("r", "published")
        await conn.send("sent again")
        return "answered"

    async with hall(manager) as place:
        guest = await place.enter()
        await guest.conn.join("r")
        await guest.client.send_action("ask", id=1)
        assert await messages(guest, 4) == ["sent", "published", "sent again", {"id": 1, "data": "answered"}]


# Slow consumers


@pytest.mark.parametrize(
    ("overflow", "report", "left"),
    [
        ("close", Report(final=True, enqueued=8, closed=1), None),
        ("drop_newest", Report(final=True, enqueued=4, dropped=96), range(4)),
        ("drop_oldest", Report(final=True, enqueued=100, displaced=96), range(96, 100)),
        ("conflate", Report(final=True, enqueued=100, displaced=98), range(98, 100)),
    ],
)
async def test_a_stalled_member(autojump_clock: MockClock, overflow: Any, report: Report, left: range | None) -> None:
    """S1: of a hundred publications a stalled member gets what its policy says, counted exactly, and every reply."""
    manager = Manager(config=limited(outbox_messages=8))
    manager.room("*", overflow=overflow)
    manager.handle_message("ask", lambda conn: "answer")
    log = record(manager)
    async with hall(manager) as place:
        guest, ok = await enter_stalled(place), await place.enter()
        for conn in (guest.conn, ok.conn):
            await conn.join("r")
        if left is not None:
            await guest.client.send_action("ask", id="before")
            await wait_all_tasks_blocked()
        total = Report(final=True)
        for n in range(100):
            total += manager.broadcast_to_room("r", n, key=str(n % 2), exclude=[ok.conn])
        assert total == report
        stats = guest.conn.statistics()
        assert stats.enqueued == report.enqueued + (1 if left is None else 2)
        assert stats.displaced == report.displaced
        assert stats.dropped == report.dropped + report.closed
        if left is None:
            assert of(log, "leave", guest.conn) == []  # a hook, which runs later
            await wait_all_tasks_blocked()
            assert of(log, "leave", guest.conn) == [("r", "disconnected")]
            await guest.conn.wait_closed()
            assert of(log, "disconnect", guest.conn) == [(4008,)]
        else:
            await guest.client.send_action("ask", id="after")
            await wait_all_tasks_blocked()
            guest.faults.resume_sending()
            expected = ["in the socket", {"id": "before", "data": "answer"}, *left, {"id": "after", "data": "answer"}]
            assert await messages(guest, len(expected)) == expected
        manager.broadcast_to_room("r", "to all", exclude=[guest.conn])
        assert await messages(ok, 1) == ["to all"]
    stats = place.server.statistics()
    assert stats.enqueued == stats.written + stats.displaced + stats.discarded


async def test_conflated_updates(autojump_clock: MockClock) -> None:
    """S2: of a thousand updates of ten keys a stalled member gets the last of each, in their order."""
    manager = Manager(config=limited(outbox_messages=40))
    manager.room("*", overflow="conflate")
    async with hall(manager) as place:
        guest = await enter_stalled(place)
        await guest.conn.join("r")
        last: dict[int, int] = {}
        for n in range(1000):
            key = n * n % 10 if n % 3 else n % 10
            last[key] = n
            manager.broadcast_to_room("r", n, key=str(key))
        guest.faults.resume_sending()
        assert await messages(guest, 1 + len(last)) == ["in the socket", *sorted(last.values())]


@pytest.mark.parametrize("waits", [True, False])
async def test_updates_by_the_room(waits: bool, autojump_clock: MockClock) -> None:
    """A room publishes with a key, too, waiting or not: the newer of two replaces the older."""
    manager = Manager(config=limited(outbox_messages=40))
    manager.room("*", overflow="conflate")
    async with hall(manager) as place:
        guest = await enter_stalled(place)
        room = (await guest.conn.join("r")).room
        for n in range(2):
            for key in "abc":
                event = f"{key}{n}"
                await room.publish(event, key=key) if waits else room.publish_nowait(event, key=key)
        guest.faults.resume_sending()
        assert await messages(guest, 4) == ["in the socket", "a1", "b1", "c1"]


async def test_one_of_a_thousand_reads_nothing(autojump_clock: MockClock) -> None:
    """I3: a member that reads nothing shows in the report, once; the others get everything."""
    manager = Manager(config=limited(outbox_messages=4))
    async with hall(manager) as place:
        await enter_stalled(place)
        others = [await place.memory.connect() for _ in range(999)]
        for conn in manager.connections.values():
            await conn.join("r")
        reports = []
        for n in range(8):
            reports.append(manager.broadcast_to_room("r", n))
            await wait_all_tasks_blocked()
        fine, after = Report(final=True, enqueued=1000), Report(final=True, enqueued=999)
        assert reports == [fine] * 4 + [Report(final=True, enqueued=999, closed=1)] + [after] * 3
        for client in others:
            assert [json.loads(await client.receive()) for _ in range(8)] == list(range(8))
            await client.aclose()


async def test_a_burst_hurts_nobody_who_reads(autojump_clock: MockClock) -> None:
    """A member that reads takes any number of publications, as long as they come no faster than it can be woken."""
    manager = Manager(config=limited(outbox_messages=4))
    async with hall(manager) as place:
        guest = await place.enter()
        await guest.conn.join("r")
        for n in range(100):
            assert manager.broadcast_to_room("r", n).enqueued == 1
            await wait_all_tasks_blocked()
        assert await messages(guest, 100) == list(range(100))


@pytest.mark.parametrize("write_timeout", [10, 3])
async def test_never_reads(autojump_clock: MockClock, write_timeout: float) -> None:
    """S5: who never reads is aborted when a write has taken the write timeout, has left all rooms once, alone."""
    manager = Manager(config=Config(write_timeout=write_timeout))
    closes: list[tuple[float, Close]] = []
    log = record(manager)
    manager.on_disconnect(lambda conn, close: closes.append((trio.current_time(), close)))
    manager.handle_message("ask", lambda conn: "answer")
    async with hall(manager) as place:
        guest, ok = await enter_stalled(place, block=False), await place.enter()
        for room in "ab":
            await guest.conn.join(room)
            await ok.conn.join(room)
        await trio.sleep(0.5)
        manager.broadcast_to_room("a", "x")
        waiting = trio.current_time()
        await guest.conn.wait_closed()
        assert closes == [(waiting + write_timeout, Close(1006, "a write timed out", "network"))]
        assert sorted(of(log, "leave", guest.conn)) == [("a", "disconnected"), ("b", "disconnected")]
        assert (await guest.client.expect_close()).code == 1006
        assert manager.get_room("a").members == (ok.conn,)  # type: ignore[union-attr]
        assert await messages(ok, 1) == ["x"]
        assert await ok.client.request("ask") == "answer"
        assert place.server.statistics().closes == {"network:1006": 1}


async def test_who_waits_for_a_peer_that_never_reads(autojump_clock: MockClock) -> None:
    """S5: a send that waits ends with ConnectionGone when the write timeout has passed."""
    manager = Manager(config=Config(write_timeout=10, limits=Limits(outbox_messages=1)))
    async with hall(manager) as place:
        guest = await enter_stalled(place)
        guest.conn.send_nowait("fills")
        with pytest.raises(ConnectionGone):
            await guest.conn.send("waits")
        assert trio.current_time() == 10


async def test_a_slow_peer_is_no_dead_peer(autojump_clock: MockClock) -> None:
    """The write timeout is for one write: a peer that takes each in time may be slow for ever."""
    manager = Manager(config=attrs.evolve(PATIENT, write_timeout=10, write_buffer_size=1))
    async with hall(manager) as place:
        guest = await enter_stalled(place)
        for n in range(10):
            guest.conn.send_nowait(n)
        for n in ["in the socket", *range(10)]:
            await trio.sleep(9)
            guest.faults.stall_sending(2 + len(json.dumps(n)))
            assert await messages(guest, 1) == [n]
        assert guest.conn.closed is None
        guest.faults.resume_sending()


# The native transport reads on, since a flood of pings is owed a few pongs at most; tests/test_native.py counts them.
@pytest.mark.parametrize(("transport", "read"), [("native", 10_000 * 50), ("trio-websocket", 200)])
async def test_a_flood_of_pings_from_a_peer_that_reads_nothing(
    autojump_clock: MockClock, transport: str, read: int
) -> None:
    """A peer that only pings and does not read is dead within the keepalive's time, whether we read on or not."""
    manager = Manager(config=Config(read_buffer_size=100))
    async with hall(manager, transport=transport) as place:
        guest = await enter_stalled(place, block=False)
        before = guest.faults.bytes_received
        await guest.client.send_raw(client_frame(Opcode.PING, b"x" * 44) * 10_000)
        close = await guest.conn.wait_closed()
        assert close.by == "network"
        assert trio.current_time() <= 40
        assert guest.faults.bytes_received - before <= read


@pytest.mark.parametrize(("size", "taken"), [(1, 1), (100, 10), (64 * 1024, 20)])
async def test_write_buffer_size(autojump_clock: MockClock, size: int, taken: int) -> None:
    """L1: the writer takes batches of at most so many bytes out of the outbox; the rest waits there."""
    manager = Manager(config=attrs.evolve(PATIENT, write_buffer_size=size))
    async with hall(manager) as place:
        guest = await enter_stalled(place, block=False)
        for _ in range(20):
            guest.conn.send_nowait("x" * 6)  # frames of ten bytes
        await wait_all_tasks_blocked()
        assert guest.conn.statistics().messages == 20 - taken
        guest.faults.resume_sending()
        assert len(await messages(guest, 20)) == 20
        assert guest.conn.statistics().written == 20


# Torn writes and ends in the middle of one


@pytest.mark.parametrize("k", range(2 + len('"in the socket"')))
async def test_a_torn_write(autojump_clock: MockClock, k: int) -> None:
    """P7: whatever k bytes of a frame had left when its write timed out, nothing follows them."""
    manager = Manager(config=Config(write_timeout=10))
    async with hall(manager) as place:
        guest = await enter_stalled(place, after=k)
        guest.conn.send_nowait("never")
        close = await guest.conn.wait_closed()
        assert (close.code, close.by) == (1006, "network")
        data = b""
        while chunk := await guest.client.receive_raw():
            data += chunk
        assert data == b'\x81\x0f"in the socket"'[:k]
        stats = guest.conn.statistics()
        assert (stats.enqueued, stats.written, stats.discarded) == (2, 0, 2)


ENDS: dict[str, Callable[[Hall, Guest], object]] = {
    "close": lambda place, guest: guest.conn.close(4000, "bye"),
    "overflow": lambda place, guest: [place.manager.broadcast_to_room("r", n) for n in range(20)],
    "kicked out by a drain": lambda place, guest: place.server.begin_shutdown(),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("k", [0, 1, 2, 9])
async def test_ended_in_the_middle_of_a_write(autojump_clock: MockClock, k: int, end: str) -> None:
    """P7: an end that finds a write half done sends no close frame into it."""
    manager = Manager(config=limited(outbox_messages=8))
    async with hall(manager) as place:
        guest = await enter_stalled(place, after=k)
        await guest.conn.join("r")
        ENDS[end](place, guest)
        await guest.conn.wait_closed()
        data = b""
        while chunk := await guest.client.receive_raw():
            data += chunk
        assert data == b'\x81\x0f"in the socket"'[:k]


async def test_a_polite_close_writes_everything_first(autojump_clock: MockClock) -> None:
    """What was queued before the program closed leaves before the close frame, and nothing behind it."""
    manager = Manager(config=PATIENT)
    async with hall(manager) as place:
        guest = await place.enter()
        for n in range(50):
            guest.conn.send_nowait(n)
        guest.conn.close(4500, "enough")
        assert await messages(guest, 50) == list(range(50))
        closed = await guest.client.expect_close(4500)
        assert closed.reason == "enough"
        await guest.client.expect_eof()


async def test_messages_behind_the_programs_close(autojump_clock: MockClock) -> None:
    """What comes while a closed connection is still being written to is dropped: its handlers are over."""
    manager = Manager(config=PATIENT)
    got: list[object] = []

    @manager.on("note")
    def note(conn: Connection) -> None:
        got.append(conn)

    async with hall(manager) as place:
        guest = await enter_stalled(place)
        guest.conn.close(4000)
        await wait_all_tasks_blocked()
        await guest.client.send_action("note")
        await wait_all_tasks_blocked()
        guest.faults.resume_sending()
        assert await messages(guest, 1) == ["in the socket"]
        await guest.client.expect_close(4000)
    assert got == []


@pytest.mark.parametrize("close_timeout", [5, 2])
async def test_close_timeout(autojump_clock: MockClock, close_timeout: float) -> None:
    """L1: a peer that does not answer the close frame, or takes nothing, holds the end up so long, no longer."""
    manager = Manager(config=attrs.evolve(PATIENT, close_timeout=close_timeout))
    async with hall(manager) as place:
        silent = await place.enter()
        silent.conn.close()
        await silent.conn.wait_closed()
        assert trio.current_time() == close_timeout
        stalled = await enter_stalled(place)
        stalled.conn.close()
        await stalled.conn.wait_closed()
        assert trio.current_time() == 2 * close_timeout


async def test_a_reason_that_is_no_text(autojump_clock: MockClock) -> None:
    """A reason that cannot be encoded does not keep a connection from its proper end."""
    manager = Manager()
    log = record(manager)
    async with hall(manager) as place:
        guest = await place.enter()
        guest.conn.close(4000, "a\ud800b")
        assert (await guest.client.expect_close(4000)).reason == "a?b"
        await guest.client.aclose()
        await guest.conn.wait_closed()
    assert of(log, "disconnect") == [(4000,)]
    assert of(log, "error") == []


async def test_a_ping_that_crosses_our_close_frame(autojump_clock: MockClock) -> None:
    """Invariant 3: a client whose ping crosses our close frame is not waited for, nor sent anything more."""
    manager = Manager()
    log = record(manager)
    async with hall(manager) as place:
        guest = await place.enter()
        guest.conn.close(4000, "")
        await wait_all_tasks_blocked()
        await guest.client.ping(b"a")
        await guest.client.expect_close(4000)
        await guest.client.expect_eof()
        await guest.client.aclose()
        await guest.conn.wait_closed()
        assert trio.current_time() <= 1
    assert of(log, "error") == []


@pytest.mark.parametrize("seed", range(20))
async def test_what_stood_before_the_peers_close(autojump_clock: MockClock, seed: int) -> None:
    """What a client sent before its close frame is handled to the last message, and the close is the client's."""
    manager = Manager()
    got: list[Any] = []
    closes: list[Close] = []
    manager.on_disconnect(lambda conn, close: closes.append(close))

    @manager.on("note")
    async def note(conn: Connection, message: Message) -> None:
        got.append(message.id)

    async with hall(manager) as place:
        guest = await place.enter()
        notes = [client_frame(Opcode.TEXT, b'{"action": "note", "id": %d}' % n) for n in range(5)]
        await guest.client.send_raw(b"".join(notes) + client_frame(Opcode.CLOSE, close_payload(4444, "done")))
        await guest.conn.wait_closed()
        assert trio.current_time() <= 1
    assert got == list(range(5))
    assert closes == [Close(4444, "done", "peer")]


async def test_the_peers_close_in_the_middle_of_a_write(autojump_clock: MockClock) -> None:
    """P5: a close of the peer's that finds the writer busy is answered behind the frame, and counted as the peer's."""
    manager = Manager(config=attrs.evolve(PATIENT, write_buffer_size=1000))
    async with hall(manager) as place:
        guest = await enter_stalled(place, after=3, block=False)
        for n in range(5):
            guest.conn.send_nowait(n)
        await wait_all_tasks_blocked()
        await guest.client.send_raw(client_frame(Opcode.PING, b"p") + client_frame(Opcode.CLOSE, close_payload(4444)))
        await wait_all_tasks_blocked()
        guest.faults.resume_sending()
        assert (await guest.conn.wait_closed()).by == "peer"
        data = b""
        while chunk := await guest.client.receive_raw():
            data += chunk
        frames = parse_server_frames(data)
        assert frames[-1] == ServerFrame(Opcode.CLOSE, close_payload(4444))
        assert ServerFrame(Opcode.PONG, b"p") in frames
        stats = guest.conn.statistics()
        assert stats.written == sum(frame.opcode == Opcode.TEXT for frame in frames)
        assert stats.written + stats.discarded == stats.enqueued == 5
        assert place.server.statistics().closes == {"peer:4000": 1}


# The way in


@pytest.mark.parametrize("cut", range(len(handshake_bytes()) + 2, len(handshake_bytes()) + 40))
async def test_request_and_first_frame_in_one_segment(autojump_clock: MockClock, cut: int) -> None:
    """H7: a frame that comes with the request is handled once, cut at every byte."""
    await request_and_frame(cut)


@pytest.mark.parametrize("cut", range(0, len(handshake_bytes()) + 2, 7))
async def test_request_in_two_segments(autojump_clock: MockClock, cut: int) -> None:
    """H7: nor does it matter where the request is cut."""
    await request_and_frame(cut)


async def request_and_frame(cut: int) -> None:
    """Send a request and a frame in two segments, and expect one reply."""
    manager = Manager()
    manager.handle_message("ask", lambda conn: "answer")
    async with hall(manager) as place:
        stream = place.memory.open_stream()
        whole = handshake_bytes() + client_frame(Opcode.TEXT, b'{"action": "ask", "id": 1}')
        await stream.send_all(whole[:cut])
        await wait_all_tasks_blocked()
        if whole[cut:]:
            await stream.send_all(whole[cut:])
        await wait_all_tasks_blocked()
        response = split_response(bytes(await stream.receive_some()))
        assert response is not None
        assert response[0] == 101
        frames = parse_server_frames(response[2])
        assert [json.loads(frame.payload) for frame in frames] == [{"id": 1, "data": "answer"}]
        assert place.server.statistics().messages_received == 1
        await stream.aclose()


@pytest.mark.parametrize(
    ("what", "code"),
    [
        (client_frame(Opcode.TEXT, b"x", mask=None), 1002),
        (client_frame(Opcode.TEXT, b"x", rsv=4), 1002),
        (client_frame(3), 1002),
        (client_frame(Opcode.PING, b"x" * 126), 1002),
        (client_frame(Opcode.CONTINUATION, b"x"), 1002),
        (client_frame(Opcode.TEXT, b"", length=2**63, length_bits=64), 1002),
        (client_frame(Opcode.CLOSE, close_payload(1006)), 1002),
        (client_frame(Opcode.TEXT, b"\xff"), 1007),
        (client_frame(Opcode.TEXT, b'"fine', fin=False) + client_frame(Opcode.CONTINUATION, b"\xc3\x28"), 1007),
        (client_frame(Opcode.TEXT, b"x" * 101), 1009),
        (client_frame(Opcode.TEXT, "ü".encode() * 51), 1009),
        (client_frame(Opcode.BINARY, b"x" * 101), 1009),
        (client_frame(Opcode.TEXT, b"x" * 60, fin=False) + client_frame(Opcode.CONTINUATION, b"x" * 60), 1009),
    ],
)
@pytest.mark.parametrize("behind", [b"", client_frame(Opcode.PING, b"p"), client_frame(Opcode.TEXT, b"{}") * 3])
async def test_violations_are_told(autojump_clock: MockClock, what: bytes, code: int, behind: bytes) -> None:
    """P3: a violation ends with its code on the wire, then the end of the stream; it is ours in hooks and counts."""
    manager = Manager(config=limited(max_message_bytes=100))
    log = record(manager)
    closes: list[Close] = []
    manager.on_disconnect(lambda conn, close: closes.append(close))
    async with hall(manager) as place:
        guest, ok = await place.enter(), await place.enter()
        await guest.client.send_raw(what + behind)
        await guest.client.expect_close(code)
        await guest.client.expect_eof()
        await guest.client.aclose()
        await guest.conn.wait_closed()
        assert trio.current_time() <= 1
        assert [(close.code, close.by) for close in closes] == [(code, "server")]
        assert place.server.statistics().closes == {f"server:{code}": 1}
        ok.conn.send_nowait("fine")
        assert await messages(ok, 1) == ["fine"]
    assert of(log, "error") == []


@pytest.mark.parametrize("text", ["x" * 98, "ü" * 49])
async def test_max_message_bytes(autojump_clock: MockClock, text: str) -> None:
    """L1: a message of just as many bytes as the limit is taken."""
    manager = Manager(config=limited(max_message_bytes=100))
    async with hall(manager) as place:
        guest = await place.enter()
        await guest.client.send_json(text)
        assert (await guest.client.receive_json())["error"]["code"] == "BAD_MESSAGE"


@pytest.mark.parametrize("inbox", [1, 4, 16])
@pytest.mark.parametrize("per_read", [1, 5])
async def test_the_reading_gate(autojump_clock: MockClock, inbox: int, per_read: int) -> None:
    """L1: with a handler that blocks no more is read than the inbox and one read hold; then TCP slows the client."""
    frame = client_frame(Opcode.TEXT, b'{"action": "block", "id": 10000}', mask="random")
    manager = Manager(config=attrs.evolve(limited(inbox_messages=inbox), read_buffer_size=per_read * len(frame)))
    gate = Gate()
    handled = 0

    @manager.on("block")
    async def block(conn: Connection) -> None:
        nonlocal handled
        await gate()
        handled += 1

    async with hall(manager) as place:
        guest = await enter_stalled(place, block=False)
        guest.faults.resume_sending()
        before = guest.faults.bytes_received
        frames = [client_frame(Opcode.TEXT, b'{"action": "block", "id": %d}' % (10_000 + n)) for n in range(300)]
        await guest.client.send_raw(b"".join(frames))
        await wait_all_tasks_blocked()
        read = (guest.faults.bytes_received - before) / len(frame)
        # One is in the handler's hands, and trio-websocket hands on one at a time.
        assert inbox + 1 <= read <= 1 + inbox + per_read + 1
        assert place.server.statistics().messages_received == read
        gate.open.set()
        answers = await messages(guest, 300)
        assert [answer["id"] for answer in answers] == [10_000 + n for n in range(300)]
        assert handled == 300


@pytest.mark.parametrize("size", [1, 10, 64 * 1024])
async def test_read_buffer_size_is_no_limit_of_a_message(autojump_clock: MockClock, size: int) -> None:
    """L1: a message may be larger than what is read at once, and several may come in one read."""
    manager = Manager(config=Config(read_buffer_size=size))
    manager.handle_message("len", lambda conn, message: len(message.data))
    async with hall(manager) as place:
        guest = await place.enter()
        assert await guest.client.request("len", "x" * 5000) == 5000
        await guest.client.send_raw(client_frame(Opcode.TEXT, b'{"action": "len", "data": "x", "id": 1}') * 2)
        assert [answer["id"] for answer in await messages(guest, 2)] == [1, 1]


async def test_control_frames_while_a_handler_is_busy(autojump_clock: MockClock) -> None:
    """P6 and Invariant 4: with a busy handler and a full inbox what was read is answered: pings, then the close."""
    manager = Manager(config=attrs.evolve(limited(inbox_messages=2), close_timeout=5))
    gate = Gate()

    @manager.on("block")
    async def block(conn: Connection) -> None:
        await gate()

    async with hall(manager) as place:
        guest = await place.enter()
        block_it = client_frame(Opcode.TEXT, b'{"action": "block"}')
        await guest.client.send_raw(block_it)
        await gate.reached.wait()
        pings = [client_frame(Opcode.PING, b"%d" % n) for n in range(5)]
        bye = client_frame(Opcode.CLOSE, close_payload(1000))
        await guest.client.send_raw(b"".join([block_it * 5, *pings, block_it, bye]))
        assert [await guest.client.receive_pong() for _ in pings] == [b"%d" % n for n in range(5)]
        await guest.client.expect_close(1000)
        assert trio.current_time() <= 1
        await guest.client.aclose()
        close = await guest.conn.wait_closed()
        assert (close.code, close.by) == (1000, "peer")
        assert trio.current_time() == 5  # the handler that is still busy had so long


async def test_a_ping_gets_through_a_busy_inbox(autojump_clock: MockClock) -> None:
    """P6: where the gate is closed a ping waits in the socket, and is answered when there is room again."""
    manager = Manager(config=limited(inbox_messages=1))
    gate = Gate()

    @manager.on("block")
    async def block(conn: Connection) -> None:
        await gate()

    async with hall(manager) as place:
        guest = await place.enter()
        for _ in range(4):
            await guest.client.send_action("block")
            await wait_all_tasks_blocked()
        await guest.client.ping(b"late")
        with trio.move_on_after(30) as scope:
            await guest.client.receive_pong()
        assert scope.cancelled_caught
        gate.open.set()
        assert await guest.client.receive_pong() == b"late"


# Over real sockets, where unread bytes make a reset and buffers are the kernel's


@pytest.mark.sockets
async def test_too_big_over_a_socket() -> None:
    """P3: a client that is still sending its oversized message gets the 1009, not a reset that destroys it."""
    manager = Manager(config=limited(max_message_bytes=1000))
    async with serve_rooms(manager) as server, await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
        host = f"127.0.0.1:{server.port}"
        await stream.send_all(handshake_bytes(host=host) + client_frame(Opcode.TEXT, b"x" * 40_000))
        data = b""
        while chunk := await stream.receive_some():
            data += chunk
    response = split_response(data)
    assert response is not None
    (frame,) = parse_server_frames(response[2])
    assert (frame.opcode, frame.payload[:2]) == (Opcode.CLOSE, close_payload(1009))
    server.assert_quiescent()


@pytest.mark.sockets
async def test_never_reads_over_a_socket() -> None:
    """S5: over a socket, too, who never reads is aborted when its buffers are full and a write has timed out."""
    manager = Manager(config=Config(write_timeout=0.05))
    connected, conns = trio.open_memory_channel[Connection](1)
    manager.on_connect(connected.send_nowait)
    async with serve_rooms(manager) as server, await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
        await stream.send_all(handshake_bytes(host=f"127.0.0.1:{server.port}"))
        await stream.receive_some()
        conn = await conns.receive()
        await conn.join("r")
        with pytest.raises(ConnectionGone):  # noqa: PT012 - sent to until it is gone
            while True:
                await conn.send("x" * 100_000)
        assert manager.get_room("r") is None
        close = await conn.wait_closed()
        assert (close.code, close.by) == (1006, "network")
    server.assert_quiescent()
