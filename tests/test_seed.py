"""Every name of the Go package's document: its counterpart here, and a test that uses it.

The table is in the order of the document. A test says with ``uses`` which names it is for.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_rooms
import trio_rooms.middleware
from trio_rooms import (
    ActionError,
    Close,
    Config,
    Connection,
    ConnectionGone,
    Context,
    Identity,
    Manager,
    Message,
    Room,
    Server,
    serve_rooms,
)
from trio_rooms.middleware import logger, recovery
from trio_rooms.testing import TestClient, open_client, serve_in_memory

COUNTERPARTS = {
    # Quick start, functional options
    "ws.NewManager": "Manager",
    "ws.WithLogger": "Manager.logger",
    "ws.WithConfig": "Manager.config",
    "ws.WithMiddleware": "Manager.use",
    "ws.WithHook": "Manager.on_connect",
    # Configuration
    "ws.ManagerConfig": "Config",
    "ws.DefaultConfig": "Config",
    "PingInterval": "Config.ping_interval",
    "PongTimeout": "Config.pong_timeout",
    "ReadBufferSize": "Config.read_buffer_size",
    "WriteBufferSize": "Config.write_buffer_size",
    "MaxConnectionsPerRoom": "Config.max_connections_per_room",
    "ShutdownTimeout": "Config.shutdown_timeout",
    # Connections
    "ws.Connection": "Connection",
    "ws.ConnectionInterface": "Connection",
    "conn.SetMetadata": "Connection.set_metadata",
    "conn.GetMetadata": "Connection.get_metadata",
    "conn.GetSubscriptions": "Connection.get_subscriptions",
    "conn.IsSubscribed": "Connection.is_subscribed",
    "conn.ReadJSON": "Connection.read_json",
    "conn.WriteJSON": "Connection.write_json",
    "conn.Context": "Connection.start_soon",
    # Rooms and broadcasting
    "manager.JoinRoom": "Manager.join_room",
    "manager.LeaveRoom": "Manager.leave_room",
    "manager.BroadcastToRoom": "Manager.broadcast_to_room",
    "manager.BroadcastToAll": "Manager.broadcast_to_all",
    "manager.SendToConnection": "Manager.send_to_connection",
    # Messages
    "ws.Message": "Message",
    "msg.Data": "Message.decode",
    "ws.MessageHandler": "Manager.on",
    "manager.HandleMessage": "Manager.handle_message",
    # Middleware
    "middleware.Logger": "middleware.logger",
    "middleware.Recovery": "middleware.recovery",
    "middleware.Handler": "Manager.use_connection",
    # Hooks
    "hooks.OnConnect": "Manager.on_connect",
    "hooks.OnDisconnect": "Manager.on_disconnect",
    "hooks.OnMessage": "Manager.on_message",
    "hooks.OnError": "Manager.on_error",
    "hooks.OnJoinRoom": "Manager.on_join_room",
    "hooks.OnLeaveRoom": "Manager.on_leave_room",
    # Event structure
    "WorkflowEvent": "Room.publish",
    # Integration and shutdown
    "manager.HandleConnection": "Manager.handle_connection",
    "app.Listen": "Manager.serve",
    "manager.Shutdown": "Manager.shutdown",
    "hooks.BeforeShutdown": "Manager.begin_shutdown",
}

#: What the document only announces, and where it has come to in this version.
ANNOUNCED = {
    "Connection authentication middleware": "Manager.authenticate",
    "Metrics and monitoring hooks": "Server.statistics",
}

T = TypeVar("T", bound=Callable[..., Any])

USED: set[str] = set()


def uses(*names: str) -> Callable[[T], T]:
    """Say which names of the document a test is for."""
    USED.update(names)
    return lambda test: test


@pytest.mark.parametrize("path", sorted({*COUNTERPARTS.values(), *ANNOUNCED.values()}))
def test_counterparts(path: str) -> None:
    """Each name of the document has something here that is public and exists."""
    first, *rest = path.split(".")
    found: Any = reduce(getattr, [first, *rest[:-1]], trio_rooms)
    for name in rest[-1:]:
        # Attributes that the constructor sets are no attributes of the class.
        assert hasattr(found, name) or name in dir(found(logger=None) if found is Manager else found), path


@pytest.mark.parametrize("name", [*COUNTERPARTS, *ANNOUNCED])
def test_the_page_for_those_who_come_from_go(name: str) -> None:
    """Each name of the document is on the page that maps them."""
    page = (Path(__file__).parents[1] / "docs" / "coming-from-go.md").read_text(encoding="utf-8")
    assert name.rpartition(".")[2] in page


def test_every_name_is_used() -> None:
    """Each name of the document is used by a test in this module, and no test claims a name that is not there."""
    assert {*COUNTERPARTS, *ANNOUNCED} == USED


async def connection_of(manager: Manager, client: TestClient) -> Connection:
    """The one connection that is open."""
    await wait_all_tasks_blocked()
    (conn,) = manager.connections.values()
    return conn


@uses("ws.NewManager", "ws.WithLogger", "middleware.Logger", "middleware.Recovery", "ws.WithMiddleware")
@uses("manager.HandleMessage", "ws.MessageHandler")
async def test_the_minimal_example(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """A manager with logger and middleware of the package, and handlers registered in both ways."""
    log = logging.getLogger("seed")
    manager = Manager(logger=log, middleware=[logger(), recovery()])

    async def subscribe(conn: Connection, message: Message) -> None:
        raise RuntimeError("not ready")

    manager.handle_message("subscribe", subscribe)

    @manager.on("unsubscribe")
    async def unsubscribe(conn: Connection, message: Message) -> str:
        return message.action or ""

    with caplog.at_level(logging.INFO, logger="seed"):
        async with open_client(manager) as client:
            await client.send_action("subscribe")
            assert (await client.receive_json())["error"]["code"] == "INTERNAL"
            assert await client.request("unsubscribe") == "unsubscribe"
    assert manager.logger is log
    logged = [(record.name, record.__dict__.get("action"), record.__dict__.get("outcome")) for record in caplog.records]
    assert ("seed", "subscribe", "INTERNAL") in logged
    assert ("seed", "unsubscribe", "ok") in logged


@uses("ws.WithConfig", "ws.DefaultConfig", "ws.ManagerConfig", "PingInterval", "PongTimeout", "ReadBufferSize")
@uses("WriteBufferSize", "MaxConnectionsPerRoom", "ShutdownTimeout")
async def test_the_configuration(autojump_clock: MockClock) -> None:
    """The six settings with the document's values; a seventh member of a room of six, and a peer that is dead."""
    config = Config(
        ping_interval=60,
        pong_timeout=10,
        read_buffer_size=4096,
        write_buffer_size=4096,
        max_connections_per_room=1,
        shutdown_timeout=30,
    )
    manager = Manager(config=config)
    assert manager.config is config

    @manager.on("join")
    async def join(conn: Connection) -> None:
        await conn.join("workflow_123")

    @manager.on("hang")
    async def hang(conn: Connection) -> None:
        await trio.sleep_forever()

    async with serve_in_memory(manager) as memory:
        first, second = await memory.connect(), await memory.connect()
        await first.request("join")
        await second.send_action("join")
        assert (await second.receive_json())["error"]["code"] == "ROOM_FULL"
        await second.close()

        await first.send_action("hang")
        await wait_all_tasks_blocked()
        begun = trio.current_time()
        manager.begin_shutdown()
        await first.expect_close(1012)
        assert trio.current_time() - begun == 30
    async with serve_in_memory(manager) as memory:
        await memory.connect()  # and never reads, so it answers no ping
        begun = trio.current_time()
        conn = next(iter(manager.connections.values()))
        assert (await conn.wait_closed()).code == 1006
        assert 10 <= trio.current_time() - begun <= 70


@uses("ws.Connection", "ws.ConnectionInterface", "conn.SetMetadata", "conn.GetMetadata", "conn.GetSubscriptions")
@uses("conn.IsSubscribed")
async def test_the_connection(autojump_clock: MockClock) -> None:
    """Metadata and subscriptions by their old names, which are the same things as by their new ones."""
    manager = Manager()
    async with open_client(manager) as client:
        conn = await connection_of(manager, client)
        conn.set_metadata("user_id", "123")
        conn.set_metadata("session_id", "abc")
        assert conn.get_metadata("user_id") == "123"
        assert conn.get_metadata("nothing") is None
        assert conn.get_metadata("nothing", "a default") == "a default"
        assert conn.metadata == {"user_id": "123", "session_id": "abc"}
        for room in ("room_123", "room_456"):
            await conn.join(room)
        assert conn.get_subscriptions() == list(conn.rooms) == ["room_123", "room_456"]
        assert conn.is_subscribed("room_123")
        assert not conn.is_subscribed("room_789")


@uses("conn.ReadJSON", "conn.WriteJSON", "conn.Context")
async def test_typed_messages_and_the_context(autojump_clock: MockClock) -> None:
    """A session reads and writes values of types; what belongs to a connection is cancelled with it."""
    manager = Manager()
    ended: list[str] = []

    @attrs.frozen
    class Greeting:
        action: str
        name: str

    async def background() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append("background")

    @manager.session
    async def session(conn: Connection) -> None:
        conn.start_soon(background)
        greeting = await conn.read_json(Greeting)
        assert type(greeting) is Greeting
        await conn.write_json({"hello": greeting.name})
        with pytest.raises(ConnectionGone):
            await conn.read_json()
        ended.append("session")

    async with serve_in_memory(manager) as memory:
        client = await memory.connect()
        await client.send_json({"action": "greet", "name": "Ada"})
        assert await client.receive_json() == {"hello": "Ada"}
        await client.close()
        await wait_all_tasks_blocked()
        assert sorted(ended) == ["background", "session"]


@uses("manager.JoinRoom", "manager.LeaveRoom", "manager.BroadcastToRoom", "manager.BroadcastToAll")
@uses("manager.SendToConnection")
async def test_rooms_and_broadcasting(autojump_clock: MockClock) -> None:
    """The five verbs: who is in the room hears it, everybody hears what is for all, and one what is for one."""
    manager = Manager()
    async with serve_in_memory(manager) as memory:
        clients = [await memory.connect() for _ in range(3)]
        await wait_all_tasks_blocked()
        conns = list(manager.connections.values())
        for conn in conns[:2]:
            joined = await manager.join_room(conn, "workflow_123")
            assert joined.new
        assert manager.broadcast_to_room("workflow_123", "to the room").enqueued == 2
        assert manager.broadcast_to_room("workflow_123", "to the other", exclude=[conns[0]]).enqueued == 1
        assert manager.leave_room(conns[1], "workflow_123")
        assert not manager.leave_room(conns[1], "workflow_123")
        assert manager.broadcast_to_room("workflow_123", "to who is left").enqueued == 1
        assert manager.broadcast_to_all("to all").enqueued == 3
        manager.send_to_connection(conns[2], "to one")
        manager.send_to_connection(conns[2].id, "to one by its id")
        await wait_all_tasks_blocked()  # a close would discard what is not written
        heard = []
        for client in clients:
            await client.close()
            heard.append([json.loads(message) for message in client.pending])
        assert heard == [
            ["to the room", "to who is left", "to all"],
            ["to the room", "to the other", "to all"],
            ["to all", "to one", "to one by its id"],
        ]


@uses("ws.Message", "msg.Data")
async def test_the_message_format(autojump_clock: MockClock) -> None:
    """``{"action", "data"}``, decoded by the handler's annotation, or by hand from the message."""
    manager = Manager()

    @attrs.frozen
    class Subscribe:
        room_id: str

    async def by_annotation(conn: Connection, data: Subscribe) -> None:
        await conn.join(data.room_id)
        await conn.write_json({"status": "subscribed", "room": data.room_id})

    async def by_hand(conn: Connection, message: Message) -> None:
        await by_annotation(conn, message.decode(Subscribe))
        assert message.data == json.loads(message.raw) == {"room_id": "workflow_123"}

    # The annotation is a class of this function, which a string of it cannot name.
    by_annotation.__annotations__["data"] = Subscribe
    manager.handle_message("subscribe", by_annotation)
    manager.handle_message("by hand", by_hand)
    async with open_client(manager) as client:
        for action in ("subscribe", "by hand"):
            await client.send_json({"action": action, "data": {"room_id": "workflow_123"}})
            assert await client.receive_json() == {"status": "subscribed", "room": "workflow_123"}
            await client.send_json({"action": action, "data": {"room": "workflow_123"}})
            assert (await client.receive_json())["error"]["code"] == "BAD_MESSAGE"


@uses("middleware.Handler")
async def test_custom_middleware(autojump_clock: MockClock) -> None:
    """Before the connection is processed, as in the document; and after it, and around each message."""
    manager = Manager()
    log: list[str] = []

    async def around_the_connection(conn: Connection, call_next: Any) -> None:
        log.append("before")
        await call_next(conn)
        log.append("after")

    async def around_each_message(ctx: Context, call_next: Any) -> Any:
        log.append(f"{ctx.message.action}?")
        return await call_next(ctx)

    manager.use_connection(around_the_connection)
    manager.use(around_each_message)
    manager.handle_message("ping", lambda conn: "pong")
    async with serve_in_memory(manager) as memory:
        client = await memory.connect()
        assert await client.request("ping") == "pong"
        await client.close()
        await wait_all_tasks_blocked()
        assert log == ["before", "ping?", "after"]


@uses("ws.WithHook", "hooks.OnConnect", "hooks.OnDisconnect", "hooks.OnMessage", "hooks.OnError", "hooks.OnJoinRoom")
@uses("hooks.OnLeaveRoom")
async def test_hooks(autojump_clock: MockClock) -> None:
    """All six, each when the document says that it comes."""
    manager = Manager(middleware=[recovery()])
    log: list[tuple[object, ...]] = []

    @manager.on_connect
    async def connected(conn: Connection) -> None:
        log.append(("connect", dict(conn.rooms)))

    @manager.on_disconnect
    async def disconnected(conn: Connection, close: Close) -> None:
        log.append(("disconnect", close.code))

    @manager.on_message
    async def message(conn: Connection, message: Message) -> None:
        log.append(("message", message.action))

    @manager.on_error
    async def failed(conn: Connection | None, error: BaseException) -> None:
        log.append(("error", type(error)))

    @manager.on_join_room
    async def joined(conn: Connection, room: Room) -> None:
        log.append(("join", room.name))

    @manager.on_leave_room
    async def left(conn: Connection, room: Room, reason: str) -> None:
        log.append(("leave", room.name, reason))

    @manager.on("join")
    async def join(conn: Connection, room: str) -> None:
        await conn.join(room)
        raise ZeroDivisionError

    async with serve_in_memory(manager) as memory:
        client = await memory.connect()
        await client.send_action("join", "workflow_123")
        assert "error" in await client.receive_json()
        (conn,) = manager.connections.values()
        await client.close()
        await conn.wait_closed()
        assert log == [
            ("connect", {}),
            ("message", "join"),
            ("join", "workflow_123"),
            ("error", ZeroDivisionError),
            ("leave", "workflow_123", "disconnected"),
            ("disconnect", 1000),
        ]


@attrs.frozen(kw_only=True)
class WorkflowEvent:
    type: str
    workflow_execution_id: str
    node_id: str
    data: Any
    timestamp: datetime


@uses("WorkflowEvent")
async def test_the_event_structure(autojump_clock: MockClock) -> None:
    """An object with a time in it is broadcast as it is, and arrives under the document's names."""
    manager = Manager()
    event = WorkflowEvent(
        type="node.started",
        workflow_execution_id="exec_123",
        node_id="node_456",
        data={"status": "running"},
        timestamp=datetime(2024, 2, 29, 12, tzinfo=UTC),
    )
    async with open_client(manager) as client:
        conn = await connection_of(manager, client)
        room = (await conn.join("workflow_exec_123")).room
        await room.publish(event)
        assert await client.receive_json() == {
            "type": "node.started",
            "workflow_execution_id": "exec_123",
            "node_id": "node_456",
            "data": {"status": "running"},
            "timestamp": "2024-02-29T12:00:00Z",
        }


@uses("app.Listen", "manager.HandleConnection")
@pytest.mark.sockets
async def test_integration() -> None:
    """On a port of its own, and with a stream that another server has accepted."""
    manager = Manager()
    manager.handle_message("ping", lambda conn: "pong")
    async with trio.open_nursery() as nursery:
        server = await nursery.start(manager.serve)
        async with await connect(server) as client:
            assert await client.request("ping") == "pong"
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(manager.handle_connection, theirs)
        async with await TestClient.connect(ours) as client:
            assert await client.request("ping") == "pong"
        manager.begin_shutdown()
    server.assert_quiescent()


async def connect(server: Server) -> TestClient:
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    return await TestClient.connect(stream, host=f"127.0.0.1:{server.port}")


@uses("manager.Shutdown", "hooks.BeforeShutdown")
@pytest.mark.sockets
async def test_graceful_shutdown() -> None:
    """The document's four steps: accept no more, close all, wait for what is active, clean up."""
    manager = Manager()
    active, may_end = trio.Event(), trio.Event()

    @manager.on("work")
    async def work(conn: Connection) -> str:
        await conn.join("hall")
        active.set()
        await may_end.wait()
        return "done"

    async with trio.open_nursery() as nursery, serve_rooms(manager) as server:
        async with await connect(server) as client:
            await client.send_action("work", id=1)
            await active.wait()
            nursery.start_soon(manager.shutdown)
            await wait_all_tasks_blocked()
            assert server.draining
            with pytest.raises(OSError, match="all attempts to connect"):
                await trio.open_tcp_stream("127.0.0.1", server.port)
            may_end.set()
            assert await client.receive_json() == {"id": 1, "data": "done"}
            await client.expect_close(1012)
        await server.wait_closed()
    server.assert_quiescent()
    manager.begin_shutdown()  # without a server there is nothing to do
    await manager.shutdown()


@uses("Connection authentication middleware", "Metrics and monitoring hooks")
async def test_announced(autojump_clock: MockClock) -> None:
    """Two of the future enhancements are here already."""
    manager = Manager()

    @manager.authenticate
    async def authenticate(request: trio_rooms.HandshakeRequest) -> Identity | None:
        return Identity(user="ada") if request.query.get("token") == "secret" else None

    @manager.on("who")
    def who(conn: Connection) -> str | None:
        if conn.identity.user is None:
            raise ActionError("NOBODY")
        return conn.identity.user

    async with serve_in_memory(manager) as memory:
        client = await memory.connect(path="/ws?token=secret")
        assert await client.request("who") == "ada"
        statistics = memory.server.statistics()
        assert (statistics.connections, statistics.messages_received) == (1, 1)
