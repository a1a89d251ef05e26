"""The transport over trio-websocket: message by message, with its tasks and its lock, behind our own head.

The only module that imports trio_websocket. What cannot be had this way, and comes with a transport of our
own: limits on fragments and on the declared length of a frame before its bytes have come, and frames
joined into one write.

trio-websocket's reader task must outlive the cancellation of the connection that uses it: a close
handshake needs somebody who hears the peer's answer. So it lives in a shielded task of its own, the host,
which :func:`over_stream` ends when its block ends; the block's end bounds the handshake in time. The reader
dies of a ping that crosses our close frame; then the host ends the line, politely, and the handshake with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import attrs
import trio
import trio_websocket
import wsproto.utilities
from trio_websocket import WebSocketRequest as WebSocketRequest
from wsproto.connection import ConnectionState

from .ending import close_now
from .frames import Frame, fit_reason
from .head import HandshakeError
from .headers import Headers
from .line import Line
from .request import HandshakeRequest
from .responses import error_body
from .transport import TOO_BIG, Close, TransportClosed

_HEAD = (
    "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{subprotocol}\r\n"
)


class TrioWebSocketTransport:
    """A :class:`Transport` over one trio-websocket connection."""

    def __init__(
        self,
        ws: trio_websocket.WebSocketConnection,
        host: _Host,
        *,
        line: Line | None,
        before_read: Callable[[], Awaitable[None]],
        max_message_bytes: int,
    ) -> None:
        self._ws = ws
        self._host = host
        self._line = line
        self._before_read = before_read
        self._max_message_bytes = max_message_bytes
        self._ping_in_flight = False
        self._torn = False
        self._heard = trio.current_time()
        self._waiting_for_room = False
        self._too_big = False
        self.rtt: float | None = None
        self.on_control: Callable[[], None] = _nothing

    direct: Final = None

    def keep_rest(self, data: bytes, taken: int) -> None:
        """There is none: what is written here are messages."""

    async def send_rest(self) -> None:
        """There is none."""
        await trio.lowlevel.checkpoint()

    def offer_control(self) -> bool:
        """Not to be called: there is no ``direct``."""
        raise NotImplementedError

    offer_ping = offer_control

    @property
    def control_due(self) -> bool:
        """Never: trio-websocket's own reader answers pings and close frames."""
        return False

    async def send_control(self) -> None:
        """Nothing is ever due."""
        await trio.lowlevel.checkpoint()

    @property
    def last_heard(self) -> float:
        """Time of the last bytes; for a caller's own connection, of the last message or pong."""
        return self._heard if self._line is None else max(self._heard, self._line.last_heard)

    @property
    def paused(self) -> bool:
        """Whether we hold reading back."""
        return self._waiting_for_room if self._line is None else self._line.paused

    @property
    def peer_closed(self) -> bool:
        """trio-websocket answers by itself."""
        return False

    async def receive(self) -> str | bytes:
        """The next message; larger than the limit in bytes: 1009."""
        if self._too_big:
            raise TransportClosed(Close(1009, TOO_BIG))
        if self._line is None:
            self._waiting_for_room = True
            await self._before_read()
            self._waiting_for_room = False
            self._heard = trio.current_time()  # its silence begins when we begin to listen
        try:
            message = await self._ws.get_message()
        except trio_websocket.ConnectionClosed:
            raise TransportClosed(self._how_it_closed()) from None
        self._heard = trio.current_time()
        # trio-websocket counts characters; a character can be four bytes.
        size = len(message.encode()) if isinstance(message, str) else len(message)
        if size > self._max_message_bytes:
            self._too_big = True
            raise TransportClosed(Close(1009, TOO_BIG))
        return message

    async def send(self, frames: Sequence[Frame]) -> int:
        """The first frame: each is a message, and a write, of its own."""
        frame = frames[0]
        payload = frame.payload
        with _mapped(self):
            self._torn = True
            await self._ws.send_message(payload.decode() if frame.text else payload)
            self._torn = False
        return 1

    async def ping(self) -> None:
        """Start a ping unless one is unanswered; a peer that never pongs must not collect tasks.

        The write happens in a task of its own, because trio-websocket's ``ping`` also waits for the pong
        and cannot be cancelled without leaving its entry behind; its lock keeps the frames in order.
        """
        if not self._ping_in_flight:
            self._ping_in_flight = True
            self._host.nursery.start_soon(self._ping_and_wait)
        await trio.lowlevel.checkpoint()

    async def _ping_and_wait(self) -> None:
        started = trio.current_time()
        try:
            with _mapped(self):
                await self._ws.ping()
        except TransportClosed:
            return  # the task that receives learns of it, too, and acts
        self._heard = trio.current_time()
        self.rtt = self._heard - started
        self._ping_in_flight = False

    async def close(self, code: int, reason: str) -> None:
        """Close frame, the peer's answer, end of the stream."""
        if self._line is None and self._torn:
            await self.abort()  # nothing but us keeps a close frame out of the torn one
            return
        with contextlib.suppress(TransportClosed), _mapped(self), self._host.hearing:
            await self._ws.aclose(code, fit_reason(reason))
        if self._line is not None:
            # Where trio-websocket has begun the end by itself, its aclose() returns early or, after a 1009 of
            # its own, leaves the stream open.
            await self._line.aclose()

    async def abort(self) -> None:
        """End the stream at once."""
        if self._line is None:
            await close_now(self._ws)
        else:
            await self._line.abort()

    def _how_it_closed(self) -> Close:
        reason = self._ws.closed
        if reason is None or reason.code == 1006:
            return Close(1006, "", "network")
        # A violation that it found, and its own 1009, look exactly like a close frame of the peer's.
        by_peer = _state(self._ws) in (ConnectionState.REMOTE_CLOSING, ConnectionState.CLOSED)
        return Close(int(reason.code), reason.reason or "", "peer" if by_peer else "server")


def _nothing() -> None:
    """What ``on_control`` is until somebody sets it."""


class _mapped:  # noqa: N801 - used like a function
    """Map what trio-websocket raises for a connection that is over to TransportClosed."""

    def __init__(self, transport: TrioWebSocketTransport) -> None:
        self._transport = transport

    def __enter__(self) -> None:
        pass

    def __exit__(self, exc_type: object, exc: BaseException | None, traceback: object) -> None:
        if isinstance(exc, trio_websocket.ConnectionClosed):
            raise TransportClosed(self._transport._how_it_closed()) from exc


def _state(ws: trio_websocket.WebSocketConnection) -> ConnectionState:
    """What wsproto knows of close frames; trio-websocket has no public name for it."""
    return ws._wsproto.state


@attrs.define(eq=False)
class _Host:
    """Where trio-websocket's tasks live."""

    nursery: trio.Nursery
    scope: trio.CancelScope
    """Ends them."""
    hearing: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    """Around a close handshake: cancelled when there is nobody left who would hear the peer's answer."""


async def _run_host(line: Line | None, *, task_status: trio.TaskStatus[_Host]) -> None:
    """Own trio-websocket's tasks until told to end; see the module's theory."""
    # A shielded task must not be begun by a start() that was cancelled already: nobody would end it.
    await trio.lowlevel.checkpoint_if_cancelled()
    with trio.CancelScope(shield=True) as scope:
        host: _Host | None = None
        try:
            async with trio.open_nursery() as nursery:
                host = _Host(nursery, scope)
                task_status.started(host)
                await trio.sleep_forever()
        except* wsproto.utilities.LocalProtocolError:
            # Its reader answers a ping that comes after our close frame, which wsproto refuses.
            assert line is not None  # or the reader is the caller's, too
            await line.aclose()
            assert host is not None
            host.hearing.cancel(reason="a ping has crossed the close frame")


class Offer:
    """An upgrade that may be accepted; made by :func:`over_stream` and :func:`over_request`."""

    def __init__(
        self,
        request: trio_websocket.WebSocketRequest,
        host: _Host,
        line: Line | None,
        *,
        subprotocol: str | None,
        max_message_bytes: int,
        before_read: Callable[[], Awaitable[None]],
    ) -> None:
        self._request = request
        self._host = host
        self._line = line
        self._subprotocol = subprotocol
        self._max_message_bytes = max_message_bytes
        self._before_read = before_read

    async def accept(self) -> TrioWebSocketTransport:
        """Send the 101. Raises :exc:`TransportClosed` if the peer has gone before it was out."""
        try:
            ws = await self._request.accept(subprotocol=self._subprotocol)
        except trio_websocket.ConnectionClosed:
            raise TransportClosed(Close(1006, "gone before the upgrade", "network")) from None
        if self._line is not None:
            self._line.close_due = partial(_code_of_violation, ws)
        return TrioWebSocketTransport(
            ws,
            self._host,
            line=self._line,
            before_read=self._before_read,
            max_message_bytes=self._max_message_bytes,
        )


def _code_of_violation(ws: trio_websocket.WebSocketConnection) -> int | None:
    """trio-websocket sets its close reason before it ends the stream, and leaves wsproto's state as it was."""
    return None if ws.closed is None or _state(ws) is ConnectionState.LOCAL_CLOSING else int(ws.closed.code)


@asynccontextmanager
async def over_stream(
    stream: trio.abc.Stream,
    *,
    key: str,
    subprotocol: str | None,
    trailing: bytes,
    max_message_bytes: int,
    read_buffer_size: int,
    before_read: Callable[[], Awaitable[None]],
) -> AsyncIterator[Offer]:
    """Offer the upgrade of ``stream``, whose request was judged valid. Owns the stream and closes it."""
    chosen = f"Sec-WebSocket-Protocol: {subprotocol}\r\n" if subprotocol else ""
    line = Line(
        stream,
        head=_HEAD.format(key=key, subprotocol=chosen).encode("ascii"),
        trailing=trailing,
        read_buffer_size=read_buffer_size,
        before_read=before_read,
    )
    try:
        async with trio.open_nursery() as nursery:
            host = await nursery.start(_run_host, line)
            try:
                request = await trio_websocket.wrap_server_stream(
                    host.nursery, line, max_message_size=max_message_bytes
                )
                yield Offer(
                    request,
                    host,
                    line,
                    subprotocol=subprotocol,
                    max_message_bytes=max_message_bytes,
                    before_read=before_read,
                )
            finally:
                host.scope.cancel()
    finally:
        await line.abort()  # noqa: ASYNC102 - it shields itself


class CallersRequest:
    """An upgrade request of the caller's own trio-websocket server."""

    def __init__(self, request: trio_websocket.WebSocketRequest) -> None:
        self.request = request

    @classmethod
    def wrap(cls, obj: object) -> CallersRequest | None:
        """None if ``obj`` is not a trio-websocket request."""
        return cls(obj) if isinstance(obj, trio_websocket.WebSocketRequest) else None

    def describe(self) -> HandshakeRequest:
        """The request as ours. trio-websocket takes the headers of the upgrade itself out."""
        offered = self.request.proposed_subprotocols
        headers = [(bytes(name), bytes(value)) for name, value in self.request.headers]
        # Host decides over same-origin, and trio-websocket has no public name for it.
        headers.append((b"host", self.request._event.host.encode("latin-1")))
        if offered:
            headers.append((b"sec-websocket-protocol", ", ".join(offered).encode("latin-1")))
        endpoint = self.request.remote
        remote = None if isinstance(endpoint, str) else (str(endpoint.address), endpoint.port)
        return HandshakeRequest(
            method="GET",
            target=self.request.path,
            headers=Headers(headers),
            remote=None if remote is None else remote[0],
            remote_port=None if remote is None else remote[1],
        )

    async def reject(self, error: HandshakeError) -> None:
        """Refuse the upgrade; a peer that is gone already does not matter."""
        with contextlib.suppress(trio_websocket.ConnectionClosed):
            await self.request.reject(
                error.status,
                extra_headers=[
                    (b"Content-Type", b"application/json"),
                    *((name.encode("ascii"), value.encode("ascii")) for name, value in error.headers),
                ],
                body=error_body(error.code, error.message),
            )


@asynccontextmanager
async def over_request(
    request: CallersRequest,
    *,
    subprotocol: str | None,
    max_message_bytes: int,
    before_read: Callable[[], Awaitable[None]],
) -> AsyncIterator[Offer]:
    """Offer the upgrade of a request of the caller's own trio-websocket server, who owns its stream."""
    async with trio.open_nursery() as nursery:
        host = await nursery.start(_run_host, None)
        try:
            yield Offer(
                request.request,
                host,
                None,
                subprotocol=subprotocol,
                max_message_bytes=max_message_bytes,
                before_read=before_read,
            )
        finally:
            host.scope.cancel()
