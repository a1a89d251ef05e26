"""What is special about the transport over trio-websocket; what every transport keeps is in the contract suite."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing
import trio_websocket
from trio.testing import MockClock, wait_all_tasks_blocked

from transports import Factory, Pair, Settings, callers_trio_websocket, pong, trio_websocket_over_stream
from trio_rooms import Close
from trio_rooms._wire.frames import make_frame
from trio_rooms._wire.head import HandshakeError
from trio_rooms._wire.over_trio_websocket import CallersRequest, Offer, over_request, over_stream
from trio_rooms._wire.transport import TransportClosed
from trio_rooms.testing import FaultyStream, Opcode, client_frame, close_payload, handshake_bytes, parse_server_frames
from trio_rooms.testing._raw import SAMPLE_KEY, split_response

FRAME = make_frame(b"0123456789", text=True)


async def always() -> None:
    """A gate that stands open."""
    await trio.lowlevel.checkpoint()


def offer_over(
    stream: trio.abc.Stream,
    *,
    subprotocol: str | None = None,
    trailing: bytes = b"",
    before_read: Callable[[], Awaitable[None]] = always,
) -> AbstractAsyncContextManager[Offer]:
    """An upgrade of ``stream`` that may be accepted."""
    return over_stream(
        stream,
        key=SAMPLE_KEY,
        subprotocol=subprotocol,
        trailing=trailing,
        max_message_bytes=1000,
        read_buffer_size=100,
        before_read=before_read,
    )


@pytest.fixture
async def pair() -> AsyncGenerator[Pair]:
    """An open transport over a stream, and its peer."""
    async with trio_websocket_over_stream(Settings()) as pair:
        yield pair


# The upgrade


@pytest.mark.parametrize("subprotocol", [None, "trio-rooms.v1.json"])
async def test_the_101(autojump_clock: MockClock, subprotocol: str | None) -> None:
    """The answer carries the client's key and the subprotocol that was chosen for it."""
    near, peer = trio.testing.memory_stream_pair()
    async with offer_over(near, subprotocol=subprotocol) as offer:
        await offer.accept()
        response = split_response(bytes(await peer.receive_some()))
    assert response is not None
    status, headers, rest = response
    assert (status, rest) == (101, b"")
    assert headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455 section 1.3
    assert headers.get("sec-websocket-protocol") == subprotocol
    assert "sec-websocket-extensions" not in headers


@pytest.mark.parametrize("cut", range(len(client_frame(Opcode.TEXT, b"first")) + 1))
async def test_the_first_frame_behind_the_head(autojump_clock: MockClock, cut: int) -> None:
    """H7: what came in one segment with the head is delivered once, wherever the frame is cut."""
    frame = client_frame(Opcode.TEXT, b"first")
    near, peer = trio.testing.memory_stream_pair()
    async with offer_over(near, trailing=frame[:cut]) as offer:
        if frame[cut:]:
            await peer.send_all(frame[cut:])
        transport = await offer.accept()
        assert await transport.receive() == "first"
        await peer.send_all(client_frame(Opcode.TEXT, b"second"))
        assert await transport.receive() == "second"


async def test_gone_before_the_101() -> None:
    """A peer that is gone before the upgrade is told like any other end."""
    near, peer = trio.testing.memory_stream_pair()
    async with offer_over(near) as offer:
        await peer.aclose()
        with pytest.raises(TransportClosed) as caught:
            await offer.accept()
    assert (caught.value.close.code, caught.value.close.by) == (1006, "network")


async def test_an_offer_that_is_not_accepted(autojump_clock: MockClock) -> None:
    """The stream is closed at the end of the block, without a byte, if nobody accepts."""
    near, peer = trio.testing.memory_stream_pair()
    async with offer_over(near):
        pass
    assert await peer.receive_some() == b""


@pytest.mark.parametrize("accepted", [False, True])
async def test_the_end_of_the_block_ends_everything(autojump_clock: MockClock, accepted: bool) -> None:
    """However the block ends, trio-websocket's tasks are gone and the stream is closed."""
    near, peer = trio.testing.memory_stream_pair()
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with offer_over(near) as offer:
            if accepted:
                transport = await offer.accept()
                await transport.ping()
            raise ZeroDivisionError
    await wait_all_tasks_blocked()
    while await peer.receive_some():
        pass
    assert trio.current_time() == 0


@pytest.mark.parametrize("steps", range(12))
async def test_cancelled_at_any_step(autojump_clock: MockClock, steps: int) -> None:
    """A cancel at any checkpoint of the upgrade leaves no task, and a closed stream."""
    near, peer = trio.testing.memory_stream_pair()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def cancel() -> None:
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                scope.cancel()

            nursery.start_soon(cancel)
            async with offer_over(near) as offer:
                await (await offer.accept()).receive()
    assert scope.cancelled_caught
    while await peer.receive_some():
        pass


async def test_cancelled_before_it_began(autojump_clock: MockClock) -> None:
    """A scope that is cancelled already leaves no shielded task behind that nobody would end."""
    near, peer = trio.testing.memory_stream_pair()
    with trio.CancelScope() as scope:
        scope.cancel()
        async with offer_over(near):
            pass
    assert scope.cancelled_caught
    assert await peer.receive_some() == b""


async def test_a_stalled_101(autojump_clock: MockClock) -> None:
    """An upgrade whose answer does not leave can be given up."""
    near, peer = trio.testing.memory_stream_pair()
    faults = FaultyStream(near)
    faults.stall_sending(10)
    with trio.move_on_after(5) as scope:
        async with offer_over(faults) as offer:
            await offer.accept()
    assert scope.cancelled_caught
    assert await peer.receive_some() == b"HTTP/1.1 1"
    assert await peer.receive_some() == b""


# Pings


async def test_one_ping_at_a_time(autojump_clock: MockClock, pair: Pair) -> None:
    """A peer that never answers pings gets one of them, and holds one task."""
    for _ in range(5):
        await pair.transport.ping()
        await wait_all_tasks_blocked()
    assert (await pair.next_frame()).opcode == Opcode.PING
    await pair.transport.abort()
    assert await pair.sees() == b""


async def test_pings_again_after_a_pong(autojump_clock: MockClock, pair: Pair) -> None:
    """An answered ping makes room for the next, whose time is its own."""
    for seconds in (2, 5):
        await pair.transport.ping()
        frame = await pair.next_frame()
        await trio.sleep(seconds)
        await pair.send(pong(frame.payload))
        await wait_all_tasks_blocked()
        assert pair.transport.rtt == seconds


async def test_a_ping_that_does_not_leave(autojump_clock: MockClock, pair: Pair) -> None:
    """A ping whose write stalls is not waited for, and breaks with the stream."""
    pair.faults.stall_sending()
    await pair.transport.ping()
    await wait_all_tasks_blocked()
    await pair.transport.abort()
    await wait_all_tasks_blocked()
    assert await pair.sees() == b""


async def test_ping_after_the_end(autojump_clock: MockClock, pair: Pair) -> None:
    """A ping of a connection that is over raises nothing: who receives learns of the end."""
    await pair.peer.aclose()
    await wait_all_tasks_blocked()
    await pair.transport.ping()
    await wait_all_tasks_blocked()
    with pytest.raises(TransportClosed):
        await pair.transport.receive()


@pytest.mark.parametrize("factory", [trio_websocket_over_stream, callers_trio_websocket])
async def test_every_frame_is_a_write(autojump_clock: MockClock, factory: Factory) -> None:
    """It writes one frame a call, so that each has its own time."""
    async with factory(Settings()) as pair:
        assert await pair.transport.send([FRAME, FRAME, FRAME]) == 1
        assert bytes(await pair.peer.receive_some()) == FRAME.data


# Reading ahead


async def test_reads_no_more_than_the_gate_lets_through(autojump_clock: MockClock) -> None:
    """The socket is not read while the gate is closed, though trio-websocket would."""
    settings = Settings(read_buffer_size=50)
    async with trio_websocket_over_stream(settings) as pair:
        await wait_all_tasks_blocked()
        settings.close_gate()  # one read is under way
        await pair.send(*(client_frame(Opcode.TEXT, b"x" * 44) for _ in range(20)))
        await wait_all_tasks_blocked()
        assert pair.faults.bytes_received == 50
        assert await pair.transport.receive() == "x" * 44
        await wait_all_tasks_blocked()
        assert pair.faults.bytes_received == 50
        settings.gate.set()
        await wait_all_tasks_blocked()
        assert pair.faults.bytes_received == 150  # its queue of one message, and one in its hand


async def test_too_big_then_nothing_hangs(autojump_clock: MockClock) -> None:
    """After its own 1009 trio-websocket goes on reading; the end takes the reading over, and drains."""
    async with trio_websocket_over_stream(Settings(max_message_bytes=10)) as pair:
        await pair.send(client_frame(Opcode.TEXT, b"x" * 11), client_frame(Opcode.PING, b"a"))
        with pytest.raises(TransportClosed) as caught:
            await pair.transport.receive()
        assert (caught.value.close.code, caught.value.close.by) == (1009, "server")
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.transport.close, 1009, "")
            await pair.send(bytes(1000))
            (frame,) = await pair.sees_frames()
            await pair.peer.aclose()
        assert (frame.opcode, frame.payload[:2]) == (Opcode.CLOSE, close_payload(1009))
        assert trio.current_time() == 0


async def test_a_crossing_ping_ends_it_politely(autojump_clock: MockClock, pair: Pair) -> None:
    """When its reader has died of a ping that crossed our close frame, the rest is drained like any other's."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.transport.close, 1000, "")
        assert (await pair.next_frame()).opcode == Opcode.CLOSE
        await pair.send(client_frame(Opcode.PING, b"p"))
        await wait_all_tasks_blocked()
        before = pair.faults.bytes_received
        await pair.send(bytes(500))
        await wait_all_tasks_blocked()
        assert pair.faults.bytes_received - before == 500
        await pair.peer.aclose()
    assert trio.current_time() == 0


async def test_the_peer_finds_our_message_too_big(autojump_clock: MockClock, pair: Pair) -> None:
    """A 1009 of the peer's is the peer's, though trio-websocket has one of its own."""
    await pair.send(client_frame(Opcode.CLOSE, close_payload(1009, "too big for me")))
    with pytest.raises(TransportClosed) as caught:
        await pair.transport.receive()
    assert caught.value.close == Close(1009, "too big for me", "peer")


# A request of the caller's


async def callers_request(
    nursery: trio.Nursery, head: bytes = handshake_bytes()
) -> tuple[trio_websocket.WebSocketRequest, trio.testing.MemoryReceiveStream]:
    """A request as the caller's own server hands it over, and what its client receives."""
    near, peer = trio.testing.memory_stream_pair()
    await peer.send_all(head)
    return await trio_websocket.wrap_server_stream(nursery, near), peer


def test_wrap_what_is_no_request() -> None:
    """Anything else is not taken for a request."""
    assert CallersRequest.wrap(object()) is None


async def test_describe(autojump_clock: MockClock) -> None:
    """What the caller's server has read is described as our own reading would."""
    head = handshake_bytes(
        "/ws?a=1",
        host="example.com:8080",
        subprotocol=["x", "trio-rooms.v1.json"],
        headers=[("Cookie", "c=1"), ("Origin", "http://example.com:8080")],
    )
    async with trio.open_nursery() as nursery:
        request, _ = await callers_request(nursery, head)
        wrapped = CallersRequest.wrap(request)
        assert wrapped is not None
        described = wrapped.describe()
        nursery.cancel_scope.cancel()
    assert (described.method, described.path, described.query) == ("GET", "/ws", {"a": "1"})
    assert described.headers["host"] == "example.com:8080"
    assert described.headers["origin"] == "http://example.com:8080"
    assert described.cookies == {"c": "1"}
    assert described.subprotocols == ("x", "trio-rooms.v1.json")
    assert described.remote is None


@pytest.mark.sockets
async def test_describe_the_address() -> None:
    """Over TCP the peer's address is known."""
    async with trio.open_nursery() as nursery:
        described = []

        async def handle(request: trio_websocket.WebSocketRequest) -> None:
            described.append(CallersRequest(request).describe())
            await request.reject(404)

        server = await nursery.start(partial(trio_websocket.serve_websocket, handle, "127.0.0.1", 0, None))
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with stream:
            await stream.send_all(handshake_bytes())
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 404")
            name = stream.socket.getsockname()
        nursery.cancel_scope.cancel()
    assert (described[0].remote, described[0].remote_port) == name


async def test_reject(autojump_clock: MockClock) -> None:
    """A refusal has the status, the headers and the body that our own server would send."""
    async with trio.open_nursery() as nursery:
        request, peer = await callers_request(nursery)
        error = HandshakeError(503, "DRAINING", "later", reason="unavailable", headers=(("Retry-After", "1"),))
        await CallersRequest(request).reject(error)
        await wait_all_tasks_blocked()
        data = bytes(await peer.receive_some())
        nursery.cancel_scope.cancel()
    response = split_response(data)
    assert response is not None
    status, headers, body = response
    assert (status, headers["retry-after"], headers["content-type"]) == (503, "1", "application/json")
    assert json.loads(body) == {"error": {"code": "DRAINING", "message": "later"}}


async def test_reject_who_is_gone(autojump_clock: MockClock) -> None:
    """A refusal that nobody waits for is no error."""
    async with trio.open_nursery() as nursery:
        request, peer = await callers_request(nursery)
        await peer.aclose()
        await wait_all_tasks_blocked()
        await CallersRequest(request).reject(HandshakeError(403, "NO", "no", reason="refused"))
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def callers_offer() -> AsyncGenerator[tuple[Offer, trio.testing.MemoryReceiveStream]]:
    """An upgrade of a caller's request."""
    async with trio.open_nursery() as nursery:
        request, peer = await callers_request(nursery)
        async with over_request(
            CallersRequest(request), subprotocol=None, max_message_bytes=1000, before_read=always
        ) as offer:
            yield offer, peer
        nursery.cancel_scope.cancel()


async def test_a_callers_stream_stays_the_callers(autojump_clock: MockClock) -> None:
    """The end of the block does not close a stream that is the caller's."""
    async with trio.open_nursery() as nursery:
        request, peer = await callers_request(nursery)
        async with over_request(
            CallersRequest(request), subprotocol=None, max_message_bytes=1000, before_read=always
        ) as offer:
            await (await offer.accept()).ping()
            await wait_all_tasks_blocked()
        assert bytes(await peer.receive_some()).startswith(b"HTTP/1.1 101")
        ws = request._connection
        assert ws.closed is None
        await ws.send_message("still open")
        frames = parse_server_frames(bytes(await peer.receive_some()))
        assert frames[-1].payload == b"still open"
        nursery.cancel_scope.cancel()


async def test_a_callers_peer_that_is_gone(autojump_clock: MockClock) -> None:
    """Gone before the 101, as over a stream of ours."""
    with pytest.RaisesGroup(TransportClosed, flatten_subgroups=True):
        async with callers_offer() as (offer, peer):
            await peer.aclose()
            await offer.accept()
