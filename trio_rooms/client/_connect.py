"""How a client gets to a connection: where to, over what, and the upgrade."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlsplit

import attrs
import trio
from wsproto import ConnectionType, WSConnection

from ._formats import Format
from ._handshake import opening_request, upgrade

#: Opens a new stream to the server, before any byte; raises OSError if that fails.
Connect = Callable[[], Awaitable[trio.abc.Stream]]


@attrs.frozen(kw_only=True)
class Dialer:
    """Makes connections to one URL."""

    url: str
    host: str
    target: str
    form: Format
    headers: tuple[tuple[str, str], ...]
    connect: Connect

    async def dial(self, seconds: float) -> tuple[trio.abc.Stream, bytes]:
        """A stream whose handshake is done, and what came behind it. If this raises, no stream is left.

        Raises OSError, trio.BrokenResourceError, trio.TooSlowError, Refused, ServerViolation.
        """
        with trio.fail_after(seconds):
            stream = await self.connect()
            try:
                trailing = await upgrade(
                    stream,
                    host=self.host,
                    target=self.target,
                    headers=self.headers,
                    subprotocol=self.form.subprotocol,
                )
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
        return stream, trailing


def make_dialer(
    url: str,
    form: Format,
    headers: Sequence[tuple[str, str]],
    ssl_context: ssl.SSLContext | None,
    connect: Connect | None,
) -> Dialer:
    """Read a URL. Raises ValueError if it is none of a WebSocket, or a header cannot be sent."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if parts.scheme not in ("ws", "wss") or not parts.hostname or parts.fragment:
        raise ValueError(f"no URL of a WebSocket: {url!r}")
    hostname, secure = parts.hostname, parts.scheme == "wss"
    # What cannot be sent would else be found out by each attempt to connect, which can tell nobody.
    try:
        port = parts.port or (443 if secure else 80)
        _try_request(host, target, (), form)
    except ValueError as exc:
        raise ValueError(f"no URL of a WebSocket: {url!r} ({exc})") from exc
    try:
        _try_request(host, target, headers, form)
    except ValueError as exc:
        raise ValueError(f"a header cannot be sent: {exc}") from exc

    async def over_tcp() -> trio.abc.Stream:
        return await trio.open_tcp_stream(hostname, port)

    async def over_tls() -> trio.abc.Stream:
        context = ssl_context or ssl.create_default_context()
        # As with HTTPS, the end of the TLS layer needs no last word: a WebSocket has its own.
        stream = await trio.open_ssl_over_tcp_stream(hostname, port, ssl_context=context, https_compatible=True)
        try:
            await stream.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return stream

    return Dialer(
        url=url,
        host=host,
        target=target,
        form=form,
        headers=tuple(headers),
        connect=connect or (over_tls if secure else over_tcp),
    )


def _try_request(host: str, target: str, headers: Sequence[tuple[str, str]], form: Format) -> None:
    ws = WSConnection(ConnectionType.CLIENT)
    opening_request(ws, host=host, target=target, headers=headers, subprotocol=form.subprotocol)
