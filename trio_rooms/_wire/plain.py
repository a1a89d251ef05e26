"""A connected socket as a stream, with nothing else around it.

Theory of operation. A ``trio.SocketStream`` is three objects and several system calls, of which a connection needs
next to nothing: what is read and written in its life goes to the socket itself (see ``input`` and ``output``). So a
socket that we have accepted by ourselves is wrapped in this, which only has the methods that its handshake and its end
may need.
"""

from __future__ import annotations

import operator
import socket
from typing import Protocol, final

import trio

_READ_SIZE = 65536


class Reader(Protocol):
    """Who waits for the socket without trio's knowledge."""

    def close(self) -> None:
        """The socket is about to be closed."""


@final
class PlainStream(trio.abc.HalfCloseableStream):
    """A stream over a connected, non-blocking socket, which it owns."""

    __slots__ = ("_eof_sent", "reader", "remote", "socket")

    def __init__(self, plain: socket.socket, remote: object) -> None:
        self.socket = plain
        self.remote = remote
        """The peer's address as ``accept`` gave it."""
        self.reader: Reader | None = None
        """Who is to be told when it is closed, besides those of whom trio knows."""
        self._eof_sent = False
        # Of the socket itself: from its listener it would inherit this only if it connected after that was set there.
        try:  # noqa: SIM105 - each connection passes here
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        except OSError:
            pass  # not TCP, or the peer has gone already

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See ``trio.abc.SendStream``."""
        await trio.lowlevel.checkpoint()
        self._check_open()
        if self._eof_sent:
            raise trio.ClosedResourceError("the end was sent")
        with memoryview(data) as rest:
            sent = 0
            while sent < len(rest):
                try:
                    sent += self.socket.send(rest[sent:])
                except BlockingIOError:
                    await self.wait_send_all_might_not_block()
                except OSError as exc:
                    raise self._gone(exc) from exc

    async def wait_send_all_might_not_block(self) -> None:
        """See ``trio.abc.SendStream``."""
        self._check_open()
        await trio.lowlevel.wait_writable(self.socket)

    async def send_eof(self) -> None:
        """See ``trio.abc.HalfCloseableStream``."""
        await trio.lowlevel.checkpoint()
        self._eof_sent = True
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as exc:
            raise self._gone(exc) from exc

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """See ``trio.abc.ReceiveStream``; waits first and reads then, see ``input``."""
        size = _READ_SIZE if max_bytes is None else operator.index(max_bytes)
        if size < 1:
            raise ValueError("max_bytes must be at least 1")
        while True:  # noqa: ASYNC913 - waiting is a checkpoint
            self._check_open()
            await trio.lowlevel.wait_readable(self.socket)
            try:
                return self.socket.recv(size)
            except BlockingIOError:
                pass  # a false alarm, which select(2) speaks of
            except OSError as exc:
                raise self._gone(exc) from exc

    def close(self) -> None:
        """Close the socket, which whoever waits for it is told. Idempotent."""
        if self.socket.fileno() >= 0:
            if self.reader is not None:
                self.reader.close()
            trio.lowlevel.notify_closing(self.socket)
            self.socket.close()

    async def aclose(self) -> None:
        """As :meth:`close`."""
        self.close()
        await trio.lowlevel.checkpoint()

    def _check_open(self) -> None:
        if self.socket.fileno() < 0:  # or trio would raise what it raises for a wrong number
            raise trio.ClosedResourceError("the socket was closed")

    def _gone(self, exc: OSError) -> trio.BrokenResourceError | trio.ClosedResourceError:
        if self.socket.fileno() < 0:
            return trio.ClosedResourceError("the socket was closed")
        return trio.BrokenResourceError(f"the connection broke: {exc}")


def plain_socket(stream: trio.abc.Stream) -> socket.socket | None:
    """The socket below a stream, if there is nothing in between; to read and write without waiting."""
    if isinstance(stream, PlainStream):
        return stream.socket
    if isinstance(stream, trio.SocketStream):
        # Trio has no name for a read or write that does not wait, only for the socket that has one.
        plain = getattr(stream.socket, "_sock", None)
        if isinstance(plain, socket.socket):
            return plain
    return None
