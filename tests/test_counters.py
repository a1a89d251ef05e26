"""What is counted, and that the labels of the counts are few whatever peers send."""

from __future__ import annotations

import attrs
import pytest
import trio
from trio.testing import MockClock

from trio_rooms import ActionError, Close, Config, Connection, Identity, Limits, Manager, Statistics
from trio_rooms._counters import Counters, frozen
from trio_rooms._formats import PLAIN
from trio_rooms._rooms.publication import Publication
from trio_rooms._wire.sink import Sink
from trio_rooms.testing import FaultyStream, HandshakeRefused, TestClient, serve_in_memory


@pytest.mark.parametrize(
    ("close", "label"),
    [
        (Close(1000, "", "peer"), "peer:1000"),
        (Close(3999, "", "peer"), "peer:3000"),
        (Close(4001, "", "peer"), "peer:4000"),
        (Close(4999, "", "peer"), "peer:4000"),
        (Close(4008, "slow consumer"), "server:4008"),
        (Close(1006, "", "network"), "network:1006"),
    ],
)
def test_labels_of_closes(close: Close, label: str) -> None:
    """L1: codes that a peer chooses are counted by their thousand, ours as they are."""
    counters = Counters()
    counters.closed(close)
    assert counters.closes == {label: 1}


def test_peers_cannot_make_labels() -> None:
    """Invariant 5: whatever codes peers send, the number of labels is bounded."""
    counters = Counters()
    for code in range(3000, 5000):
        counters.closed(Close(code, "", "peer"))
    assert len(counters.closes) == 2


def test_absorb_adds_up() -> None:
    """What an outbox has seen is added to the totals, field by field."""
    counters = Counters()
    sink = Sink(PLAIN, max_messages=2, max_bytes=10_000, write_buffer_size=1000, write_timeout=1)
    outbox = sink.outbox
    for _ in range(4):
        outbox.put(Publication(("r",), b"1", overflow="drop_newest"))
    outbox.send_nowait(PLAIN.direct(1))
    outbox.take(1)
    outbox.wrote(1)
    outbox.discard()
    for _ in range(2):
        counters.absorb(outbox)
    assert (counters.enqueued, counters.written, counters.discarded, counters.dropped) == (4, 2, 2, 6)


def test_snapshots_are_frozen() -> None:
    """A snapshot neither changes with the counts nor can be changed."""
    counters = Counters()
    counters.reject("origin")
    snapshot = frozen(counters.rejected)
    counters.reject("origin")
    assert snapshot == {"origin": 1}
    with pytest.raises(TypeError):
        snapshot["origin"] = 2  # type: ignore[index]


def make_manager() -> Manager:
    """A program in which something of everything can happen."""
    manager = Manager(config=Config(limits=Limits(outbox_messages=4)))

    @manager.on_connect
    async def connected(conn: Connection) -> None:
        await conn.join("r")

    @manager.on("echo")
    def echo(conn: Connection, data: str) -> str:
        return data

    @manager.on("refuse")
    def refuse(conn: Connection, data: str) -> None:
        raise ActionError(data)

    @manager.on("crash")
    def crash(conn: Connection) -> None:
        raise ValueError

    return manager


async def test_each_field_counts(autojump_clock: MockClock) -> None:
    """L1: each number of the statistics moves with what it counts, and with nothing else."""
    async with serve_in_memory(make_manager()) as memory:
        server = memory.server
        zero = server.statistics()
        assert attrs.asdict(zero) == {
            field.name: {} if field.name in ("handshakes_rejected", "errors_told", "closes", "limited") else 0
            for field in attrs.fields(Statistics)
        } | {"draining": False}
        half = memory.open_stream()
        client = await memory.connect()
        assert await client.request("echo", "x") == "x"
        await trio.testing.wait_all_tasks_blocked()
        assert server.statistics() == attrs.evolve(
            zero, connections=1, pending_handshakes=1, rooms=1, accepted=1, messages_received=1, enqueued=1, written=1
        )
        await half.aclose()
        await client.send_action("nothing of the kind")
        for code in ("MINE", "YOURS"):
            await client.send_action("refuse", code)
        await client.send_action("crash")
        await client.expect_close(1011, skip_messages=True)
        with pytest.raises(HandshakeRefused):
            await memory.connect(path="/elsewhere")
        await client.aclose()
        await trio.testing.wait_all_tasks_blocked()
        statistics = server.statistics()
        assert statistics.handshakes_rejected == {"hangup": 1, "not_found": 1}
        assert statistics.errors_told == {"UNKNOWN_ACTION": 1, "custom": 2, "INTERNAL": 1}
        assert statistics.handler_errors == 1
        assert statistics.closes == {"server:1011": 1}
        assert (statistics.connections, statistics.rooms, statistics.pending_handshakes) == (0, 0, 0)
        server.begin_shutdown()
        assert server.statistics().draining


async def test_loss_is_counted(autojump_clock: MockClock) -> None:
    """Invariant 6: enqueued = written + displaced + discarded, and what was refused is dropped, to the message."""
    manager = make_manager()
    manager.room("r", overflow="drop_oldest")
    streams: list[FaultyStream] = []

    def wrap(stream: trio.abc.Stream) -> FaultyStream:
        streams.append(FaultyStream(stream))
        return streams[-1]

    async with serve_in_memory(manager) as memory:
        client = await memory.connect(wrap=wrap)
        await trio.testing.wait_all_tasks_blocked()
        streams[0].stall_sending()
        reports = []
        for i in range(10):
            reports.append(manager.broadcast_to_room("r", i))
            await trio.testing.wait_all_tasks_blocked()
        await streams[0].cut()
        await client.expect_close(1006)
    statistics = memory.server.statistics()
    assert statistics.enqueued == sum(report.enqueued for report in reports) == 10
    assert statistics.displaced == sum(report.displaced for report in reports) == 7
    assert (statistics.written, statistics.discarded, statistics.dropped) == (0, 3, 0)


async def test_dead_peers_are_counted(autojump_clock: MockClock) -> None:
    """K1: a connection that was ended for silence is a dead peer, and closed by the network with 1006."""
    async with serve_in_memory(make_manager()) as memory:
        stream = memory.open_stream()
        await TestClient.connect(stream)
        await trio.sleep(41)
        statistics = memory.server.statistics()
    assert statistics.dead_peers == 1
    assert statistics.closes == {"network:1006": 1}


async def test_labels_stay_few(autojump_clock: MockClock) -> None:
    """L1: actions, error codes, users and rooms of the client's choice make no label."""
    manager = make_manager()

    @manager.authenticate
    async def authenticate(request: object) -> Identity:
        return Identity(user=request.query["user"])  # type: ignore[attr-defined]

    async with serve_in_memory(manager) as memory:
        for i in range(50):
            client = await memory.connect(path=f"/ws?user={i}")
            await client.send_action(f"action {i}")
            await client.send_action("refuse", f"CODE {i}")
            await client.send_action("$join", {"room": f"room{i}"})
            await trio.testing.wait_all_tasks_blocked()
            await client.close(4000 + i)
            await client.aclose()
        await trio.testing.wait_all_tasks_blocked()
        statistics = memory.server.statistics()
    assert set(statistics.errors_told) == {"UNKNOWN_ACTION", "custom", "DENIED"}
    assert set(statistics.closes) == {"peer:4000"}
