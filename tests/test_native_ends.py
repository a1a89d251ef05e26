"""What the native transport alone promises of ends: limits that bite at the header, in time, and over sockets."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from trio.testing import MockClock, wait_all_tasks_blocked

from probes import (
    BEHIND,
    CLOSE,
    CONTINUATION,
    ECHO,
    MAX,
    PING,
    TEXT,
    VIOLATIONS,
    fragmented,
    make_manager,
    probing,
)
from trio_rooms import Close, Connection, Manager, serve_rooms
from trio_rooms._wire.native import NativeTransport
from trio_rooms._wire.transport import Transport, TransportClosed
from trio_rooms.testing import (
    FaultyStream,
    Opcode,
    ServerFrame,
    client_frame,
    close_payload,
    handshake_bytes,
    parse_server_frames,
    serve_in_memory,
)
from trio_rooms.testing._raw import SAMPLE_KEY, split_response

PART = client_frame(CONTINUATION, b"x", fin=False)

#: Headers that say too much, without the payload: the length, or the number of fragments.
TOO_MUCH = {
    "2**62 bytes of text": client_frame(TEXT, length=1 << 62, length_bits=64),
    "2**62 bytes": client_frame(Opcode.BINARY, length=1 << 62, length_bits=64),
    "2**63 - 1 bytes": client_frame(Opcode.BINARY, length=(1 << 63) - 1, length_bits=64),
    "2**62 bytes of a first fragment": client_frame(TEXT, length=1 << 62, length_bits=64, fin=False),
    "2**62 bytes of a second": client_frame(TEXT, b"a", fin=False)
    + client_frame(CONTINUATION, length=1 << 62, length_bits=64),
    "one byte more than the limit": client_frame(TEXT, length=MAX + 1),
    "one byte more over fragments": client_frame(TEXT, b"x" * MAX, fin=False) + client_frame(CONTINUATION, length=1),
    "65 fragments": client_frame(TEXT, b"x", fin=False) + PART * 63 + PART[:6],
    "65 empty fragments": client_frame(TEXT, fin=False) + client_frame(CONTINUATION, fin=False) * 64,
}


@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize("data", TOO_MUCH.values(), ids=TOO_MUCH)
async def test_too_much_is_told_at_the_header(autojump_clock: MockClock, data: bytes, bytewise: bool) -> None:
    """P4: what is declared to be too big is 1009 at the last byte of the header that says so, and not before."""
    async with probing(bytewise=bytewise, transport="native") as probe:
        await probe.send(data[:-1])
        await wait_all_tasks_blocked()
        assert probe.guest.conn.closed is None
        await probe.send(data[-1:])
        (frame,) = parse_server_frames(await probe.sees())
        assert (frame.opcode, frame.payload[:2]) == (CLOSE, close_payload(1009))
        assert [(close.code, close.by) for close in probe.told] == [(1009, "server")]


@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
async def test_as_much_as_is_allowed(autojump_clock: MockClock, bytewise: bool) -> None:
    """P4: 64 fragments with as many bytes as the limit, with pings among them, are a message."""
    head, tail = b'{"action":"echo","id":1,"data":"', b'"}'
    text = head + b"x" * (MAX - len(head) - len(tail)) + tail
    parts = [text[n : n + 16] for n in range(0, 63 * 16, 16)]
    frames = fragmented(*parts[:63], b"".join(parts[63:]) + text[63 * 16 :])
    async with probing(bytewise=bytewise, transport="native") as probe:
        await probe.send(frames + client_frame(PING))
        reply = await probe.guest.client.receive_json()
        assert len(reply["data"]) == MAX - len(head) - len(tail)
        await probe.guest.client.aclose()


@pytest.mark.parametrize("dribble", [False, True])
async def test_a_message_that_does_not_end(autojump_clock: MockClock, dribble: bool) -> None:
    """P4: a fragment, then silence, or a byte a second: 1008, thirty seconds after the message began."""
    async with probing(transport="native") as probe, trio.open_nursery() as nursery:
        began = trio.current_time()
        await probe.send(client_frame(TEXT, b"x", fin=False))

        async def send_on() -> None:
            for byte in client_frame(CONTINUATION, bytes(200)):
                await trio.sleep(1)
                await probe.send(bytes([byte]))

        if dribble:
            nursery.start_soon(send_on)
        await probe.guest.client.expect_close(1008)
        assert trio.current_time() - began == 30
        nursery.cancel_scope.cancel()
        await probe.guest.client.aclose()
        await probe.guest.conn.wait_closed()
        assert [(close.code, close.by) for close in probe.told] == [(1008, "server")]


async def test_a_request_and_a_frame_byte_by_byte(autojump_clock: MockClock) -> None:
    """H7: one byte at a time, from the first of the request to the last of the frame behind it."""
    async with serve_in_memory(make_manager(), transport="native") as memory:
        stream = memory.open_stream(lambda stream: FaultyStream(stream, one_byte_reads=True))
        await stream.send_all(handshake_bytes() + ECHO + client_frame(CLOSE, close_payload(1000)))
        data = b""
        while chunk := await stream.receive_some():
            data += chunk
        await stream.aclose()
    response = split_response(data)
    assert response is not None
    frames = parse_server_frames(response[2])
    assert frames[-1] == ServerFrame(CLOSE, close_payload(1000))
    assert memory.server.statistics().messages_received == 1


# Over a socket, where the kernel answers a close with a reset if bytes are unread


@asynccontextmanager
async def connecting(manager: Manager) -> AsyncGenerator[tuple[trio.SocketStream, Connection]]:
    """A raw socket behind its 101, and the server's end."""
    connected, conns = trio.open_memory_channel[Connection](1)
    manager.on_connect(connected.send_nowait)
    async with (
        serve_rooms(manager, transport="native") as server,
        await trio.open_tcp_stream("127.0.0.1", server.port) as stream,
    ):
        await stream.send_all(handshake_bytes(host=f"127.0.0.1:{server.port}"))
        assert bytes(await stream.receive_some()).endswith(b"\r\n\r\n")
        conn = await conns.receive()
        yield stream, conn
        await conn.wait_closed()
    server.assert_quiescent()


@pytest.mark.sockets
@pytest.mark.parametrize(
    "name",
    [
        "1002: unmasked text",
        "1002: the top bit of a length",
        "1002: close of 1 byte",
        "1007: 0xff",
        "1007: in the third fragment",
        "1009: text",
    ],
)
async def test_violations_over_a_socket(name: str) -> None:
    """P3: a client that goes on sending gets the close frame and then the end, not a reset that destroys it."""
    data, code = VIOLATIONS[name]
    async with connecting(make_manager()) as (stream, conn):
        await stream.send_all(data + BEHIND * 500)
        seen = b""
        while chunk := await stream.receive_some():
            seen += chunk
        await stream.aclose()
        (frame,) = parse_server_frames(seen)
        assert (frame.opcode, frame.payload[:2]) == (CLOSE, close_payload(code))
        close = await conn.wait_closed()
        assert (close.code, close.by) == (code, "server")


@pytest.mark.sockets
@pytest.mark.parametrize("count", [0, 1, 5, len(ECHO) - 1, len(ECHO)])
async def test_reset_over_a_socket(count: int) -> None:
    """A reset, between two frames or within one, is 1006 by the network."""
    async with connecting(make_manager()) as (stream, conn):
        await stream.send_all(ECHO[:count])
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()
        assert await conn.wait_closed() == Close(1006, "", "network")


@pytest.mark.sockets
async def test_end_of_file_over_a_socket() -> None:
    """An end of file within a frame is 1006 by the network, and nothing is written behind it."""
    async with connecting(make_manager()) as (stream, conn):
        await stream.send_all(ECHO[:-1])
        await stream.send_eof()
        assert await stream.receive_some() == b""
        assert await conn.wait_closed() == Close(1006, "", "network")


# A task that receives may be cancelled


@asynccontextmanager
async def opened(data: bytes) -> AsyncGenerator[tuple[Transport, trio.abc.Stream]]:
    """A transport without a connection around it, whose peer has sent ``data``; and the peer."""
    near, peer = trio.testing.memory_stream_pair()
    await peer.send_all(data)
    async with near:
        transport = NativeTransport(
            near,
            trailing=b"",
            max_message_bytes=MAX,
            max_fragments=64,
            message_timeout=30,
            read_buffer_size=64 * 1024,
            before_read=trio.lowlevel.checkpoint,
        )
        if (rest := transport.accept(SAMPLE_KEY, None)) is not None:
            await rest
        yield transport, peer


async def test_a_cancelled_receive_loses_no_message(autojump_clock: MockClock) -> None:
    """Each receive is a checkpoint now and then, also where messages wait; a cancel there takes none of them along."""
    numbers = [str(n) for n in range(200)]
    frames = b"".join(client_frame(TEXT, number.encode()) + client_frame(PING) for number in numbers)
    async with opened(frames + client_frame(CLOSE, close_payload(4321))) as (transport, _):
        got: list[str | bytes] = []
        cancelled = 0
        with pytest.raises(TransportClosed) as caught:  # noqa: PT012 - until the end
            while True:
                with trio.CancelScope() as scope:
                    scope.cancel()
                    got.append(await transport.receive())
                if scope.cancelled_caught:
                    cancelled += 1
                    # What is cancelled before it has read anything will be so again.
                    got.append(await transport.receive())
        assert got == numbers
        assert caught.value.close == Close(4321, "", "peer")
        assert cancelled > len(numbers) / 33


async def test_others_get_their_turn(autojump_clock: MockClock) -> None:
    """A task that receives thousands of messages that came in one read lets others run in between."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with opened(client_frame(TEXT, b"x") * 3000) as (transport, _), trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await transport.receive()
        before = turns
        for _ in range(2999):
            await transport.receive()
        assert turns - before >= 2999 // 32 - 1
        nursery.cancel_scope.cancel()
