"""What the Go package did wrong; each defect has the test that would find it here.

(Its two copies of one interface "to avoid import cycles" are the business of test_structure.py, too.)
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_rooms._formats
import trio_rooms._publications
from trio_rooms import (
    ActionError,
    Close,
    Config,
    Connection,
    ConnectionGone,
    Context,
    JoinError,
    Limits,
    Manager,
    OutboxFull,
    Report,
    Room,
    RoomFull,
)
from trio_rooms.middleware import logger, recovery
from trio_rooms.testing import FaultyStream, ReplyError, TestClient, open_client, serve_in_memory

V1 = "trio-rooms.v1.json"


def make_manager(**options: Any) -> Manager:
    """A manager whose clients may join, leave, and learn their connection's id."""
    manager = Manager(**options)

    @manager.on("join")
    async def join(conn: Connection, room: str) -> None:
        await conn.join(room)

    @manager.on("leave")
    def leave(conn: Connection, room: str) -> bool:
        return conn.leave(room)

    @manager.on("id")
    def whoami(conn: Connection) -> str:
        return conn.id

    return manager


async def connection_of(manager: Manager, client: TestClient) -> Connection:
    return manager.connections[await client.request("id")]


class Lane:
    """Wraps the server's ends of connections, so that a test can do something to them."""

    def __init__(self) -> None:
        self.streams: list[FaultyStream] = []

    def __call__(self, stream: trio.abc.Stream) -> FaultyStream:
        self.streams.append(FaultyStream(stream))
        return self.streams[-1]


async def test_a_failing_on_connect_leaves_the_connection_registered(autojump_clock: MockClock) -> None:
    """manager.go: a connection was entered before OnConnect, and stayed when the hook failed."""
    manager = make_manager()
    disconnected: list[Close] = []

    @manager.on_connect
    async def refuse(conn: Connection) -> None:
        await conn.join("hall")
        raise RuntimeError("not today")

    @manager.on_disconnect
    def note(conn: Connection, close: Close) -> None:
        disconnected.append(close)

    async with serve_in_memory(manager) as memory:
        client = await memory.connect()
        await client.expect_close(1011)
        await wait_all_tasks_blocked()
        assert not manager.connections
        assert manager.rooms() == []
        assert memory.server.statistics().connections == 0
        assert [close.code for close in disconnected] == [1011]
        assert manager.broadcast_to_all("anybody?") == Report(final=True)


async def test_the_capacity_of_a_room_is_checked_before_the_join(autojump_clock: MockClock) -> None:
    """manager.go: MaxConnectionsPerRoom was compared first, and everybody who had passed joined then."""
    manager = make_manager(config=Config(max_connections_per_room=3))

    @manager.on_join_room
    async def think(conn: Connection, room: Room) -> None:
        await trio.sleep(1)

    outcomes: list[str] = []

    async def try_to_join(client: TestClient) -> None:
        try:
            await client.request("join", "hall")
            outcomes.append("in")
        except ReplyError as error:
            outcomes.append(error.code)

    async with serve_in_memory(manager) as memory, trio.open_nursery() as nursery:
        for client in [await memory.connect() for _ in range(10)]:
            nursery.start_soon(try_to_join, client)
        await trio.sleep(2)
        assert sorted(outcomes) == ["ROOM_FULL"] * 7 + ["in"] * 3
        assert len(manager.rooms()[0].members) == 3


async def test_hooks_run_under_the_lock_of_the_rooms(autojump_clock: MockClock) -> None:
    """manager.go: LeaveRoom called its hooks with roomMu held, so a hook that touched a room waited for ever."""
    manager = make_manager()

    @manager.on_leave_room
    async def touch_rooms(conn: Connection, room: Room, reason: str) -> None:
        if room.name == "first":
            await conn.join("second")
            await room.publish("a member has gone")
            manager.broadcast_to_room("second", [other.name for other in manager.rooms()])
            conn.leave("second")
            await conn.send("touched")

    async with open_client(manager) as client:
        await client.request("join", "first")
        with trio.fail_after(1):
            assert await client.request("leave", "first") is True
            assert await client.receive_json() == ["second"]
            assert await client.receive_json() == "touched"
        assert manager.rooms() == []


async def test_a_room_that_is_deleted_during_a_join_orphans_the_member(autojump_clock: MockClock) -> None:
    """manager.go: the last member left between the look-up of a room and the join, which joined the deleted room."""
    manager = make_manager()

    @manager.on_join_room
    async def think(conn: Connection, room: Room) -> None:
        await trio.sleep(1)

    async with serve_in_memory(manager) as memory, trio.open_nursery() as nursery:
        last, next_one = await memory.connect(), await memory.connect()
        await last.request("join", "hall")
        nursery.start_soon(next_one.request, "join", "hall")
        await trio.sleep(0.5)
        await last.request("leave", "hall")
        await trio.sleep(1)
        (member,) = manager.rooms()[0].members
        assert member.rooms["hall"] is manager.get_room("hall")
        assert manager.broadcast_to_room("hall", "hello").enqueued == 1
        assert await next_one.receive_json() == "hello"


async def test_a_room_that_is_closed_during_a_join_orphans_the_member(autojump_clock: MockClock) -> None:
    """manager.go, the same from the other side: a join into a room that was closed meanwhile fails."""
    manager = make_manager()

    @manager.on_join_room
    async def close_it(conn: Connection, room: Room) -> None:
        room.close()

    async with open_client(manager) as client:
        with pytest.raises(ReplyError, match="CLOSED"):
            await client.request("join", "hall")
        conn = await connection_of(manager, client)
        assert not conn.rooms
        assert manager.get_room("hall") is None


class Unwalkable(dict[str, Any]):
    """May be asked for a key, but not for everything."""

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("walked")

    def _walk(self) -> Any:
        raise AssertionError("walked")

    keys = values = items = _walk


async def test_a_disconnect_fires_no_on_leave_room_and_walks_all_rooms(autojump_clock: MockClock) -> None:
    """manager.go: leaveAllRooms looked for the connection in every room there was, and ran no hook."""
    manager = make_manager()
    left: list[tuple[str, str]] = []

    @manager.on_leave_room
    def note(conn: Connection, room: Room, reason: str) -> None:
        left.append((room.name, reason))

    async with serve_in_memory(manager) as memory:
        goes, stays = await memory.connect(), await memory.connect()
        for room in ("both", "goes"):
            await goes.request("join", room)
        for room in ("both", "stays"):
            await stays.request("join", room)
        node = memory.server._node
        node.rooms = Unwalkable(node.rooms)
        await goes.close()
        await wait_all_tasks_blocked()
        node.rooms = dict(dict.items(node.rooms))
        assert left == [("both", "disconnected"), ("goes", "disconnected")]
        assert {room.name: len(room.members) for room in manager.rooms()} == {"both": 1, "stays": 1}


async def test_errors_of_on_disconnect_are_dropped(autojump_clock: MockClock) -> None:
    """manager.go: what OnDisconnect returned was thrown away."""
    manager = make_manager()
    reported: list[tuple[Connection | None, str]] = []
    ran: list[str] = []

    @manager.on_disconnect
    def fail(conn: Connection, close: Close) -> None:
        raise OSError("the database is gone")

    @manager.on_disconnect
    def go_on(conn: Connection, close: Close) -> None:
        ran.append(conn.id)

    @manager.on_error
    def note(conn: Connection | None, error: BaseException) -> None:
        reported.append((conn, str(error)))

    async with serve_in_memory(manager) as memory:
        client = await memory.connect()
        conn = await connection_of(manager, client)
        await client.close()
        await conn.wait_closed()
        assert reported == [(conn, "the database is gone")]
        assert ran == [conn.id]
        assert memory.server.statistics().handler_errors == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [(ActionError("NOT_YOU", "members only"), "NOT_YOU"), (RuntimeError("broken"), "INTERNAL")],
)
async def test_a_hook_cannot_veto_a_join(error: Exception, code: str, autojump_clock: MockClock) -> None:
    """manager.go: JoinRoom ignored what its hooks returned."""
    manager = make_manager(middleware=[recovery()])
    left: list[str] = []

    @manager.on_join_room
    def veto(conn: Connection, room: Room) -> None:
        raise error

    @manager.on_leave_room
    def note(conn: Connection, room: Room, reason: str) -> None:
        left.append(reason)

    async with open_client(manager) as client:
        with pytest.raises(ReplyError) as told:
            await client.request("join", "hall")
        assert told.value.code == code
        conn = await connection_of(manager, client)
        assert not conn.rooms
        assert manager.rooms() == []
        assert left == ["vetoed"]


async def test_shutdown_does_not_wait_for_handlers(autojump_clock: MockClock) -> None:
    """manager.go: Shutdown closed the sockets while handlers were running; here the reply arrives, then 1012."""
    manager = make_manager()

    @manager.on("work")
    async def work(conn: Connection) -> str:
        await trio.sleep(3)
        return "done"

    async with serve_in_memory(manager) as memory:
        client = await memory.connect()
        await client.send_action("work", id=1)
        await wait_all_tasks_blocked()
        manager.begin_shutdown()
        assert await client.receive_json() == {"id": 1, "data": "done"}
        await client.expect_close(1012)


async def test_shutdown_sends_no_close_frames_and_its_timeout_bounds_nothing(autojump_clock: MockClock) -> None:
    """manager.go: no close frame was sent, and the timeout was for calling Close; here it is for all of it."""
    manager = make_manager(config=Config(shutdown_timeout=7, close_timeout=2, hook_timeout=1))

    @manager.on("work")
    async def work(conn: Connection) -> None:
        await trio.sleep_forever()

    @manager.on_disconnect
    async def hang(conn: Connection, close: Close) -> None:
        await trio.sleep_forever()

    async with serve_in_memory(manager) as memory:
        client = await memory.connect()
        await client.send_action("work")
        await wait_all_tasks_blocked()
        begun = trio.current_time()
        manager.begin_shutdown()
        await client.expect_close(1012)
        await client.aclose()
        await memory.server.wait_closed()
        assert 7 <= trio.current_time() - begun <= 9


async def test_a_full_queue_drops_and_returns_nil(autojump_clock: MockClock) -> None:
    """connection.go: WriteJSON and Broadcast dropped what did not fit, and said that all was well."""
    manager = make_manager(config=Config(limits=Limits(outbox_messages=4), write_timeout=1000))
    manager.room("lossy", overflow="drop_newest")
    manager.room("strict", overflow="close")
    lane = Lane()
    async with serve_in_memory(manager) as memory:
        client = await memory.connect(wrap=lane)
        for room in ("lossy", "strict"):
            await client.request("join", room)
        conn = await connection_of(manager, client)
        lane.streams[0].stall_sending()
        conn.send_nowait("taken by the writer")
        await wait_all_tasks_blocked()

        reports = [manager.broadcast_to_room("lossy", number) for number in range(3)]
        assert reports[:2] == [Report(True, enqueued=1)] * 2  # half of the outbox is for rooms that drop
        assert reports[2] == Report(True, dropped=1)
        for number in range(2):
            conn.send_nowait(number)
        with pytest.raises(OutboxFull):
            conn.send_nowait(2)
        with pytest.raises(OutboxFull):
            manager.send_to_connection(conn.id, 2)
        statistics = memory.server.statistics()
        assert (statistics.dropped, conn.statistics().messages) == (1, 4)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_gone, conn)
            await wait_all_tasks_blocked()  # write_json waits: it is neither dropped nor refused
            assert conn.statistics().waiting == 1
            assert manager.broadcast_to_room("strict", "the last straw") == Report(True, closed=1)
        assert conn.closed == Close(4008, "slow consumer")


async def expect_gone(conn: Connection) -> None:
    with pytest.raises(ConnectionGone):
        await conn.write_json("never sent")


async def test_a_failed_write_leaves_the_connection_open(autojump_clock: MockClock) -> None:
    """connection.go: writeLoop returned when a write failed, and nobody ended the connection."""
    manager = make_manager()
    ended: list[Close] = []

    @manager.on_disconnect
    def note(conn: Connection, close: Close) -> None:
        ended.append(close)

    lane = Lane()
    async with serve_in_memory(manager) as memory:
        client = await memory.connect(wrap=lane)
        await client.request("join", "hall")
        lane.streams[0].cut_sending_at(3)  # within the next frame
        manager.broadcast_to_room("hall", "half of this")
        await wait_all_tasks_blocked()
        assert [(close.code, close.by) for close in ended] == [(1006, "network")]
        assert not manager.connections
        assert manager.rooms() == []


async def test_close_discards_what_is_queued(autojump_clock: MockClock) -> None:
    """connection.go: Close threw the queue away."""
    manager = make_manager()

    @manager.on("goodbye")
    def goodbye(conn: Connection) -> None:
        for number in range(50):
            conn.send_nowait(number)
        conn.close(4001, "goodbye")

    async with open_client(manager) as client:
        await client.send_action("goodbye")
        assert [await client.receive_json() for _ in range(50)] == list(range(50))
        closed = await client.expect_close(4001)
        assert closed.reason == "goodbye"


async def test_json_is_made_once_for_each_recipient(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """connection.go: every recipient's copy of a broadcast was marshalled; here one for all, framed once a format."""
    manager = make_manager()
    encoded = watch_calls(monkeypatch, trio_rooms._publications, "encode")
    async with serve_in_memory(manager) as memory:
        clients = [await memory.connect(subprotocol=subprotocol) for subprotocol in (None, V1) * 10]
        for client in clients:
            await client.request("join", "hall")
        framed = watch_calls(monkeypatch, trio_rooms._formats, "make_frame")
        assert manager.broadcast_to_room("hall", {"seq": 1}).enqueued == 20
        assert len(encoded) == 1
        assert len(framed) == 2
        for client in clients[::2]:
            assert await client.receive_json() == {"seq": 1}


def watch_calls(monkeypatch: pytest.MonkeyPatch, module: object, name: str) -> list[tuple[object, ...]]:
    """Call through to a function, and note what it is called with."""
    calls: list[tuple[object, ...]] = []
    function: Callable[..., Any] = getattr(module, name)

    def watched(*args: object, **kwargs: object) -> Any:
        calls.append(args)
        return function(*args, **kwargs)

    monkeypatch.setattr(module, name, watched)
    return calls


async def test_recovery_recovers_nothing(autojump_clock: MockClock) -> None:
    """middleware/recovery.go: its defer ended before any handler ran."""
    manager = make_manager(middleware=[recovery()])

    @manager.on("fail")
    async def fail(conn: Connection) -> None:
        raise ZeroDivisionError

    async with open_client(manager) as client:
        for _ in range(3):
            with pytest.raises(ReplyError, match="INTERNAL"):
                await client.request("fail")
        assert await client.request("id") in manager.connections


async def test_middleware_runs_once_for_each_connection(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """manager.go: middleware ran before the connection and never again; Logger logged one line."""
    seen: list[str | None] = []

    async def note(ctx: Context, call_next: Any) -> Any:
        seen.append(ctx.message.action)
        result = await call_next(ctx)
        seen.append("after")
        return result

    manager = make_manager(middleware=[logger(), note])
    with caplog.at_level(logging.INFO, logger="trio_rooms"):
        async with open_client(manager) as client:
            for _ in range(3):
                await client.request("id")
    assert seen == ["id", "after"] * 3
    assert [record.__dict__["action"] for record in caplog.records] == ["id"] * 3


@pytest.mark.parametrize(("ping_interval", "pong_timeout"), [(5, 3), (60, 10)])
async def test_ping_settings_are_never_read(
    ping_interval: float, pong_timeout: float, autojump_clock: MockClock
) -> None:
    """config.go: GetPingInterval and GetPongTimeout had no caller."""
    manager = make_manager(config=Config(ping_interval=ping_interval, pong_timeout=pong_timeout))
    lane = Lane()
    async with serve_in_memory(manager) as memory:
        client = await memory.connect(wrap=lane)
        conn = await connection_of(manager, client)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.receive_nothing, 10 * ping_interval)  # and answer pings
            await trio.sleep(9.5 * ping_interval)
            assert conn.closed is None
        assert conn.rtt is not None
        lane.streams[0].silence()
        silent_since = trio.current_time()
        assert (await conn.wait_closed()).code == 1006
        assert pong_timeout <= trio.current_time() - silent_since <= ping_interval + pong_timeout
        assert memory.server.statistics().dead_peers == 1
        await client.aclose()


class Greedless(trio.abc.HalfCloseableStream):
    """Notes how many bytes it is asked for."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        assert isinstance(stream, trio.abc.HalfCloseableStream)
        self.stream = stream
        self.asked: list[int | None] = []

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        self.asked.append(max_bytes)
        return await self.stream.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self.stream.send_eof()

    async def aclose(self) -> None:
        await self.stream.aclose()


async def test_the_read_buffer_size_is_never_read(autojump_clock: MockClock) -> None:
    """config.go: GetReadBufferSize had no caller."""
    manager = make_manager(config=Config(read_buffer_size=123))
    streams: list[Greedless] = []

    def wrap(stream: trio.abc.Stream) -> Greedless:
        streams.append(Greedless(stream))
        return streams[0]

    async with open_client(manager, wrap=wrap) as client:
        streams[0].asked.clear()
        assert await client.request("leave", "x" * 200) is False
        assert streams[0].asked
        assert set(streams[0].asked) == {123}


@pytest.mark.parametrize(("write_buffer_size", "left_in_outbox"), [(1, 9), (1000, 0)])
async def test_the_write_buffer_size_is_never_read(
    write_buffer_size: int, left_in_outbox: int, autojump_clock: MockClock
) -> None:
    """config.go: GetWriteBufferSize had no caller; here it is what the writer takes from the outbox at once."""
    manager = make_manager(config=Config(write_buffer_size=write_buffer_size))
    lane = Lane()
    async with serve_in_memory(manager) as memory:
        client = await memory.connect(wrap=lane)
        conn = await connection_of(manager, client)
        lane.streams[0].stall_sending()
        for number in range(10):
            conn.send_nowait(number)
        await wait_all_tasks_blocked()
        assert conn.statistics().messages == left_in_outbox
        lane.streams[0].resume_sending()
        assert [await client.receive_json() for _ in range(10)] == list(range(10))


async def test_on_error_is_never_executed(autojump_clock: MockClock) -> None:
    """hooks.go: OnError could be registered, and nothing called it."""
    manager = make_manager()
    errors: list[tuple[Connection | None, BaseException]] = []
    error = RuntimeError("oops")

    @manager.on_error
    async def note(conn: Connection | None, error: BaseException) -> None:
        errors.append((conn, error))

    @manager.on("fail")
    def fail(conn: Connection) -> None:
        raise error

    async with open_client(manager) as client:
        conn = await connection_of(manager, client)
        await client.send_action("fail")
        await client.expect_close(1011, skip_messages=True)
        assert errors == [(conn, error)]


async def test_hooks_are_given_untyped_data(autojump_clock: MockClock) -> None:
    """hooks.go: hooks took ``data ...any``; middleware.go had a second interface for connections."""
    manager = make_manager()
    given: dict[str, list[str]] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(*args: object) -> None:
            given[name] = [type(arg).__name__ for arg in args]

        return hook

    for name in ("connect", "disconnect", "message", "error", "join_room", "leave_room", "room_open", "room_close"):
        getattr(manager, f"on_{name}")(note(name))

    @manager.on("fail")
    def fail(conn: Connection) -> None:
        raise RuntimeError

    async def layer(ctx: Context, call_next: Any) -> Any:
        assert type(ctx.conn) is Connection
        return await call_next(ctx)

    manager.use(layer)
    async with open_client(manager) as client:
        await client.request("join", "hall")
        await client.send_action("fail")
        await client.expect_close(skip_messages=True)
        await wait_all_tasks_blocked()
    assert given == {
        "connect": ["Connection"],
        "disconnect": ["Connection", "Close"],
        "message": ["Connection", "Message"],
        "error": ["Connection", "RuntimeError"],
        "join_room": ["Connection", "Room"],
        "leave_room": ["Connection", "Room", "str"],
        "room_open": ["Room"],
        "room_close": ["Room"],
    }


async def test_connections_have_no_id(autojump_clock: MockClock) -> None:
    """connection.go: nothing told one connection from another in a log."""
    manager = make_manager()
    async with serve_in_memory(manager) as memory:
        ids: set[str] = set()
        for _ in range(20):
            client = await memory.connect()
            ids.add(await client.request("id"))
            await client.aclose()
        assert len(ids) == 20
        assert min(map(len, ids)) >= 22  # 128 bits in base64


async def test_a_message_may_be_of_any_size(autojump_clock: MockClock) -> None:
    """connection.go: no read limit was set."""
    manager = make_manager(config=Config(limits=Limits(max_message_bytes=1000)))
    empty = len(json.dumps({"action": "leave", "data": "", "id": 1}, separators=(",", ":")))
    async with open_client(manager) as client:
        assert await client.request("leave", "x" * (1000 - empty), id=1) is False
    async with open_client(manager) as client:
        await client.send_action("leave", "x" * (1001 - empty), id=1)
        await client.expect_close(1009)


async def test_a_request_cannot_be_told_from_its_reply(autojump_clock: MockClock) -> None:
    """message.go: messages had no id, so a client could not know which answer belonged to which question."""
    manager = make_manager()

    @manager.on("slow", concurrent=True)
    async def slow(conn: Connection, seconds: float) -> float:
        await trio.sleep(seconds)
        return seconds

    async with open_client(manager) as client:
        for ident, seconds in (("a", 3), (7, 1), ("b", 2)):
            await client.send_action("slow", seconds, id=ident)
        replies = [await client.receive_json() for _ in range(3)]
        assert replies == [{"id": 7, "data": 1}, {"id": "b", "data": 2}, {"id": "a", "data": 3}]


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize(
    ("place", "answer", "code"),
    [
        ("handler", "INTERNAL", 1011),
        ("use", "INTERNAL", 1011),
        ("on_message", "INTERNAL", 1000),
        ("on_join_room", "INTERNAL", 1000),
        ("on_room_open", "ROOM_FAILED", 1000),
        ("on_connect", None, 1011),
        ("use_connection", None, 1011),
        ("session", None, 1011),
    ],
)
async def test_error_texts_are_leaked(
    place: str, answer: str | None, code: int, debug: bool, autojump_clock: MockClock
) -> None:
    """router.go, Invariant 9: clients were sent err.Error(); here only where debugging is on, and never as a reason."""
    manager = make_manager(debug=debug)

    async def fail(*args: object) -> None:
        raise RuntimeError("password=hunter2")

    if place == "handler":
        manager.handle_message("fail", failing_handler)
    else:
        getattr(manager, place)(fail)
    async with serve_in_memory(manager) as memory:
        client = await memory.connect()
        with contextlib.suppress(trio.BrokenResourceError):
            await client.send_action("fail" if place == "handler" else "join", "hall", id=1)
        await wait_all_tasks_blocked()
        closed = await client.close()
        assert closed.code == code
        assert "hunter2" not in closed.reason
        answers = [json.loads(message)["error"] for message in client.pending]
        assert [error["code"] for error in answers] == ([answer] if answer else [])
        assert ("hunter2" in str(answers)) == (debug and answer == "INTERNAL")


async def failing_handler(conn: Connection) -> None:
    raise RuntimeError("password=hunter2")


@pytest.mark.parametrize(
    "text", ["", "{", '{"action": "join"', '{"action": 5}', "[]", '"join"', "\x00", '{"action":"join"}']
)
async def test_errors_are_told_apart_by_their_text(text: str, autojump_clock: MockClock) -> None:
    """router.go: compared err.Error() with "unexpected end of JSON input"; here each kind has a code, and a class."""
    manager = make_manager()
    async with open_client(manager) as client:
        await client.send_text(text)
        answer = await client.receive_json()
        assert set(answer) == {"error"}
        assert answer["error"]["code"] == "BAD_MESSAGE"
        assert await client.request("id") in manager.connections


async def test_errors_are_classes(autojump_clock: MockClock) -> None:
    """The same for the program: what went wrong in a join is a class with its code."""
    manager = Manager(config=Config(max_connections_per_room=1))
    caught: list[JoinError] = []

    @manager.on("join")
    async def join(conn: Connection) -> None:
        try:
            await conn.join("hall")
        except RoomFull as error:
            caught.append(error)

    async with serve_in_memory(manager) as memory:
        for _ in range(2):
            client = await memory.connect()
            await client.request("join")
    assert [(error.code, error.temporary) for error in caught] == [("ROOM_FULL", True)]
