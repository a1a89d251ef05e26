"""Serving over the native transport: what it promises beyond the other, and a conversation from end to end."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

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
    serve_in_memory,
)
from trio_rooms.testing._raw import split_response

TEXT = client_frame(Opcode.TEXT, b'{"action":"echo","data":"hi","id":1}')
REPLY = ServerFrame(Opcode.TEXT, b'{"id":1,"data":"hi"}')


def make_manager(**limits: float) -> Manager:
    """An echo, a slow action, and a room; pings are rare, since a client's pong would end its own half message."""
    config = Config(ping_interval=1000, limits=Limits(**limits))  # type: ignore[arg-type]
    manager = Manager(config=config)

    @manager.on("echo")
    def echo(conn: Connection, data: str) -> str:
        return data

    @manager.on("slow")
    async def slow(conn: Connection, seconds: float) -> None:
        await trio.sleep(seconds)

    @manager.on("join")
    async def join(conn: Connection, room: str) -> None:
        await conn.join(room)

    return manager


async def test_over_a_socket() -> None:
    """Requests, a room, a ping and the closing handshake over a real socket."""
    manager = make_manager()
    async with serve_rooms(manager, transport="native") as server:
        clients = []
        for _ in range(2):
            client = await TestClient.connect(await trio.open_tcp_stream("127.0.0.1", server.port))
            await client.request("join", "kitchen")
            clients.append(client)
        assert manager.broadcast_to_room("kitchen", {"n": 1}).enqueued == 2
        for client in clients:
            assert await client.receive_json() == {"n": 1}
        await clients[0].ping(b"x")
        assert await clients[0].receive_pong() == b"x"
        assert (await clients[0].close(1000)).code == 1000
        await clients[0].aclose()
        manager.begin_shutdown()
        assert (await clients[1].expect_close()).code == 1012
        await clients[1].aclose()
    server.assert_quiescent()


@pytest.mark.parametrize("cut", range(1, len(handshake_bytes()) + len(TEXT), 5))
async def test_request_and_frame_in_one_segment(cut: int, autojump_clock: MockClock) -> None:
    """H7: the frame that comes with the upgrade is handled once, wherever the bytes are cut."""
    async with serve_in_memory(make_manager(), transport="native") as memory:
        stream = memory.open_stream()
        data = handshake_bytes() + TEXT
        await stream.send_all(data[:cut])
        await wait_all_tasks_blocked()
        await stream.send_all(data[cut:])
        await wait_all_tasks_blocked()
        response = split_response(bytes(await stream.receive_some()))
        assert response is not None
        rest = response[2] or bytes(await stream.receive_some())
        assert parse_server_frames(rest) == [REPLY]
        await stream.aclose()


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (client_frame(Opcode.TEXT, b"x", mask=None), 1002),
        (client_frame(Opcode.TEXT, b"\xff"), 1007),
        (client_frame(Opcode.TEXT, b"", length=1 << 62, length_bits=64), 1009),
        (client_frame(Opcode.TEXT, b"", fin=False) + client_frame(Opcode.CONTINUATION, b"", fin=False) * 64, 1009),
    ],
)
async def test_violations(bad: bytes, code: int, autojump_clock: MockClock) -> None:
    """P3, P4: a violation is answered with its code, behind the replies to what stood before it; then the end."""
    async with serve_in_memory(make_manager(), transport="native") as memory:
        client = await memory.connect()
        assert await client.request("echo", "before") == "before"
        await client.send_raw(bad)
        await client.expect_close(code)
        await client.expect_eof()
        await client.aclose()
    assert memory.server.statistics().closes == {f"server:{code}": 1}


async def test_max_fragments(autojump_clock: MockClock) -> None:
    """L1: the limit on fragments bites where it is set."""
    async with serve_in_memory(make_manager(max_fragments=2), transport="native") as memory:
        client = await memory.connect()
        part = client_frame(Opcode.CONTINUATION, b"", fin=False)
        await client.send_raw(client_frame(Opcode.TEXT, b"", fin=False) + part)
        await wait_all_tasks_blocked()
        assert memory.server.statistics().connections == 1
        await client.send_raw(part)
        await client.expect_close(1009)
        await client.aclose()


@pytest.mark.parametrize("begin", [client_frame(Opcode.TEXT, b"", fin=False), TEXT[:-1], TEXT[:1]])
async def test_message_timeout(begin: bytes, autojump_clock: MockClock) -> None:
    """P4, L1: a message that is begun and not finished is 1008 after ``message_timeout``, not before."""
    async with serve_in_memory(make_manager(message_timeout=7), transport="native") as memory:
        client = await memory.connect()
        started = trio.current_time()
        await client.send_raw(begin)
        await client.expect_close(1008)
        assert trio.current_time() - started == 7
        await client.aclose()


async def test_message_timeout_of_what_came_with_the_request(autojump_clock: MockClock) -> None:
    """P4: a message that is begun behind the request's head, and not finished, is 1008 too."""
    async with serve_in_memory(make_manager(message_timeout=7), transport="native") as memory:
        stream = memory.open_stream()
        await stream.send_all(handshake_bytes() + TEXT[:9])
        with trio.fail_after(20):
            received = b""
            while data := await stream.receive_some():
                received += data
        response = split_response(received)
        assert response is not None
        (frame,) = parse_server_frames(response[2])
        assert frame.payload[:2] == (1008).to_bytes(2)
        await stream.aclose()


async def test_message_timeout_is_for_each_message(autojump_clock: MockClock) -> None:
    """P4: a peer that is always in the middle of some message, but finishes each in time, is left alone."""
    async with serve_in_memory(make_manager(message_timeout=7), transport="native") as memory:
        client = await memory.connect()
        await client.send_raw(TEXT[:9])
        for _ in range(5):
            await trio.sleep(5)
            await client.send_raw(TEXT[9:] + TEXT[:9])
            assert await client.receive_json() == {"id": 1, "data": "hi"}
        await client.aclose()


async def test_time_in_which_we_do_not_read_does_not_count(autojump_clock: MockClock) -> None:
    """P4: a full inbox holds reading back; the half message behind it has its whole time afterwards."""
    manager = make_manager(message_timeout=7, inbox_messages=1)
    async with serve_in_memory(manager, transport="native") as memory:
        client = await memory.connect()
        await client.send_action("slow", 20)
        await wait_all_tasks_blocked()
        await client.send_action("slow", 0)
        await client.send_raw(TEXT[:-1])
        await trio.sleep(25)
        await client.send_raw(TEXT[-1:])
        assert await client.receive_json() == {"id": 1, "data": "hi"}
        await client.aclose()


async def test_pings_are_coalesced(autojump_clock: MockClock) -> None:
    """RFC 6455 section 5.5.3: of pings that come together the latest few are answered, while a handler runs."""
    async with serve_in_memory(make_manager(), transport="native") as memory:
        client = await memory.connect()
        await client.send_action("slow", 20)
        await client.send_raw(b"".join(client_frame(Opcode.PING, b"%d" % n) for n in range(1000)))
        assert [await client.receive_pong() for _ in range(16)] == [b"%d" % n for n in range(984, 1000)]
        await client.aclose()


async def test_a_flood_of_pings_is_owed_a_few_pongs(autojump_clock: MockClock) -> None:
    """Invariant 5: while nothing can be written, pings that are read one by one fill nothing: the latest count."""
    streams: list[FaultyStream] = []

    def wrap(stream: trio.abc.Stream) -> FaultyStream:
        streams.append(FaultyStream(stream))
        return streams[0]

    async with serve_in_memory(make_manager(), transport="native") as memory:
        client = await memory.connect(wrap=wrap)
        streams[0].stall_sending(0)
        for n in range(200):
            await client.send_raw(client_frame(Opcode.PING, b"%d" % n))
            await wait_all_tasks_blocked()
        streams[0].resume_sending()
        pongs: list[bytes] = []
        with trio.move_on_after(1):
            while True:
                pongs.append(await client.receive_pong())
        assert pongs[-1] == b"199"
        assert len(pongs) <= 20
        await client.aclose()


async def test_the_close_is_answered_while_a_handler_runs(autojump_clock: MockClock) -> None:
    """P6: a close that comes while a handler is busy is answered at once; the handler has its close_timeout."""
    async with serve_in_memory(make_manager(), transport="native") as memory:
        client = await memory.connect()
        (conn,) = memory.manager.connections.values()
        await client.send_action("slow", 60)
        await wait_all_tasks_blocked()
        started = trio.current_time()
        await client.close(1000)
        assert trio.current_time() == started
        await client.aclose()
        await conn.wait_closed()
        assert trio.current_time() - started == 5


async def test_what_waits_leaves_in_one_write(autojump_clock: MockClock) -> None:
    """A batch is joined, up to write_buffer_size."""
    writes: list[int] = []

    class Counting(FaultyStream):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            writes.append(len(data))
            await super().send_all(data)

    async with serve_in_memory(make_manager(), transport="native") as memory:
        client = await memory.connect(wrap=Counting)
        (conn,) = memory.manager.connections.values()
        await wait_all_tasks_blocked()
        writes.clear()
        for n in range(10):
            conn.send_nowait(n)
        assert [await client.receive_json() for _ in range(10)] == list(range(10))
        assert writes == [30]
        await client.aclose()


@pytest.mark.parametrize("k", [0, 1, 2, 5, 11])
async def test_a_write_that_times_out(k: int, autojump_clock: MockClock) -> None:
    """P7: after a write that was torn nothing more is written, and the connection is over."""
    faults: list[FaultyStream] = []

    def wrap(stream: trio.abc.Stream) -> FaultyStream:
        faults.append(FaultyStream(stream))
        return faults[0]

    async with serve_in_memory(make_manager(), transport="native") as memory:
        client = await memory.connect(wrap=wrap)
        (conn,) = memory.manager.connections.values()
        await wait_all_tasks_blocked()
        faults[0].stall_sending(k)
        conn.send_nowait("torn apart")
        conn.send_nowait("never")
        await trio.sleep(9)
        assert conn.closed is None
        await trio.sleep(2)
        assert conn.closed is not None
        assert conn.closed.code == 1006
        faults[0].resume_sending()
        seen = b""
        while chunk := await client.receive_raw():
            seen += chunk
        whole = b'\x81\x0c"torn apart"'
        assert seen == whole[:k]
        assert close_payload(1006) not in seen
        await client.aclose()
