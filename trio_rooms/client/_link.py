"""One connection, from its handshake to its end.

Theory of operation. Three tasks: the reader hands every whole message to ``take``, which never waits, so that nothing
of the program's can keep a ping or a close frame unread; the writer alone writes, because a write that is cancelled or
fails may have torn a frame, after which the only thing to do with the stream is to close it; the watch sends pings and
gives the connection up when nothing comes back. Whoever has something to send puts it into a bounded queue. What is
taken from it by the writer may or may not arrive; what is still in it at the end was certainly not sent, and
:attr:`Outgoing.taken` tells the two apart.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any

import attrs
import trio

from ._config import ClientConfig
from ._errors import LinkLost, ServerViolation
from ._formats import Format, Message
from ._websocket import Closed, MessageTooBig, WebSocket

#: The most bytes that are joined into one write, one message at least.
_BATCH = 64 * 1024
_READ = 64 * 1024


@attrs.define(eq=False)
class Outgoing:
    """A message on its way out."""

    message: Message
    taken: bool = False
    """Whether it has been given to the socket, wholly or in part."""


class Link:
    """One connection; it owns the stream. ``take`` is given each envelope and the size of its message."""

    def __init__(
        self, stream: trio.abc.Stream, form: Format, settings: ClientConfig, take: Callable[[dict[str, Any], int], None]
    ) -> None:
        self._stream = stream
        self._form = form
        self._settings = settings
        self._take = take
        self._ws = WebSocket(settings.max_message_bytes)
        self._queue: deque[Outgoing] = deque()
        self._ping_due = False
        self._close: tuple[int, str] | None = None
        self._close_written = trio.Event()
        self._work = trio.Event()
        self._space = trio.Event()
        self._heard = trio.Event()
        self._scope = trio.CancelScope()
        self.end: Closed | None = None
        """How it ended; None while it lives."""
        self.ended: trio.Event = trio.Event()

    # Sending

    async def send(self, obj: object) -> Outgoing:
        """Wait for a place in the queue and take it. Raises LinkLost, EncodingError. A cancel: nothing was queued."""
        message = self._form.encode(obj)
        await trio.lowlevel.checkpoint()
        while len(self._queue) >= self._settings.send_messages and self.end is None:
            await self._space.wait()
        return self._put(message)

    def send_now(self, obj: object) -> None:
        """Queue what does not wait, and of which there is no more than the program has rooms and requests.

        Nothing if the connection has ended. Raises EncodingError.
        """
        message = self._form.encode(obj)
        if self.end is None and self._close is None:
            self._put(message)

    def answer(self, obj: object) -> None:
        """As :meth:`send_now`, but a server that asks for more answers than it reads is given up."""
        if len(self._queue) >= 2 * self._settings.send_messages:
            self.abort("the server does not read")
        self.send_now(obj)

    def recall(self, outgoing: Outgoing) -> bool:
        """Take back what was queued, if it is not on its way yet; whether it was not."""
        if outgoing.taken:
            return False
        with contextlib.suppress(ValueError):
            self._queue.remove(outgoing)
        self._offer_space()  # the writer may have nothing to do, and so none to offer
        return True

    def close(self, code: int, reason: str = "") -> None:
        """Send a close frame behind what is queued. The end comes with the server's answer, or with :meth:`abort`."""
        if self._close is None:
            self._close = (code, reason)
            self._work.set()

    def abort(self, reason: str) -> None:
        """End now, without a word."""
        self._finish(Closed(1006, reason))

    def _offer_space(self) -> None:
        if len(self._queue) < self._settings.send_messages:
            self._space.set()
            self._space = trio.Event()

    def _put(self, message: Message) -> Outgoing:
        if self.end is not None or self._close is not None:
            raise LinkLost
        outgoing = Outgoing(message)
        self._queue.append(outgoing)
        self._work.set()
        return outgoing

    # Living

    async def run(self, trailing: bytes) -> Closed:
        """Read and write until the end, and return how it ended; ``trailing`` came with the handshake."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._watch)
                    await self._read(trailing)
                    nursery.cancel_scope.cancel()
        finally:
            self._finish(Closed(1006, "the client has stopped"))
            await trio.aclose_forcefully(self._stream)
        assert self.end is not None
        return self.end

    def _finish(self, end: Closed) -> None:
        """Note the end, once, and let everybody go."""
        if self.end is None:
            self.end = end
            self.ended.set()
            self._space.set()
        self._scope.cancel()

    async def _read(self, trailing: bytes) -> None:
        try:
            if trailing:
                self._feed(trailing)
            while self.end is None and (data := await self._receive()):
                self._heard.set()
                self._feed(data)
        except ServerViolation as exc:
            self._lost(Closed(1009 if isinstance(exc, MessageTooBig) else 1002, str(exc)))
            self.close(self.end.code if self.end else 1002)
        else:
            self._lost(Closed(1006, "the connection was lost"))
        # Our close frame, or the answer to the server's, is written before the stream is closed; within reason.
        if self._close is not None:
            with trio.move_on_after(self._settings.close_timeout):
                await self._close_written.wait()

    async def _receive(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(_READ))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return b""

    def _feed(self, data: bytes) -> None:
        for found in self._ws.feed(data):
            if isinstance(found, Closed):
                self._lost(found)
                self.close(1000 if found.code == 1005 else found.code)
                return
            self._take(self._form.decode(found), len(found))
        if self._ws.pong is not None:
            self._work.set()

    def _lost(self, end: Closed) -> None:
        """Note the end, but let the writer finish."""
        if self.end is None:
            self.end = end
            self.ended.set()
            self._space.set()

    async def _write(self) -> None:
        last = False
        while not last:
            while not self._due():
                self._work = trio.Event()
                await self._work.wait()
            data, last = self._batch()
            with trio.move_on_after(self._settings.write_timeout) as scope:
                try:
                    await self._stream.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._broken()
                    return
            if scope.cancelled_caught:
                self.abort("a write took too long")
                return
        self._close_written.set()

    async def _broken(self) -> None:
        """Nothing can be sent any more. What the server sent before is still read, and may say why; for a while."""
        self._close_written.set()
        await trio.sleep(self._settings.close_timeout)
        self.abort("the connection was lost")

    def _due(self) -> bool:
        data = self._queue and self.end is None
        return bool(data or self._ping_due or self._ws.pong is not None or self._close is not None)

    def _batch(self) -> tuple[bytes, bool]:
        """The next bytes to write, and whether they are the last."""
        if not self._ws.is_open:  # the server has sent its close frame: only the answer is sent, and no data
            self._queue.clear()
            return self._ws.close(*(self._close or (1000, ""))), True
        frames = [self._ws.take_pong()]
        if self._ping_due:
            self._ping_due = False
            frames.append(self._ws.ping())
        size = 0
        while self._queue and size < _BATCH and self.end is None:
            outgoing = self._queue.popleft()
            outgoing.taken = True
            frames.append(self._ws.message(outgoing.message))
            size += len(frames[-1])
        if size:
            self._offer_space()
        last = self._close is not None and (not self._queue or self.end is not None)
        if last and self._close is not None:
            frames.append(self._ws.close(*self._close))
        return b"".join(frames), last

    async def _watch(self) -> None:
        """Give up a server that is not heard."""
        while True:
            await trio.sleep(self._settings.ping_interval)
            self._heard = trio.Event()
            self._ping_due = True
            self._work.set()
            # In two halves: where this process itself stood still, the second begins when it runs again.
            for _ in range(2):
                with trio.move_on_after(self._settings.pong_timeout / 2):
                    await self._heard.wait()
            if not self._heard.is_set():
                self.abort("the server does not answer")
                return
