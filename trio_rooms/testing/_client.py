"""A WebSocket client for tests: no background task, so nothing happens that a test did not ask for.

Theory of operation. All reading happens in `TestClient._pump`, which only the receiving methods call: one read from
the stream, then every frame that it completed is acted on at once (by `ClientProtocol`, which does no I/O). Data
messages go to the end of one queue, `pending`, from which `receive` takes the first and `request` the one that
answers it; pongs go to a queue of their own; what is due in answer is noted and then sent. How the connection ended
is noted too, and raised to whoever has used up the queue and wants more.

Frames leave whole and in the order in which they were made, because both happen under one lock. A send that is
cancelled half-way leaves a torn frame, after which sending is refused.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, ClassVar, Self

import trio
from msgspec import UNSET
from wsproto.events import BytesMessage, Event, Ping, TextMessage
from wsproto.utilities import LocalProtocolError

from trio_rooms.testing._answering import Answering
from trio_rooms.testing._exclusive import Exclusive
from trio_rooms.testing._formats import expect, format_of
from trio_rooms.testing._outcomes import Closed
from trio_rooms.testing._protocol import ClientProtocol, close_event
from trio_rooms.testing._replies import Replies
from trio_rooms.testing._upgrade import upgrade

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

# For how many seconds a pong goes on being sent after whoever receives was cancelled.
_ANSWER_TIME = 1.0


class TestClient(Answering, trio.abc.AsyncResource):
    """The client's end of one WebSocket connection over any `trio.abc.Stream`.

    Made by `connect`; made directly, it speaks over a stream whose handshake is done. It owns the
    stream. Leaving ``async with`` drops the connection as `aclose` does, without a close frame.

    One task at a time may receive (`trio.BusyResourceError`); a `request` or `close` receives too.
    Any number may send. Receiving is safe to cancel: no message is lost, and a pong that is being sent is
    sent whole, unless the server does not take it within a second.
    """

    __test__: ClassVar[bool] = False  # or pytest collects it, for its name

    def __init__(
        self,
        stream: trio.abc.Stream,
        *,
        subprotocol: str | None = None,
        headers: dict[str, str] | None = None,
        trailing: bytes = b"",
        auto_pong: bool = True,
    ) -> None:
        self.subprotocol = subprotocol
        """What the server selected, or None."""
        self.headers: dict[str, str] = headers or {}
        """The headers of the 101 response by lower-case name."""
        self._form = format_of(subprotocol)
        self._stream = stream
        self._protocol = ClientProtocol(self._form, auto_pong=auto_pong)
        self._protocol.feed(trailing)
        self._receiving = Exclusive("receiving from this client")
        self._sending = trio.Lock()
        self._torn = False
        self._next_id = 1

    @classmethod
    async def connect(
        cls,
        stream: trio.abc.Stream,
        *,
        path: str = "/ws",
        host: str = "testserver",
        headers: Iterable[tuple[str | bytes, str | bytes]] = (),
        subprotocol: str | Sequence[str] | None = None,
        auto_pong: bool = True,
    ) -> Self:
        """Do the opening handshake and return the client.

        ``path`` may carry a query; ``headers`` are added to the request; ``subprotocol`` is what is offered, one or
        several. If this raises, or is cancelled, the stream is closed.

        Raises:
          HandshakeRefused: the server answered with another status than 101.
          Closed: (1006) the stream ended before an answer was complete.
          ProtocolViolation: the answer is wrong.
        """
        offered = [subprotocol] if isinstance(subprotocol, str) else list(subprotocol or ())
        try:
            found = await upgrade(stream, path=path, host=host, headers=headers, subprotocols=offered)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return cls(
            stream, subprotocol=found.subprotocol, headers=found.headers, trailing=found.trailing, auto_pong=auto_pong
        )

    @property
    def auto_pong(self) -> bool:
        """Whether pings are answered, which happens only while a method receives. May be set."""
        return self._protocol.auto_pong

    @auto_pong.setter
    def auto_pong(self, answer: bool) -> None:
        self._protocol.auto_pong = answer

    @property
    def pending(self) -> tuple[str | bytes, ...]:
        """The messages that were read from the stream and not yet handed out, oldest first."""
        return tuple(self._protocol.messages)

    # Sending. Each of these raises trio.BrokenResourceError if the stream is broken or an earlier
    # send was cut short, trio.ClosedResourceError after our own close, and Closed after the server's.

    async def send_text(self, text: str) -> None:
        """Send one text message."""
        await self._send(TextMessage(data=text))

    async def send_bytes(self, data: bytes) -> None:
        """Send one binary message."""
        await self._send(BytesMessage(data=data))

    async def send_json(self, obj: object) -> None:
        """Send ``obj`` in one message: JSON text, or MessagePack if that is the subprotocol."""
        await self._send(self._form.event(obj))

    async def send_action(self, action: str, data: object = UNSET, **fields: object) -> None:
        """Send ``{"action": ..., "data": ...}`` without an id, so without a reply; ``fields`` are added to it."""
        message: dict[str, object] = {"action": action}
        if data is not UNSET:
            message["data"] = data
        await self.send_json(message | fields)

    async def ping(self, payload: bytes = b"") -> None:
        """Send a ping of at most 125 bytes. The answer is waited for with `receive_pong`."""
        await self._send(Ping(payload=payload))

    async def send_raw(self, data: bytes) -> None:
        """Send bytes as they are, below the protocol: half a frame, or a wrong one."""
        async with self._sending:
            await self._write(data)

    async def send_eof(self) -> None:
        """End our direction of the stream, while the server's stays open.

        Raises TypeError if the stream is not a `trio.abc.HalfCloseableStream`.
        """
        if not isinstance(self._stream, trio.abc.HalfCloseableStream):
            raise TypeError(f"{type(self._stream).__name__} cannot be closed in one direction")
        async with self._sending:
            await self._stream.send_eof()

    async def receive(self) -> str | bytes:
        """Return the next data message.

        Raises:
          Closed: the connection has ended, and every message before that was handed out.
          ProtocolViolation: the server broke RFC 6455.
        """
        with self._receiving:
            return await self._receive()

    async def receive_json(self) -> Any:
        """Return the next data message, decoded from the format; AssertionError if it is of the other kind."""
        return self._form.decode(expect(self._form.kind, await self.receive()))

    async def receive_bytes(self) -> bytes:
        """Return the next data message, which is binary; AssertionError if it is text. Else as `receive`."""
        return expect(bytes, await self.receive())

    async def receive_pong(self) -> bytes:
        """Return the payload of the next pong, whether asked for or not. Messages before it are kept."""
        with self._receiving:
            await self._read_until(lambda: bool(self._protocol.pongs))
            return self._protocol.pongs.popleft()

    async def receive_nothing(self, seconds: float) -> None:
        """Fail if a data message or the end of the connection comes within ``seconds``.

        Pings and pongs do not count. Under `trio.testing.MockClock` the seconds are virtual.
        Messages that were kept from earlier do count; what came is kept.
        """
        protocol = self._protocol
        with self._receiving, trio.move_on_after(seconds):
            await self._read_until(lambda: bool(protocol.messages) or protocol.end is not None)
        if protocol.messages:
            raise AssertionError(f"expected nothing, got {protocol.messages[0]!r}")
        if protocol.end is not None:
            raise AssertionError(f"expected nothing, but the connection ended: {protocol.end!r}")

    async def receive_raw(self) -> bytes:
        """Return bytes from the stream as they are, at least one, or ``b""`` at its end.

        Begins with what was read but is not yet a whole frame. The frames in it are not interpreted.
        """
        with self._receiving:
            await trio.lowlevel.checkpoint()
            if not self._protocol.unparsed:
                return bytes(await self._stream.receive_some())
            data = bytes(self._protocol.unparsed)
            self._protocol.unparsed.clear()
            return data

    async def expect_close(self, code: int | None = None, *, skip_messages: bool = False) -> Closed:
        """Read until the connection has ended, and return how.

        Raises AssertionError if a data message comes first (unless ``skip_messages``, which drops
        them), or if ``code`` is given and the code is another one.
        """
        try:
            with self._receiving:
                message = await self._receive()
                while skip_messages:
                    message = await self._receive()
        except Closed as closed:
            if code is not None and closed.code != code:
                raise AssertionError(f"expected close code {code}, got {closed!r}") from None
            return closed
        raise AssertionError(f"expected the connection to close, got {message!r}")

    async def expect_eof(self) -> None:
        """Read until the server has closed the stream; AssertionError if it sends anything before.

        For use after `expect_close` or `close`: a server sends nothing behind its close frame and
        is the first to close the stream (RFC 6455 section 7.1.1), which must not be a reset.
        """
        protocol = self._protocol
        with self._receiving:
            await trio.lowlevel.checkpoint()
            while not (protocol.messages or protocol.unparsed or protocol.stream_end):
                await self._pump()
        if protocol.messages or protocol.unparsed:
            found = protocol.messages[0] if protocol.messages else bytes(protocol.unparsed)
            raise AssertionError(f"expected the end of the stream, got {found!r}")
        if protocol.stream_end != "eof":
            raise AssertionError("expected the end of the stream, got a reset")

    # Requests

    async def request(
        self,
        action: str,
        data: object = UNSET,
        *,
        id: int | str | None = None,
        room: str | None = None,
        timeout_ms: int | None = None,
    ) -> Any:
        """Send a request and return the ``data`` of its reply.

        ``id`` is a number that counts up unless given. Whatever else arrives meanwhile is kept, in
        order, for the receiving methods.

        Raises:
          ReplyError: the reply is an error.
          Closed: the connection ended before the reply.
          AssertionError: the reply is a streamed one; use `stream`.
        """
        with self._receiving:
            replies = await self._ask(action, data, id, room, timeout_ms)
            reply = await self._next_reply(replies)
        if "more" in reply:
            raise AssertionError(f"expected one reply, got a streamed one: {reply!r}")
        return reply.get("data")

    async def stream(
        self,
        action: str,
        data: object = UNSET,
        *,
        id: int | str | None = None,
        room: str | None = None,
        timeout_ms: int | None = None,
    ) -> list[Any]:
        """Send a request and return all the items of its streamed reply. Else as `request`.

        If the reply ends with an error, `ReplyError` is raised and the items are lost.
        """
        items = []
        with self._receiving:
            replies = await self._ask(action, data, id, room, timeout_ms)
            while (reply := await self._next_reply(replies)).get("more"):
                items.append(reply.get("data"))
        if "more" not in reply:
            raise AssertionError(f"expected a streamed reply, got {reply!r}")
        return items

    async def close(self, code: int | None = 1000, reason: str = "") -> Closed:
        """Send a close frame, read until the server's, and return how the connection ended.

        ``code`` None sends an empty close frame. Messages that come meanwhile are kept. The wait is for the caller
        to bound. The stream stays open: it is for the server to close it first, and `aclose` closes our end. If the
        connection has ended already, only returns how.
        """
        with self._receiving:
            if self._protocol.may_close:
                with self._answer_expected():
                    await self._send(close_event(code, reason))
            await self._read_until(lambda: self._protocol.end is not None)
        if not isinstance(self._protocol.end, Closed):
            raise self._protocol.ended()
        return self._protocol.end

    async def aclose(self) -> None:
        """Drop the connection: close the stream without a close frame, at once. Idempotent."""
        await trio.aclose_forcefully(self._stream)

    # The inside

    async def _receive(self) -> str | bytes:
        await self._read_until(lambda: bool(self._protocol.messages))
        return self._protocol.messages.popleft()

    async def _ask(
        self, action: str, data: object, request_id: int | str | None, room: str | None, timeout_ms: int | None
    ) -> Replies:
        if request_id is None:
            request_id, self._next_id = self._next_id, self._next_id + 1
        options = {"id": request_id, "room": room, "timeout_ms": timeout_ms}
        given = {name: value for name, value in options.items() if value is not None}
        replies = Replies(self._protocol.messages, request_id, self._form)
        with self._answer_expected():
            await self.send_action(action, data, **given)
        return replies

    async def _next_reply(self, replies: Replies) -> dict[str, Any]:
        await self._read_until(replies.ready)
        return replies.take()

    async def _send(self, event: Event) -> None:
        async with self._sending:
            if self._protocol.end is not None:
                raise self._protocol.ended()
            try:
                data = self._protocol.make(event)
            except LocalProtocolError:
                raise trio.ClosedResourceError("this client has sent a close frame") from None
            await self._write(data)

    @contextlib.contextmanager
    def _answer_expected(self) -> Iterator[None]:
        """Let a send fail because the server has closed: what it sent before that is unread, and tells why."""
        self._check_whole()
        with contextlib.suppress(trio.BrokenResourceError):
            yield

    def _check_whole(self) -> None:
        if self._torn:
            raise trio.BrokenResourceError("an earlier send was cut short, perhaps within a frame")

    async def _write(self, data: bytes) -> None:
        self._check_whole()
        try:
            await self._stream.send_all(data)
        except trio.Cancelled:
            self._torn = True
            raise

    async def _read_until(self, ready: Callable[[], bool]) -> None:
        """Read until ``ready()``, or raise how the connection ended. A checkpoint in any case."""
        await trio.lowlevel.checkpoint()
        while not ready():
            if self._protocol.end is not None:
                raise self._protocol.ended()
            await self._pump()

    async def _pump(self) -> None:
        """Send what a cancel may have left due, read once, act on the frames that came, send what is due in answer."""
        await self._answer()
        try:
            data = await self._stream.receive_some()
        except trio.BrokenResourceError:
            self._protocol.feed_end("reset")
        else:
            if data:
                self._protocol.feed(data)
            else:
                self._protocol.feed_end("eof")
        await self._answer()

    async def _answer(self) -> None:
        due = self._protocol.due
        while due:
            async with self._sending:
                # A server that is gone gets no answer, nor does it after our EOF; what it sent still counts.
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    # Whoever receives for a limited time must not find the connection torn at the end of it.
                    with trio.move_on_after(_ANSWER_TIME, shield=True) as scope:
                        await self._write(due.popleft())
                    if scope.cancelled_caught:
                        await trio.lowlevel.checkpoint_if_cancelled()
