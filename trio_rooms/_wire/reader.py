"""Frames from a client, out of bytes in any pieces. No I/O (RFC 6455 section 5).

Theory of operation. Nearly every frame of a client is *usual*: final, masked, without extension bits, its length
encoded in the shortest form, and text, binary, ping, pong, or a close with no code or one of the two that browsers
and libraries send. Those are parsed right here. The first frame that is anything else makes a protocol engine
(wsproto's), which gets that frame and, while a fragmented message is open, every later one; its events are the
verdict. So a connection that sends nothing unusual never pays for the engine, and no rule about unusual frames is
written twice.

Whole text frames, which is what most reads bring and all of what they bring, are taken straight from what was read:
no buffer, no object for a header. Whatever else stands there, wrong text too, goes the general way.

What the engine does not know is checked on each header before it sees a byte of the payload: the size of the
message, declared or summed up over its fragments, and their number.
"""

from __future__ import annotations

import codecs
from typing import Final

import attrs
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, TextMessage
from wsproto.events import Ping as EnginePing
from wsproto.events import Pong as EnginePong

from .transport import TOO_BIG, TOO_MANY_FRAGMENTS, Close

_TEXT: Final = 0x81
_BINARY: Final = 0x82
_CLOSE: Final = 0x88
_PING: Final = 0x89
_PONG: Final = 0x8A
_USUAL: Final = frozenset((_TEXT, _BINARY, _PING, _PONG))

_FIN: Final = 0x80
_RESERVED: Final = 0x70
_OPCODE: Final = 0x0F
_CONTROL: Final = 0x08
_MASKED: Final = 0x80
_USUAL_CODES: Final = ((1000).to_bytes(2), (1001).to_bytes(2))  # of a close
_SHORTEST: Final = 6  # bytes of the shortest header of a client: with a mask, and the length in the second byte
_DATA_OPCODES: Final = frozenset((0, 1, 2))


@attrs.frozen
class Ping:
    """A ping, to be answered with the same payload."""

    payload: bytes


@attrs.frozen
class Pong:
    """A pong."""

    payload: bytes


#: What a reader makes of bytes: messages, control frames, and at last how it ended.
Event = str | bytes | Ping | Pong | Close


@attrs.frozen
class _Header:
    """A frame's header: as it is on the wire, with its size, and whether it is what it should be."""

    first: int
    size: int
    length: int
    mask: bytes
    sound: bool

    @property
    def is_control(self) -> bool:
        return bool(self.first & _CONTROL)


class FrameReader:
    """Turns the bytes of one client into events. After a :class:`Close` event it takes no more."""

    __slots__ = (
        "_buffer",
        "_checked",
        "_engine",
        "_fragments",
        "_max_fragments",
        "_max_message_bytes",
        "_message",
        "_size",
        "_to_engine",
        "_wanted",
        "ended",
        "in_message",
    )

    def __init__(self, *, max_message_bytes: int, max_fragments: int) -> None:
        self._max_message_bytes = max_message_bytes
        self._max_fragments = max_fragments
        self._buffer = bytearray()
        self._wanted = 0
        self._checked = 0
        self._engine: Connection | None = None
        self._to_engine = 0
        self._fragments = 0
        self._size = 0
        self._message: bytearray | None = None
        self.ended = False
        """Whether a Close event has come."""
        self.in_message = False
        """Whether a message has begun and is not complete."""

    def feed(self, data: bytes | bytearray) -> list[Event]:
        """The events that are complete with these bytes."""
        if self.ended:
            return []
        events: list[Event] = []
        if not self.in_message:
            used = self._take_whole_texts(data, events)
            if used == len(data):
                return events
            data = data[used:]
        self._buffer += data
        if len(self._buffer) >= self._wanted:  # or a frame that comes byte by byte would be looked at as often
            self._take_frames(events)
        if self._wanted:
            self._look_ahead(events)
        self.in_message = bool(self._buffer or self._to_engine or self._fragments)
        return events

    def _take_frames(self, events: list[Event]) -> None:
        """Handle what is whole of the buffer, and take it out."""
        self._wanted = self._checked = position = 0
        while not self.ended:
            if self._to_engine:
                step = self._pass_on(position, events)
            else:
                step = self._take_frame(position, events)
            if not step:
                break
            position += step
        del self._buffer[:position]  # whatever is behind the end is never looked at
        self._wanted = max(0, self._wanted - position)

    def _look_ahead(self, events: list[Event]) -> None:
        """End at the first byte that shows that the text of an incomplete frame is none (RFC 6455 section 8.1)."""
        header = _parse_header(self._buffer, 0)
        if header is None or header.first != _TEXT:
            return
        turn = self._checked % 4
        new = _unmask(self._buffer[header.size + self._checked :], header.mask[turn:] + header.mask[:turn])
        try:
            self._checked += codecs.utf_8_decode(new, "strict", False)[1]  # what is left may be half a character
        except UnicodeDecodeError:
            self._end(events, Close(1007, "invalid UTF-8"))

    def _take_whole_texts(self, data: bytes | bytearray, events: list[Event]) -> int:
        """Handle the whole and usual text frames that ``data`` begins with; how many bytes were used."""
        position, size = 0, len(data)
        while size - position >= _SHORTEST and data[position] == _TEXT:
            start = position + _SHORTEST
            length = data[position + 1] ^ _MASKED  # 128 and more if it is not masked
            if length == 126:
                start += 2
                length = data[position + 2] << 8 | data[position + 3]
                if length < 126:
                    break
            elif length > 126:
                break
            end = start + length
            if end > size or length > self._max_message_bytes:
                break
            try:
                events.append(_unmask(data[start:end], data[start - 4 : start]).decode())
            except UnicodeDecodeError:
                break
            position = end
        return position

    def _pass_on(self, position: int, events: list[Event]) -> int:
        """Give the engine what has come of the payload that it waits for."""
        chunk = bytes(self._buffer[position : position + self._to_engine])
        if chunk:
            self._to_engine -= len(chunk)
            self._judge(chunk, events)
        return len(chunk)

    def _take_frame(self, position: int, events: list[Event]) -> int:
        """Handle the frame at ``position``; how many bytes were used, 0 if more must come first."""
        header = _parse_header(self._buffer, position)
        if header is None:
            return 0
        if header.first == _CLOSE and self._take_close(position, header, events):
            return header.size + header.length
        if not header.sound or header.first not in _USUAL or self._fragments:
            return self._begin_unusual(position, header, events)
        if header.length > self._max_message_bytes and not header.is_control:
            self._end(events, Close(1009, TOO_BIG))
            return header.size
        start, end = position + header.size, position + header.size + header.length
        if len(self._buffer) < end:
            self._wanted = end
            return 0
        self._usual(header.first, _unmask(self._buffer[start:end], header.mask), events)
        return header.size + header.length

    def _take_close(self, position: int, header: _Header, events: list[Event]) -> bool:
        """Handle a usual close that is whole; whether it is one."""
        start, end = position + header.size, position + header.size + header.length
        if not header.sound or self._fragments or len(self._buffer) < end:
            return False
        payload = _unmask(self._buffer[start:end], header.mask)
        if payload and payload[:2] not in _USUAL_CODES:
            return False
        try:
            reason = payload[2:].decode()
        except UnicodeDecodeError:
            return False
        self._end(events, Close(int.from_bytes(payload[:2]) if payload else 1005, reason, "peer"))
        return True

    def _usual(self, first: int, payload: bytes, events: list[Event]) -> None:
        if first == _TEXT:
            try:
                events.append(payload.decode())
            except UnicodeDecodeError:
                self._end(events, Close(1007, "invalid UTF-8"))
        elif first == _BINARY:
            events.append(payload)
        elif first == _PING:
            events.append(Ping(payload))
        else:
            events.append(Pong(payload))

    def _begin_unusual(self, position: int, header: _Header, events: list[Event]) -> int:
        if header.sound and not header.is_control and (excess := self._excess(header)) is not None:
            self._end(events, Close(1009, excess))
            return header.size
        self._to_engine = header.length
        self._judge(bytes(self._buffer[position : position + header.size]), events)
        return header.size

    def _excess(self, header: _Header) -> str | None:
        """Count a fragment, and tell what is too much of its message, if anything is."""
        self._fragments += 1
        self._size += header.length
        if self._size > self._max_message_bytes:
            return TOO_BIG
        return TOO_MANY_FRAGMENTS if self._fragments > self._max_fragments else None

    def _judge(self, data: bytes, events: list[Event]) -> None:
        if self._engine is None:
            self._engine = Connection(ConnectionType.SERVER)
        self._engine.receive_data(data)
        for event in self._engine.events():
            if isinstance(event, (TextMessage, BytesMessage)):
                self._collect(event, events)
            elif isinstance(event, EnginePing):
                events.append(Ping(bytes(event.payload)))
            elif isinstance(event, EnginePong):
                events.append(Pong(bytes(event.payload)))
            elif isinstance(event, CloseConnection):
                violated = self._engine.state is ConnectionState.OPEN
                self._end(events, Close(int(event.code), event.reason or "", "server" if violated else "peer"))
                return

    def _collect(self, event: TextMessage | BytesMessage, events: list[Event]) -> None:
        # As bytes: a list of what came byte by byte would hold thirty times as much.
        if self._message is None:
            self._message = bytearray()
        message, text = self._message, isinstance(event, TextMessage)
        message += event.data.encode() if isinstance(event, TextMessage) else event.data
        if event.message_finished:
            events.append(message.decode() if text else bytes(message))
            self._message = None
            self._fragments = self._size = 0

    def _end(self, events: list[Event], close: Close) -> None:
        self.ended = True
        events.append(close)


def _parse_header(buffer: bytearray, position: int) -> _Header | None:
    """The header at ``position``, None if it is not complete."""
    if len(buffer) < position + 2:
        return None
    first, second = buffer[position], buffer[position + 1]
    length = second & 0x7F
    size = 2
    shortest = True
    if length >= 126:
        extra = 2 if length == 126 else 8
        size += extra
        if len(buffer) < position + size:
            return None
        length = int.from_bytes(buffer[position + 2 : position + size])
        shortest = length >= 126 if extra == 2 else 65536 <= length < 1 << 63
    masked = bool(second & _MASKED)
    mask = b""
    if masked:
        mask = bytes(buffer[position + size : position + size + 4])
        size += 4
        if len(mask) < 4:
            return None
    control_fits = not first & _CONTROL or (length < 126 and bool(first & _FIN))
    known = first & _OPCODE in _DATA_OPCODES or first & _CONTROL
    sound = masked and shortest and control_fits and bool(known) and not first & _RESERVED
    return _Header(first, size, length, mask, sound)


def _unmask(payload: bytes | bytearray, mask: bytes | bytearray) -> bytes:
    """XOR with the repeated mask, as one big number: by far the fastest way in Python."""
    size = len(payload)
    if not size:
        return b""
    repeated = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(repeated, "little")).to_bytes(size, "little")
