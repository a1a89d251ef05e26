"""Reading the head of a request, before any WebSocket library sees a byte of it.

The head is collected up to its blank line, with the limits checked as early as each can be known:
bytes on every read, the length of the request line while it is still coming, single headers once
the head is complete. Only then is it parsed and its syntax judged, by h11 unless it is a usual one
(see ``usual_head``). The bytes that follow the head belong to the WebSocket (RFC 6455 lets a client
send frames as soon as it has seen the 101, and nothing stops it from sending them sooner), so they
are handed on and never dropped.
"""

from __future__ import annotations

import math
import re
import sys
from typing import Literal, NamedTuple

import h11
import trio

from .._config import Limits
from .ending import GONE
from .headers import Headers
from .input import input_of, look
from .request import HandshakeRequest
from .usual_head import Fields, parse_usual

#: Why a handshake was not completed: a fixed set, fit to be the label of a metric.
Reason = Literal[
    "address_full",
    "authenticate_error",
    "authenticate_timeout",
    "bad_request",
    "full",
    "hangup",
    "headers",
    "method",
    "not_found",
    "origin",
    "pushed_out",
    "refused",
    "subprotocols",
    "target",
    "timeout",
    "tls",
    "tls_failed",
    "unauthorized",
    "unavailable",
    "upgrade_required",
    "version",
]

# Room in the request line for what stands around the target: method, two spaces and "HTTP/1.1\r\n".
_AROUND_TARGET = 64

_TLS_HANDSHAKE_RECORD = 0x16
_DELETE = 0x7F  # it and what is above it are in no method

_END = re.compile(rb"\n\r?\n")
_NEVER_VALID = re.compile(rb"[\x00\x0b\x0c]|\r(?!\n)")


class HandshakeError(Exception):
    """The handshake is refused: what to answer, and under which reason to count it."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        reason: Reason,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(status, code, message)
        self.status = status
        self.code = code
        self.message = message
        self.reason: Reason = reason
        self.headers = headers


class Hangup(Exception):
    """The handshake is over and nobody waits for a response, or could be given one."""

    def __init__(self, reason: Literal["eof", "reset", "tls", "tls_failed", "timeout"]) -> None:
        super().__init__(reason)
        self.reason = reason

    @property
    def counted_as(self) -> Reason:
        """Under which reason to count it."""
        if self.reason == "eof" or self.reason == "reset":
            return "hangup"
        return self.reason


async def read_head(
    stream: trio.abc.Stream,
    limits: Limits,
    *,
    deadline: float = math.inf,
    remote: tuple[str, int] | None = None,
    first: bytes | None = None,
) -> tuple[HandshakeRequest, bytes]:
    """Read a request head; return it and the bytes already read that stand behind it.

    ``first`` is what has been read of it before, empty if that was the end of the stream.
    At most ``limits.max_header_bytes + 1`` bytes are read, so the second part is bounded too. After a cancel, bytes of
    the stream are lost and it can only be closed. A checkpoint only if it has to wait.

    Raises:
        HandshakeError: 400 not a well-formed HTTP/1 request; 408 not complete at ``deadline``; 414
            ``max_target_bytes``; 431 ``max_header_bytes``, ``max_headers`` or ``max_header_line``.
        Hangup: the stream ended or broke before the head was complete, or TLS arrived on a plain port.
    """
    buffer = bytearray()
    while True:  # noqa: ASYNC913 - nothing is waited for where the head is there already
        data: bytes | bytearray | None
        data, first = first, None
        if data is None:
            data = await _receive(stream, limits.max_header_bytes + 1 - len(buffer), deadline)
        if not data:
            raise Hangup("eof")
        search_from = max(0, len(buffer) - 2)
        buffer += data
        head = take_head(buffer, limits, remote=remote, search_from=search_from)
        if head is not None:
            return head


def take_head(
    data: bytes | bytearray, limits: Limits, *, remote: tuple[str, int] | None = None, search_from: int = 0
) -> tuple[HandshakeRequest, bytes] | None:
    """The request head that ``data`` begins with and the bytes behind it; None if it is not complete.

    ``search_from`` is up to where it is known that no head ends. Raises as :func:`read_head`.
    """
    _check_start(data, limits)
    end = _END.search(data, search_from)
    size = end.end() if end else len(data)
    if size > limits.max_header_bytes:
        raise _headers_too_large()
    if not end:
        return None
    head = _parse(bytes(data[:size]))
    _check_limits(head, limits)
    return _make_request(head, remote), bytes(data[size:])


async def _receive(stream: trio.abc.Stream, max_bytes: int, deadline: float) -> bytes | bytearray:
    try:
        data: bytes | bytearray | None = look(stream, max_bytes)
        if data is None:
            with trio.move_on_at(deadline):
                data = await input_of(stream).read(max_bytes)
        if data is None:
            raise HandshakeError(408, "TIMEOUT", "the request did not arrive in time", reason="timeout")
    except GONE as exc:
        raise Hangup("reset") from exc
    return data


def _check_start(buffer: bytes | bytearray, limits: Limits) -> None:
    """Refuse what can be known before the head is complete."""
    if buffer[0] == _TLS_HANDSHAKE_RECORD:
        raise Hangup("tls")
    if not ord(" ") < buffer[0] < _DELETE:
        raise _bad("not a well-formed HTTP request")
    line_end = buffer.find(b"\n")
    line_bytes = len(buffer) if line_end < 0 else line_end
    if line_bytes > min(limits.max_target_bytes + _AROUND_TARGET, limits.max_header_bytes):
        raise _target_too_long()


class _Head(NamedTuple):
    """A well-formed head."""

    method: str
    target: bytes
    http_version: str
    fields: Fields


def _parse(head: bytes) -> _Head:
    usual = parse_usual(head)
    if usual is not None:
        return _Head("GET", usual[0], "1.1", usual[1])
    # h11 refuses these bytes too, but takes quadratic time if many blanks stand before one: 0.8 s for 16 KiB.
    if _NEVER_VALID.search(head):
        raise _bad("not a well-formed HTTP request")
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(head)
    try:
        event = parser.next_event()
    except h11.RemoteProtocolError as exc:
        raise _bad("not a well-formed HTTP request") from exc
    assert isinstance(event, h11.Request), "h11 ends a head at the same blank line as _END"
    return _Head(
        event.method.decode("ascii"),  # h11 lets only ASCII into it
        event.target,
        event.http_version.decode("ascii"),
        event.headers.raw_items(),
    )


def _check_limits(head: _Head, limits: Limits) -> None:
    if len(head.target) > limits.max_target_bytes:
        raise _target_too_long()
    if len(head.fields) > limits.max_headers:
        raise _headers_too_large()
    for name, value in head.fields:
        if len(name) + len(value) > limits.max_header_line:
            raise _headers_too_large()
    if not head.http_version.startswith("1."):
        # The preface of HTTP/2 looks like such a request (RFC 9113 section 3.4).
        raise _bad("only HTTP/1.1 is spoken here")


def _make_request(head: _Head, remote: tuple[str, int] | None) -> HandshakeRequest:
    return HandshakeRequest(
        method=head.method,
        # Nothing but ASCII is let into it. Most requests have the same one, which lives as long as the connection.
        target=sys.intern(head.target.decode("ascii")),
        headers=Headers(head.fields),
        http_version=head.http_version,
        remote=None if remote is None else remote[0],
        remote_port=None if remote is None else remote[1],
    )


def _bad(message: str) -> HandshakeError:
    return HandshakeError(400, "BAD_REQUEST", message, reason="bad_request")


def _target_too_long() -> HandshakeError:
    return HandshakeError(414, "TARGET_TOO_LONG", "the request target is too long", reason="target")


def _headers_too_large() -> HandshakeError:
    return HandshakeError(431, "HEADERS_TOO_LARGE", "the request's headers are too large", reason="headers")
