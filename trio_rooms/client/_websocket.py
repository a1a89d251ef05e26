"""The client's side of RFC 6455, without I/O: bytes in, whole messages out."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from ._errors import ServerViolation


@attrs.frozen
class Closed:
    """How the connection ended."""

    code: int
    reason: str = ""


class WebSocket:
    """One connection after its handshake.

    Frames have to be written in the order in which they were made. A pong that is due is in ``pong``; whether the
    server has sent its close frame, which :meth:`close` answers, is seen by ``is_open``.
    """

    def __init__(self, max_message_bytes: int) -> None:
        self._ws = Connection(ConnectionType.CLIENT)
        self._most = max_message_bytes
        self._parts: list[str | bytes] = []
        self._size = 0
        self.pong: bytes | None = None
        """The payload of a pong that is due: the latest, which answers all."""

    @property
    def is_open(self) -> bool:
        """Whether anything but a close frame can be sent."""
        return self._ws.state is ConnectionState.OPEN

    def message(self, message: str | bytes) -> bytes:
        """The frame of a message."""
        event = TextMessage(data=message) if isinstance(message, str) else BytesMessage(data=message)
        return bytes(self._ws.send(event))

    def ping(self) -> bytes:
        """The frame of a ping."""
        return bytes(self._ws.send(Ping()))

    def take_pong(self) -> bytes:
        """The frame of the pong that is due, or nothing."""
        payload, self.pong = self.pong, None
        return b"" if payload is None else bytes(self._ws.send(Pong(payload=payload)))

    def close(self, code: int, reason: str = "") -> bytes:
        """The close frame, behind which nothing can be sent; nothing if there was one."""
        if self._ws.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
            return bytes(self._ws.send(CloseConnection(code=code, reason=reason or None)))
        return b""

    def feed(self, data: bytes) -> Iterator[str | bytes | Closed]:
        """The messages that ``data`` completes, and the end if that is in it. Raises ServerViolation."""
        self._ws.receive_data(data)
        for event in self._ws.events():
            if isinstance(event, TextMessage | BytesMessage):
                part = event.data if isinstance(event, TextMessage) else bytes(event.data)
                self._size += len(part)
                if self._size > self._most:
                    raise MessageTooBig(f"a message of more than {self._most} bytes")
                self._parts.append(part)
                if event.message_finished:
                    yield self._whole()
            elif isinstance(event, Ping):
                self.pong = bytes(event.payload)
            elif isinstance(event, CloseConnection):
                # wsproto tells a close frame and a violation apart only by its state, which a violation leaves.
                if self._ws.state not in (ConnectionState.REMOTE_CLOSING, ConnectionState.CLOSED):
                    raise ServerViolation(event.reason or "a violation of RFC 6455")
                yield Closed(int(event.code), event.reason or "")
                return

    def _whole(self) -> str | bytes:
        parts, self._parts, self._size = self._parts, [], 0
        if isinstance(parts[0], str):
            return "".join(part for part in parts if isinstance(part, str))
        return b"".join(part for part in parts if isinstance(part, bytes))


class MessageTooBig(ServerViolation):
    """A message is larger than ``max_message_bytes``."""
