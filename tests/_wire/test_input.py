"""Reading from a stream: over a plain socket by ourselves, over any other as it does it."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from trio_rooms._wire.ending import GONE
from trio_rooms._wire.input import Input, input_of
from trio_rooms._wire.plain import PlainStream
from trio_rooms._wire.poller import Poller


@asynccontextmanager
async def connected(kind: str) -> AsyncIterator[tuple[trio.abc.Stream, Input, trio.abc.Stream]]:
    """Two ends of a stream, and the input of the first one."""
    ours: trio.abc.Stream
    theirs: trio.abc.Stream
    if kind == "memory":
        ours, theirs = memory_stream_pair()
    else:
        pair = socket.socketpair()
        for end in pair:
            end.setblocking(False)
        ours = PlainStream(pair[0], "")
        theirs = trio.SocketStream(trio.socket.from_stdlib_socket(pair[1]))
    async with ours, theirs, trio.open_nursery() as nursery:
        poller = Poller() if kind == "polled" else None
        if poller is not None:
            nursery.start_soon(poller.run)
        yield ours, input_of(ours, poller), theirs
        nursery.cancel_scope.cancel()


KINDS = pytest.mark.parametrize("kind", ["memory", "socket", "polled"])


@KINDS
async def test_what_comes(kind: str) -> None:
    """At most so many bytes, in order, and none at the end; each read is a checkpoint."""
    async with connected(kind) as (_, source, theirs):
        read = source.read
        await theirs.send_all(b"abcde")
        await theirs.send_eof()  # type: ignore[attr-defined]
        got = []
        for size in (2, 2, 9, 9):
            with trio.testing.assert_checkpoints():
                got.append(bytes(await read(size)))
        assert got == [b"ab", b"cd", b"e", b""]


@KINDS
async def test_a_cancel_loses_nothing(kind: str) -> None:
    """A read that is cancelled, before it has begun or while it waits, leaves all there is to the next."""
    async with connected(kind) as (_, source, theirs):
        read = source.read
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, 9)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await theirs.send_all(b"abc")
        with trio.CancelScope() as scope:
            scope.cancel()
            await read(9)
        assert scope.cancelled_caught
        assert bytes(await read(9)) == b"abc"


@KINDS
async def test_closed_while_it_waits(kind: str) -> None:
    """A read ends with one of GONE when the stream is closed by another task, and so does the next."""
    async with connected(kind) as (ours, source, _):
        read = source.read
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                with pytest.raises(GONE):
                    await read(9)

            await wait_all_tasks_blocked()
            await ours.aclose()
        with pytest.raises(GONE):
            await read(9)


async def test_reset() -> None:
    """A reset is one of GONE."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        theirs = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
        async with await listener.accept() as ours:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await theirs.aclose()
            with pytest.raises(GONE):
                await input_of(ours).read(9)
