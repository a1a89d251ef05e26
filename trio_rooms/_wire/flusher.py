"""One task that writes for all connections of a node, as long as no socket makes it wait.

Theory of operation. Waking one writer task per member costs several times what the write does, and keeps so many
short-lived objects alive that Python's garbage collector becomes the second cost. So whoever queues something for
a connection only marks its outbox. The flusher runs when the scheduler next gets to it, which is after every task
that could run has done its publishing: a loop that publishes 64 times before its next checkpoint costs one write per
member.

It works in slices, with a checkpoint after each, so that a publication to ten thousand members holds nobody up for
longer than one of them. Outboxes that were marked one by one (a reply, a message to one) go first in each slice: they
are few, and somebody waits for them. The order of one connection is not touched by that; it has one queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import trio

# So many writes of some microseconds each are made between two checkpoints, each of which costs as much as one or two
# of them. With twice as many a delivery in a busy room costs some hundredths more, for less is published meanwhile that
# the next writes could take along; in an idle room it costs the same.
_SLICE = 64


class Flushable(Protocol):
    """An outbox, for the flusher."""

    def flush(self) -> None:
        """Write what can be written without waiting. Must not raise."""


def flush_each(outboxes: Iterable[Flushable]) -> None:
    """Flush outboxes, one after the other."""
    for outbox in outboxes:
        outbox.flush()


class Flusher:
    """See the module's theory. While its task does not run, outboxes are flushed the moment they are marked.

    ``flush_all`` flushes many, for who knows a quicker way than each by itself.
    """

    def __init__(self, flush_all: Callable[[Iterable[Any]], None] = flush_each) -> None:
        self._flush_all = flush_all
        self._ones: deque[Flushable] = deque()
        self.many: list[Flushable] = []
        """What a fan-out has to have flushed, behind those that are marked one by one; :meth:`marked_many` is next."""
        self._under_way: list[Flushable] = []
        """The same, of which some have been flushed. The next one is the last."""
        self._parked: trio.lowlevel.Task | None = None
        self._running = False

    def mark(self, outbox: Flushable) -> None:
        """Have ``outbox.flush()`` called soon. One that is marked twice is flushed twice."""
        if self._running:
            self._ones.append(outbox)
            self._wake()
        else:
            outbox.flush()

    def marked_many(self) -> None:
        """Have flushed soon what was added to :attr:`many`."""
        if self._parked is not None:
            if self.many:
                self._wake()
        elif not self._running:
            while self.many or self._under_way:
                self._flush_slice()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Flush until cancelled, and then what is left."""
        self._running = True
        task_status.started()
        try:
            while True:
                if not self._ones and not self.many and not self._under_way:
                    await self._park()
                self._flush_slice()
                await trio.lowlevel.checkpoint()
        finally:
            self._running = False
            while self._ones or self.many or self._under_way:
                self._flush_slice()

    def _flush_slice(self) -> None:
        # Not those that are marked meanwhile: an outbox whose peer reads as fast as we write could go on for ever.
        self._flush_all([self._ones.popleft() for _ in range(min(len(self._ones), _SLICE))])
        if not self._under_way:
            self._under_way, self.many = self.many, []
            self._under_way.reverse()
        batch = self._under_way[-_SLICE:]
        del self._under_way[-_SLICE:]
        self._flush_all(reversed(batch))

    def _wake(self) -> None:
        if self._parked is not None:
            trio.lowlevel.reschedule(self._parked)
            self._parked = None

    async def _park(self) -> None:
        self._parked = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._parked = None
        return trio.lowlevel.Abort.SUCCEEDED
