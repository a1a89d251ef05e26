"""The writing end of a stream, which knows after every write, however it ended, what may still be written.

Theory of operation. A frame that was written in part must be completed before anything else is written, or else
nothing may be written any more. Over a plain socket we write by ourselves, so it is always known what a socket
has taken: the rest is kept, and goes first the next time, after a cancel too. Over any other stream a send that
was cancelled or failed may have written anything; then the output is *torn* and writes no more.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final, Protocol

import trio

from .ending import GONE
from .plain import plain_socket
from .transport import Close, TransportClosed

#: What may wait in the kernel, unsent, before a socket counts as full. Without it the kernel takes megabytes for a
#: peer that does not read, all of them stale when it does; the socket's buffer itself is left to autotuning.
_NOTSENT_LOWAT = 128 * 1024

_LOST = Close(1006, "", "network")


class Output(Protocol):
    """Where bytes go. Raises :exc:`TransportClosed` once it is torn."""

    torn: bool
    """Whether nothing can be written any more; set it to forbid that."""

    @property
    def direct(self) -> Callable[[bytes], int] | None:
        """The send of a plain socket, which never waits; None if there is none."""

    def keep_rest(self, data: bytes, taken: int) -> None:
        """``direct`` has taken only so many bytes of ``data``: keep the others."""

    async def write_rest(self) -> None:
        """Write what is kept. After a cancel the remainder is kept."""

    async def write(self, data: bytes) -> None:
        """Write what is kept, and then ``data``. A checkpoint.

        After a cancel what was not written of both is kept, unless it came before anything was done.
        """


def output_of(stream: trio.abc.Stream) -> Output:
    """The output of a stream."""
    plain = plain_socket(stream)
    return StreamOutput(stream) if plain is None else SocketOutput(plain)


class SocketOutput:
    """Writes to the socket itself: in a write that need not wait, trio's locks and checkpoints cost more than it does.

    The socket object is asked to send, and never the number of its descriptor, which may belong to another connection
    once this one is closed.
    """

    __slots__ = ("_rest", "_socket", "direct", "torn")

    def __init__(self, plain: socket.socket) -> None:
        self._socket = plain
        self.direct: Callable[[bytes | memoryview], int] = plain.send
        self._rest: memoryview | None = None
        self.torn = False
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            try:  # noqa: SIM105 - each connection passes here
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _NOTSENT_LOWAT)
            except OSError:
                pass  # not TCP, or the peer has gone already

    def keep_rest(self, data: bytes | memoryview, taken: int) -> None:
        """See :class:`Output`."""
        self._rest = memoryview(data)[taken:] if taken < len(data) else None

    def offer(self, data: bytes) -> bool:
        """Write what is taken of ``data`` without waiting, and keep the others; whether there are none.

        For an output that keeps nothing yet.
        """
        self.keep_rest(data, self._try(data))
        return self._rest is None

    async def write_rest(self) -> None:
        """See :class:`Output`. A checkpoint only if something is kept."""
        while (rest := self._rest) is not None:
            try:
                if self._socket.fileno() < 0:  # closed before we wait, for which trio has no ClosedResourceError
                    raise trio.ClosedResourceError
                await trio.lowlevel.wait_writable(self._socket)
            except trio.ClosedResourceError:
                self.torn = True
                raise TransportClosed(_LOST) from None
            self.keep_rest(rest, self._try(rest))

    async def write(self, data: bytes) -> None:
        """See :class:`Output`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._rest is None:
            self.offer(data)
        else:
            self._rest = memoryview(b"".join((self._rest, data)))
        if self._rest is not None:
            await self.write_rest()
        else:
            await trio.lowlevel.cancel_shielded_checkpoint()

    def _try(self, data: bytes | memoryview) -> int:
        if self.torn:
            raise TransportClosed(_LOST)
        try:
            return self.direct(data)
        except BlockingIOError:
            return 0
        except OSError:
            self.torn = True
            raise TransportClosed(_LOST) from None


class StreamOutput:
    """Writes through a stream's own ``send_all``: TLS, memory streams, and whatever a program brings."""

    __slots__ = ("_stream", "torn")

    direct: Final = None

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.torn = False

    def keep_rest(self, data: bytes, taken: int) -> None:
        """There is none."""

    async def write_rest(self) -> None:
        """There is none."""
        await trio.lowlevel.checkpoint()

    async def write(self, data: bytes) -> None:
        """See :class:`Output`."""
        if self.torn:
            raise TransportClosed(_LOST)
        try:
            await self._stream.send_all(data)
        except GONE:
            self.torn = True
            raise TransportClosed(_LOST) from None
        except BaseException:
            self.torn = True
            raise
