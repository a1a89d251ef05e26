"""Frames as a server sends them: final, unmasked, made once and then shared (RFC 6455 section 5.2)."""

from __future__ import annotations

import struct
from typing import ClassVar, Final, Literal

import msgspec

_FIN_TEXT = 0x81
_FIN_BINARY = 0x82
_FIN_CLOSE = 0x88
_FIN_PING = 0x89
_FIN_PONG = 0x8A

#: What holding one frame in a queue costs beyond its bytes; charged to the outbox for each frame, because
#: a mebibyte of tiny frames otherwise costs several.
OVERHEAD = 64


class Frame(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One data frame, ready for the socket.

    A transport that works message by message needs the payload back, so the frame knows where it begins.
    In an outbox it stands for itself where others of its kind are publications: a private message, of no room
    and never dropped. An object around it would cost more than many a message. It is a Struct because one is made
    for each message: a frozen attrs class takes ten times as long.
    """

    data: bytes
    header: int
    text: bool

    room: ClassVar[None] = None
    key: ClassVar[None] = None
    overflow: ClassVar[Literal["close"]] = "close"

    def frame(self, form: object, /) -> Frame:
        """Itself, whatever the format."""
        return self

    @property
    def payload(self) -> bytes:
        """The message's bytes without the frame header."""
        return self.data[self.header :]


def make_frame(payload: bytes, *, text: bool) -> Frame:
    """Frame a whole message."""
    if len(payload) < 126:
        return Frame((_SHORT_TEXT if text else _SHORT_BINARY)[len(payload)] + payload, 2, text)
    header = _header(_FIN_TEXT if text else _FIN_BINARY, len(payload))
    return Frame(header + payload, len(header), text)


def close_frame(code: int, reason: str = "") -> bytes:
    """The bytes of a close frame; the reason is cut to the 123 bytes that RFC 6455 section 5.5 leaves for it."""
    payload = b"" if code == 1005 else struct.pack("!H", code) + fit_reason(reason).encode()
    return _header(_FIN_CLOSE, len(payload)) + payload


def ping_frame(payload: bytes) -> bytes:
    """The bytes of a ping."""
    return _header(_FIN_PING, len(payload)) + payload


def pong_frame(payload: bytes) -> bytes:
    """The bytes of a pong."""
    return _header(_FIN_PONG, len(payload)) + payload


def fit_reason(reason: str) -> str:
    """Cut a close reason to 123 bytes of UTF-8 without splitting a character; what is no UTF-8 becomes "?"."""
    return reason.encode(errors="replace")[:123].decode(errors="ignore")


def _header(first: int, length: int) -> bytes:
    if length < 126:
        return bytes((first, length))
    if length < 65536:
        return struct.pack("!BBH", first, 126, length)
    return struct.pack("!BBQ", first, 127, length)


# The headers of short messages, which most are.
_SHORT_TEXT: Final = tuple(_header(_FIN_TEXT, length) for length in range(126))
_SHORT_BINARY: Final = tuple(_header(_FIN_BINARY, length) for length in range(126))
