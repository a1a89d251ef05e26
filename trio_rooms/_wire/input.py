"""The reading end of a stream.

Theory of operation. A stream's ``receive_some`` reads first and waits if nothing was there, which of a client that
waits for its answer is always so: a system call and an exception for nothing. Then it goes through four coroutines.
Over a plain socket we wait first and read then, by ourselves; where a connection lives on one, with all others (see
``poller``).
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Awaitable
from typing import Protocol

import trio

from .plain import PlainStream, plain_socket
from .poller import PolledInput, Poller


class Input(Protocol):
    """Where bytes come from."""

    def read(self, max_bytes: int, /) -> Awaitable[bytes | bytearray]:
        """At least one and at most so many bytes, none at the end.

        Always a checkpoint, loses nothing when it is cancelled, and raises what is in ``ending.GONE``.
        """
        ...


def input_of(stream: trio.abc.Stream, poller: Poller | None = None) -> Input:
    """The input of a stream; of one that we have accepted by ourselves it waits by the poller, if there is one."""
    if poller is not None and isinstance(stream, PlainStream):
        reader = PolledInput(stream.socket, poller)
        stream.reader = reader
        return reader
    plain = plain_socket(stream) if sys.platform != "win32" else None
    return _StreamInput(stream) if plain is None else _SocketInput(plain)


def look(stream: trio.abc.Stream, max_bytes: int) -> bytes | None:
    """What can be read without waiting; None if that is nothing, or if only waiting would tell.

    For the first bytes of a connection, which in most cases are there when it is accepted. Empty bytes are the end of
    the stream. Raises what is in ``ending.GONE``.
    """
    if isinstance(stream, (PlainStream, trio.SocketStream)) and sys.platform != "win32":
        descriptor = stream.socket.fileno()
        if descriptor >= 0:
            try:
                return os.read(descriptor, max_bytes)
            except BlockingIOError:
                pass
    return None


class _StreamInput:
    __slots__ = ("_stream",)

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    def read(self, max_bytes: int) -> Awaitable[bytes | bytearray]:
        return self._stream.receive_some(max_bytes)


class _SocketInput:
    __slots__ = ("_socket",)

    def __init__(self, plain: socket.socket) -> None:
        self._socket = plain

    async def read(self, max_bytes: int) -> bytes:
        plain = self._socket
        while True:  # noqa: ASYNC913 - waiting is a checkpoint
            # The descriptor is asked for each time: its number may belong to somebody else once this one is closed.
            if plain.fileno() < 0:
                raise trio.ClosedResourceError("the socket was closed")  # epoll would raise ValueError
            await trio.lowlevel.wait_readable(plain)
            try:
                return os.read(plain.fileno(), max_bytes)
            except BlockingIOError:
                pass  # a false alarm, which select(2) speaks of
