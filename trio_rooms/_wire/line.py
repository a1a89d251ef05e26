"""What a trio-websocket connection takes for its socket.

Theory of operation. trio-websocket is left as it is; what it lacks is done one level below it, where
every byte passes in both directions:

- It is given a request head of our own making (the client's was judged before), and reads nothing more
  until its 101 has left: wsproto would drop what stands behind the head, which is the client's first frame.
- It reads from the socket only when the connection has room for more messages; a queue is never filled
  from behind our back.
- After a write that was torn (cancelled or failed in the middle), and after a close frame, every further
  write fails. trio-websocket itself would put the next frame inside the torn one.
- After a "message too big" of its own it goes on reading, and nothing comes of it. A line that is ended takes
  the reading over.
- It closes its stream without a word when the peer violates the protocol. Here is the one place where a
  stream ends, so here the close frame that is still due goes out, and what is unread is drained for a
  bounded time: unread bytes turn a close into a reset, which can destroy the close frame on its way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from .ending import GONE, close_now, see_off
from .frames import close_frame

_OPCODE = 0x0F
_CLOSE = 0x08

# For how many seconds a finished stream is read to let the last bytes arrive.
_SEE_OFF_TIME = 1.0


class Line(trio.abc.Stream):
    """A stream between trio-websocket and the real one; see the theory of operation."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        *,
        head: bytes,
        trailing: bytes,
        read_buffer_size: int,
        before_read: Callable[[], Awaitable[None]],
    ) -> None:
        self._stream = stream
        self._head = head
        self._trailing = trailing
        self._read_buffer_size = read_buffer_size
        self._before_read = before_read
        self._accepted = trio.Event()
        self._write_lock = trio.Lock()
        self._read_lock = trio.Lock()
        self._read_scope = trio.CancelScope()
        self._torn = False
        self._ended = False
        #: Tells the code of the close frame that is due when the stream is ended from above, None for none.
        self.close_due: Callable[[], int | None] = lambda: None
        #: A close frame came from above: trio-websocket answered the peer's, or we began the handshake.
        self.close_written = False
        self.paused = False
        self.last_heard = trio.current_time()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Our head first, then nothing before the 101 is out, then what comes."""
        if self._head:
            await trio.lowlevel.checkpoint()
            head, self._head = self._head, b""
            return head
        await self._accepted.wait()
        self.paused = True
        await self._before_read()
        self.paused = False
        self.last_heard = trio.current_time()  # its silence begins when we begin to listen
        if self._trailing:
            trailing, self._trailing = self._trailing, b""
            return trailing
        async with self._read_lock:
            if not self._ended:
                with trio.CancelScope() as self._read_scope:
                    data = await self._stream.receive_some(self._read_buffer_size)
                    self.last_heard = trio.current_time()
                    return bytes(data)
        raise trio.ClosedResourceError("the line was ended")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write one whole frame (trio-websocket calls once a frame), or fail for ever."""
        async with self._write_lock:
            if self._torn or self.close_written:
                raise trio.BrokenResourceError("nothing is written after a torn or a close frame")
            accepted = self._accepted.is_set()
            self.close_written = accepted and data[0] & _OPCODE == _CLOSE
            await self._write(data)
            self._accepted.set()

    async def wait_send_all_might_not_block(self) -> None:
        """As the stream below."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """The protocol's end, from whatever cause: the due close frame, a bounded drain, the stream's end.

        Idempotent; a second caller waits for the first. The stream is closed even when this is cancelled.
        """
        try:
            async with self._write_lock:
                if not self._ended:
                    self._ended = True
                    await self._end()
        finally:
            self._torn = True
            await close_now(self._stream)  # noqa: ASYNC102 - it shields itself

    async def abort(self) -> None:
        """Close the stream at once; a write that is under way fails."""
        self._torn = self._ended = True
        await close_now(self._stream)

    async def _end(self) -> None:
        code = None if self.close_written else self.close_due()
        try:
            with trio.move_on_after(_SEE_OFF_TIME):
                if code is not None and not self._torn:
                    await self._write(close_frame(code))
                if (code is not None or self.close_written) and not self._torn:
                    self._read_scope.cancel(reason="the line is ended")
                    async with self._read_lock:
                        await see_off(self._stream)
        except GONE:
            pass  # the peer is gone: there is nobody to be polite to

    async def _write(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._stream.send_all(data)
        except BaseException:
            self._torn = True
            raise
