"""Where a server listens: listeners are opened, and it is told how each of them is reached."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Iterable, Sequence
from typing import Any, Literal, final
from urllib.parse import quote

import attrs
import trio

from ._errors import UsageError
from ._unix import UnixListener, open_unix_listener

Listener = trio.abc.Listener[Any]

_BIND_ATTEMPTS = 10

# Addresses to listen on that are not to connect to, and what to connect to instead.
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}


async def listen(
    *,
    host: str | Sequence[str] | None,
    port: int,
    unix_path: str | os.PathLike[str] | None,
    ssl_context: ssl.SSLContext | None,
    listeners: Sequence[Listener] | None,
) -> list[Listener]:
    """The listeners of one serve, the caller's own or opened here; to be closed by the caller.

    Raises OSError if it cannot listen, and UsageError for what does not go together.
    """
    if listeners is not None:
        if unix_path is not None or ssl_context is not None:
            raise UsageError("with listeners there is no unix_path and no ssl_context; use a trio.SSLListener for TLS")
        return list(listeners)
    if ssl_context is not None:
        _check_context(ssl_context)
    opened: Sequence[Listener]
    opened = await open_listeners(host, port) if unix_path is None else [open_unix_listener(unix_path)]
    if ssl_context is None:
        return list(opened)
    # As HTTPS does it: peers that hang up without an end of TLS are the rule, and no error.
    return [trio.SSLListener(one, ssl_context, https_compatible=True) for one in opened]


def _check_context(context: ssl.SSLContext) -> None:
    """Refuse at once what would fail with the first client."""
    if not isinstance(context, ssl.SSLContext):
        raise UsageError(f"ssl_context is an ssl.SSLContext, not {context!r}")
    if context.protocol == ssl.PROTOCOL_TLS_CLIENT:
        raise UsageError("ssl_context is that of a client; use ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)")


async def open_listeners(
    host: str | Sequence[str] | None, port: int, *, backlog: int | None = None
) -> list[trio.SocketListener]:
    """Listen on every address of ``host``, with one port for all of them; the caller closes the listeners.

    Like :func:`trio.open_tcp_listeners`, which for port 0 gives each address a port of its own: a URL could then
    name only one of them, and whether a client finds it would depend on the order in which it tries addresses.
    ``host`` may be several names or addresses, each of which must be one to listen on; what stands for the same
    address counts once. ``host=None`` is every interface, IPv4 and IPv6. Raises OSError when an address cannot be bound
    or resolved, and UsageError for an empty sequence.
    """
    hosts = [host] if host is None or isinstance(host, str) else await _distinct(host)
    if port != 0:
        return await _open_all(hosts, port, backlog)
    for attempt in range(1, _BIND_ATTEMPTS + 1):
        first, *others = await trio.open_tcp_listeners(0, host=hosts[0], backlog=backlog)
        if not others and len(hosts) == 1:
            return [first]
        _, chosen = _address(first)
        for listener in (first, *others):
            listener.socket.close()
        try:
            return await _open_all(hosts, chosen, backlog)
        except OSError as exc:
            # Free at the first address, taken at another one: a new port may be free at all of them.
            if exc.errno != errno.EADDRINUSE or attempt == _BIND_ATTEMPTS:
                raise
    raise AssertionError("the last attempt returns or raises")  # pragma: no cover


async def _open_all(hosts: Sequence[str | None], port: int, backlog: int | None) -> list[trio.SocketListener]:
    opened: list[trio.SocketListener] = []
    try:
        for host in hosts:
            opened += await trio.open_tcp_listeners(port, host=host, backlog=backlog)
    except BaseException:
        for listener in opened:
            listener.socket.close()
        raise
    return opened


async def _distinct(hosts: Iterable[str]) -> list[str]:
    """The addresses of several hosts, each once: "localhost" and "127.0.0.1" are not to be in each other's way."""
    addresses: dict[str, None] = {}
    for host in hosts:
        found = await trio.socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for _, _, _, _, address in found:
            scope = f"%{address[3]}" if len(address) == 4 and address[3] else ""
            addresses[f"{address[0]}{scope}"] = None
    if not addresses:
        raise UsageError("host is a name, an address or a sequence of them; this sequence is empty")
    return list(addresses)


@final
@attrs.frozen(kw_only=True)
class Place:
    """How one listener is reached."""

    address: tuple[str, int] | None = None
    """Host and port, as the socket has them; None for a Unix socket."""
    unix_path: str | None = None
    """The path of a Unix socket."""
    secure: bool = False
    """Whether TLS is spoken there."""

    def url(self, path: str) -> str:
        """The URL for clients on this machine."""
        scheme: Literal["ws", "wss"] = "wss" if self.secure else "ws"
        if self.address is None:
            return f"{scheme}+unix://{quote(self.unix_path or '')}:{path}"
        host = _ANY.get(self.address[0], self.address[0])
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.address[1]}{path}"


def locate(listeners: Iterable[Listener]) -> tuple[Place, ...]:
    """The places of listeners, TLS or not; those that have none (memory) are left out."""
    return tuple(place for listener in listeners if (place := _locate(listener)) is not None)


def _locate(listener: Listener) -> Place | None:
    lowest = socket_listener(listener)
    if lowest is None:
        return None
    secure = isinstance(listener, trio.SSLListener)
    if lowest.socket.family in (socket.AF_INET, socket.AF_INET6):
        return Place(address=_address(lowest), secure=secure)
    name = lowest.socket.getsockname()
    return Place(unix_path=os.path.abspath(name), secure=secure) if isinstance(name, str) and name else None


def below(listener: Listener) -> Listener:
    """The listener that accepts for a Unix listener; any other is its own."""
    return listener.listener if isinstance(listener, UnixListener) else listener


def socket_listener(listener: Listener) -> trio.SocketListener | None:
    """What listens below any number of TLS layers, if it is a socket."""
    while isinstance(listener, trio.SSLListener):
        listener = listener.transport_listener
    lowest = below(listener)
    return lowest if isinstance(lowest, trio.SocketListener) else None


def _address(listener: trio.SocketListener) -> tuple[str, int]:
    host, port = listener.socket.getsockname()[:2]
    return host, port
