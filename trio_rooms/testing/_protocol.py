"""What a `TestClient` knows of its connection, without any I/O.

Incoming bytes are cut into frames here, and wsproto judges them one at a time: that way what stands
behind a close frame is not lost in wsproto's buffer, and `TestClient.expect_eof` can report it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage
from wsproto.frame_protocol import CloseReason

from trio_rooms.testing._answering import automatic
from trio_rooms.testing._outcomes import Closed, ProtocolViolation
from trio_rooms.testing._raw import frame_length

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_rooms.testing._formats import Format


class ClientProtocol:
    """The client's side of RFC 6455 after the handshake.

    Attributes:
      auto_pong: whether a ping puts a pong into ``due``.
      answers: functions by action; a request of the server for one of them puts its answer into ``due``.
      messages: whole data messages, oldest first. The reader takes them out.
      pongs: the payloads of pongs, likewise.
      due: the frames to be sent in answer: pongs, answers to requests, and once a close frame.
      end: how the connection ended, as the exception to raise, or None. What comes later is not parsed.
      stream_end: how the stream ended ("eof" or "reset"), or None.
      unparsed: bytes that are no whole frame yet, or stand behind the end.
    """

    __slots__ = (
        "_form",
        "_parts",
        "_ws",
        "answers",
        "auto_pong",
        "due",
        "end",
        "messages",
        "pongs",
        "stream_end",
        "unparsed",
    )

    def __init__(self, form: Format, *, auto_pong: bool = True) -> None:
        self._form = form
        self.auto_pong = auto_pong
        self.answers: dict[str, Callable[[Any], Any]] = {}
        self.messages: deque[str | bytes] = deque()
        self.pongs: deque[bytes] = deque()
        self.due: deque[bytes] = deque()
        self.end: Closed | ProtocolViolation | None = None
        self.stream_end: str | None = None
        self.unparsed = bytearray()
        self._parts: list[str | bytes] = []
        self._ws = Connection(ConnectionType.CLIENT)

    @property
    def may_close(self) -> bool:
        """Whether neither side has sent a close frame and the connection has not ended otherwise."""
        return self.end is None and self._ws.state is ConnectionState.OPEN

    def make(self, event: Event) -> bytes:
        """Return the bytes of one frame, to be sent before any other is made.

        Raises wsproto's LocalProtocolError if it may not be sent now. A close frame ends what is
        due, for nothing follows it (RFC 6455 section 5.5.1).
        """
        data = bytes(self._ws.send(event))
        if isinstance(event, CloseConnection):
            self.due.clear()
        return data

    def feed(self, data: bytes | bytearray) -> None:
        """Act on the frames that ``data`` completes, up to the end of the connection."""
        self.unparsed += data
        while self.end is None:
            length = frame_length(self.unparsed)
            if length is None or len(self.unparsed) < length:
                return
            frame = bytes(self.unparsed[:length])
            del self.unparsed[:length]
            self._ws.receive_data(frame)
            for event in self._ws.events():
                self._take(event)

    def feed_end(self, how: str) -> None:
        """Note that the stream has ended; without a close frame before it that is code 1006."""
        self.stream_end = how
        self.end = self.end or Closed(1006)

    def ended(self) -> Exception:
        """Return ``end`` as a new exception: one that is raised twice collects tracebacks."""
        assert self.end is not None
        return type(self.end)(*self.end.args)

    def _take(self, event: Event) -> None:
        if isinstance(event, TextMessage | BytesMessage):
            self._parts.append(event.data if isinstance(event, TextMessage) else bytes(event.data))
            if event.message_finished:
                message, self._parts = _joined(self._parts), []
                self._take_message(message)
        elif isinstance(event, Pong):
            self.pongs.append(bytes(event.payload))
        elif isinstance(event, Ping):
            # Made now: once wsproto has seen a close frame behind the ping, it refuses to make a pong.
            if self.auto_pong and self._ws.state is ConnectionState.OPEN:
                self.due.append(bytes(self._ws.send(event.response())))
        elif isinstance(event, CloseConnection):
            self._take_close(event)

    def _take_message(self, message: str | bytes) -> None:
        answer = automatic(message, self.answers, self._form) if self._ws.state is ConnectionState.OPEN else None
        if answer is None:
            self.messages.append(message)
        else:
            self.due.append(bytes(self._ws.send(answer)))

    def _take_close(self, event: CloseConnection) -> None:
        # wsproto tells a close frame and a violation apart only by its state, which a violation leaves.
        if self._ws.state is ConnectionState.REMOTE_CLOSING:
            self.due.append(bytes(self._ws.send(event.response())))
        elif self._ws.state is not ConnectionState.CLOSED:
            self.end = ProtocolViolation(f"{event.reason} (close code {int(event.code)})")
            return
        self.end = Closed(int(event.code), event.reason or "")


def close_event(code: int | None, reason: str) -> CloseConnection:
    """Return a close frame for `ClientProtocol.make`; ``code`` None makes it an empty one."""
    # wsproto leaves the code out only for its own constant, and takes the plain number 1005 for 1000.
    return CloseConnection(code=CloseReason.NO_STATUS_RCVD if code is None else code, reason=reason or None)


def _joined(parts: list[str | bytes]) -> str | bytes:
    if isinstance(parts[0], str):
        return "".join(part for part in parts if isinstance(part, str))
    return b"".join(part for part in parts if isinstance(part, bytes))
