"""The writing end of a stream: after every write, however it ended, it is known what may still be written."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from plain_sockets import ToldSocket, native_over
from trio_rooms._wire.native import NativeTransport
from trio_rooms._wire.output import Output, SocketOutput, StreamOutput, output_of
from trio_rooms._wire.transport import TransportClosed
from trio_rooms.testing import FaultyStream, Opcode, ServerFrame, client_frame, close_payload, parse_server_frames

DATA = b"0123456789"


def output_over(plain: ToldSocket) -> Output:
    output = output_of(plain.stream)
    assert isinstance(output, SocketOutput)
    return output


@pytest.fixture
async def blocked() -> AsyncIterator[ToldSocket]:
    """A socket that takes nothing until it is allowed to."""
    plain = ToldSocket(allowance=0)
    yield plain
    plain.close()


# Over a plain socket


@pytest.mark.parametrize("at_once", range(1, len(DATA) + 1))
async def test_partial_writes(at_once: int) -> None:
    """Invariant 3: whatever a socket takes at once, all of it goes out, in order, and nothing twice."""
    plain = ToldSocket(at_once=at_once)
    output = output_over(plain)
    for _ in range(3):
        with trio.testing.assert_checkpoints():
            await output.write(DATA)
    assert plain.data == 3 * DATA
    plain.close()


@pytest.mark.parametrize("kept", range(1, len(DATA)))
async def test_the_rest_goes_first(kept: int) -> None:
    """Invariant 3: what a write without waiting has left is completed before anything else."""
    plain = ToldSocket()
    output = output_over(plain)
    output.keep_rest(DATA, len(DATA) - kept)
    await output.write(b"next")
    assert plain.data == DATA[-kept:] + b"next"
    await output.write_rest()
    assert plain.data == DATA[-kept:] + b"next"
    plain.close()


@given(
    writes=st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=5),
    allowed=st.lists(st.integers(0, 15), max_size=10),
    at_once=st.sampled_from([1, 3, math.inf]),
    cancels=st.sets(st.integers(0, 9)),
)
async def test_a_torn_write_is_completed(
    writes: list[bytes], allowed: list[int], at_once: float, cancels: set[int]
) -> None:
    """Invariant 3: writes that are cancelled while a socket is slow are completed before what is written next."""
    plain = ToldSocket(allowance=0, at_once=at_once)
    output = output_over(plain)
    begun: list[bytes] = []

    async def write_all() -> None:
        for data in writes:
            begun.append(data)
            with scopes[len(begun) - 1]:
                await output.write(data)
        await output.write_rest()

    scopes = [trio.CancelScope() for _ in writes]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write_all)
        await wait_all_tasks_blocked()
        for number, size in enumerate(allowed):
            plain.allow(size)
            await wait_all_tasks_blocked()
            assert b"".join(writes).startswith(plain.data)
            assert len(plain.data) == min(sum(allowed[: number + 1]), sum(map(len, writes)))
            if number in cancels and begun:
                scopes[len(begun) - 1].cancel()
                await wait_all_tasks_blocked()
        plain.allow(math.inf)
    assert plain.data == b"".join(writes)
    plain.close()


async def test_cancelled_before_it_is_begun(blocked: ToldSocket) -> None:
    """A write in a cancelled scope writes nothing and leaves nothing."""
    output = output_over(blocked)
    blocked.allow(math.inf)
    with trio.CancelScope() as scope:
        scope.cancel()
        await output.write(DATA)
    assert scope.cancelled_caught
    await output.write(b"next")
    assert blocked.data == b"next"


@pytest.mark.parametrize("fails_at", range(1, 6))
@pytest.mark.parametrize("at_once", [0, 3])
async def test_failing(fails_at: int, at_once: int) -> None:
    """Invariant 3: a socket that fails at any call has torn the stream; nothing is tried after it."""
    plain = ToldSocket(at_once=at_once or math.inf, fails_at=fails_at)
    output = output_over(plain)
    with pytest.raises(TransportClosed) as failure:  # noqa: PT012 - written to until it fails
        while True:
            await output.write(DATA)
    assert (failure.value.close.code, failure.value.close.by) == (1006, "network")
    assert output.torn
    calls, plain.fails_at = plain.calls, math.inf
    for again in (lambda: output.write(DATA), lambda: output.write(b"")):
        with pytest.raises(TransportClosed):
            await again()
    assert plain.calls == calls
    plain.close()


async def test_failing_while_it_waits(blocked: ToldSocket) -> None:
    """A connection that is reset while we wait for it to take more is told as lost."""
    output = output_over(blocked)

    async def write() -> None:
        with pytest.raises(TransportClosed):
            await output.write(DATA)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await wait_all_tasks_blocked()
        blocked.fail()
    assert output.torn


Write = Callable[[Output], Awaitable[None]]
WRITES: list[Write] = [lambda output: output.write_rest(), lambda output: output.write(b"next")]


@pytest.mark.parametrize("write", WRITES, ids=["write_rest", "write"])
@pytest.mark.parametrize("rest", [False, True])
@pytest.mark.parametrize("torn", [False, True])
async def test_a_closed_stream(blocked: ToldSocket, write: Write, rest: bool, torn: bool) -> None:
    """Over a stream that is closed already, a write says so, again and again, and does not ask the kernel to wait."""
    output = output_over(blocked)
    if rest:
        output.keep_rest(DATA, 4)
    await trio.aclose_forcefully(blocked.stream)
    output.torn = torn
    for _ in range(2):
        if write is WRITES[0] and not rest:
            await write(output)
        else:
            with pytest.raises(TransportClosed):
                await write(output)
    assert blocked.data == b""


async def test_closed_while_it_waits(blocked: ToldSocket) -> None:
    """An abort in the middle of a write ends it."""
    output = output_over(blocked)

    async def write() -> None:
        with pytest.raises(TransportClosed):
            await output.write(DATA)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await wait_all_tasks_blocked()
        await trio.aclose_forcefully(blocked.stream)
    assert output.torn


async def test_never_into_another_connection() -> None:
    """Invariant 1: who writes to a closed connection does not write to the one that got its descriptor's number."""
    ours, peer = socket.socketpair()
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    output = output_of(stream)
    send = output.direct
    assert send is not None
    number = stream.socket.fileno()
    output.keep_rest(DATA, 4)
    await trio.aclose_forcefully(stream)
    other, other_peer = socket.socketpair()
    os.dup2(other.fileno(), number)
    with pytest.raises(OSError, match="descriptor"):
        send(DATA)
    for write in WRITES:
        with pytest.raises(TransportClosed):
            await write(output)
    other_peer.setblocking(False)
    with pytest.raises(BlockingIOError):
        other_peer.recv(1)
    if other.fileno() != number:
        os.close(number)
    for end in (other, other_peer, peer):
        end.close()


@pytest.mark.sockets
@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="the system has no TCP_NOTSENT_LOWAT")
async def test_what_the_kernel_may_hide() -> None:
    """The kernel takes little more than the peer, or it would take megabytes that are stale when they are read."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listeners[0] as listener:
        peer = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
        async with peer, await listener.accept() as stream:
            output = output_of(stream)
            lowat = stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
            assert lowat == 128 * 1024
            assert output.direct is not None


async def test_a_socket_that_is_not_tcp() -> None:
    """Over a Unix socket, which has none of TCP's options, it writes all the same."""
    ours, theirs = socket.socketpair()
    async with trio.SocketStream(trio.socket.from_stdlib_socket(ours)) as stream:
        await output_of(stream).write(DATA)
        assert theirs.recv(100) == DATA
    theirs.close()


async def test_gone_before_we_begin(blocked: ToldSocket) -> None:
    """A stream that is gone when the output is made fails at the first write, not before."""
    await trio.aclose_forcefully(blocked.stream)
    output = output_of(blocked.stream)
    with pytest.raises(TransportClosed):
        await output.write(DATA)


# Over any other stream


def test_no_plain_socket() -> None:
    """A stream that is not a plain socket, or only has one within, has no direct way."""
    for stream in (trio.testing.memory_stream_pair()[0], FaultyStream(trio.testing.memory_stream_pair()[0])):
        output = output_of(stream)
        assert isinstance(output, StreamOutput)
        assert output.direct is None


@pytest.mark.parametrize("sent", range(len(DATA)))
async def test_torn_by_a_cancel(sent: int) -> None:
    """Invariant 3: a send that is cancelled may have written anything, so nothing is written after it."""
    near, far = trio.testing.memory_stream_pair()
    faults = FaultyStream(near)
    faults.stall_sending(after=sent)
    output = output_of(faults)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(output.write, DATA)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert output.torn
    faults.resume_sending()
    with pytest.raises(TransportClosed):
        await output.write(DATA)
    await output.write_rest()
    await near.aclose()
    seen = b""
    while chunk := await far.receive_some():
        seen += chunk
    assert seen == DATA[:sent]


async def test_torn_by_a_failure() -> None:
    """A stream that breaks is lost; what is written later says the same."""
    near, far = trio.testing.memory_stream_pair()
    output = output_of(near)
    await output.write(DATA)
    await far.aclose()
    for _ in range(2):
        with pytest.raises(TransportClosed) as failure:
            await output.write(DATA)
        assert failure.value.close.code == 1006
    assert output.torn


# The close of a native transport, over an output that was left in some state


def close_after(data: bytes) -> tuple[list[ServerFrame], bytes]:
    """Frames, and the payload of the close frame that must be the last of them."""
    frames = parse_server_frames(data)
    assert [frame.opcode for frame in frames].count(Opcode.CLOSE) == 1
    assert frames[-1].opcode == Opcode.CLOSE
    return frames[:-1], frames[-1].payload


FRAME = b"\x81\x0a" + DATA


async def close_politely(transport: NativeTransport, plain: ToldSocket) -> None:
    """Close, with a peer that answers when it has been allowed to read everything."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.close, 1012, "later")
        await wait_all_tasks_blocked()
        plain.allow(math.inf)
        await wait_all_tasks_blocked()
        plain.peer.send(client_frame(Opcode.CLOSE, close_payload(1012)))
        plain.peer.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("taken", range(1, len(FRAME)))
@pytest.mark.parametrize("by", ["flusher", "writer"])
async def test_close_completes_a_torn_frame(taken: int, by: str) -> None:
    """Invariant 3: a write that was cut short at any byte is completed by the close, whose frame comes behind it."""
    plain = ToldSocket(allowance=taken)
    transport = native_over(plain.stream)
    if by == "flusher":
        assert transport.direct is not None
        transport.keep_rest(FRAME, transport.direct(FRAME))
        write = transport.send_rest
    else:

        async def write() -> None:
            await transport._write(FRAME)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    await close_politely(transport, plain)
    assert close_after(plain.data) == ([ServerFrame(Opcode.TEXT, DATA)], close_payload(1012, "later"))
    plain.close()


@pytest.mark.parametrize("rest", [b"", FRAME])
@pytest.mark.parametrize("taken", range(5))
async def test_close_completes_the_answer_to_a_close(taken: int, rest: bytes) -> None:
    """P7: the answer to the peer's close frame goes out whole, also if the task that wrote it was cancelled."""
    plain = ToldSocket(allowance=taken)
    transport = native_over(plain.stream, trailing=client_frame(Opcode.CLOSE, close_payload(1000)))
    if rest:
        transport.keep_rest(b"_" + rest, 1)
    with pytest.raises(TransportClosed):
        await transport.receive()
    assert transport.control_due
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.send_control)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.close, 1012, "never sent")
        await wait_all_tasks_blocked()
        plain.allow(math.inf)
        await wait_all_tasks_blocked()
        plain.peer.shutdown(socket.SHUT_WR)
    frames, payload = close_after(plain.data)
    assert payload == close_payload(1000)
    assert len(frames) == bool(rest)
    plain.close()


async def test_close_after_a_torn_stream() -> None:
    """Invariant 3: where it is not known what was written, no close frame is; the stream is closed."""
    near, far = trio.testing.memory_stream_pair()
    faults = FaultyStream(near)
    faults.stall_sending(after=3)
    transport = native_over(faults)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport._write, FRAME)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    faults.resume_sending()
    await transport.close(1012, "later")
    assert bytes(await far.receive_some()) == FRAME[:3]
    assert await far.receive_some() == b""


async def test_abort_in_the_middle(blocked: ToldSocket) -> None:
    """An abort ends a write that waits, and nothing is written by what comes after it."""
    transport = native_over(blocked.stream)

    async def write() -> None:
        with pytest.raises(TransportClosed):
            await transport._write(FRAME)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await wait_all_tasks_blocked()
        await transport.abort()
    blocked.allowance = math.inf
    await transport.close(1000, "")
    await transport.abort()
    assert blocked.data == b""
