"""The client's half of the opening handshake (RFC 6455 section 4.1)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any, Final

import h11
import msgspec
import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Event, RejectConnection, RejectData, Request
from wsproto.utilities import ProtocolError

from ._errors import Refused, ServerViolation

_MOST_HEAD: Final = 16 * 1024
_MOST_BODY: Final = 16 * 1024
_READ: Final = 4 * 1024


def opening_request(
    ws: WSConnection, *, host: str, target: str, headers: Iterable[tuple[str, str]], subprotocol: str
) -> bytes:
    """The bytes that ask for an upgrade. Raises ValueError if something cannot stand in them."""
    try:
        extra = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        request = Request(host=host, target=target, extra_headers=extra, subprotocols=[subprotocol])
        return bytes(ws.send(request))
    except (ProtocolError, h11.LocalProtocolError, UnicodeError) as exc:
        raise ValueError(str(exc)) from exc


async def upgrade(
    stream: trio.abc.Stream, *, host: str, target: str, headers: Iterable[tuple[str, str]], subprotocol: str
) -> bytes:
    """Ask for an upgrade; what came behind the answer's head is returned. Never closes the stream.

    Raises:
      Refused: the server answered with another status than 101.
      ServerViolation: the answer is wrong, or none came.
    """
    ws = WSConnection(ConnectionType.CLIENT)
    request = opening_request(ws, host=host, target=target, headers=headers, subprotocol=subprotocol)
    # A server that refuses before it reads (503 while it drains) may be gone already; its answer is still there.
    with contextlib.suppress(trio.BrokenResourceError):
        await stream.send_all(request)
    head, rest = await _receive_head(stream)
    events = _feed(ws, head)
    answer = events[0] if events else None
    if isinstance(answer, AcceptConnection):
        if answer.subprotocol != subprotocol:
            raise ServerViolation(f"the server does not speak {subprotocol}")
        return rest
    if not isinstance(answer, RejectConnection):
        raise ServerViolation("the answer to the upgrade is none")
    body = await _receive_body(stream, ws, [*events[1:], *_feed(ws, rest)]) if answer.has_body else b""
    raise Refused(answer.status_code, _code(body), _retry_after(answer))


async def _receive_head(stream: trio.abc.Stream) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = await _receive(stream)
        if not chunk or len(data) > _MOST_HEAD:
            raise ServerViolation("the answer to the upgrade is incomplete, or too long")
        data += chunk
    head, blank_line, rest = data.partition(b"\r\n\r\n")
    return head + blank_line, rest


async def _receive_body(stream: trio.abc.Stream, ws: WSConnection, events: list[Event]) -> bytes:
    """The body of a refusal, or its beginning."""
    body = b""
    while True:
        for event in events:
            if isinstance(event, RejectData):
                body += event.data
                if event.body_finished or len(body) > _MOST_BODY:
                    return body
        chunk = await _receive(stream)
        if not chunk:
            return body
        events = _feed(ws, chunk)


async def _receive(stream: trio.abc.Stream) -> bytes:
    try:
        return bytes(await stream.receive_some(_READ))
    except trio.BrokenResourceError:
        return b""


def _feed(ws: WSConnection, data: bytes) -> list[Event]:
    if not data:
        return []
    try:
        ws.receive_data(data)
        return list(ws.events())
    except (ProtocolError, UnicodeError) as exc:
        raise ServerViolation(f"the answer to the upgrade is wrong: {exc}") from exc


def _code(body: bytes) -> str:
    """The code in the body of a refusal, if it is one of the library's."""
    try:
        found: Any = msgspec.json.decode(body)
        return str(found["error"]["code"])
    except (msgspec.MsgspecError, ValueError, LookupError, TypeError):
        return ""


def _retry_after(answer: RejectConnection) -> float | None:
    """The seconds of a Retry-After header; one with a date is ignored."""
    for name, value in answer.headers:
        if name.lower() == b"retry-after" and value.isdigit():
            return float(value[:9])
    return None
