"""Plain sockets whose ``send`` does as it is told, beneath a trio stream: for writes that do not wait.

Theory of operation. Whoever writes without waiting asks the plain socket beneath the stream, whose class may be ours;
whoever then waits until it is writable asks the kernel. So a `ToldSocket` writes down what it takes instead of
sending it, and uses the real socket only to be writable or not: full of zeros while it may take nothing more.
"""

from __future__ import annotations

import contextlib
import errno
import math
import socket
from collections.abc import Callable
from typing import Any

import trio

from trio_rooms._wire.native import NativeTransport


class ToldSocket(socket.socket):
    """One end of a pair of Unix sockets that takes as many bytes as were allowed, into ``data``."""

    allowance: float
    """How many bytes it still takes."""
    at_once: float
    """The most bytes of one call."""
    fails_at: float
    """The number of the call that fails, and all after it."""
    calls: int
    data: bytes
    on_send: Callable[[bytes, int | None], None]
    """Told of each call: the data, and how much of it was taken; None if it failed."""

    def __init__(self, allowance: float = math.inf, at_once: float = math.inf, fails_at: float = math.inf) -> None:
        ours, self.peer = socket.socketpair()
        super().__init__(fileno=ours.detach())
        self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        for end in (self, self.peer):
            end.setblocking(False)
        self.allowance, self.at_once, self.fails_at = allowance, at_once, fails_at
        self.calls = 0
        self.data = b""
        self.on_send = _nobody
        self.stream = stream_of(self)

    def send(self, data: Any, flags: int = 0) -> int:
        """See the class."""
        self.calls += 1
        data = bytes(data)
        if self.fileno() < 0 or self.calls >= self.fails_at:
            self.on_send(data, None)
            raise OSError(errno.EBADF if self.fileno() < 0 else errno.ECONNRESET, "told to")
        taken = int(min(self.allowance, self.at_once, len(data)))
        self.on_send(data, taken)
        if data and not taken:
            with contextlib.suppress(BlockingIOError):
                while True:
                    super().send(b"\0" * 4096)
            raise BlockingIOError
        self.allowance -= taken
        self.data += data[:taken]
        return taken

    def allow(self, size: float) -> None:
        """Take ``size`` more bytes from now on; who waits is woken."""
        self.allowance += size
        self._empty()

    def fail(self) -> None:
        """Fail from the next call on; who waits is woken."""
        self.fails_at = 0
        self._empty()

    def _empty(self) -> None:
        with contextlib.suppress(OSError):  # nothing is left in it, or it is closed
            while self.peer.recv(65536):
                pass

    def close(self) -> None:
        """Close both ends."""
        super().close()
        self.peer.close()


class CutSocket(socket.socket):
    """One end of a pair of Unix sockets, ``peer`` the other: sends ``size`` bytes and is then reset."""

    def __init__(self, size: float) -> None:
        ours, peer = socket.socketpair()
        super().__init__(fileno=ours.detach())
        self.setblocking(False)
        self.left = size
        self.peer = trio.SocketStream(trio.socket.from_stdlib_socket(peer))
        self.stream = stream_of(self)

    def send(self, data: Any, flags: int = 0) -> int:
        """See the class."""
        if self.left <= 0:
            raise ConnectionResetError(errno.ECONNRESET, "told to")
        taken = super().send(bytes(data)[: int(min(self.left, len(data)))])
        self.left -= taken
        return taken


def stream_of(plain: socket.socket) -> trio.SocketStream:
    """A trio stream over a socket whose class trio would refuse."""
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(socket.AF_UNIX)))
    stream.socket._sock.close()  # type: ignore[attr-defined]
    stream.socket._sock = plain  # type: ignore[attr-defined]
    return stream


def native_over(stream: trio.abc.Stream, trailing: bytes = b"") -> NativeTransport:
    """An open native transport over a stream, that has read nothing but ``trailing``."""
    return NativeTransport(
        stream,
        trailing=trailing,
        max_message_bytes=1000,
        max_fragments=10,
        message_timeout=10,
        read_buffer_size=1000,
        before_read=trio.lowlevel.checkpoint,
    )


def _nobody(data: bytes, taken: int | None) -> None:
    """What ``on_send`` is until somebody sets it."""
