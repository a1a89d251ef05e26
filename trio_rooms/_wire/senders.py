"""Tasks that wait until an outbox has room for their frame: first come, first served."""

from __future__ import annotations

from collections import deque
from typing import Protocol

import attrs
import trio

from .frames import Frame


class Queue(Protocol):
    """Where the frames are to go."""

    def append_if_fits(self, senders: Senders) -> bool:
        """Take the first frame of ``senders``, with :meth:`Senders.pop`, if there is room for it; whether there was."""
        ...


@attrs.define(eq=False)
class _Ticket:
    task: trio.lowlevel.Task
    frame: Frame
    queued: bool = False


class Senders:
    """Who waits in front of one outbox."""

    __slots__ = ("_queue", "_tickets")

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._tickets: deque[_Ticket] = deque()

    def __bool__(self) -> bool:
        return bool(self._tickets)

    def __len__(self) -> int:
        return len(self._tickets)

    @property
    def first(self) -> Frame:
        """The frame of who has waited longest."""
        return self._tickets[0].frame

    async def wait(self, frame: Frame) -> bool:
        """Wait until the frame is queued, or never will be; whether it is. When it is cancelled, it is not."""
        ticket = _Ticket(trio.lowlevel.current_task(), frame)
        self._tickets.append(ticket)

        def abort(_: object) -> trio.lowlevel.Abort:
            self._tickets.remove(ticket)
            self.admit()  # who is behind it may have a smaller one
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        return ticket.queued

    def admit(self) -> None:
        """Have the frames queued, in their order, as far as there is room."""
        while self._tickets and self._queue.append_if_fits(self):
            pass

    def pop(self) -> Frame:
        """Take out the first frame, which is being queued: its task goes on."""
        ticket = self._tickets.popleft()
        ticket.queued = True
        trio.lowlevel.reschedule(ticket.task)
        return ticket.frame

    def end(self) -> None:
        """There will be no room any more: everybody goes on."""
        while self._tickets:
            trio.lowlevel.reschedule(self._tickets.popleft().task)
