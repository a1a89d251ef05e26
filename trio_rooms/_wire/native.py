"""The transport of our own: frames straight to and from the stream, with no task and no lock of its own.

Theory of operation. One task receives, one writes; what the receiving side owes the peer (pongs, the answer to its
close frame) is noted, and the writer is woken to send it between two batches. Of pings that come faster than they
can be answered only the latest few are, which RFC 6455 section 5.5.3 allows, so a flood of them fills nothing.

The protocol ends in :meth:`NativeTransport.close`, whatever the cause: the close frame that is due goes out once,
the peer's is waited for if it has not come, what is unread is drained for a bounded time, the stream is closed. What
may be written after a write that was cut short is the output's business (see ``output``).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Awaitable, Callable, Sequence

import trio

from .ending import GONE, close_now, see_off
from .frames import Frame, close_frame, ping_frame, pong_frame
from .input import input_of
from .output import SocketOutput, output_of
from .poller import Poller
from .reader import Event, FrameReader, Ping, Pong
from .transport import MESSAGE_TOO_SLOW, Close, TransportClosed
from .upgrade import switching_protocols

# One read may bring thousands of messages; others get their turn after this many.
_MESSAGES_PER_TURN = 32

# So many pings are remembered until they can be answered. One would do, but peers count their pongs.
_MAX_PONGS = 16

# For how many seconds a finished stream is read to let the last bytes arrive.
_SEE_OFF_TIME = 1.0

_LOST = Close(1006, "", "network")

# What all have while they wait, instead of a list each.
_NO_EVENTS: list[Event] = []


class NativeTransport:
    """A :class:`~trio_rooms._wire.transport.Transport` over a stream whose request was judged valid.

    The stream is the caller's to close, for the case that nobody comes to close the transport.
    """

    __slots__ = (
        "_before_read",
        "_close_sent",
        "_closed",
        "_events",
        "_input",
        "_message_deadline",
        "_message_timeout",
        "_output",
        "_ping_sent",
        "_pings",
        "_pongs_due",
        "_read_buffer_size",
        "_reader",
        "_stream",
        "_taken",
        "last_heard",
        "on_control",
        "paused",
        "rtt",
    )

    def __init__(
        self,
        stream: trio.abc.Stream,
        *,
        trailing: bytes,
        max_message_bytes: int,
        max_fragments: int,
        message_timeout: float,
        read_buffer_size: int,
        before_read: Callable[[], Awaitable[None] | None],
        poller: Poller | None = None,
    ) -> None:
        self._stream = stream
        self._reader = FrameReader(max_message_bytes=max_message_bytes, max_fragments=max_fragments)
        self._input = input_of(stream, poller)
        self._events: list[Event] = self._reader.feed(trailing)[::-1]  # the oldest is the last
        self._message_timeout = message_timeout
        self._message_deadline = trio.current_time() + message_timeout if self._reader.in_message else math.inf
        self._read_buffer_size = read_buffer_size
        self._before_read = before_read
        self._output = output_of(stream)
        self._taken = 0
        self._close_sent = False
        self._closed: Close | None = None
        self._pongs_due: tuple[bytes, ...] = ()
        self._pings = 0
        self._ping_sent = math.inf
        self.on_control: Callable[[], None] = _nothing
        self.last_heard: float = trio.current_time()
        self.paused: bool = False
        self.rtt: float | None = None

    def accept(self, key: str, subprotocol: str | None) -> Awaitable[None] | None:
        """Send the 101; what is to be awaited until it is out, None if it is.

        A socket takes so little at once, unless its buffer is tiny. Raises :exc:`TransportClosed`, and so does what
        is awaited, if the peer has gone before it was out.
        """
        answer = switching_protocols(key, subprotocol)
        if isinstance(self._output, SocketOutput):
            return None if self._output.offer(answer) else self._output.write_rest()
        return self._write(answer)

    @property
    def peer_closed(self) -> bool:
        """Whether the peer's close frame has come."""
        return self._closed is not None and self._closed.by == "peer"

    async def receive(self) -> str | bytes:
        """The next message; handles the control frames in front of it."""
        # All that waits for the peer stands here: each coroutine in between would stay as long as the connection.
        while True:  # noqa: ASYNC913 - reading is a checkpoint
            while self._events:
                event = self._events[-1]
                if isinstance(event, (str, bytes)):
                    if self._taken:  # of the first one, reading was the checkpoint
                        await self._pause()  # before it is taken out: a cancel here loses no message
                    self._taken += 1
                    self._events.pop()
                    return event
                self._events.pop()
                self._control(event)
            if self._closed is not None:
                raise TransportClosed(self._closed)
            self._events = _NO_EVENTS
            if (room := self._before_read()) is not None:
                await self._wait_for(room)
            try:
                if self._message_deadline == math.inf:
                    self._feed(await self._input.read(self._read_buffer_size))
                else:
                    await self._read_in_time()
            except GONE:
                self._events = [_LOST]

    async def _pause(self) -> None:
        """Between two messages of one read: a cancellation is seen, and others get their turn every so many."""
        if self._taken % _MESSAGES_PER_TURN:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()

    def _control(self, event: Ping | Pong | Close) -> None:
        if isinstance(event, Ping):
            self._pongs_due = (*self._pongs_due[1 - _MAX_PONGS :], event.payload)
            if not (self._events and isinstance(self._events[-1], Ping)):  # or all are answered in one write
                self.on_control()
        elif isinstance(event, Pong):
            if event.payload == self._ping_payload():
                self.rtt = trio.current_time() - self._ping_sent
        else:
            self._closed = event
            if event.by == "peer":
                self.on_control()
            raise TransportClosed(event)

    async def _read_in_time(self) -> None:
        """Read more of a message that has begun."""
        data: bytes | bytearray | None = None
        with trio.move_on_at(self._message_deadline):
            data = await self._input.read(self._read_buffer_size)
        if data is None:
            self._events = [Close(1008, MESSAGE_TOO_SLOW)]
        else:
            self._feed(data)

    def _feed(self, data: bytes | bytearray) -> None:
        """Take in what was read; nothing is the end of the stream."""
        if not data:
            self._events = [_LOST]
            return
        self.last_heard = trio.current_time()
        self._taken = 0
        events = self._reader.feed(data)
        if len(events) > 1:
            events.reverse()
        self._events = events
        if not self._reader.in_message:
            self._message_deadline = math.inf
        elif self._message_deadline == math.inf or any(isinstance(event, (str, bytes)) for event in events):
            self._message_deadline = self.last_heard + self._message_timeout  # what is begun now is another message

    async def _wait_for(self, room: Awaitable[None]) -> None:
        paused_at = trio.current_time()
        self.paused = True
        await room
        self.paused = False
        waited = trio.current_time() - paused_at
        if waited:
            # The time in which we did not read is not the peer's: its silence begins when we begin to listen.
            self._message_deadline += waited
            self.last_heard = trio.current_time()

    @property
    def control_due(self) -> bool:
        """Whether pongs or the answer to a close frame is to be written."""
        return bool(self._pongs_due) or self._answer_due

    @property
    def _answer_due(self) -> bool:
        return self.peer_closed and not self._close_sent and not self._output.torn

    async def send_control(self) -> None:
        """Write what is due of the receiving side."""
        if self._pongs_due:
            due, self._pongs_due = self._pongs_due, ()
            await self._write(b"".join(map(pong_frame, due)))
        elif self._answer_due:
            assert self._closed is not None
            await self._send_close(self._closed.code, "")
            await self._bow_out()  # here, because the handlers of what it sent before may take their time

    async def send(self, frames: Sequence[Frame]) -> int:
        """All frames in one write."""
        await self._write(frames[0].data if len(frames) == 1 else b"".join([frame.data for frame in frames]))
        return len(frames)

    @property
    def direct(self) -> Callable[[bytes], int] | None:
        """The send of a plain socket."""
        return self._output.direct

    def keep_rest(self, data: bytes, taken: int) -> None:
        """What ``direct`` did not take of what it has begun."""
        self._output.keep_rest(data, taken)

    async def send_rest(self) -> None:
        """Complete it."""
        await self._output.write_rest()

    async def ping(self) -> None:
        """Write a ping with a payload of its own, so that late pongs are not taken for its answer."""
        await self._write(self._next_ping())

    def offer_control(self) -> bool:
        """Pongs only; who answers a close frame may have to wait."""
        whole = self._offer(b"".join(map(pong_frame, self._pongs_due)))
        self._pongs_due = ()
        return whole

    def offer_ping(self) -> bool:
        """See ``ping``."""
        return self._offer(self._next_ping())

    def _offer(self, data: bytes) -> bool:
        assert isinstance(self._output, SocketOutput)
        self._check_open()
        return self._output.offer(data)

    def _next_ping(self) -> bytes:
        self._pings += 1
        self._ping_sent = trio.current_time()  # before its write, for the pong may be read before this task runs again
        return ping_frame(self._ping_payload())

    def _ping_payload(self) -> bytes:
        return self._pings.to_bytes(4)

    async def close(self, code: int, reason: str) -> None:
        """The protocol's end; see the module's theory."""
        try:
            await self._send_close(code, reason)
            with contextlib.suppress(TransportClosed):
                while True:  # what the peer has sent before its close frame is dropped
                    await self.receive()
            await self._bow_out()
        except (*GONE, TransportClosed):
            pass  # nobody is there to be polite to
        finally:
            await self.abort()  # noqa: ASYNC102 - it shields itself

    async def _bow_out(self) -> None:
        """The end of the stream, when the close frames have been exchanged or ours was the last word."""
        with trio.move_on_after(_SEE_OFF_TIME), contextlib.suppress(*GONE):
            await see_off(self._stream)
        await self.abort()

    async def abort(self) -> None:
        """Close the stream; a write that is under way fails."""
        self._output.torn = True
        await close_now(self._stream)

    async def _send_close(self, code: int, reason: str) -> None:
        if self._close_sent:
            await self._output.write_rest()  # of ours, which a cancel may have cut short
        else:
            await self._write(close_frame(code, reason), last=True)

    async def _write(self, data: bytes, *, last: bool = False) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()  # here nothing is torn yet, and a close frame may still follow
        self._check_open()
        self._close_sent = last
        await self._output.write(data)

    def _check_open(self) -> None:
        if self._close_sent:
            raise TransportClosed(self._closed or _LOST)


def _nothing() -> None:
    """What ``on_control`` is until somebody sets it."""
