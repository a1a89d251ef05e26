"""Transports for the contract suite: each entry of ``FACTORIES`` makes one with a raw peer at its other end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import attrs
import trio
import trio.testing
import trio_websocket

from trio_rooms._wire.over_trio_websocket import CallersRequest, Offer, over_request, over_stream
from trio_rooms._wire.transport import Transport
from trio_rooms.testing import FaultyStream, ServerFrame, client_frame, handshake_bytes, parse_server_frames
from trio_rooms.testing._raw import SAMPLE_KEY


@attrs.define(kw_only=True)
class Settings:
    """What a connection asks of a transport. The gate stands open unless it is closed."""

    max_message_bytes: int = 1000
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
    assert bytes(await peer.receive_some()).startswith(b"HTTP/1.1 101")
    return transport


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
        yield Pair(await _accepted(offer, peer), peer, faults, guarded=True)


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
            yield Pair(await _accepted(offer, peer), peer, faults, guarded=False)
        nursery.cancel_scope.cancel()


FACTORIES: dict[str, Factory] = {
    "trio-websocket": trio_websocket_over_stream,
    "trio-websocket of the caller": callers_trio_websocket,
}
