"""An echo server made of the library's own handshake, transport and sink, below anything that speaks JSON.

What Autobahn's cases are run against. Handlers would refuse its messages, so the echo stands where a connection
stands: one task receives and queues what came, one is the sink's writer.
"""

from __future__ import annotations

import math
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import trio

from trio_rooms import Config, Limits
from trio_rooms._handshake import HandshakePolicy, shake_hands
from trio_rooms._wire.frames import make_frame
from trio_rooms._wire.native import NativeTransport
from trio_rooms._wire.plain import PlainStream
from trio_rooms._wire.poller import Poller, make_poller
from trio_rooms._wire.sink import Sink
from trio_rooms._wire.transport import Transport, TransportClosed

# Autobahn's largest message has 16 MiB and comes in as many as 262,144 fragments.
_MAX_MESSAGE = 32 * 1024 * 1024
_CONFIG = Config(limits=Limits(max_message_bytes=_MAX_MESSAGE, max_fragments=1 << 20))

# A peer may take so many seconds to take what is written and to answer a close frame; the machine may be busy.
_PATIENCE = 60.0

_POLICY = HandshakePolicy(
    config=_CONFIG,
    path=None,
    allowed_origins=None,
    pages={},
    authenticate=None,
    subprotocols=(),
    refusing=lambda: None,
    rejected=lambda reason: None,
    failed=lambda error: None,
)

Wrap = Callable[[trio.abc.Stream], trio.abc.Stream]


@attrs.frozen
class Variant:
    """A way to reach the echo."""

    wrap: Wrap
    """What goes around the server's end of a client's stream."""
    relayed: Wrap | None = None
    """What goes around the other end, where a relay stands before the server; None: clients connect directly."""


class _Bytewise(trio.abc.ReceiveStream):
    """Reads one byte at a time, whatever the client's segments are."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(1)

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Sip(socket.socket):
    """A socket that takes little: one byte of what is short, half of what is not."""

    def send(self, data: Any, flags: int = 0) -> int:
        size = len(data)
        return super().send(memoryview(data)[: 1 if size <= _SIPPED else size // 2])


# One byte at a time is slow, and a message of 64 KiB has no more borders than a short one.
_SIPPED = 300


def plain(stream: trio.abc.Stream, kind: type[socket.socket] = socket.socket) -> trio.abc.Stream:
    """The same socket as a server has it that has accepted it by itself."""
    assert isinstance(stream, trio.SocketStream)
    sock = kind(fileno=stream.socket._sock.detach())  # type: ignore[attr-defined] # trio has no other way
    sock.setblocking(False)
    return PlainStream(sock, "")


def sipping(stream: trio.abc.Stream) -> trio.abc.Stream:
    """As :func:`plain`, but every write is cut short, and the rest is for later."""
    return plain(stream, _Sip)


def bytewise(stream: trio.abc.Stream) -> trio.abc.Stream:
    """The same stream, read one byte at a time. A FaultyStream would take too long over Autobahn's messages."""
    return trio.StapledStream(stream, _Bytewise(stream))


@asynccontextmanager
async def serve_echo(variant: Variant) -> AsyncGenerator[str]:
    """Serve for the length of the block; yields the address, ``host:port``, where plain clients connect."""
    async with trio.open_nursery() as nursery:
        poller = make_poller()
        if poller is not None:
            nursery.start_soon(poller.run)
        port = await _listen(nursery, lambda stream: _serve(variant.wrap(stream), poller))
        if variant.relayed is not None:
            port = await _listen(nursery, partial(_relay, port=port, wrap=variant.relayed))
        yield f"127.0.0.1:{port}"
        nursery.cancel_scope.cancel()


async def _listen(nursery: trio.Nursery, handle: Callable[[trio.SocketStream], Awaitable[None]]) -> int:
    (listener,) = await nursery.start(partial(trio.serve_tcp, handle, 0, host="127.0.0.1"))
    port: int = listener.socket.getsockname()[1]
    return port


async def _serve(stream: trio.abc.Stream, poller: Poller | None) -> None:
    """One client, from its first byte to the end of its stream."""
    async with stream:
        upgrade = await shake_hands(stream, _POLICY, head_complete=lambda: None)
        if upgrade is None:
            return
        transport = NativeTransport(
            stream,
            trailing=upgrade.trailing,
            max_message_bytes=_MAX_MESSAGE,
            max_fragments=_CONFIG.limits.max_fragments,
            message_timeout=math.inf,
            read_buffer_size=_CONFIG.read_buffer_size,
            before_read=_at_once,
            poller=poller,
        )
        try:
            if (rest := transport.accept(upgrade.key, upgrade.subprotocol)) is not None:
                await rest
            await _echo(transport)
        except* TransportClosed:
            pass  # gone in the middle of something: nobody is left to be answered


async def _at_once() -> None:
    """There is room for more at any time."""


async def _echo(transport: Transport) -> None:
    sink = Sink(None, max_messages=1000, max_bytes=4 * _MAX_MESSAGE, write_buffer_size=65536, write_timeout=_PATIENCE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run, transport)
        try:
            while True:
                message = await transport.receive()
                text = isinstance(message, str)
                await sink.outbox.send(make_frame(message.encode() if text else message, text=text))
        except TransportClosed as exc:
            close = exc.close
        sink.finish()  # what was whole before a violation is answered
    with trio.move_on_after(_PATIENCE):
        await transport.close(close.code, close.reason)


async def _relay(client: trio.SocketStream, *, port: int, wrap: Wrap) -> None:
    """Carry a client's bytes to the server through what ``wrap`` makes of the connection, and its answers back."""
    async with client, wrap(await trio.open_tcp_stream("127.0.0.1", port)) as server, trio.open_nursery() as nursery:

        async def carry_up() -> None:
            async for data in client:
                await server.send_all(data)
            nursery.cancel_scope.cancel()

        nursery.start_soon(carry_up)
        async for data in server:
            await client.send_all(data)
        await client.send_eof()
