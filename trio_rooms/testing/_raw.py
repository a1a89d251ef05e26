"""Bytes of the WebSocket protocol made and read by hand, for tests of what a proper client never sends.

Everything in here is a plain function of its arguments (RFC 6455 sections 4.1, 5.2 and 5.5.1).
Nothing is checked on the way out: a frame that breaks the rules is what these are for.
"""

from __future__ import annotations

import os
import struct
from enum import IntEnum
from typing import TYPE_CHECKING, Literal

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SAMPLE_KEY = "dGhlIHNhbXBsZSBub25jZQ=="
"""The key of the example in RFC 6455 section 1.3; any 16 bytes in base64 would do."""

NO_MASK = b"\x00\x00\x00\x00"
"""A mask that leaves the payload readable in a dump and in an assertion."""


class Opcode(IntEnum):
    """The opcodes that RFC 6455 section 5.2 defines; the functions here take any int of 0..15."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


@attrs.frozen
class ServerFrame:
    """One frame as the server wrote it."""

    opcode: int
    """A number of 0..15; see :class:`Opcode`."""
    payload: bytes
    """Its payload."""
    fin: bool = True
    """Whether it is the last of its message."""
    rsv: int = 0
    """The three reserved bits as a number of 0..7."""


def client_frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | Literal["random"] | None = NO_MASK,
    length: int | None = None,
    length_bits: Literal[7, 16, 64] | None = None,
) -> bytes:
    """Return one frame as a client sends it.

    Args:
      mask: four bytes, or ``"random"``; None leaves the frame unmasked, which a server must
          refuse, and which makes it a frame as a server sends it.
      length: the length to declare, if not that of ``payload``.
      length_bits: the size of the length field, if not the shortest that holds the length.
    """
    if isinstance(mask, str):
        mask = os.urandom(4)
    declared = len(payload) if length is None else length
    first = fin << 7 | (rsv & 7) << 4 | opcode & 0xF
    header = bytes([first]) + _length_field(declared, length_bits, masked=mask is not None)
    return header + payload if mask is None else header + mask + _masked(payload, mask)


def close_payload(code: int | None, reason: str | bytes = "") -> bytes:
    """Return the payload of a close frame; ``code`` None gives only the reason (normally nothing)."""
    text = reason.encode() if isinstance(reason, str) else reason
    return text if code is None else struct.pack("!H", code) + text


def handshake_bytes(
    path: str = "/ws",
    *,
    host: str = "testserver",
    key: str = SAMPLE_KEY,
    subprotocol: str | Sequence[str] | None = None,
    headers: Iterable[tuple[str, str]] = (),
) -> bytes:
    """Return an upgrade request; ``headers`` are added at its end."""
    offered = [subprotocol] if isinstance(subprotocol, str) else list(subprotocol or ())
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
        *([f"Sec-WebSocket-Protocol: {', '.join(offered)}"] if offered else []),
        *(f"{name}: {value}" for name, value in headers),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def split_response(data: bytes) -> tuple[int, dict[str, str], bytes] | None:
    """Split what a server answered into status, headers by lower-case name, and the bytes behind the head.

    None while the head is incomplete. Raises ValueError if it is no HTTP/1 response.
    """
    head, blank_line, rest = bytes(data).partition(b"\r\n\r\n")
    if not blank_line:
        return None
    status_line, *lines = head.decode("latin-1").split("\r\n")
    version, status, *_ = [*status_line.split(" "), ""]
    if not version.startswith("HTTP/1.") or not status.isdigit():
        raise ValueError(f"not an HTTP/1 response: {status_line!r}")
    pairs = (line.partition(":") for line in lines)
    return int(status), {name.lower(): value.strip() for name, _, value in pairs}, rest


def header_length(data: bytes | bytearray) -> int | None:
    """Return the length in bytes of the header that ``data`` begins with; None while that is incomplete."""
    if len(data) < 2:
        return None
    extended = {126: 2, 127: 8}.get(data[1] & 0x7F, 0)
    masking = 4 if data[1] & 0x80 else 0
    length = 2 + extended + masking
    return length if len(data) >= length else None


def frame_length(data: bytes | bytearray) -> int | None:
    """Return the length in bytes of the frame that ``data`` begins with, header included.

    None while the header is incomplete. The frame itself may be longer than ``data``.
    """
    header = header_length(data)
    if header is None:
        return None
    short = data[1] & 0x7F
    if short == 126:
        return header + int.from_bytes(data[2:4], "big")
    if short == 127:
        return header + int.from_bytes(data[2:10], "big")
    return header + short


def parse_server_frames(data: bytes, *, allow_partial: bool = False) -> list[ServerFrame]:
    """Return the frames that a server wrote.

    Raises ValueError for a masked frame (RFC 6455 section 5.1), and for a frame that is cut off
    at the end unless ``allow_partial``, which leaves it out.
    """
    frames = []
    while data:
        length = frame_length(data)
        if length is None or len(data) < length:
            if allow_partial:
                break
            raise ValueError(f"incomplete frame: {data[:20]!r}")
        frames.append(_server_frame(data[:length]))
        data = data[length:]
    return frames


def _server_frame(data: bytes) -> ServerFrame:
    if data[1] & 0x80:
        raise ValueError(f"masked frame from a server: {data[:20]!r}")
    payload = data[header_length(data) :]
    return ServerFrame(data[0] & 0xF, bytes(payload), fin=bool(data[0] & 0x80), rsv=data[0] >> 4 & 7)


def _length_field(length: int, bits: Literal[7, 16, 64] | None, *, masked: bool) -> bytes:
    if bits is None:
        bits = 7 if length < 126 else 16 if length < 2**16 else 64
    mask_bit = masked << 7
    if bits == 7:
        return bytes([mask_bit | length])
    if bits == 16:
        return struct.pack("!BH", mask_bit | 126, length)
    return struct.pack("!BQ", mask_bit | 127, length)


def _masked(payload: bytes, mask: bytes) -> bytes:
    size = len(payload)
    repeated = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(size, "big")
