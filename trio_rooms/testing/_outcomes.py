"""What a `TestClient` raises, apart from trio's own exceptions.

::

    Exception
    ├── Closed              the connection has ended, with a close frame or without
    ├── HandshakeRefused    the server answered the upgrade with something else than 101
    └── ReplyError          the reply to a request was an error
    AssertionError
    └── ProtocolViolation   the server broke RFC 6455 or the form of a reply: a fault to fix in the server
"""

from __future__ import annotations

import json


class Closed(Exception):
    """The connection has ended.

    ``code`` and ``reason`` are those of the server's close frame; 1005 is a close frame
    without a code, and 1006 is a stream that ended or broke without a close frame
    (RFC 6455 section 7.1.5).
    """

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class HandshakeRefused(Exception):
    """The server refused the upgrade.

    ``status`` is the HTTP status, ``headers`` the response's headers by lower-case name, ``body``
    its body as bytes. ``code`` is the error code in the body if that is JSON of the form
    ``{"error": {"code": ...}}`` or ``{"code": ...}``, else None.
    """

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        super().__init__(status, headers, body)
        self.status = status
        self.headers = headers
        self.body = body
        self.code: str | None = _code_in(body)

    def __str__(self) -> str:
        return f"{self.status} {self.body[:200]!r}"


class ReplyError(Exception):
    """The reply to a request was an error; ``code``, ``message`` and ``temporary`` are what it says."""

    def __init__(self, code: str, message: str = "", *, temporary: bool = False) -> None:
        super().__init__(code, message, temporary)
        self.code = code
        self.message = message
        self.temporary = temporary


class ProtocolViolation(AssertionError):
    """The server sent what no server may send; an AssertionError, for it fails the test."""


def _code_in(body: bytes) -> str | None:
    try:
        found = json.loads(body)
    except ValueError:
        return None
    if isinstance(found, dict) and isinstance(found.get("error"), dict):
        found = found["error"]
    code = found.get("code") if isinstance(found, dict) else None
    return code if isinstance(code, str) else None
