"""Making plain HTTP responses, for requests that do not become a WebSocket. No I/O."""

from __future__ import annotations

import http
import json
import re
from collections.abc import Iterable

_NOT_PRINTABLE = re.compile(r"[^\x20-\x7e\t]")
_NOT_TOKEN = re.compile(r"[^!#$%&'*+.^_`|~0-9A-Za-z-]")


def response(
    status: int,
    *,
    body: bytes = b"",
    content_type: str = "text/plain; charset=utf-8",
    headers: Iterable[tuple[str, str]] = (),
    head_only: bool = False,
) -> bytes:
    """A whole HTTP/1.1 response after which the connection is closed.

    ``Content-Length``, ``Content-Type`` and ``Connection: close`` are added; a ``Connection`` among ``headers``
    takes the place of the latter and should contain ``close``. ``head_only`` leaves out the body and keeps its
    length, as HEAD wants it (RFC 9110 section 9.3.2).

    Raises ValueError for a header name that is no token and for a value that is not printable ASCII: a line break
    in one would let its author write headers of his own.
    """
    fields = [("Content-Type", content_type), ("Content-Length", str(len(body))), *headers]
    if not any(name.lower() == "connection" for name, _ in fields):
        fields.append(("Connection", "close"))
    lines = [f"HTTP/1.1 {status} {_phrase(status)}", *(_field(name, value) for name, value in fields), "", ""]
    return "\r\n".join(lines).encode("ascii") + (b"" if head_only else body)


def error_response(
    status: int,
    code: str,
    message: str,
    *,
    headers: Iterable[tuple[str, str]] = (),
    head_only: bool = False,
) -> bytes:
    """A response whose body is ``{"error": {"code": ..., "message": ...}}``."""
    return response(
        status, body=error_body(code, message), content_type="application/json", headers=headers, head_only=head_only
    )


def error_body(code: str, message: str) -> bytes:
    """The JSON of an error response."""
    return json.dumps({"error": {"code": code, "message": message}}).encode("ascii")


def _phrase(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return ""  # RFC 9112 section 4: the phrase may be empty


def _field(name: str, value: str) -> str:
    if not name or _NOT_TOKEN.search(name):
        raise ValueError(f"not a header name: {name!r}")
    if _NOT_PRINTABLE.search(value):
        raise ValueError(f"header {name} holds a character that is not printable ASCII: {value!r}")
    return f"{name}: {value}"
