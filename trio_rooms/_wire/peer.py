"""Who is at the other end of a stream."""

from __future__ import annotations

import socket
from typing import Any

import trio

from .plain import PlainStream


def remote_address(stream: trio.abc.Stream) -> tuple[str, int] | None:
    """Host and port of the peer, if the stream is one of TCP, with TLS or without."""
    lowest = _below_tls(stream)
    if isinstance(lowest, PlainStream):
        return _host_and_port(lowest.remote)
    if not isinstance(lowest, trio.SocketStream):
        return None
    try:
        name = lowest.socket.getpeername()
    except OSError:
        return None
    return _host_and_port(name)


def is_unix(stream: trio.abc.Stream) -> bool:
    """Whether the stream is one of a Unix socket, with TLS or without."""
    lowest = _below_tls(stream)
    if not isinstance(lowest, (PlainStream, trio.SocketStream)):
        return False
    return lowest.socket.family == getattr(socket, "AF_UNIX", None) and remote_address(lowest) is None


def _below_tls(stream: trio.abc.Stream) -> Any:
    lowest: Any = stream
    while isinstance(lowest, trio.SSLStream):
        lowest = lowest.transport_stream
    return lowest


def _host_and_port(name: object) -> tuple[str, int] | None:
    # There are families whose addresses are numbers, such as that of virtual machines.
    return (name[0], name[1]) if isinstance(name, tuple) and len(name) >= 2 and isinstance(name[0], str) else None
