"""``publish(until="written")``: who is waited for, what ends the wait, what a cancel leaves, what the report says."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints

from certificates import certificates
from hall import Guest, Hall, attempt, hall, settle
from listeners import MemoryListener
from trio_rooms import (
    BadRoom,
    Config,
    Connection,
    Limits,
    Manager,
    NotServing,
    Position,
    Report,
    UsageError,
    serve_rooms,
)
from trio_rooms.testing import LaggingBroker, TestClient

LIMIT = 8


def slow_manager(overflow: Any = "close", *, write_timeout: float = 1e6, broker: Any = None) -> Manager:
    """A manager whose outboxes are small; each message is a write of its own."""
    manager = Manager(
        config=Config(
            limits=Limits(outbox_messages=LIMIT), write_buffer_size=1, write_timeout=write_timeout, ping_interval=1e6
        ),
        broker=broker,
    )
    manager.room("*", overflow=overflow)
    return manager


async def member_of(guest: Guest, room: str) -> Guest:
    await guest.conn.join(room)
    return guest


def written(
    enqueued: int,
    count: int,
    *,
    dropped: int = 0,
    closed: int = 0,
    displaced: int = 0,
    position: Position | None = None,
) -> Report:
    return Report(True, enqueued, dropped, closed, displaced, position, written=count)


@pytest.fixture(params=["native", "trio-websocket"])
def transport(request: pytest.FixtureRequest) -> Any:
    """Who reads and writes frames."""
    return request.param


async def test_it_waits_for_the_slowest(transport: Any, autojump_clock: MockClock) -> None:
    """It returns when the last member's transport has taken the event; others have it long before."""
    manager = slow_manager()
    async with hall(manager, transport=transport) as served, trio.open_nursery() as nursery:
        quick = await member_of(await served.enter(), "r")
        slow, stream = await served.enter_faulty()
        await slow.conn.join("r")
        stream.stall_sending()
        publishing = attempt(nursery, partial(manager.publish, "r", "hi", until="written"))
        await settle()
        assert await quick.client.receive_json() == "hi"
        assert not publishing.over.is_set()
        stream.resume_sending()
        assert await slow.client.receive_json() == "hi"
        await publishing.over.wait()
        assert publishing.result == written(2, 2)


async def test_queued_is_the_default(transport: Any, autojump_clock: MockClock) -> None:
    """Without it, or with "queued", nobody waits for a member, and ``written`` is None."""
    manager = slow_manager()
    async with hall(manager, transport=transport) as served:
        slow, stream = await served.enter_faulty()
        joined = await slow.conn.join("r")
        stream.stall_sending()
        assert await joined.room.publish(1) == Report(True, 1)
        assert await joined.room.publish(2, until="queued") == Report(True, 1)
        assert manager.broadcast_to_room("r", 3).written is None
        stream.resume_sending()
        assert [await slow.client.receive_json() for _ in range(3)] == [1, 2, 3]


async def test_nobody_there(autojump_clock: MockClock) -> None:
    """A room without members, or one that does not exist, has nobody to wait for."""
    manager = Manager()
    async with hall(manager) as served:
        assert await manager.publish("nowhere", 1, until="written") == written(0, 0)
        assert await manager.publish("nowhere", 1) == Report(True)
        assert manager.get_room("nowhere") is None
        guest = await member_of(await served.enter(), "r")
        assert await manager.publish("r", 1, until="written", exclude=[guest.conn]) == written(0, 0)
        await guest.client.receive_nothing(1)


async def test_who_is_excluded_is_not_waited_for(autojump_clock: MockClock) -> None:
    """A slow member that does not get it holds nobody up."""
    manager = slow_manager()
    async with hall(manager) as served:
        quick = await member_of(await served.enter(), "r")
        slow, stream = await served.enter_faulty()
        await slow.conn.join("r")
        stream.stall_sending()
        slow.conn.send_nowait("stuck")
        assert await manager.publish("r", 1, until="written", exclude=[slow.conn.id]) == written(1, 1)
        assert await quick.client.receive_json() == 1
        stream.resume_sending()
        await slow.client.aclose()


@pytest.mark.parametrize(
    ("overflow", "end"),
    [("drop_oldest", written(1, 0)), ("conflate", written(1, 0)), ("drop_newest", written(1, 1))],
)
async def test_displaced(overflow: str, end: Report, transport: Any, autojump_clock: MockClock) -> None:
    """An event that a newer one displaces ends the wait, and is not counted as written; one that stays is."""
    manager = slow_manager(overflow)
    async with hall(manager, transport=transport) as served, trio.open_nursery() as nursery:
        slow, stream = await served.enter_faulty()
        room = (await slow.conn.join("r")).room
        stream.stall_sending()
        slow.conn.send_nowait("stuck")
        await settle()
        publishing = attempt(nursery, partial(room.publish, "waited for", until="written", key="k"))
        await settle()
        for number in range(LIMIT):
            room.publish_nowait(number, key="k")
        await settle()
        assert publishing.over.is_set() is (overflow != "drop_newest")
        stream.resume_sending()
        await publishing.over.wait()
        assert publishing.result == end
        await slow.client.aclose()


async def test_refused_at_once(autojump_clock: MockClock) -> None:
    """Members whose outbox drops the event, or whose connection it ends, are in the report and not waited for."""
    for overflow, end in (("drop_newest", written(0, 0, dropped=1)), ("close", written(0, 0, closed=1))):
        manager = slow_manager(overflow)
        async with hall(manager) as served:
            slow, stream = await served.enter_faulty()
            room = (await slow.conn.join("r")).room
            stream.stall_sending()
            slow.conn.send_nowait("stuck")
            await settle()
            for number in range(LIMIT):
                room.publish_nowait(number)
            assert await room.publish("over", until="written") == end
            await slow.client.aclose()


@pytest.mark.parametrize("way", ["close", "cut", "overflow", "write_timeout", "leave"])
async def test_the_end_of_a_connection_ends_the_wait(way: str, transport: Any, autojump_clock: MockClock) -> None:
    """Whatever ends a slow member's connection ends the wait for it; leaving the room alone does not."""
    manager = slow_manager(write_timeout=10.0 if way == "write_timeout" else 1e6)
    async with hall(manager, transport=transport) as served, trio.open_nursery() as nursery:
        quick = await member_of(await served.enter(), "r")
        slow, stream = await served.enter_faulty()
        room = (await slow.conn.join("r")).room
        stream.stall_sending()
        publishing = attempt(nursery, partial(room.publish, "hi", until="written"))
        await settle()
        assert not publishing.over.is_set()
        start = trio.current_time()
        match way:
            case "close":
                slow.conn.close()
            case "cut":
                await stream.cut()
            case "overflow":
                for number in range(LIMIT + 1):
                    room.publish_nowait(number)
                    await settle()
            case "leave":
                slow.conn.leave("r")
                await settle()
                assert not publishing.over.is_set()
                stream.resume_sending()
        await publishing.over.wait()
        assert publishing.result == written(2, 2 if way == "leave" else 1)
        if way == "write_timeout":
            assert trio.current_time() - start == pytest.approx(10.0)
        assert await quick.client.receive_json() == "hi"
        await slow.client.aclose()


async def test_s3_the_publisher_is_cancelled(transport: Any, autojump_clock: MockClock) -> None:
    """S3: a publisher that is cancelled while it waits has published: the event stays queued for all."""
    manager = slow_manager()
    async with hall(manager, transport=transport) as served:
        quick = await member_of(await served.enter(), "r")
        slow, stream = await served.enter_faulty()
        room = (await slow.conn.join("r")).room
        stream.stall_sending()
        with trio.move_on_after(5) as scope:
            await room.publish("hi", until="written")
        assert scope.cancelled_caught
        assert await quick.client.receive_json() == "hi"
        stream.resume_sending()
        assert await slow.client.receive_json() == "hi"
        await slow.client.receive_nothing(1)
        assert await room.publish("ho", until="written") == written(2, 2)


async def test_s3_a_repeat(autojump_clock: MockClock) -> None:
    """S3: a repeat with the same key is not published, waits for nobody, and has the report of the first one."""
    manager = slow_manager()
    async with hall(manager) as served:
        slow, stream = await served.enter_faulty()
        room = (await slow.conn.join("r")).room
        stream.stall_sending()
        with trio.move_on_after(5):
            await room.publish("hi", until="written", idempotency_key="k")
        repeat = await room.publish("hi", until="written", idempotency_key="k")
        assert repeat == Report(True, 1, duplicate=True)
        stream.resume_sending()
        assert await slow.client.receive_json() == "hi"
        await slow.client.receive_nothing(1)
        first = await room.publish("ho", until="written", idempotency_key="k2")
        assert first == written(1, 1)
        repeat = await room.publish("ho", until="written", idempotency_key="k2")
        assert repeat == Report(True, 1, duplicate=True, written=1)


@pytest.mark.parametrize("broker", [pytest.param(lambda: None, id="memory"), LaggingBroker])
async def test_a_room_with_history(broker: Any, autojump_clock: MockClock) -> None:
    """In a room with history it is the same, with a position; who is excluded gets a marker and is not waited for."""
    manager = Manager(broker=broker(), config=Config(write_timeout=1e6, ping_interval=1e6))
    manager.room("r", history_size=10)
    async with hall(manager) as served, trio.open_nursery() as nursery:
        quick = await member_of(await served.enter(v1=True), "r")
        slow, stream = await served.enter_faulty()
        await slow.conn.join("r")
        stream.stall_sending()
        report = await manager.publish("r", 1, until="written", exclude=[slow.conn])
        assert report == written(1, 1, position=report.position)
        assert report.position is not None
        publishing = attempt(nursery, partial(manager.publish, "r", 2, until="written"))
        await trio.sleep(10)
        assert not publishing.over.is_set()
        stream.resume_sending()
        await publishing.over.wait()
        assert publishing.result == written(2, 2, position=publishing.result.position)
        assert [(await quick.client.receive_json())["data"] for _ in range(2)] == [1, 2]
        assert await slow.client.receive_json() == 2


async def test_what_the_broker_has_lost(autojump_clock: MockClock) -> None:
    """An event that is never delivered here is waited for no longer than until that is known."""
    broker = LaggingBroker()
    manager = Manager(broker=broker)
    manager.room("r", history_size=10)
    async with hall(manager) as served, trio.open_nursery() as nursery:
        await member_of(await served.enter(), "r")
        broker.losing = 1
        lost = attempt(nursery, partial(manager.publish, "r", 1, until="written"))
        await settle()
        assert (await manager.publish("r", 2, until="written")).written == 0  # the member is to come back for both
        await lost.over.wait()
        assert lost.result.final is False
        assert lost.result.written is None


async def test_many_publishers_in_their_order(transport: Any, autojump_clock: MockClock) -> None:
    """Each of several that wait at one slow member goes on when its own event is written, not the others'."""
    manager = slow_manager()
    async with hall(manager, transport=transport) as served, trio.open_nursery() as nursery:
        slow, stream = await served.enter_faulty()
        room = (await slow.conn.join("r")).room
        stream.stall_sending()
        slow.conn.send_nowait("stuck")
        await settle()
        waiting = []
        for number in range(4):
            waiting.append(attempt(nursery, partial(room.publish, number, until="written")))
            await settle()
        stream.stall_sending(after=len('"stuck"') + 2 + 3)  # and the frame of the first event
        stream.resume_sending()
        stream.stall_sending(after=9 + 3)
        await settle()
        assert [one.over.is_set() for one in waiting] == [True, False, False, False]
        stream.resume_sending()
        for one in waiting:
            await one.over.wait()
            assert one.result == written(1, 1)
        await slow.client.aclose()


@pytest.mark.parametrize("confirm", ["before", "with", "after"])
async def test_a_broker_that_takes_time(confirm: Any, autojump_clock: MockClock) -> None:
    """Behind a broker that lags, written is waited for as well, whenever the broker confirms."""
    manager = slow_manager(broker=LaggingBroker(delay=2.0, confirm=confirm))
    async with hall(manager) as served, trio.open_nursery() as nursery:
        slow, stream = await served.enter_faulty()
        await slow.conn.join("r")
        stream.stall_sending()
        publishing = attempt(nursery, partial(manager.publish, "r", "hi", until="written"))
        await trio.sleep(10)
        assert not publishing.over.is_set()
        stream.resume_sending()
        assert await slow.client.receive_json() == "hi"
        await publishing.over.wait()
        assert publishing.result == written(1, 1)


async def test_tls(autojump_clock: MockClock) -> None:
    """Over TLS, too, it is written when the stream below has taken it, and not before."""
    listener = MemoryListener()
    manager = slow_manager()

    @manager.on("join")
    async def join(conn: Connection) -> None:
        await conn.join("r")

    async with serve_rooms(manager, listeners=[trio.SSLListener(listener, certificates().server)]):
        client = await TestClient.connect(certificates().wrap(listener.dial()))
        await client.request("join")
        assert await manager.publish("r", 1, until="written") == written(1, 1)
        assert await client.receive_json() == 1
        await client.aclose()


async def test_the_slow_member_publishes_itself(transport: Any, autojump_clock: MockClock) -> None:
    """A handler that waits until its own client was written to does not wait for itself."""
    manager = Manager()

    @manager.on("say")
    async def say(conn: Connection, text: str) -> int | None:
        return (await manager.publish("r", text, until="written")).written

    async with hall(manager, transport=transport) as served:
        guest = await member_of(await served.enter(), "r")
        await guest.client.send_action("say", "hi", id=1)
        assert await guest.client.receive_json() == "hi"
        assert await guest.client.receive_json() == {"id": 1, "data": 1}


async def test_the_server_ends(transport: Any, autojump_clock: MockClock) -> None:
    """When the server ends, the wait does, with what was written by then."""
    manager = slow_manager()
    async with trio.open_nursery() as nursery:
        async with hall(manager, transport=transport) as served:
            slow, stream = await served.enter_faulty()
            await slow.conn.join("r")
            stream.stall_sending()
            publishing = attempt(nursery, partial(manager.publish, "r", "hi", until="written"))
            await settle()
        assert publishing.over.is_set()
        assert publishing.result == written(1, 0)


async def test_wrong_calls(autojump_clock: MockClock) -> None:
    """What ``until`` cannot be is a UsageError before anything is published; a bad name and no server are told."""
    manager = Manager()
    with pytest.raises(NotServing):
        await manager.publish("r", 1)
    async with hall(manager) as served:
        guest = await member_of(await served.enter(), "r")
        with pytest.raises(UsageError, match="until"):
            await manager.publish("r", 1, until="received")  # type: ignore[arg-type]
        with pytest.raises(BadRoom):
            await manager.publish("$r", 1)
        await guest.client.receive_nothing(1)


async def test_it_is_a_checkpoint(autojump_clock: MockClock) -> None:
    """Also where there is nobody to wait for."""
    manager = Manager()
    async with hall(manager):
        for until in ("queued", "written"):
            with assert_checkpoints():
                await manager.publish("r", 1, until=until)  # type: ignore[arg-type]


async def test_nothing_is_left_of_waiting(transport: Any, autojump_clock: MockClock) -> None:
    """Publishers that give up again and again leave no more behind at a slow member than its outbox holds."""
    manager = slow_manager("drop_newest")
    async with hall(manager, transport=transport) as served:
        slow, stream = await served.enter_faulty()
        room = (await slow.conn.join("r")).room
        stream.stall_sending()
        for number in range(100):
            with trio.move_on_after(1):
                await room.publish(number, until="written")
        departures = slow.conn.outbox._departures
        assert departures is not None
        assert len(departures._watched) <= LIMIT
        stream.resume_sending()
        assert await slow.client.receive_json() == 0
        await settle()
        assert slow.conn.outbox._departures is None
        await slow.client.aclose()


def unused(served: Hall) -> None:
    """Nobody waits at any outbox, which is what costs nothing."""
    assert all(conn.outbox._departures is None for conn in served.manager.connections.values())


async def test_costs_nothing_where_nobody_waits(autojump_clock: MockClock) -> None:
    """Publications that are not waited for make nothing at the outboxes, and nothing is left of those that are."""
    manager = Manager()
    async with hall(manager) as served:
        for _ in range(3):
            await member_of(await served.enter(), "r")
        manager.broadcast_to_room("r", 1)
        await manager.publish("r", 1)
        unused(served)
        assert await manager.publish("r", 1, until="written") == written(3, 3)
        unused(served)


@pytest.mark.sockets
async def test_real_sockets(transport: Any) -> None:
    """Over TCP, where most writes are the flusher's."""
    manager = Manager()

    @manager.on("join")
    async def join(conn: Connection) -> None:
        await conn.join("r")

    async with serve_rooms(manager, transport=transport) as server, AsyncExitStack() as stack:
        clients = []
        for _ in range(5):
            client = await TestClient.connect(
                await trio.open_tcp_stream("127.0.0.1", server.port), host=f"127.0.0.1:{server.port}"
            )
            stack.push_async_callback(client.aclose)
            await client.request("join")
            clients.append(client)
        for number in range(10):
            assert await manager.publish("r", number, until="written") == written(5, 5)
        for client in clients:
            assert [await client.receive_json() for _ in range(10)] == list(range(10))
