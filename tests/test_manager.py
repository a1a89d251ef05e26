"""The manager: what is there only while it serves, what is fixed then, and serving as a whole program."""

from __future__ import annotations

import logging
import signal
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from trio_rooms import (
    Config,
    Connection,
    Manager,
    NotServing,
    Room,
    Server,
    current_connection,
    current_room,
)
from trio_rooms.brokers import Deliver, MemoryBroker
from trio_rooms.testing import HandshakeRefused, TestClient, open_client, serve_in_memory

VERBS: list[Callable[[Manager], object]] = [
    lambda manager: manager.broadcast_to_room("lobby", 1),
    lambda manager: manager.broadcast_to_rooms(["lobby"], 1),
    lambda manager: manager.broadcast_to_all(1),
    lambda manager: manager.send_to_connection("id", 1),
    lambda manager: manager.send_to_user("ada", 1),
]


@pytest.mark.parametrize("verb", VERBS, ids=range(len(VERBS)))
def test_verbs_need_a_server(verb: Callable[[Manager], object]) -> None:
    """Publishing and sending without a serve is a usage error that says so."""
    with pytest.raises(NotServing):
        verb(Manager())


async def test_handing_over_needs_a_server() -> None:
    """``handle_connection`` without a serve raises NotServing and leaves the stream to the caller."""
    ours, theirs = trio.testing.memory_stream_pair()
    with pytest.raises(NotServing):
        await Manager().handle_connection(ours)
    await ours.send_all(b"still open")
    assert await theirs.receive_some() == b"still open"


def test_what_is_empty_without_a_server() -> None:
    """What can only be looked at is empty while nothing serves."""
    manager = Manager()
    assert manager.server is None
    assert dict(manager.connections) == {}
    assert manager.rooms() == []
    assert manager.get_room("lobby") is None
    manager.begin_shutdown()


async def test_what_there_is_while_it_serves(autojump_clock: MockClock) -> None:
    """``connections``, ``rooms`` and ``get_room`` show what is there now; the map is live, and read-only."""
    manager = Manager()

    @manager.on_connect
    async def join(conn: Connection) -> None:
        await conn.join("lobby")

    async with serve_in_memory(manager) as memory:
        assert manager.server is memory.server
        connections = manager.connections
        client = await memory.connect()
        await trio.testing.wait_all_tasks_blocked()
        (conn,) = connections.values()
        assert connections[conn.id] is conn
        with pytest.raises(TypeError):
            connections["x"] = conn  # type: ignore[index]
        assert [room.name for room in manager.rooms()] == ["lobby"]
        assert manager.get_room("lobby") is manager.rooms()[0]
        assert manager.get_room("other") is None
        await client.aclose()
        await conn.wait_closed()
        assert not connections
    assert manager.server is None


async def test_the_context(autojump_clock: MockClock) -> None:
    """``current_connection`` and ``current_room`` tell for whom code runs: handlers, tasks, hooks, rooms, nobody."""
    manager = Manager()
    seen: dict[str, tuple[str | None, str | None]] = {}

    async def note(place: str) -> None:
        conn, room = current_connection(), current_room()
        seen[place] = (None if conn is None else "conn", None if room is None else room.name)
        await trio.lowlevel.checkpoint()

    @manager.on_connect
    async def connected(conn: Connection) -> None:
        await note("on_connect")
        joined = await conn.join("lobby")
        joined.room.start_soon(note, "task of the room")
        conn.start_soon(note, "task of the connection")

    @manager.on("handle")
    async def handle(conn: Connection) -> None:
        await note("handler")

    @manager.session
    async def session(conn: Connection) -> None:
        await note("session")
        await conn.read_json()

    @manager.on_leave_room
    async def left(conn: Connection, room: Room, reason: str) -> None:
        await note("on_leave_room")

    @manager.on_disconnect
    async def disconnected(conn: Connection, close: object) -> None:
        await note("on_disconnect")

    @manager.on_room_open
    async def opened(room: Room) -> None:
        await note("on_room_open")

    async with open_client(manager) as client:
        await client.request("handle")
        (conn,) = manager.connections.values()
        await client.close()
        await client.aclose()
        await conn.wait_closed()
        await note("the program")
    assert seen == {
        "on_connect": ("conn", None),
        "handler": ("conn", None),
        "session": ("conn", None),
        "task of the connection": ("conn", None),
        "on_leave_room": ("conn", None),
        "on_disconnect": ("conn", None),
        "on_room_open": (None, "lobby"),
        "task of the room": (None, "lobby"),
        "the program": (None, None),
    }


async def test_the_context_of_who_serves_a_connection_itself(autojump_clock: MockClock) -> None:
    """A task that calls ``handle_connection`` is the connection's meanwhile, and its own again afterwards."""
    manager = Manager()
    ours, theirs = trio.testing.memory_stream_pair()
    async with serve_in_memory(manager), trio.open_nursery() as nursery:

        async def come() -> None:
            client = await TestClient.connect(theirs)
            await client.aclose()

        nursery.start_soon(come)
        await manager.handle_connection(ours)
        assert current_connection() is None


async def test_cancelling_who_serves_a_connection(autojump_clock: MockClock) -> None:
    """Cancelling ``handle_connection`` closes that connection with 1001; others and the server go on."""
    manager = Manager()
    manager.handle_message("echo", lambda conn, message: message.data)
    async with serve_in_memory(manager) as memory:
        other = await memory.connect()
        ours, theirs = trio.testing.memory_stream_pair()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def come() -> None:
                    with trio.CancelScope(shield=True):
                        client = await TestClient.connect(theirs)
                        scope.cancel()
                        await client.expect_close(1001)
                        await client.aclose()

                nursery.start_soon(come)
                await manager.handle_connection(ours)
        assert scope.cancelled_caught
        assert await other.request("echo", 1) == 1


def test_the_constructor_keeps_what_it_is_given() -> None:
    """Config and logger are what was given, or the defaults."""
    config, logger = Config(ping_interval=1), logging.getLogger("mine")
    manager = Manager(config=config, logger=logger)
    assert (manager.config, manager.logger) == (config, logger)
    assert (Manager().config, Manager().logger.name) == (Config(), "trio_rooms")


async def test_the_logger_is_used(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """Errors go to the manager's logger, with the connection and its user as fields."""
    manager = Manager(logger=logging.getLogger("mine"))

    @manager.on("crash")
    async def crash(conn: Connection) -> None:
        raise ValueError("for the log")

    async with open_client(manager) as client:
        await client.send_action("crash", id=1)
        (conn,) = manager.connections.values()
        await client.expect_close(1011, skip_messages=True)
    (record,) = caplog.records
    assert record.name == "mine"
    assert record.__dict__["connection"] == conn.id
    assert record.__dict__["user"] is None


@pytest.mark.parametrize("debug", [False, True])
async def test_debug(debug: bool, autojump_clock: MockClock) -> None:
    """Invariant 9: only with ``debug=True`` a client is told the text of an exception."""
    manager = Manager(debug=debug)

    @manager.on("crash")
    async def crash(conn: Connection) -> None:
        raise ValueError("secret")

    async with open_client(manager) as client:
        await client.send_action("crash", id=1)
        reply = await client.receive_json()
        assert reply["error"]["code"] == "INTERNAL"
        assert ("secret" in reply["error"]["message"]) == debug
        assert ("ValueError" in reply["error"]["message"]) == debug


@pytest.mark.parametrize(
    ("path", "asked", "status"),
    [("/ws", "/ws", 101), ("/ws", "/ws?a=1", 101), ("/ws", "/ws/", 404), ("/a/b", "/a/b", 101), (None, "/any", 101)],
)
async def test_path(path: str | None, asked: str, status: int, autojump_clock: MockClock) -> None:
    """``path`` is where upgrades are accepted, with or without a query; None accepts them anywhere."""
    async with serve_in_memory(Manager(), path=path) as memory:
        if status == 101:
            await (await memory.connect(path=asked)).aclose()
        else:
            with pytest.raises(HandshakeRefused) as refused:
                await memory.connect(path=asked)
            assert refused.value.status == status


@pytest.mark.parametrize(
    ("allowed", "origin", "let_in"),
    [
        ("same", "http://testserver", True),
        ("same", "http://evil-example.com", False),
        (["https://*.example.com"], "https://a.example.com", True),
        (["https://*.example.com"], "https://evil-example.com", False),
        (["https://*.example.com"], "http://testserver", False),
        (None, "http://evil-example.com", True),
    ],
)
async def test_allowed_origins(allowed: Any, origin: str, let_in: bool, autojump_clock: MockClock) -> None:
    """H6: ``allowed_origins`` of serve decides."""
    manager = Manager()
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(manager.serve, listeners=[], allowed_origins=allowed))
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(manager.handle_connection, ours)
        if let_in:
            client = await TestClient.connect(theirs, headers=[("Origin", origin)])
            await client.aclose()
        else:
            with pytest.raises(HandshakeRefused) as refused:
                await TestClient.connect(theirs, headers=[("Origin", origin)])
            assert refused.value.status == 403
        server.begin_shutdown()


async def test_a_thread_can_publish() -> None:
    """From a thread: ``trio.from_thread.run_sync(manager.broadcast_to_all, ...)``."""
    manager = Manager()

    def work() -> int:
        return trio.from_thread.run_sync(manager.broadcast_to_all, {"from": "a thread"}).enqueued

    async with open_client(manager) as client:
        await trio.testing.wait_all_tasks_blocked()
        assert await trio.to_thread.run_sync(work) == 1
        assert await client.receive_json() == {"from": "a thread"}


# As a whole program


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_run(signum: signal.Signals) -> None:
    """D4: ``run`` tells when it listens, serves until a signal has been answered, and may be called again."""
    manager = Manager()
    urls: list[str] = []

    def listening(server: Server) -> None:
        assert server is manager.server
        urls.append(server.url)
        signal.raise_signal(signum)

    for _ in range(2):
        manager.run(port=0, path="/chat", on_listening=listening)
    assert len(urls) == 2
    assert all(url.startswith("ws://127.0.0.1:") and url.endswith("/chat") for url in urls)
    assert manager.server is None


def test_run_passes_its_arguments_on() -> None:
    """Host and origins of ``run`` are those of serve."""

    def stop(server: Server) -> None:
        server.begin_shutdown()  # if it comes to that, which is wrong

    with pytest.RaisesGroup(ValueError, flatten_subgroups=True):
        Manager().run(port=0, allowed_origins=["nonsense"], on_listening=stop)
    with pytest.RaisesGroup(OSError, flatten_subgroups=True):
        Manager().run(host="192.0.2.1", port=0, on_listening=stop)  # TEST-NET-1: nobody's address


def test_run_over_tls() -> None:
    """The TLS context of ``run`` is that of serve."""
    urls = []

    def stop(server: Server) -> None:
        urls.append(server.url)
        server.begin_shutdown()

    Manager().run(port=0, ssl_context=ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), on_listening=stop)
    assert urls[0].startswith("wss://")


def test_run_that_fails() -> None:
    """What ``on_listening`` raises ends the program; the manager can be used again."""

    def fail(server: Server) -> None:
        raise LookupError("of the program")

    manager = Manager()
    with pytest.RaisesGroup(LookupError, flatten_subgroups=True):
        manager.run(port=0, on_listening=fail)
    assert manager.server is None
    manager.on_connect(lambda conn: None)


def test_run_without_being_told() -> None:
    """``on_listening`` may be left out."""
    manager = Manager()

    class Stops(MemoryBroker):
        async def run(  # noqa: ASYNC128 - task_status is handed on
            self, deliver: Deliver, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
        ) -> None:
            manager.begin_shutdown()
            await super().run(deliver, task_status=task_status)

    manager._broker = Stops()
    manager.run(port=0)
    assert manager.server is None
