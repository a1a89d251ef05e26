"""The traps of trio-websocket: for each what goes wrong with it alone, and that it does not with us.

A trap is shown where the plain library is cheap to run; should such a test fail one day, the library has been mended
and what we do about it can go.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
import trio_websocket
import wsproto.utilities
from trio.testing import MockClock, wait_all_tasks_blocked

from hall import Gate, hall, of, record
from trio_rooms import Config, Connection, Limits, Manager, serve_rooms
from trio_rooms.testing import (
    FaultyStream,
    Opcode,
    ServerFrame,
    TestClient,
    client_frame,
    close_payload,
    handshake_bytes,
    parse_server_frames,
)
from trio_rooms.testing._raw import split_response

Plain = tuple[trio_websocket.WebSocketConnection, trio.abc.HalfCloseableStream, FaultyStream]


@asynccontextmanager
async def plain(max_message_size: int = 1 << 20) -> AsyncGenerator[Plain]:
    """A connection of trio-websocket alone: the server's side, the client's raw stream, the server's stream."""
    near, peer = trio.testing.memory_stream_pair()
    faults = FaultyStream(near)
    async with trio.open_nursery() as nursery:
        await peer.send_all(handshake_bytes())
        request = await trio_websocket.wrap_server_stream(nursery, faults, max_message_size=max_message_size)
        ws = await request.accept()
        await peer.receive_some()
        yield ws, peer, faults
        nursery.cancel_scope.cancel()


async def rest_of(receive: Callable[[], Awaitable[bytes | bytearray]]) -> bytes:
    """Everything up to the end of a stream."""
    data = b""
    while chunk := await receive():
        data += chunk
    return data


# P1: a cancelled connection ends without a close frame


async def test_p1_alone(autojump_clock: MockClock) -> None:
    """Trap P1: cancelling trio-websocket's nursery ends a connection with 1006."""
    with trio.CancelScope() as scope:
        async with plain() as (_, peer, faults):
            sent = faults.bytes_sent
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert faults.bytes_sent == sent  # nothing behind the 101
    await peer.aclose()


@pytest.mark.parametrize("what", ["server", "connection"])
async def test_p1(autojump_clock: MockClock, what: str) -> None:
    """Trap P1: whatever is cancelled, the client is told 1001, and the stream ends."""
    manager = Manager()
    serving, calling = trio.CancelScope(), trio.CancelScope()
    near, peer = trio.testing.memory_stream_pair()

    async def serve() -> None:
        with serving:
            await manager.serve(listeners=[])

    async def call() -> None:
        with calling:
            await manager.handle_connection(near)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await wait_all_tasks_blocked()
        nursery.start_soon(call)
        client = await TestClient.connect(peer)
        await wait_all_tasks_blocked()
        (serving if what == "server" else calling).cancel()
        await client.expect_close(1001)
        await client.expect_eof()
        await client.aclose()
        serving.cancel()
    assert trio.current_time() <= 1


# P2: what a handler raises ends the server


@pytest.mark.parametrize("error", [ValueError("x"), ExceptionGroup("x", [OSError()]), RecursionError()])
async def test_p2(autojump_clock: MockClock, error: Exception) -> None:
    """Trap P2: a handler that raises ends its own connection with 1011, and an innocent client notices nothing."""
    manager = Manager()

    @manager.on("fail")
    async def fail(conn: Connection) -> None:
        raise error

    manager.handle_message("ask", lambda conn: "answer")
    async with hall(manager) as place:
        guilty, innocent = await place.enter(), await place.enter()
        await guilty.client.send_action("fail")
        await guilty.client.expect_close(1011, skip_messages=True)
        assert await innocent.client.request("ask") == "answer"


# P3: a request that is no upgrade holds a task for a minute


async def test_p3(autojump_clock: MockClock) -> None:
    """Trap P3: a plain GET is answered, and its task and stream are gone at once."""
    manager = Manager()
    async with serve_rooms(manager, listeners=[]):
        near, peer = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(manager.handle_connection, near)
            await peer.send_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await rest_of(peer.receive_some)).startswith(b"HTTP/1.1 404")
            await peer.aclose()
        assert trio.current_time() == 0


# P4: messages that nobody takes keep control frames from being answered


async def test_p4_alone(autojump_clock: MockClock) -> None:
    """Trap P4: with two messages unread trio-websocket answers no ping."""
    async with plain() as (_, peer, _):
        await peer.send_all(client_frame(Opcode.TEXT, b"x") * 2 + client_frame(Opcode.PING, b"p"))
        with trio.move_on_after(60) as scope:
            await peer.receive_some()
        assert scope.cancelled_caught


async def test_p4(autojump_clock: MockClock) -> None:
    """Trap P4: pings are answered though the handler is busy and messages wait behind it."""
    manager = Manager()
    gate = Gate()

    @manager.on("block")
    async def block(conn: Connection) -> None:
        await gate()

    async with hall(manager) as place:
        guest = await place.enter()
        for _ in range(10):
            await guest.client.send_action("block")
        await gate.reached.wait()
        await guest.client.ping(b"p")
        assert await guest.client.receive_pong() == b"p"
        gate.open.set()


# P6: closing waits for ever


async def test_p6_alone(autojump_clock: MockClock) -> None:
    """Trap P6: trio-websocket waits for the answer to its close frame without limit."""
    async with plain() as (ws, _, _):
        with trio.move_on_after(600) as scope:
            await ws.aclose()
        assert scope.cancelled_caught


async def test_p6(autojump_clock: MockClock) -> None:
    """Trap P6: a peer that does not answer the close frame is left after the close timeout."""
    manager = Manager(config=Config(close_timeout=5))
    async with hall(manager) as place:
        guest = await place.enter()
        guest.conn.close()
        await guest.conn.wait_closed()
        assert trio.current_time() == 5


# P7: a frame lands inside of a torn one


async def test_p7_alone(autojump_clock: MockClock) -> None:
    """Trap P7: trio-websocket writes the next frame inside of one whose write was cancelled."""
    async with plain() as (ws, peer, faults):
        faults.stall_sending(5)
        with trio.move_on_after(1):
            await ws.send_message("0123456789")
        faults.resume_sending()
        await ws.send_message("second")
        assert await peer.receive_some() == b"\x81\x0a012\x81\x06second"


async def test_p7(autojump_clock: MockClock) -> None:
    """Trap P7: after a torn write the connection is over, whoever wants to write what: data, pongs, a close frame."""
    streams: list[FaultyStream] = []

    def wrap(stream: trio.abc.Stream) -> trio.abc.Stream:
        streams.append(FaultyStream(stream))
        return streams[0]

    manager = Manager(config=Config(write_timeout=3))
    async with hall(manager) as place:
        guest = await place.enter(wrap=wrap)
        streams[0].stall_sending(5)
        guest.conn.send_nowait("torn")
        guest.conn.send_nowait("second")
        await guest.client.send_raw(client_frame(Opcode.PING, b"p") + client_frame(Opcode.CLOSE, close_payload(1000)))
        await trio.sleep(2.9)
        guest.conn.close(4000)
        assert await rest_of(guest.client.receive_raw) == b'\x81\x06"to'
        await guest.conn.wait_closed()


# P8: no compression


async def test_p8(autojump_clock: MockClock) -> None:
    """Trap P8: permessage-deflate is not negotiated, and a frame that is compressed all the same is a violation."""
    offer = ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits")
    async with hall(Manager()) as place:
        guest = await place.enter(headers=[offer])
        assert "sec-websocket-extensions" not in guest.client.headers
        await guest.client.send_raw(client_frame(Opcode.TEXT, b"\xaaV*I-.Q\xb2\x02\x00", rsv=4))
        await guest.client.expect_close(1002)


# Further ones, read in its code or met in its use


async def test_violations_alone(autojump_clock: MockClock) -> None:
    """Trap: trio-websocket ends a violation without a word, and tells of it as if the client had closed."""
    async with plain() as (ws, peer, _):
        await peer.send_all(client_frame(Opcode.TEXT, b"x", mask=None))
        assert await peer.receive_some() == b""
        assert ws.closed is not None
        assert ws.closed.code == 1002


async def test_violations(autojump_clock: MockClock) -> None:
    """Trap: a violation is told on the wire, and counted as ours."""
    async with hall(Manager()) as place:
        guest = await place.enter()
        await guest.client.send_raw(client_frame(Opcode.TEXT, b"x", mask=None))
        await guest.client.expect_close(1002)
        await guest.client.expect_eof()
        await guest.client.aclose()
        await guest.conn.wait_closed()
        assert place.server.statistics().closes == {"server:1002": 1}


async def test_bytes_alone(autojump_clock: MockClock) -> None:
    """Trap: trio-websocket's bound of a message is in characters."""
    async with plain(max_message_size=10) as (ws, peer, _):
        await peer.send_all(client_frame(Opcode.TEXT, "😀".encode() * 10))
        assert await ws.get_message() == "😀" * 10


async def test_bytes(autojump_clock: MockClock) -> None:
    """Trap: ours is in bytes."""
    async with hall(Manager(config=Config(limits=Limits(max_message_bytes=10)))) as place:
        guest = await place.enter()
        await guest.client.send_raw(client_frame(Opcode.TEXT, "😀".encode() * 3))
        await guest.client.expect_close(1009)


async def test_too_big_alone(autojump_clock: MockClock) -> None:
    """Trap: after its own 1009 trio-websocket does not end the stream, and closing it does nothing."""
    async with plain(max_message_size=10) as (ws, peer, _):
        await peer.send_all(client_frame(Opcode.TEXT, b"x" * 11))
        assert parse_server_frames(bytes(await peer.receive_some()))[0].opcode == Opcode.CLOSE
        await ws.aclose()
        with trio.move_on_after(60) as scope:
            await peer.receive_some()
        assert scope.cancelled_caught


async def test_too_big(autojump_clock: MockClock) -> None:
    """Trap: we do, and a client that goes on sending gets its close frame all the same."""
    manager = Manager(config=Config(limits=Limits(max_message_bytes=10)))
    log = record(manager)
    async with hall(manager) as place:
        guest = await place.enter()
        await guest.client.send_raw(client_frame(Opcode.TEXT, b"x" * 11) + client_frame(Opcode.TEXT, b"{}") * 100)
        await guest.client.expect_close(1009)
        await guest.client.expect_eof()
        await guest.client.aclose()
        await guest.conn.wait_closed()
    assert of(log, "error") == []


async def test_behind_the_head_alone(autojump_clock: MockClock) -> None:
    """Trap: wsproto drops what has come with the request."""
    near, peer = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        await peer.send_all(handshake_bytes() + client_frame(Opcode.TEXT, b"lost"))
        ws = await (await trio_websocket.wrap_server_stream(nursery, near)).accept()
        with trio.move_on_after(60) as scope:
            await ws.get_message()
        assert scope.cancelled_caught
        nursery.cancel_scope.cancel()


async def test_behind_the_head(autojump_clock: MockClock) -> None:
    """Trap: it is the client's first message, and is handled (H7 has every cut)."""
    manager = Manager()
    manager.handle_message("ask", lambda conn: "answer")
    async with hall(manager) as place:
        stream = place.memory.open_stream()
        await stream.send_all(handshake_bytes() + client_frame(Opcode.TEXT, b'{"action": "ask", "id": 1}'))
        await wait_all_tasks_blocked()
        response = split_response(bytes(await stream.receive_some()))
        assert response is not None
        assert parse_server_frames(response[2]) == [ServerFrame(Opcode.TEXT, b'{"id":1,"data":"answer"}')]
        await stream.aclose()


async def test_crossing_ping_alone(autojump_clock: MockClock) -> None:
    """Trap: a ping that crosses its close frame kills trio-websocket's reader, and the nursery with it."""
    with pytest.RaisesGroup(wsproto.utilities.LocalProtocolError, flatten_subgroups=True):
        async with plain() as (ws, peer, _), trio.open_nursery() as nursery:
            nursery.start_soon(ws.aclose)
            await wait_all_tasks_blocked()
            await peer.send_all(client_frame(Opcode.PING, b"p"))


async def test_crossing_ping(autojump_clock: MockClock) -> None:
    """Trap: with us it ends the connection properly, and at once."""
    manager = Manager()
    log = record(manager)
    async with hall(manager) as place:
        guest = await place.enter()
        guest.conn.close(4000)
        await wait_all_tasks_blocked()
        await guest.client.send_raw(client_frame(Opcode.PING, b"p") + client_frame(Opcode.CLOSE, close_payload(4000)))
        await guest.client.expect_close(4000)
        await guest.client.expect_eof()
        await guest.client.aclose()
        await guest.conn.wait_closed()
        assert trio.current_time() == 0
    assert of(log, "error") == []


@pytest.mark.parametrize("header", ["Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions", "Connection", "Host"])
async def test_headers_that_kill(autojump_clock: MockClock, header: str) -> None:
    """Trap: a byte that is no ASCII in these headers ends trio-websocket's server; ours answers 400."""
    async with hall(Manager()) as place:
        ok = await place.enter()
        stream = place.memory.open_stream()
        request = handshake_bytes().replace(b"\r\n\r\n", b"\r\n" + header.encode() + b": \xff\r\n\r\n")
        await stream.send_all(request)
        assert (await rest_of(stream.receive_some)).startswith(b"HTTP/1.1 400")
        await stream.aclose()
        ok.conn.send_nowait("alive")
        assert await ok.client.receive_json() == "alive"


async def test_gone_before_the_101(autojump_clock: MockClock) -> None:
    """Trap: who resets right after its request ends trio-websocket's server; with us it is counted, no more."""
    manager = Manager()
    log = record(manager)
    async with hall(manager) as place:
        ok = await place.enter()
        for _ in range(20):
            stream = place.memory.open_stream()
            await stream.send_all(handshake_bytes())
            await stream.aclose()
        await wait_all_tasks_blocked()
        assert place.server.statistics().connections == 1
        ok.conn.send_nowait("alive")
        assert await ok.client.receive_json() == "alive"
    assert of(log, "error") == []


async def test_pings_that_collect_alone(autojump_clock: MockClock) -> None:
    """Trap: each of trio-websocket's pings holds a task until its pong comes."""
    async with plain() as (ws, _, _), trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(ws.ping)
        await wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 10
        nursery.cancel_scope.cancel()


async def test_pings_that_collect(autojump_clock: MockClock) -> None:
    """Trap: a peer that sends data and never a pong holds one task, and lives."""
    async with hall(Manager(config=Config(ping_interval=10, pong_timeout=10))) as place:
        guest = await place.enter()
        guest.client.auto_pong = False
        counts = []
        for _ in range(100):
            await trio.sleep(5)
            await guest.client.send_action("nothing")
            await guest.client.receive_json()
            counts.append(tasks())
        assert guest.conn.closed is None
        assert counts[-1] - counts[2] <= 1  # by then the first ping has started the pinger and the writer


def tasks() -> int:
    """How many tasks there are in all."""
    root = trio.lowlevel.current_root_task()
    assert root is not None
    count, stack = 0, [root]
    while stack:
        count += 1
        for nursery in stack.pop().child_nurseries:
            stack.extend(nursery.child_tasks)
    return count
