"""Transports for the contract suite: each entry of ``FACTORIES`` makes one with a raw peer at its other end."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import attrs
import trio
import trio.testing
import trio_websocket

from fakes import NoSocket
from trio_rooms._wire.frames import Frame
from trio_rooms._wire.native import NativeTransport
from trio_rooms._wire.over_trio_websocket import CallersRequest, over_request, over_stream
from trio_rooms._wire.transport import Close, Offer, Transport, TransportClosed
from trio_rooms.testing import FaultyStream, ServerFrame, client_frame, handshake_bytes, parse_server_frames
from trio_rooms.testing._raw import SAMPLE_KEY


@attrs.define(kw_only=True)
class Settings:
    """What a connection asks of a transport. The gate stands open unless it is closed."""

    max_message_bytes: int = 1000
    max_fragments: int = 64
    message_timeout: float = 30.0
    read_buffer_size: int = 4096
    gate: trio.Event = attrs.field(factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        self.gate.set()

    def close_gate(self) -> None:
        """Hold reading back from now on."""
        self.gate = trio.Event()

    async def before_read(self) -> None:
        await trio.lowlevel.checkpoint()
        await self.gate.wait()


@attrs.frozen
class Pair:
    """An open transport, and the peer at the other end of its stream."""

    transport: Transport
    peer: trio.abc.HalfCloseableStream
    faults: FaultyStream
    """The transport's end of the stream."""
    patient: bool
    """Whether its close waits for the peer's close frame in any case, as long as the caller lets it."""
    guarded: bool
    """Whether the close frames that are due leave under all circumstances; else what trio-websocket does counts."""

    async def send(self, *frames: bytes) -> None:
        """Send frames as the peer, in one segment."""
        await self.peer.send_all(b"".join(frames))

    async def sees(self) -> bytes:
        """Everything that the peer gets up to the end of the stream."""
        data = b""
        while chunk := await self.peer.receive_some():
            data += chunk
        return data

    async def sees_frames(self) -> list[ServerFrame]:
        """As :meth:`sees`; fails if it is not a row of whole frames."""
        return parse_server_frames(await self.sees())

    async def next_frame(self) -> ServerFrame:
        """The next frame, which must come alone."""
        (frame,) = parse_server_frames(bytes(await self.peer.receive_some()))
        return frame


def pong(payload: bytes) -> bytes:
    """The answer to a ping."""
    return client_frame(0xA, payload)


Factory = Callable[[Settings], AbstractAsyncContextManager[Pair]]


async def _accepted(offer: Offer, peer: trio.abc.Stream) -> Transport:
    transport = await offer.accept()
    await _take_101(peer)
    return transport


async def _take_101(peer: trio.abc.Stream) -> None:
    assert bytes(await peer.receive_some()).startswith(b"HTTP/1.1 101")


@asynccontextmanager
async def trio_websocket_over_stream(settings: Settings) -> AsyncGenerator[Pair]:
    """What ``serve`` uses: trio-websocket over a stream that is ours."""
    near, peer = trio.testing.memory_stream_pair()
    faults = FaultyStream(near)
    async with over_stream(
        faults,
        key=SAMPLE_KEY,
        subprotocol=None,
        trailing=b"",
        max_message_bytes=settings.max_message_bytes,
        read_buffer_size=settings.read_buffer_size,
        before_read=settings.before_read,
    ) as offer:
        yield Pair(await _accepted(offer, peer), peer, faults, patient=False, guarded=True)


@asynccontextmanager
async def callers_trio_websocket(settings: Settings) -> AsyncGenerator[Pair]:
    """A connection of the caller's own trio-websocket server."""
    near, peer = trio.testing.memory_stream_pair()
    faults = FaultyStream(near)
    async with trio.open_nursery() as nursery:
        await peer.send_all(handshake_bytes())
        request = await trio_websocket.wrap_server_stream(nursery, faults)
        async with over_request(
            CallersRequest(request),
            subprotocol=None,
            max_message_bytes=settings.max_message_bytes,
            before_read=settings.before_read,
        ) as offer:
            yield Pair(await _accepted(offer, peer), peer, faults, patient=False, guarded=False)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def native_over_stream(settings: Settings) -> AsyncGenerator[Pair]:
    """The library's own, with somebody who writes what is due as a connection's writer does."""
    near, peer = trio.testing.memory_stream_pair()
    faults = FaultyStream(near)
    async with trio.open_nursery() as nursery, faults:
        transport = NativeTransport(
            faults,
            trailing=b"",
            max_message_bytes=settings.max_message_bytes,
            max_fragments=settings.max_fragments,
            message_timeout=settings.message_timeout,
            read_buffer_size=settings.read_buffer_size,
            before_read=settings.before_read,
        )
        if (rest := transport.accept(SAMPLE_KEY, None)) is not None:
            await rest
        await _take_101(peer)
        yield Pair(Driven(transport, nursery), peer, faults, patient=True, guarded=True)
        nursery.cancel_scope.cancel()


class Driven(NoSocket):
    """A native transport with the two tasks that a connection has: one receives, one writes, in turns with the test.

    trio-websocket brings them along; the suite asks the same of both.
    """

    def __init__(self, inner: Transport, nursery: trio.Nursery) -> None:
        self._inner = inner
        self._turn = trio.Lock()
        self._due = trio.Event()
        self._messages, self._received = trio.open_memory_channel[str | bytes](math.inf)
        self._end: Close | None = None
        self._receiving = trio.CancelScope()
        self._received_all = trio.Event()
        self.on_control: Callable[[], None] = lambda: None
        inner.on_control = self._wake
        nursery.start_soon(self._receive_all)
        nursery.start_soon(self._write_control)

    @property
    def control_due(self) -> bool:
        return False

    @property
    def last_heard(self) -> float:
        return self._inner.last_heard

    @property
    def paused(self) -> bool:
        return self._inner.paused

    @property
    def rtt(self) -> float | None:
        return self._inner.rtt

    async def receive(self) -> str | bytes:
        try:
            return await self._received.receive()
        except trio.EndOfChannel:
            assert self._end is not None
            raise TransportClosed(self._end) from None

    async def send(self, frames: Sequence[Frame]) -> int:
        async with self._turn:
            return await self._inner.send(frames)

    async def send_control(self) -> None:
        await trio.lowlevel.checkpoint()

    async def ping(self) -> None:
        async with self._turn:
            await self._inner.ping()

    async def close(self, code: int, reason: str) -> None:
        self._receiving.cancel()
        await self._received_all.wait()
        async with self._turn:
            await self._inner.close(code, reason)

    async def abort(self) -> None:
        await self._inner.abort()

    def _wake(self) -> None:
        self._due.set()

    async def _receive_all(self) -> None:
        with self._messages, self._receiving:
            try:
                while True:
                    self._messages.send_nowait(await self._inner.receive())
            except TransportClosed as exc:
                self._end = exc.close
        self._received_all.set()

    async def _write_control(self) -> None:
        with contextlib.suppress(TransportClosed):
            while True:
                async with self._turn:
                    while self._inner.control_due:
                        await self._inner.send_control()
                self._due = trio.Event()
                await self._due.wait()


FACTORIES: dict[str, Factory] = {
    "native": native_over_stream,
    "trio-websocket": trio_websocket_over_stream,
    "trio-websocket of the caller": callers_trio_websocket,
}
