"""What a connection tells of the request that it began with."""

from __future__ import annotations

from collections.abc import Mapping

from ._wire.headers import Headers
from ._wire.request import HandshakeRequest


class FromRequest:
    """The part of :class:`Connection` that is about its handshake."""

    __slots__ = ()

    _request: HandshakeRequest

    @property
    def remote(self) -> str | None:
        """The address of the client; None where there is none (memory streams, Unix sockets).

        That of the socket's peer, or what that tells of its client if it is one of ``config.trusted_proxies``.
        """
        return self._request.remote

    @property
    def path(self) -> str:
        """The path of the request, as sent, without the query."""
        return self._request.path

    @property
    def query(self) -> Mapping[str, str]:
        """The query of the request, decoded; of a repeated name the last value."""
        return self._request.query

    @property
    def headers(self) -> Headers:
        """The headers of the request; names are case-insensitive."""
        return self._request.headers

    @property
    def cookies(self) -> Mapping[str, str]:
        """The cookies of the request."""
        return self._request.cookies
