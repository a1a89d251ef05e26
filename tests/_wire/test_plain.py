"""A socket as a stream: what ``trio.testing`` asks of every stream, and what its end is to those who wait."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from trio.testing import check_two_way_stream, wait_all_tasks_blocked

from trio_rooms._wire.plain import PlainStream, plain_socket


async def make_pair() -> tuple[PlainStream, PlainStream]:
    """Two ends."""
    await trio.lowlevel.checkpoint()
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    return PlainStream(ends[0], None), PlainStream(ends[1], None)


async def make_clogged_pair() -> tuple[PlainStream, PlainStream]:
    """Two ends that take nothing more."""
    ends = await make_pair()
    for end in ends:
        with suppress(BlockingIOError):
            while True:  # noqa: ASYNC913 - ends with the socket's buffer
                end.socket.send(b"x" * 10_000)
    return ends


async def test_is_a_stream() -> None:
    """It does all that trio promises of a stream in both directions."""
    with trio.fail_after(5):
        await check_two_way_stream(make_pair, make_clogged_pair)


@asynccontextmanager
async def over_tcp() -> AsyncGenerator[tuple[PlainStream, socket.socket]]:
    """Our end as accepted, and the peer's socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as peer:
        accepted, address = listener.accept()
        accepted.setblocking(False)
        async with PlainStream(accepted, address) as ours:
            yield ours, peer


async def test_sends_small_packets_at_once() -> None:
    """Over TCP nothing small waits for what was sent before to be acknowledged."""
    async with over_tcp() as (ours, _):
        assert ours.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_a_reset() -> None:
    """A peer that resets breaks the stream, for reading and for writing."""
    async with over_tcp() as (ours, peer):
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        with pytest.raises(trio.BrokenResourceError):
            await ours.receive_some(1)
        with pytest.raises(trio.BrokenResourceError):
            await ours.send_all(b"x")


async def test_closed_while_somebody_waits() -> None:
    """``close`` is told to who waits, closes the socket once, and leaves a closed stream."""
    ours, theirs = await make_pair()
    async with theirs, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def read() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await ours.receive_some(1)

        await wait_all_tasks_blocked()
        ours.close()
        ours.close()
        with pytest.raises(trio.ClosedResourceError):
            await ours.send_eof()


async def test_the_socket_below() -> None:
    """The socket of a stream over one is known; other streams have none."""
    ours, theirs = await make_pair()
    async with ours, theirs:
        assert plain_socket(ours) is ours.socket
    assert plain_socket(trio.testing.memory_stream_pair()[0]) is None
