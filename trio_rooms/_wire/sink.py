"""The one owner of a connection's way out: data, pings, the close, and their order.

Theory of operation. One task, the writer, runs :meth:`Sink.run` and is the only one that writes. Between
two batches it looks what is due: what the receiving side of the transport owes the peer (a pong, the answer to a
close frame), a ping, then data. The close goes out in two ways: politely, behind the data (``finish``, then
``run`` returns when the queue is empty, and the connection closes the transport), or ahead of it (``discard``,
which counts what is thrown away). A write that times out has torn a frame perhaps, so it ends the connection.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from .frames import Frame
from .outbox import Outbox
from .transport import Transport


class WriteTimedOut(Exception):
    """A write took longer than ``write_timeout``; the stream may be torn. Internal."""


class Sink:
    """Order and timing of everything that one connection writes."""

    def __init__(
        self, form: object, *, max_messages: int, max_bytes: int, write_buffer_size: int, write_timeout: float
    ) -> None:
        self.outbox = Outbox(form, max_messages=max_messages, max_bytes=max_bytes, wake=self._wake)
        self._write_buffer_size = write_buffer_size
        self._write_timeout = write_timeout
        self._writer: trio.lowlevel.Task | None = None
        self._finishing = False
        self._ping_due = False
        self._pinged = trio.lowlevel.ParkingLot()

    async def run(self, transport: Transport) -> None:
        """Write until :meth:`finish` or :meth:`discard` was called and nothing is left.

        Raises :exc:`TransportClosed` and :exc:`WriteTimedOut`; then, and when cancelled in a write, the
        transport is good for nothing but ``abort``.
        """
        transport.on_control = self._wake
        while True:  # noqa: ASYNC913 - the writer waits whenever there is nothing to write
            if transport.control_due:
                await self._in_time(transport.send_control)
            elif self._ping_due:
                await self._write_ping(transport)
            elif batch := self.outbox.take(self._write_buffer_size):
                await self._write(transport, batch)
            elif self._finishing:
                return
            else:
                await self._park()

    async def ping(self) -> float:
        """Have a ping written ahead of the data; returns the time when it was."""
        self._ping_due = True
        self._wake()
        await self._pinged.park()
        return trio.current_time()

    def finish(self) -> None:
        """Take in nothing more; :meth:`run` returns when all is written."""
        self.outbox.close()
        self._finishing = True
        self._wake()

    def discard(self) -> None:
        """Take in nothing more and throw away what waits; :meth:`run` returns."""
        self.outbox.discard()
        self._finishing = True
        self._wake()

    async def _write(self, transport: Transport, batch: list[Frame]) -> None:
        """Write a batch, in as many writes as the transport makes of it."""
        try:
            while batch:
                with trio.move_on_after(self._write_timeout) as scope:
                    written = await transport.send(batch)
                    self.outbox.written += written
                    del batch[:written]
                if scope.cancelled_caught:
                    raise WriteTimedOut
        finally:
            self.outbox.discarded += len(batch)

    async def _write_ping(self, transport: Transport) -> None:
        self._ping_due = False
        await self._in_time(transport.ping)
        self._pinged.unpark_all()

    async def _in_time(self, write: Callable[[], Awaitable[None]]) -> None:
        with trio.move_on_after(self._write_timeout) as scope:
            await write()
        if scope.cancelled_caught:
            raise WriteTimedOut

    def _wake(self) -> None:
        if self._writer is not None:
            trio.lowlevel.reschedule(self._writer)
            self._writer = None

    async def _park(self) -> None:
        """Sleep until woken; a bare task in a slot, because an Event per idle connection adds up."""
        self._writer = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._writer = None
        return trio.lowlevel.Abort.SUCCEEDED
