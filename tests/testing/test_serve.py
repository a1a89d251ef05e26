"""Serving in memory, and clients for tests."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from trio_rooms import Connection, HandshakeRequest, Identity, Manager, Refuse, current_connection
from trio_rooms.testing import Closed, FaultyStream, HandshakeRefused, MemoryServer, open_client, serve_in_memory

V1 = "trio-rooms.v1.json"


def make_manager() -> Manager:
    manager = Manager()
    manager.handle_message("echo", lambda conn, message: message.data)
    manager.handle_message("path", lambda conn: conn.path)
    manager.handle_message("host", lambda conn: conn.headers["host"])
    manager.handle_message("header", lambda conn: conn.headers["x-one"])
    return manager


async def test_open_client_serves_if_nobody_does(autojump_clock: MockClock) -> None:
    """``open_client`` serves the manager for the length of its block, and no longer."""
    manager = make_manager()
    async with open_client(manager) as client:
        assert manager.server is not None
        assert await client.request("echo", "hi") == "hi"
    assert manager.server is None
    with pytest.raises((trio.ClosedResourceError, trio.BrokenResourceError)):
        await client.send_action("echo")


async def test_open_client_joins_a_server_that_runs(autojump_clock: MockClock) -> None:
    """A second ``open_client`` comes to the same server, which goes on when that client is gone."""
    manager = make_manager()
    async with open_client(manager) as one:
        server = manager.server
        async with open_client(manager) as other:
            assert manager.server is server
            assert len(manager.connections) == 2
            assert await other.request("echo", 2) == 2
        await trio.testing.wait_all_tasks_blocked()
        assert len(manager.connections) == 1
        assert await one.request("echo", 1) == 1


async def test_the_options_reach_the_handshake(autojump_clock: MockClock) -> None:
    """Path, host, headers and subprotocol are what the server sees."""
    options = {"path": "/ws?x=1", "host": "example.com", "headers": [("X-One", "1")], "subprotocol": V1}
    manager = make_manager()
    async with serve_in_memory(manager) as memory, open_client(manager, **options) as one:  # type: ignore[arg-type]
        other = await memory.connect(**options)  # type: ignore[arg-type]
        for client in (one, other):
            assert client.subprotocol == V1
            assert (await client.receive_json())["action"] == "$welcome"
            assert await client.request("path") == "/ws"
            assert await client.request("host") == "example.com"
            assert await client.request("header") == "1"
        await other.aclose()


async def test_streams_can_be_wrapped_at_both_ends(autojump_clock: MockClock) -> None:
    """``wrap`` goes around the server's end, ``wrap_client`` around the client's."""
    made: list[FaultyStream] = []

    def wrap(stream: trio.abc.Stream) -> FaultyStream:
        made.append(FaultyStream(stream, one_byte_reads=True))
        return made[-1]

    async with open_client(make_manager(), wrap=wrap, wrap_client=wrap) as client:
        assert await client.request("echo", "byte by byte") == "byte by byte"
        ours, theirs = made
        assert ours.bytes_sent == theirs.bytes_received > 0
        await ours.cut()
        await client.expect_close(1006)


@pytest.mark.parametrize("served", [False, True])
async def test_a_refusal_is_raised_as_it_is(served: bool, autojump_clock: MockClock) -> None:
    """``HandshakeRefused`` comes out of ``open_client`` by itself, not in a group."""
    manager = make_manager()

    @manager.authenticate
    async def authenticate(request: HandshakeRequest) -> Identity:
        raise Refuse(402, "PAY")

    async def attempt() -> None:
        with pytest.raises(HandshakeRefused) as refused:
            async with open_client(manager):
                raise AssertionError("let in")
        assert (refused.value.status, refused.value.code) == (402, "PAY")

    if served:
        async with serve_in_memory(manager):
            await attempt()
    else:
        await attempt()
        assert manager.server is None


async def test_what_fails_in_the_block_comes_out(autojump_clock: MockClock) -> None:
    """An exception in the block ends clients and server and comes out, in groups as from every nursery."""
    manager = make_manager()
    with pytest.RaisesGroup(LookupError, flatten_subgroups=True):
        async with open_client(manager) as client:
            await client.request("echo", 1)
            raise LookupError
    assert manager.server is None
    with pytest.RaisesGroup(LookupError, flatten_subgroups=True):
        async with serve_in_memory(manager) as memory:
            await memory.connect()
            raise LookupError
    memory.server.assert_quiescent()


async def test_leaving_asserts_that_nothing_is_left(autojump_clock: MockClock) -> None:
    """Leaving ``serve_in_memory`` raises AssertionError if the books do not balance."""
    with pytest.raises(AssertionError, match="accounted for nowhere"):
        async with serve_in_memory(make_manager()) as memory:
            memory.server._node.counters.enqueued += 1


async def test_leaving_drains(autojump_clock: MockClock) -> None:
    """Leaving ``serve_in_memory`` closes the clients with 1012."""
    async with serve_in_memory(make_manager()) as memory:
        client = await memory.connect()
    assert (await client.expect_close()).code == 1012
    with pytest.raises(Closed):
        await client.receive()


async def test_a_stream_without_a_client(autojump_clock: MockClock) -> None:
    """``open_stream`` is the client's end before any byte, for what no client would send."""
    async with serve_in_memory(make_manager()) as memory:
        assert isinstance(memory, MemoryServer)
        stream = memory.open_stream()
        await stream.send_all(b"nonsense\r\n\r\n")
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 400 ")
        await stream.aclose()


async def test_the_test_is_not_the_connection(autojump_clock: MockClock) -> None:
    """The connection is served in a task of its own: the test's context is untouched."""
    manager = make_manager()
    seen: list[Connection | None] = []

    @manager.on_connect
    def connected(conn: Connection) -> None:
        seen.append(current_connection())

    async with open_client(manager) as client:
        await client.request("echo", 1)
        assert current_connection() is None
    assert seen[0] is not None
