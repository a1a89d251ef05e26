"""The client's half of the opening handshake (RFC 6455 section 4.1)."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import attrs
import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Event, RejectConnection, RejectData, Request
from wsproto.utilities import RemoteProtocolError

from trio_rooms.testing._outcomes import Closed, HandshakeRefused, ProtocolViolation

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@attrs.frozen
class Accepted:
    """A 101 response. ``trailing`` are the bytes that came behind its head: the first frames."""

    subprotocol: str | None
    headers: dict[str, str]
    trailing: bytes


async def upgrade(
    stream: trio.abc.Stream,
    *,
    path: str,
    host: str,
    headers: Iterable[tuple[str | bytes, str | bytes]],
    subprotocols: Sequence[str],
) -> Accepted:
    """Ask for an upgrade and return the server's consent. Never closes ``stream``.

    Raises:
      HandshakeRefused: the server answered with another status than 101.
      Closed: (1006) the stream ended before an answer was complete.
      ProtocolViolation: the answer is no HTTP, or its handshake headers are wrong.
    """
    ws = WSConnection(ConnectionType.CLIENT)
    extra = [(_as_bytes(name), _as_bytes(value)) for name, value in headers]
    request = Request(host=host, target=path, extra_headers=extra, subprotocols=list(subprotocols))
    # A server that refuses before it reads (503 while it drains) may already be gone; its answer is still there.
    with contextlib.suppress(trio.BrokenResourceError):
        await stream.send_all(ws.send(request))
    head, rest = await _receive_head(stream)
    # The bytes behind the head of a 101 are kept from wsproto, so that the client alone cuts frames.
    answer, *more = _feed(ws, head)
    if isinstance(answer, AcceptConnection):
        return Accepted(answer.subprotocol, _as_dict(answer.extra_headers), rest)
    assert isinstance(answer, RejectConnection)
    more += _feed(ws, rest) if rest else []
    body = await _receive_body(stream, ws, more) if answer.has_body else b""
    raise HandshakeRefused(answer.status_code, _as_dict(answer.headers), body)


async def _receive_head(stream: trio.abc.Stream) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = await _receive_or_end(stream)
        if not chunk:
            raise Closed(1006)
        data += chunk
    head, blank_line, rest = data.partition(b"\r\n\r\n")
    return head + blank_line, rest


async def _receive_body(stream: trio.abc.Stream, ws: WSConnection, events: list[Event]) -> bytes:
    body = b""
    while True:
        for event in events:
            assert isinstance(event, RejectData)
            body += event.data
            if event.body_finished:
                return body
        events = _feed(ws, await _receive_or_end(stream))


async def _receive_or_end(stream: trio.abc.Stream) -> bytes:
    try:
        return bytes(await stream.receive_some())
    except trio.BrokenResourceError:
        return b""


def _feed(ws: WSConnection, data: bytes) -> list[Event]:
    try:
        ws.receive_data(data)
        return list(ws.events())
    except (RemoteProtocolError, UnicodeError) as error:
        raise ProtocolViolation(f"the answer to the upgrade is wrong: {error}: {data[:200]!r}") from error


def _as_dict(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _as_bytes(text: str | bytes) -> bytes:
    return text.encode("latin-1") if isinstance(text, str) else text
