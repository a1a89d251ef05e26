"""The life of a connection as the program sees it: tasks, close, what ends it, and what it knows of its client."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from fakes import NoSocket
from trio_rooms import (
    ActionError,
    Close,
    Config,
    Connection,
    ConnectionGone,
    HandshakeRequest,
    HookTimeout,
    Identity,
    Limits,
    Manager,
    Room,
    UsageError,
    current_connection,
)
from trio_rooms._alarm import Alarm
from trio_rooms._lifecycle import live
from trio_rooms._wire.frames import Frame
from trio_rooms.testing import FaultyStream, Opcode, TestClient, client_frame, open_client, serve_in_memory


def make_manager(config: Config | None = None) -> tuple[Manager, list[Connection]]:
    """A manager, and the connections that come to it."""
    manager = Manager(config=config)
    conns: list[Connection] = []
    manager.on_connect(conns.append)
    manager.handle_message("echo", lambda conn, message: message.data)

    @manager.on("hang")
    async def hang(conn: Connection) -> None:
        await trio.sleep_forever()

    return manager, conns


# conn.start_soon


async def test_tasks_die_with_the_connection(autojump_clock: MockClock) -> None:
    """A task of ``conn.start_soon`` runs as the connection's, and is cancelled when the connection ends."""
    manager, conns = make_manager()
    seen: list[object] = []

    async def work(word: str) -> None:
        seen.extend([word, current_connection()])
        try:
            await trio.sleep_forever()
        finally:
            seen.append("cancelled")

    async with serve_in_memory(manager) as memory:
        client = await memory.connect()
        await trio.testing.wait_all_tasks_blocked()
        assert current_connection() is None
        conns[0].start_soon(work, "begun")  # from a task that is not the connection's
        await trio.testing.wait_all_tasks_blocked()
        assert seen == ["begun", conns[0]]
        await client.aclose()
        assert await conns[0].wait_closed() == Close(1006, "", "network")
        assert seen[-1] == "cancelled"
        with pytest.raises(ConnectionGone):
            conns[0].start_soon(work, "too late")


async def test_a_task_that_fails_closes_its_connection(autojump_clock: MockClock) -> None:
    """I1: an exception in a task is reported and closes its connection with 1011; what was queued is written first."""
    manager, conns = make_manager()
    errors: list[tuple[Connection | None, BaseException]] = []
    manager.on_error(lambda conn, error: errors.append((conn, error)))

    async def fail() -> None:
        conns[0].send_nowait("last words")
        raise LookupError

    async with open_client(manager) as client:
        await client.request("echo", 1)
        conns[0].start_soon(fail)
        assert await client.receive_json() == "last words"
        assert (await client.expect_close(1011)).reason == "internal error"
    assert [(conn, type(error)) for conn, error in errors] == [(conns[0], LookupError)]


async def test_no_task_gets_into_a_connection_that_is_being_torn_down(autojump_clock: MockClock) -> None:
    """A connection that is cancelled from outside takes no task, at any step of its end, and says so."""
    manager, conns = make_manager()
    told: list[str] = []

    async def pester() -> None:
        while conns[0].id in manager.connections:
            try:
                conns[0].start_soon(trio.sleep_forever)
            except ConnectionGone:
                told.append("gone")
            await trio.lowlevel.checkpoint()

    async with serve_in_memory(manager) as memory:
        for _ in range(20):
            conns.clear()
            ours, theirs = trio.testing.memory_stream_pair()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(manager.handle_connection, ours)
                client = await TestClient.connect(theirs)
                await client.request("echo", 1)
                async with trio.open_nursery() as pestering:
                    pestering.start_soon(pester)
                    nursery.cancel_scope.cancel()
            await client.aclose()
        assert memory.server.statistics().closes == {"server:1001": 20}


# conn.close


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 3000, 3999, 4000, 4999])
async def test_codes_that_may_be_sent(code: int, autojump_clock: MockClock) -> None:
    """``conn.close`` sends these codes and the reason; ``wait_closed`` and ``conn.closed`` tell them."""
    manager, conns = make_manager()
    async with open_client(manager) as client:
        await client.request("echo", 1)
        assert conns[0].closed is None
        conns[0].close(code, "because")
        closed = await client.expect_close(code)
        assert closed.reason == "because"
        await client.aclose()
        assert await conns[0].wait_closed() == conns[0].closed == Close(code, "because", "server")


@pytest.mark.parametrize("code", [-1, 0, 999, 1002, 1004, 1005, 1006, 1010, 1014, 1015, 1016, 2999, 5000, 65536])
async def test_codes_that_may_not_be_sent(code: int, autojump_clock: MockClock) -> None:
    """Codes that RFC 6455 section 7.4 keeps off the wire, or that are not the program's, are a usage error."""
    manager, conns = make_manager()
    async with open_client(manager) as client:
        await client.request("echo", 1)
        with pytest.raises(UsageError, match="cannot be sent"):
            conns[0].close(code)
        assert await client.request("echo", "open") == "open"


@pytest.mark.parametrize("reason", ["x" * 500, "€" * 100, "\ud800", "\x00"])
async def test_any_reason(reason: str, autojump_clock: MockClock) -> None:
    """A reason that does not fit into a close frame is cut, and one that is no UTF-8 does no harm."""
    manager, conns = make_manager()
    async with open_client(manager) as client:
        await client.request("echo", 1)
        conns[0].close(4000, reason)
        closed = await client.expect_close(4000)
        assert len(closed.reason.encode()) <= 123
        await client.aclose()
        with trio.fail_after(1):
            await conns[0].wait_closed()


async def test_close_writes_what_is_queued(autojump_clock: MockClock) -> None:
    """What was queued before ``close`` is written before the close frame; nothing is taken in after it."""
    manager, conns = make_manager()
    async with open_client(manager) as client:
        await client.request("echo", 1)
        for i in range(50):
            conns[0].send_nowait(i)
        conns[0].close(4000)
        conns[0].close(4001, "too late")
        with pytest.raises(ConnectionGone):
            conns[0].send_nowait("too late")
        assert [await client.receive_json() for _ in range(50)] == list(range(50))
        await client.expect_close(4000)


async def test_close_cancels_handlers_and_tasks(autojump_clock: MockClock) -> None:
    """``close`` cancels handler, concurrent handlers and tasks at once, and leaves the rooms in the same step."""
    manager, conns = make_manager()
    cancelled: list[str] = []

    async def until_cancelled(name: str) -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(name)

    @manager.on("one")
    async def one(conn: Connection) -> None:
        await conn.join("lobby")
        conn.start_soon(until_cancelled, "task")
        await until_cancelled("handler")

    @manager.on("two", concurrent=True)
    async def two(conn: Connection) -> None:
        await until_cancelled("concurrent")

    async with open_client(manager) as client:
        await client.send_action("two")
        await client.send_action("one")
        await trio.testing.wait_all_tasks_blocked()
        assert manager.get_room("lobby") is not None
        conns[0].close(4000)
        assert not conns[0].rooms
        assert manager.get_room("lobby") is None
        await client.expect_close(4000)
        assert trio.current_time() == 0
        assert sorted(cancelled) == ["concurrent", "handler", "task"]


async def test_close_in_its_own_handler(autojump_clock: MockClock) -> None:
    """A handler may close its own connection: it is cancelled at its next checkpoint, its reply is not sent."""
    manager, _ = make_manager()
    reached: list[str] = []

    @manager.on("close")
    async def close(conn: Connection) -> str:
        conn.close(4000)
        reached.append("after close")
        await trio.lowlevel.checkpoint()
        reached.append("after a checkpoint")
        return "reply"

    async with open_client(manager) as client:
        await client.send_action("close", id=1)
        await client.expect_close(4000)
    assert reached == ["after close"]


async def test_close_timeout(autojump_clock: MockClock) -> None:
    """``close_timeout`` bounds the wait for a peer that does not answer the close frame."""
    manager, conns = make_manager(Config(close_timeout=3))
    async with open_client(manager) as client:
        await client.request("echo", 1)
        conns[0].close(4000)
        await conns[0].wait_closed()
        assert trio.current_time() == pytest.approx(3, abs=0.01)


async def test_close_from_a_hook_before_the_first_message(autojump_clock: MockClock) -> None:
    """``on_connect`` may close: the middleware sees no message, and the hook's own joins are undone."""
    manager, _ = make_manager()
    log: list[str] = []
    manager.on_leave_room(lambda conn, room, reason: log.append(reason))
    manager.on_disconnect(lambda conn, close: log.append(str(close.code)))

    @manager.on_connect
    async def refuse(conn: Connection) -> None:
        await conn.join("lobby")
        conn.close(4003)

    async with open_client(manager) as client:
        await client.send_action("echo", 1, id=1)
        await client.expect_close(4003)
        await client.aclose()
        await trio.testing.wait_all_tasks_blocked()
    assert log == ["disconnected", "4003"]


# What on_connect and the middleware decide


async def test_an_action_error_in_on_connect(autojump_clock: MockClock) -> None:
    """An ActionError of ``on_connect`` closes with 4500 and its code; nothing is reported."""
    manager, _ = make_manager()
    errors: list[BaseException] = []
    manager.on_error(lambda conn, error: errors.append(error))
    closes: list[Close] = []
    manager.on_disconnect(lambda conn, close: closes.append(close))

    @manager.on_connect
    def refuse(conn: Connection) -> None:
        raise ActionError("BANNED", "not told")

    async with open_client(manager) as client:
        assert (await client.expect_close(4500)).reason == "BANNED"
        await client.aclose()
    assert closes == [Close(4500, "BANNED")]
    assert errors == []


async def test_connection_middleware(autojump_clock: MockClock) -> None:
    """The first middleware is the outermost; ``call_next`` returns when no more messages are taken."""
    manager, _ = make_manager()
    log: list[str] = []

    def layer(name: str) -> Callable[[Connection, Callable[[Connection], Awaitable[None]]], Awaitable[None]]:
        async def middleware(conn: Connection, call_next: Callable[[Connection], Awaitable[None]]) -> None:
            log.append(f"{name} in")
            await call_next(conn)
            log.append(f"{name} out")

        return middleware

    manager.use_connection(layer("outer"), layer("inner"))
    manager.on_connect(lambda conn: log.append("on_connect"))
    manager.on_disconnect(lambda conn, close: log.append("on_disconnect"))
    async with open_client(manager) as client:
        await client.request("echo", 1)
        await client.close()
    assert log == ["outer in", "inner in", "on_connect", "inner out", "outer out", "on_disconnect"]


async def test_middleware_that_lets_nobody_in(autojump_clock: MockClock) -> None:
    """Middleware that does not call the next closes with 1008, and no hook of the connection runs."""
    manager, conns = make_manager()
    log: list[str] = []
    manager.on_disconnect(lambda conn, close: log.append("on_disconnect"))

    @manager.use_connection
    async def refuse(conn: Connection, call_next: object) -> None:
        await trio.lowlevel.checkpoint()

    async with open_client(manager) as client:
        await client.expect_close(1008)
    assert (conns, log) == ([], [])


async def test_middleware_that_ends_with_an_action_error(autojump_clock: MockClock) -> None:
    """An ActionError of connection middleware closes with 4500 as in ``on_connect``; any other error with 1011."""
    for error, code in ((ActionError("NO"), 4500), (ValueError("secret"), 1011)):
        manager, _ = make_manager()

        async def fail(conn: Connection, call_next: object, error: Exception = error) -> None:
            raise error

        manager.use_connection(fail)
        async with open_client(manager) as client:
            assert "secret" not in (await client.expect_close(code)).reason


# The last hooks


async def test_a_hanging_on_error_does_not_take_on_disconnect_with_it(autojump_clock: MockClock) -> None:
    """Invariant 2: ``on_disconnect`` runs though an ``on_error`` hook uses up all the time there is."""
    manager, conns = make_manager(Config(hook_timeout=1, close_timeout=1))
    log: list[str] = []
    manager.on_disconnect(lambda conn, close: log.append("on_disconnect"))

    @manager.on_error
    async def hang(conn: object, error: BaseException) -> None:
        await trio.sleep_forever()

    async def fail() -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as exc:
                kept = exc
                raise
        raise kept

    @manager.use_connection
    async def middleware(conn: Connection, call_next: Callable[[Connection], Awaitable[None]]) -> None:
        conn.start_soon(fail)
        await call_next(conn)

    async with open_client(manager) as client:
        await client.expect_close(1011)
        await client.aclose()
        await conns[0].wait_closed()
    assert log == ["on_disconnect"]


async def test_a_hanging_on_disconnect_is_reported(autojump_clock: MockClock) -> None:
    """``hook_timeout`` bounds all hooks of the end together, and what was cut off is reported as a HookTimeout."""
    manager, conns = make_manager(Config(hook_timeout=2, close_timeout=1))
    errors: list[BaseException] = []
    manager.on_error(lambda conn, error: errors.append(error))

    @manager.on_disconnect
    async def hang(conn: Connection, close: Close) -> None:
        await trio.sleep_forever()

    async with open_client(manager) as client:
        await client.request("echo", 1)
        await client.aclose()
        await conns[0].wait_closed()
        assert trio.current_time() == pytest.approx(2, abs=0.01)
    assert [type(error) for error in errors] == [HookTimeout]


async def test_a_transport_that_fails_to_close(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """I1: a stream whose close raises what it should not is logged, and ``wait_closed`` returns all the same."""
    manager, conns = make_manager()

    class Odd(FaultyStream):
        async def aclose(self) -> None:
            try:
                await super().aclose()
            finally:
                raise ZeroDivisionError

    async with serve_in_memory(manager) as memory:
        client = await memory.connect(wrap=Odd)
        await client.request("echo", 1)
        await client.aclose()
        with trio.fail_after(10):
            await conns[0].wait_closed()
        await trio.testing.wait_all_tasks_blocked()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


class FakeTransport(NoSocket):
    """A transport that fails as none should: what it is made of is raised where the connection reads."""

    last_heard = 0.0
    paused = False
    rtt = None

    def __init__(self, error: BaseException) -> None:
        self._error = error
        self.log: list[str] = []

    async def receive(self) -> str:
        await trio.lowlevel.checkpoint()
        raise self._error

    async def send(self, frames: Sequence[Frame]) -> int:
        await trio.lowlevel.checkpoint()
        return len(frames)

    async def ping(self) -> None:
        await trio.lowlevel.checkpoint()

    async def close(self, code: int, reason: str) -> None:
        self.log.append(f"close {code}")
        await trio.lowlevel.checkpoint()

    async def abort(self) -> None:
        self.log.append("abort")
        await trio.lowlevel.checkpoint()


async def test_a_fault_of_our_own(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """I1: an exception that nobody foresaw ends its connection with 1011 and goes no further."""
    manager, _ = make_manager()
    closes: list[Close] = []
    manager.on_disconnect(lambda conn, close: closes.append(close))
    transport = FakeTransport(ZeroDivisionError())
    async with serve_in_memory(manager) as memory:
        conn = Connection(memory.server._node, HandshakeRequest(method="GET", target="/ws"), Identity(), None)
        await live(conn, transport, Alarm(memory.server._node.spawn))
        assert await conn.wait_closed() == Close(1011, "internal error")
    assert transport.log == ["close 1011", "abort"]
    assert closes == [Close(1011, "internal error")]
    (record,) = caplog.records
    assert record.getMessage().startswith("connection failed: ")


# The peer's end


async def test_what_stood_before_the_peers_close(autojump_clock: MockClock) -> None:
    """Messages that stood before the peer's close frame are still handled; their replies are discarded and counted."""
    manager, _ = make_manager()
    handled: list[int] = []

    @manager.on("work")
    async def work(conn: Connection, data: int) -> int:
        await trio.sleep(1)
        handled.append(data)
        return data

    async with serve_in_memory(manager) as memory:
        client = await memory.connect()
        for i in range(3):
            await client.send_action("work", i, id=i)
        await client.close()
        await client.aclose()
        await trio.sleep(4)
    assert handled == [0, 1, 2]
    assert memory.server.statistics().dropped == 3
    assert memory.server.statistics().closes == {"peer:1000": 1}


async def test_but_only_for_the_close_timeout(autojump_clock: MockClock) -> None:
    """What the peer left behind gets ``close_timeout`` and no more."""
    manager, conns = make_manager(Config(close_timeout=2))
    async with open_client(manager) as client:
        await client.send_action("hang")
        await client.send_action("echo", 1)
        await client.close()
        await client.aclose()
        await conns[0].wait_closed()
        assert trio.current_time() == 2


@pytest.mark.parametrize("way", ["eof", "cut"])
async def test_a_lost_peer_is_not_worked_for(way: str, autojump_clock: MockClock) -> None:
    """End of file or a broken stream cancels handlers at once."""
    manager, conns = make_manager()
    streams: list[FaultyStream] = []

    def wrap(stream: trio.abc.Stream) -> FaultyStream:
        streams.append(FaultyStream(stream))
        return streams[-1]

    async with open_client(manager, wrap=wrap) as client:
        await client.send_action("hang")
        await trio.testing.wait_all_tasks_blocked()
        await (client.aclose() if way == "eof" else streams[0].cut())
        assert (await conns[0].wait_closed()).by == "network"
        assert trio.current_time() == 0


async def test_write_timeout(autojump_clock: MockClock) -> None:
    """S5: ``write_timeout`` aborts a connection whose peer takes nothing; no close frame follows the torn one."""
    manager, conns = make_manager(Config(write_timeout=3))
    streams: list[FaultyStream] = []

    def wrap(stream: trio.abc.Stream) -> FaultyStream:
        streams.append(FaultyStream(stream))
        return streams[-1]

    async with open_client(manager, wrap=wrap) as client:
        await client.request("echo", 1)
        sent = streams[0].bytes_sent
        streams[0].stall_sending(1)
        conns[0].send_nowait("torn")
        assert await conns[0].wait_closed() == Close(1006, "a write timed out", "network")
        assert trio.current_time() == 3
        assert streams[0].bytes_sent == sent + 1


async def test_data_after_a_close_frame_is_dropped(autojump_clock: MockClock) -> None:
    """Messages that come after our close began are read and dropped."""
    manager, conns = make_manager()
    handled: list[object] = []
    manager.on("note")(lambda conn, message: handled.append(message.data))
    async with open_client(manager) as client:
        await client.request("echo", 1)
        conns[0].close(4000)
        for i in range(10):
            await client.send_raw(client_frame(Opcode.TEXT, json.dumps({"action": "note", "data": i}).encode()))
        await client.expect_close(4000)
    assert handled == []


# What it knows


async def test_what_a_connection_knows(autojump_clock: MockClock) -> None:
    """Who it is and what it asked for: identity, path, query, headers, cookies, subprotocol, since when."""
    manager, conns = make_manager()

    @manager.authenticate
    async def authenticate(request: HandshakeRequest) -> Identity:
        return Identity(user="ada", claims={"role": "admin"})

    async with open_client(
        manager,
        path="/ws?room=a%20b&room=c",
        headers=[("X-One", "1"), ("Cookie", 'a=1; b="2"')],
        subprotocol="trio-rooms.v1.json",
    ) as client:
        await client.receive_json()
        await trio.testing.wait_all_tasks_blocked()
        conn = conns[0]
        assert (conn.identity.user, dict(conn.identity.claims)) == ("ada", {"role": "admin"})
        assert (conn.path, dict(conn.query)) == ("/ws", {"room": "c"})
        assert (conn.headers["X-ONE"], conn.headers.get("absent")) == ("1", None)
        assert dict(conn.cookies) == {"a": "1", "b": "2"}
        assert (conn.subprotocol, conn.remote, conn.rtt) == ("trio-rooms.v1.json", None, None)
        assert datetime.now(UTC) - conn.connected_at < timedelta(minutes=1)
        assert conn.statistics().written == 1
        assert repr(conn) == f"<Connection {conn.id} user='ada'>"
        with pytest.raises(AttributeError):
            conn.identity.user = "eve"  # type: ignore[misc]
        conn.close(4000)
        assert repr(conn).endswith(" closed>")


async def test_ids_are_never_used_again(autojump_clock: MockClock) -> None:
    """Each connection has an id of its own, of at least 128 bits."""
    manager, conns = make_manager()
    async with serve_in_memory(manager) as memory:
        for _ in range(20):
            client = await memory.connect()
            await client.request("echo", 1)
            await client.aclose()
    ids = {conn.id for conn in conns}
    assert len(ids) == 20
    assert all(len(one) >= 22 for one in ids)


async def test_metadata_and_the_names_of_go(autojump_clock: MockClock) -> None:
    """``metadata`` is the program's, and the Go package's verbs say the same as the things they are named for."""
    manager, conns = make_manager()
    async with open_client(manager) as client:
        await client.request("echo", 1)
        conn = conns[0]
        conn.set_metadata("key", [1])
        assert conn.metadata == {"key": [1]}
        assert conn.get_metadata("key") == [1]
        assert (conn.get_metadata("other"), conn.get_metadata("other", 7)) == (None, 7)
        joined = await manager.join_room(conn, "lobby")
        assert isinstance(joined.room, Room)
        assert conn.get_subscriptions() == list(conn.rooms) == ["lobby"]
        assert conn.is_subscribed("lobby")
        assert manager.leave_room(conn, "lobby")
        assert not manager.leave_room(conn, "lobby")
        assert not conn.is_subscribed("lobby")
        assert conn.get_subscriptions() == []
        with pytest.raises(TypeError):
            conn.rooms["x"] = joined.room  # type: ignore[index]
        await conn.write_json({"a": 1})
        assert await client.receive_json() == {"a": 1}


async def test_wait_closed_again(autojump_clock: MockClock) -> None:
    """``wait_closed`` of a connection that is over returns at once, as a checkpoint, to any number of tasks."""
    manager, conns = make_manager()
    ends: list[Close] = []
    async with open_client(manager) as client, trio.open_nursery() as nursery:
        await client.request("echo", 1)

        async def wait() -> None:
            ends.append(await conns[0].wait_closed())

        nursery.start_soon(wait)
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await client.aclose()
    with trio.testing.assert_checkpoints():
        await wait()
    assert ends == [Close(1006, "", "network")] * 3


# Limits and isolation


async def test_nothing_grows(autojump_clock: MockClock) -> None:
    """Invariant 5: after 1,000 connections with users, rooms and ids of their own every map is empty again."""
    manager, conns = make_manager()

    @manager.authenticate
    async def authenticate(request: HandshakeRequest) -> Identity:
        return Identity(user=request.query["user"])

    @manager.on("join")
    async def join(conn: Connection, data: str) -> None:
        await conn.join(data)

    async with serve_in_memory(manager) as memory:
        node, arrivals = memory.server._node, memory.server._arrivals
        tasks = trio.lowlevel.current_statistics().tasks_living
        for i in range(1_000):
            client = await memory.connect(path=f"/ws?user=user{i}")
            await client.request("join", f"room{i}", id=f"id{i}")
            await client.aclose()
            await conns.pop().wait_closed()
        await trio.testing.wait_all_tasks_blocked()
        assert (node.connections, node.users, node.rooms, node.closing_rooms) == ({}, {}, {}, {})
        assert not node.grace._scopes
        assert not arrivals._scopes
        assert arrivals._admission.open == arrivals._admission.pending == 0
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        statistics = memory.server.statistics()
        assert statistics.accepted == 1_000
        assert statistics.closes == {"network:1006": 1_000}


@pytest.mark.time_limit(120)
async def test_one_slow_member(autojump_clock: MockClock) -> None:
    """I3: of 200 members one reads nothing: it is closed, the others get everything, in order and without delay."""
    manager, _ = make_manager(Config(limits=Limits(outbox_messages=16)))
    streams: list[FaultyStream] = []
    got: list[int] = []

    def wrap(stream: trio.abc.Stream) -> FaultyStream:
        streams.append(FaultyStream(stream))
        return streams[-1]

    async def read(client: TestClient) -> None:
        for i in range(100):
            assert await client.receive_json() == i
        got.append(100)
        await client.aclose()

    @manager.on_connect
    async def join(conn: Connection) -> None:
        await conn.join("lobby")

    async with trio.open_nursery() as nursery, serve_in_memory(manager) as memory:
        slow = await memory.connect(wrap=wrap)
        for _ in range(199):
            client = await memory.connect()
            nursery.start_soon(read, client)
        await trio.testing.wait_all_tasks_blocked()
        streams[0].stall_sending()
        closed = 0
        for i in range(100):
            report = manager.broadcast_to_room("lobby", i)
            closed += report.closed
            assert report.enqueued == (200 if closed == 0 else 199)
            await trio.testing.wait_all_tasks_blocked()
        assert trio.current_time() == 0  # nobody waited for anybody
        assert closed == 1
        await slow.aclose()
    assert got == [100] * 199


async def test_what_a_client_may_set(autojump_clock: MockClock) -> None:
    """Invariant 10: forwarded headers and ids of the client's choice do not become its address or its id."""
    manager, conns = make_manager()
    forged = [("X-Forwarded-For", "10.0.0.1"), ("Forwarded", "for=10.0.0.1"), ("X-Real-IP", "10.0.0.1")]
    async with open_client(manager, headers=forged, path="/ws?id=mine&user=root") as client:
        assert await client.request("echo", 1, id="connection") == 1
        assert conns[0].remote is None
        assert conns[0].identity == Identity()
        assert conns[0].id not in ("mine", "connection")
