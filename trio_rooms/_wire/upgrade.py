"""Whether a request is a valid WebSocket handshake, and from where one may come. No I/O.

The headers that are interpreted here must consist of printable ASCII, else 400: WebSocket
libraries have crashed on other bytes in them. Other headers may hold any byte, as real clients
send such (``User-Agent``, ``Cookie``).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Literal

from .._config import Limits
from .head import HandshakeError
from .headers import Headers
from .request import HandshakeRequest

#: "same": Origin equals Host; None: any; else patterns such as "https://app.example.com", "https://*.example.com".
AllowedOrigins = Literal["same"] | Sequence[str] | None

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3

_INTERPRETED = frozenset({b"host", b"connection", b"upgrade", b"origin"})
_NOT_PRINTABLE = re.compile(rb"[^\x20-\x7e\t]")

# No two neighbouring parts of this can match the same character, so it never backtracks.
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[^\s/:@?#\[\]\\,]+)(?::([0-9]{1,5}))?")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\s/:@?#\[\]\\,]+)(?::([0-9]{1,5}))?")
_DEFAULT_PORTS = {"http": 80, "https": 443}


def is_upgrade(request: HandshakeRequest) -> bool:
    """Whether the request means to open a WebSocket, however badly it says so.

    Generous on purpose: a client whose handshake has a fault is to hear of it from :func:`check_upgrade`.
    """
    headers = request.headers
    return "sec-websocket-key" in headers or "websocket" in headers.get("upgrade", "").lower()


def check_upgrade(request: HandshakeRequest, limits: Limits) -> str:
    """Check the opening handshake by RFC 6455 section 4.2.1; return its ``Sec-WebSocket-Key``.

    Raises HandshakeError: 426 for a version other than 13, 400 for every other fault.
    """
    headers = request.headers
    if not (headers.printable or _interpreted_are_printable(headers)):
        raise _bad("an interpreted header holds a byte that is not printable ASCII")
    if request.method != "GET" or request.http_version != "1.1":
        raise _bad("a WebSocket handshake is a GET request of HTTP/1.1")
    upgrade, connection = headers.get("upgrade", ""), headers.get("connection", "")
    if upgrade != "websocket" and "websocket" not in _tokens(upgrade):
        raise _bad("the Upgrade header must name websocket")
    if connection != "Upgrade" and "upgrade" not in _tokens(connection):
        raise _bad("the Connection header must name Upgrade")
    if ("content-length" in headers and headers["content-length"] != "0") or "transfer-encoding" in headers:
        # What stands behind the head is taken for frames; with a body, two readers could disagree on that.
        raise _bad("a WebSocket handshake has no body")
    if headers.get("sec-websocket-version") != "13":
        raise HandshakeError(
            426,
            "UNSUPPORTED_VERSION",
            "only version 13 of the WebSocket protocol is spoken here",
            reason="version",
            headers=(("Sec-WebSocket-Version", "13"),),
        )
    key = headers.get("sec-websocket-key", "")
    if not _is_key(key):
        raise _bad("Sec-WebSocket-Key must be 16 bytes in base64")
    if len(request.subprotocols) > limits.max_subprotocols:
        raise HandshakeError(400, "BAD_REQUEST", "too many subprotocols", reason="subprotocols")
    return key


def switching_protocols(key: str, subprotocol: str | None) -> bytes:
    """The 101 that answers a handshake (RFC 6455 section 4.2.2)."""
    accept = base64.b64encode(hashlib.sha1(key.encode("ascii") + _GUID, usedforsecurity=False).digest())
    chosen = b"" if subprotocol is None else b"Sec-WebSocket-Protocol: %b\r\n" % subprotocol.encode("ascii")
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n%b\r\n" % (accept, chosen)
    )


def choose_subprotocol(offered: Iterable[str], supported: Sequence[str]) -> str | None:
    """The first of the client's offers that is supported; None if none is. Names are compared exactly."""
    return next((name for name in offered if name in supported), None)


def origin_allowed(request: HandshakeRequest, allowed: AllowedOrigins) -> bool:
    """Whether a page of this origin may open a WebSocket (RFC 6455 section 10.2).

    Without an Origin header the client is no browser and decides for itself: allowed. ``None`` allows any origin.
    Anything else refuses the origin "null" and whatever is not a serialised origin.

    - "same": an http or https origin whose host and port equal those of Host. Default ports are understood. When
      Host has no port, the origin's scheme decides what the default is, as TLS may have ended at a proxy.
    - Patterns: scheme, host and port must be equal; a host of ``*.example.com`` stands for one label or more in
      front of ``.example.com``, hence not for ``example.com`` nor for ``evil-example.com``.
    """
    if allowed is None or request.origin is None:
        return True
    origin = _parse_origin(request.origin)
    if origin is None:
        return False
    if allowed == "same":
        return _is_same(origin, request.host)
    return any(_matches(origin, pattern) for pattern in allowed)


def check_origins(allowed: AllowedOrigins) -> None:
    """Raise ValueError unless ``allowed`` is "same", None, or a sequence of well-formed patterns.

    A pattern that can match nothing would otherwise show only as a client that is refused.
    """
    if allowed is None or allowed == "same":
        return
    if isinstance(allowed, str):
        raise ValueError(f'allowed_origins must be "same", None or a sequence of patterns, not {allowed!r}')
    for pattern in allowed:
        parsed = _parse_origin(pattern)
        if parsed is None or not (rest := parsed[1].removeprefix("*.")) or "*" in rest:
            raise ValueError(f'not an origin such as "https://app.example.com" or "https://*.example.com": {pattern!r}')


def _bad(message: str) -> HandshakeError:
    return HandshakeError(400, "BAD_REQUEST", message, reason="bad_request")


def _interpreted_are_printable(headers: Headers) -> bool:
    return not any(
        (name in _INTERPRETED or name.startswith(b"sec-websocket-")) and _NOT_PRINTABLE.search(value)
        for name, value in headers.raw
    )


def _tokens(value: str) -> list[str]:
    return [token.strip().lower() for token in value.split(",")]


def _is_key(key: str) -> bool:
    try:
        return len(key) == 24 and len(base64.b64decode(key, validate=True)) == 16
    except binascii.Error:
        return False


def _parse_origin(text: str) -> tuple[str, str, int | None] | None:
    match = _ORIGIN.fullmatch(text.lower())
    if match is None:
        return None
    scheme, host, port = match.groups()
    return scheme, host, int(port) if port else _DEFAULT_PORTS.get(scheme)


def _is_same(origin: tuple[str, str, int | None], host_header: str | None) -> bool:
    scheme, host, port = origin
    match = _HOST.fullmatch((host_header or "").lower())
    if match is None or scheme not in _DEFAULT_PORTS:
        return False
    our_host, our_port = match.groups()
    return host == our_host and port == (int(our_port) if our_port else _DEFAULT_PORTS[scheme])


def _matches(origin: tuple[str, str, int | None], pattern: str) -> bool:
    wanted = _parse_origin(pattern)
    if wanted is None or (origin[0], origin[2]) != (wanted[0], wanted[2]):
        return False
    host, wanted_host = origin[1], wanted[1]
    if not wanted_host.startswith("*."):
        return host == wanted_host
    # The suffix keeps its leading dot, so that only whole labels can stand for the star.
    suffix = wanted_host[1:]
    return host.endswith(suffix) and all(host.removesuffix(suffix).split("."))
