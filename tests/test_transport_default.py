"""Who serves where nobody names a transport: the library itself, or the one that ``pytest --transport`` names."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from program import run_program
from trio_rooms import Manager, serve_rooms
from trio_rooms._wire.native import NativeTransport
from trio_rooms._wire.over_trio_websocket import TrioWebSocketTransport
from trio_rooms.testing import TestClient, open_client, serve_in_memory

NAMES = {"native": NativeTransport.__name__, "trio-websocket": TrioWebSocketTransport.__name__}


def make_manager() -> Manager:
    """It tells who serves."""
    manager = Manager()
    manager.handle_message("who", lambda conn: type(conn._transport).__name__)
    return manager


@pytest.fixture
def expected(pytestconfig: pytest.Config) -> str:
    """Who that is in this run."""
    return NAMES[pytestconfig.getoption("transport") or "native"]


async def test_serve_rooms(expected: str, autojump_clock: object) -> None:
    """``serve_rooms``, with streams that the program hands over."""
    manager = make_manager()
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery, serve_rooms(manager, listeners=[]):
        nursery.start_soon(manager.handle_connection, ours)
        async with await TestClient.connect(theirs) as client:
            assert await client.request("who") == expected


@pytest.mark.sockets
async def test_serve(expected: str) -> None:
    """``manager.serve``, over a socket."""
    manager = make_manager()
    async with trio.open_nursery() as nursery:
        server = await nursery.start(manager.serve)
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with await TestClient.connect(stream) as client:
            assert await client.request("who") == expected
        manager.begin_shutdown()


async def test_testing(expected: str, autojump_clock: object) -> None:
    """``serve_in_memory`` and ``open_client``."""
    manager = make_manager()
    async with serve_in_memory(manager) as memory, await memory.connect() as client:
        assert await client.request("who") == expected
    async with open_client(manager) as client:
        assert await client.request("who") == expected


@pytest.mark.parametrize("name", NAMES)
async def test_a_transport_by_name(name: str, autojump_clock: object) -> None:
    """A name is obeyed, whatever the default."""
    manager = make_manager()
    async with serve_in_memory(manager, transport=name) as memory, await memory.connect() as client:
        assert await client.request("who") == NAMES[name]


@pytest.mark.sockets
async def test_run_in_another_process(expected: str) -> None:
    """``manager.run`` in a program that a test starts."""
    source = """
import trio
from trio_rooms import Manager
from trio_rooms.testing import TestClient

manager = Manager()

@manager.on_connect
def told(conn):
    print(type(conn._transport).__name__)
    manager.begin_shutdown()

async def connect(port):
    async with await TestClient.connect(await trio.open_tcp_stream("127.0.0.1", port)) as client:
        await client.expect_close(1012)

manager.run(port=0, on_listening=lambda server: trio.lowlevel.spawn_system_task(connect, server.port))
"""
    async with run_program("-c", source) as program:
        assert await program.line() == expected
        assert await program.process.wait() == 0
