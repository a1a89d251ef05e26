"""The one owner of a connection's way out: data, pings, the close, and their order.

Theory of operation. One task, the writer, runs :meth:`Sink.run` and is the only one that ever waits for the peer to
read. It is started when something is to be written that is the writer's. Where there is a plain socket that is rarely
so, and the writer ends when all is written and is started anew, for to wait it would hold more than a kilobyte; over
any other stream, where all is the writer's, it is parked.

Between two batches it looks what is due: the rest of what the socket took a part of, what the receiving side of the
transport owes the peer (a pong, the answer to a close frame), a ping, then data. The close goes out in two ways:
politely, behind the data (``finish``, then ``run`` returns when the queue is empty, and the connection closes the
transport), or ahead of it (``discard``, which counts what is thrown away). A write that times out has torn a frame
perhaps, so it ends the connection.

While the writer is parked, or there is none, everything that was due is written. If then something comes, and there
is a plain socket, waking the writer for it would cost several times the write. So a pong or a ping is offered to the
socket at once, and for data the sink asks for a turn of the node's flusher, which calls ``Outbox.flush``: the same
bytes in the same order, written without waiting. What the socket does not take is the writer's again, and while that
one is at work nobody else writes.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import trio

from .flusher import Flusher
from .frames import Frame, make_frame
from .outbox import Outbox
from .transport import Transport, TransportClosed

# Where the first frame is to stand. Nothing is written while it does, and no policy removes what is private.
_PLACE: Final = make_frame(b"", text=True)


class WriteTimedOut(Exception):
    """A write took longer than ``write_timeout``; the stream may be torn. Internal."""


class Sink:
    """Order and timing of everything that one connection writes. Without a flusher the writer writes it all."""

    __slots__ = (
        "_begun",
        "_finishing",
        "_flusher",
        "_held",
        "_in_hand",
        "_ping_begun",
        "_ping_due",
        "_pinged",
        "_start_again",
        "_start_writer",
        "_transport",
        "_write_buffer_size",
        "_write_timeout",
        "_writer",
        "outbox",
    )

    def __init__(
        self,
        form: object,
        *,
        max_messages: int,
        max_bytes: int,
        write_buffer_size: int,
        write_timeout: float,
        flusher: Flusher | None = None,
    ) -> None:
        self.outbox = Outbox(
            form, max_messages=max_messages, max_bytes=max_bytes, max_write=write_buffer_size, outlet=self
        )
        self._write_buffer_size = write_buffer_size
        self._write_timeout = write_timeout
        self._flusher = flusher
        self._transport: Transport | None = None
        self._in_hand = 0
        """Frames that are out of the queue, of which the socket has not taken the last byte."""
        self._begun = False
        """The same of a control frame that was offered."""
        self._start_writer: Callable[[], object] | None = None
        """There is no writer, and this starts it."""
        self._start_again: Callable[[], object] | None = None
        """There is one, and this is for the time after it."""
        self._held: Callable[[], object] | None = None
        """What starts the writer, while data is held back; see :meth:`hold`."""
        self._writer: trio.lowlevel.Task | None = None
        self._finishing = False
        self._ping_due = False
        self._ping_begun = math.inf
        self._pinged: trio.lowlevel.ParkingLot | None = None

    def begin(self, transport: Transport, start_writer: Callable[[], object]) -> None:
        """From now on what is queued is written; what :meth:`run` has to write makes this call ``start_writer``.

        That happens only while there is no writer, until :meth:`discard`, in the midst of anything: it must not raise.
        """
        self._attach(transport)
        transport.on_control = partial(self._on_control, transport)
        self._start_writer = start_writer
        if self._transport is not None:
            self.outbox.send_now = transport.direct
        if self.outbox:
            self.wake_writer()

    def hold(self, transport: Transport, start_writer: Callable[[], object]) -> None:
        """As :meth:`begin`, but data is held back until :meth:`release`: only control frames are written.

        What :meth:`release` is given will stand in front of what is held back.
        """
        transport.on_control = partial(self._on_control, transport)
        self._start_writer = self._held = start_writer
        self.outbox.send_nowait(_PLACE)

    def release(self, transport: Transport, first: Frame) -> None:
        """Write ``first``, whatever the bounds, and behind it what was held back; go on as if by :meth:`begin`."""
        start, self._held = self._held, None
        if start is None or self._finishing:  # it was thrown away with all that was held back
            return
        backlog = self.outbox.backlog
        assert backlog is not None
        backlog.replace_first(first)
        if self._start_writer is not None:
            self.begin(transport, start)
            return
        self._attach(transport)
        if self._transport is not None:
            self._start_again = start
        self.wake_writer()

    def _attach(self, transport: Transport) -> None:
        transport.on_control = self.wake_writer
        if transport.direct is not None and self._flusher is not None:
            self._transport = transport
            self.outbox.leave_to_flusher()

    def _on_control(self, transport: Transport) -> None:
        # To start a writer only for the answer to a close frame would cost more than the rest of the connection's end.
        # The close of the transport answers, too; ``wake_writer`` is for whoever knows that it will be long in coming.
        if transport.peer_closed:
            if self._start_writer is None:
                self.wake_writer()
        elif not self._offer(transport.offer_control):
            self.wake_writer()

    def _offer(self, offer: Callable[[], bool]) -> bool:
        """Have a control frame written without the writer, if it may be now; whether it is out of the sink's hands."""
        if self.outbox.send_now is None:
            return False
        try:
            self._begun = not offer()
        except TransportClosed:
            return False  # the writer will meet it, and tell
        if self._begun:
            self.wake_writer()
        return True

    async def run(self, transport: Transport) -> None:
        """Write until nothing is left, and :meth:`finish` or :meth:`discard` was called or it can be started anew.

        Raises ``TransportClosed`` and :exc:`WriteTimedOut`; then, and when cancelled in a write, the
        transport is good for nothing but ``close``, which knows what was torn, and ``abort``.
        """
        if self._held is None:
            self._attach(transport)
        while True:  # noqa: ASYNC913 - the writer waits whenever there is nothing to write
            if self._in_hand or self._begun:
                await self._write_rest(transport)
            elif transport.control_due:
                await self._in_time(transport.send_control)
            elif self._ping_due:
                await self._write_ping(transport)
            elif self.outbox and self._held is None:
                await self._write(transport)
            elif self._finishing:
                return
            elif self._start_again is not None:
                self._start_writer, self._start_again = self._start_again, None
                transport.on_control = partial(self._on_control, transport)
                self.outbox.send_now = transport.direct
                return
            else:  # sleep until woken; a bare task in a slot, because an Event per idle connection adds up
                self._writer = trio.lowlevel.current_task()
                if self._transport is not None:
                    self.outbox.send_now = self._transport.direct
                await trio.lowlevel.wait_task_rescheduled(self._abort)

    def blocked(self, count: int, data: bytes, taken: int) -> None:
        """Leave the rest of ``data``, which is ``count`` frames, to the writer."""
        self.wake_writer()
        if not taken:
            return  # they stay in the queue, where a policy may still remove them
        assert self._transport is not None
        self._transport.keep_rest(data, taken)
        frames = self.outbox.take_first(count)
        for frame in frames:
            taken -= len(frame.data)
            if taken < 0:
                break
            count -= 1
        self._in_hand = count
        self.outbox.wrote(len(frames) - count)

    def failed(self) -> None:
        """Let the writer meet what a flush has met, and tell."""
        self.wake_writer()

    async def ping(self) -> float:
        """Have a ping written ahead of the data; returns when its write began, so that no pong came before."""
        begun = trio.current_time()
        if self._transport is not None and self._offer(self._transport.offer_ping):
            return begun
        self._ping_due = True
        self.wake_writer()
        if self._pinged is None:
            self._pinged = trio.lowlevel.ParkingLot()
        await self._pinged.park()
        return self._ping_begun

    def finish(self) -> None:
        """Take in nothing more; :meth:`run` returns when all is written, and is not begun if that is so already."""
        self.outbox.close()
        self._finishing = True
        if self._start_writer is not None:
            self.outbox.flush()
            if not self.outbox:
                return
        self.wake_writer()

    def discard(self) -> None:
        """Take in nothing more and throw away what waits; :meth:`run` returns."""
        self.outbox.discard()
        if self._in_hand:
            self.outbox.gave_up(self._in_hand)
            self._in_hand = 0
        self._begun = False
        self._finishing = True
        self._start_again = None
        if self._start_writer is not None:
            self._start_writer = self.outbox.send_now = None
        self.wake_writer()

    async def _write(self, transport: Transport) -> None:
        """Write a batch, in as many writes as the transport makes of it."""
        batch = self.outbox.take(self._write_buffer_size)
        try:
            while batch:
                with trio.move_on_after(self._write_timeout) as scope:
                    written = await transport.send(batch)
                    self.outbox.wrote(written)
                    del batch[:written]
                if scope.cancelled_caught:
                    raise WriteTimedOut
        finally:
            if batch:
                self.outbox.gave_up(len(batch))

    async def _write_rest(self, transport: Transport) -> None:
        """What is left of what was written without the writer."""
        await self._in_time(transport.send_rest)
        self._begun = False
        if self._in_hand:
            self.outbox.wrote(self._in_hand)
            self._in_hand = 0

    async def _write_ping(self, transport: Transport) -> None:
        self._ping_due = False
        self._ping_begun = trio.current_time()
        await self._in_time(transport.ping)
        if self._pinged is not None:
            self._pinged.unpark_all()

    async def _in_time(self, write: Callable[[], Awaitable[None]]) -> None:
        with trio.move_on_after(self._write_timeout) as scope:
            await write()
        if scope.cancelled_caught:
            raise WriteTimedOut

    def wake(self) -> None:
        """Have written what was queued: by the flusher where that is possible, else by the writer."""
        if self._flusher is None or self._transport is None:
            if self._held is None:
                self.wake_writer()
        elif self._writer is not None or self._start_writer is not None:
            self._flusher.mark(self.outbox)

    def wake_writer(self) -> None:
        """Have the writer look what is due, unless it is at work, or not begun any more."""
        if self._writer is not None:
            trio.lowlevel.reschedule(self._writer)
            self._writer = self.outbox.send_now = None
        elif self._start_writer is not None:
            start, self._start_writer = self._start_writer, None
            if self._transport is not None:
                self._start_again = start
            self.outbox.send_now = None
            start()

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._writer = self.outbox.send_now = None
        return trio.lowlevel.Abort.SUCCEEDED
