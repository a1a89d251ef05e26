"""The request of a handshake, as ``authenticate`` and the connection see it."""

from __future__ import annotations

from typing import final
from urllib.parse import parse_qsl

import attrs

from .headers import Headers, parse_cookies


@final
@attrs.frozen(kw_only=True)
class HandshakeRequest:
    """An HTTP request that asks for a WebSocket.

    Everything in it but ``remote`` and ``remote_port`` was chosen by the client and proves nothing by itself.
    Only what was sent is kept; the rest is derived when asked for.
    """

    method: str
    """As sent; case matters."""

    target: str
    """The request target as sent, usually path and query. It may hold credentials: mind your logs."""

    headers: Headers = attrs.field(factory=Headers)
    """The request's headers; see :class:`Headers`."""

    http_version: str = "1.1"
    """ "1.1" for everything that is upgraded."""

    remote: str | None = None
    """Address of the peer of the TCP connection. Behind a proxy that is that of the proxy, unless it is one of
    ``config.trusted_proxies``: then the client's. None where there is no address, as with a memory stream."""

    remote_port: int | None = None
    """Port of that peer; None where it is not known, as of a client behind most proxies."""

    @property
    def path(self) -> str:
        """The path as sent, without the query. It is not percent-decoded: ``/%77s`` is not ``/ws``."""
        return _split_target(self.target)[0]

    @property
    def query_string(self) -> str:
        """What follows the first ``?`` of the target, as sent; empty if there is none."""
        return _split_target(self.target)[1]

    @property
    def query(self) -> dict[str, str]:
        """The decoded parameters of the query. Of a repeated one the last counts; bad UTF-8 becomes U+FFFD."""
        return dict(parse_qsl(self.query_string, keep_blank_values=True))

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies by name; values as sent, without surrounding quotes. Of one name the first counts."""
        return parse_cookies(self.headers)

    @property
    def subprotocols(self) -> tuple[str, ...]:
        """The subprotocols that the client offers, the preferred one first (RFC 6455 section 4.1)."""
        if "sec-websocket-protocol" not in self.headers:
            return ()
        offered = self.headers["sec-websocket-protocol"].split(",")
        return tuple(stripped for name in offered if (stripped := name.strip()))

    @property
    def origin(self) -> str | None:
        """The Origin header; None without one, which tells that the client is no browser."""
        return self.headers.get("origin")

    @property
    def host(self) -> str | None:
        """The Host header: the name by which the client reached us, with the port unless it is the default."""
        return self.headers.get("host")


def _split_target(target: str) -> tuple[str, str]:
    # RFC 6455 section 4.2.1 allows an absolute URI in place of the path.
    path, _, query = target.partition("?")
    if path[:1] != "/" and "://" in path:
        path = "/" + path.partition("://")[2].partition("/")[2]
    return path, query
