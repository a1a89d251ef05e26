"""A stream that misbehaves on demand, for either end of a connection.

Theory of operation. Every call goes to the wrapped stream, in pieces small enough that a fault can
strike between two bytes. The faults are plain state, changed by synchronous methods; each change
wakes the calls that wait (`_touch`), and those look at the state again. A `receive_some` that is
already waiting inside the wrapped stream is called back by cancelling it, which loses nothing; a
`send_all` in there is left alone, for what was handed to the wrapped stream is on its way.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING

import trio

from trio_rooms.testing._exclusive import Exclusive

if TYPE_CHECKING:
    from collections.abc import Iterator


class FaultyStream(trio.abc.HalfCloseableStream):
    """Wraps ``stream``, which it then owns: closing this closes it.

    Without a fault it only passes bytes on. Directions are seen from this end: `cut_sending_at`
    counts what this end sends. As with any stream, one task at a time may send and one may receive
    (`trio.BusyResourceError`). A `send_all` that is cancelled while it is stalled has sent a part,
    as with a socket.
    """

    def __init__(self, stream: trio.abc.Stream, *, one_byte_reads: bool = False, one_byte_writes: bool = False) -> None:
        self.one_byte_reads = one_byte_reads
        """Whether `receive_some` returns one byte at a time. May be set."""
        self.one_byte_writes = one_byte_writes
        """Whether `send_all` hands on one byte at a time. May be set."""
        self.bytes_sent: int = 0
        """The bytes handed to the wrapped stream; what `silence` swallows is not counted."""
        self.bytes_received: int = 0
        """The bytes returned by `receive_some`."""
        self._stream = stream
        # Each is a value of the counter above at which the fault strikes.
        self._stall_sending_at = math.inf
        self._cut_sending_at = math.inf
        self._cut_receiving_at = math.inf
        self._receiving_stalled = False
        self._silent = False
        self._broken = False
        self._closed = False
        self._touched = trio.Event()
        self._receive_scope = trio.CancelScope()
        self._sending = Exclusive("sending on this stream")
        self._receiving = Exclusive("receiving from this stream")

    # Faults

    def stall_sending(self, after: int = 0) -> None:
        """Let ``after`` more bytes pass and then block, as on a full socket buffer, until `resume_sending`."""
        self._stall_sending_at = self.bytes_sent + after
        self._touch()

    def resume_sending(self) -> None:
        """End `stall_sending`."""
        self._stall_sending_at = math.inf
        self._touch()

    def stall_receiving(self) -> None:
        """Receive nothing, not even the end of the stream, until `resume_receiving`. Nothing is lost."""
        self._receiving_stalled = True
        self._touch()

    def resume_receiving(self) -> None:
        """End `stall_receiving`."""
        self._receiving_stalled = False
        self._touch()

    def cut_sending_at(self, n: int) -> None:
        """Break the connection as `cut` does once ``n`` further bytes are sent.

        The ``n`` bytes pass. With 0 it breaks at the next `send_all`.
        """
        self._cut_sending_at = self.bytes_sent + n

    def cut_receiving_at(self, n: int) -> None:
        """Break the connection as `cut` does once ``n`` further bytes are received.

        The ``n`` bytes are returned. With 0 it breaks at the next `receive_some`.
        """
        self._cut_receiving_at = self.bytes_received + n
        # A receive_some that is waiting asked for more bytes than it may have now.
        self._touch()

    async def cut(self) -> None:
        """Break the connection now: calls here raise `trio.BrokenResourceError`, the other end sees EOF.

        Calls that are waiting are broken off, too. Over a socket that holds unread bytes the other
        end sees a reset instead.
        """
        self._broken = True
        self._touch()
        await trio.aclose_forcefully(self._stream)

    def silence(self) -> None:
        """Become a peer that is gone without a word, for good: a half-open connection.

        Sends succeed and go nowhere, receives wait for ever, and nothing is closed, until `aclose`.
        """
        self._silent = True
        self._touch()

    # The stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send ``data`` as far as the faults let it. Raises as `trio.abc.SendStream.send_all` does."""
        with self._sending, self._translated():
            await trio.lowlevel.checkpoint()
            self._check()
            rest = memoryview(data)
            while rest and await self._may_send():
                rest = rest[await self._send_some(rest) :]

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until `send_all` might not block: not while it is stalled."""
        with self._sending, self._translated():
            await trio.lowlevel.checkpoint()
            if await self._may_send():
                await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive as the faults let it. Raises as `trio.abc.ReceiveStream.receive_some` does."""
        with self._receiving, self._translated():
            data = None
            while data is None:
                data = await self._receive_or_wait(max_bytes)
            self.bytes_received += len(data)
            if self.bytes_received >= self._cut_receiving_at:
                await self.cut()
            return data

    async def send_eof(self) -> None:
        """Send EOF behind what was sent; waits while sending is stalled, and does nothing when silent.

        Raises TypeError if the wrapped stream is not a `trio.abc.HalfCloseableStream`.
        """
        if not isinstance(self._stream, trio.abc.HalfCloseableStream):
            raise TypeError(f"{type(self._stream).__name__} cannot be closed in one direction")
        with self._sending, self._translated():
            await trio.lowlevel.checkpoint()
            if await self._may_send():
                await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close the wrapped stream, whatever the faults. Waiting calls raise `trio.ClosedResourceError`."""
        self._closed = True
        self._touch()
        await self._stream.aclose()

    # The inside

    def _touch(self) -> None:
        self._touched.set()
        self._touched = trio.Event()
        self._receive_scope.cancel()

    def _check(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        if self._broken:
            raise trio.BrokenResourceError("the connection was cut")

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Tell a caller whose stream was closed by `cut` that the connection broke."""
        try:
            yield
        except trio.ClosedResourceError:
            self._check()
            raise

    async def _may_send(self) -> bool:
        """Wait while sending is stalled; return False if what is sent goes nowhere."""
        while True:
            self._check()
            if self._silent:
                return False
            if self.bytes_sent < self._stall_sending_at:
                return True
            await self._touched.wait()

    async def _send_some(self, data: memoryview) -> int:
        """Send the part of ``data`` that may go now, cut if that was the last, and return its length."""
        allowed = min(self._stall_sending_at, self._cut_sending_at) - self.bytes_sent
        size = int(min(allowed, 1 if self.one_byte_writes else len(data)))
        if size:
            await self._stream.send_all(data[:size])
            self.bytes_sent += size
        if self.bytes_sent >= self._cut_sending_at:
            await self.cut()
        return size

    async def _receive_or_wait(self, max_bytes: int | None) -> bytes | bytearray | None:
        """Return what the stream gives, or None when a change of the faults ended the wait."""
        self._check()
        if self._silent or self._receiving_stalled:
            await self._touched.wait()
            return None
        allowed = self._cut_receiving_at - self.bytes_received
        if allowed <= 0:
            await self.cut()
            return None
        limits = [max_bytes, 1 if self.one_byte_reads else None, None if math.isinf(allowed) else int(allowed)]
        limit = min((limit for limit in limits if limit is not None), default=None)
        with trio.CancelScope() as self._receive_scope:
            return await self._stream.receive_some(limit)
        return None
