"""One wait for the sockets of all connections, instead of one for each.

Theory of operation. To wait for a socket by trio takes a system call that arms it anew each time, several objects and
four coroutines: a good part of what a small message costs, and some of the memory of an idle connection. So sockets are
told to the system once, in an epoll set of the node's own, which is itself something that can be waited for. One task
waits for the set by trio, asks it which sockets can be read, and reschedules the tasks that read them.

The set is edge-triggered: it speaks once of what has come, and then not until more comes. So each reader remembers
whether something may be left: from an event until a read has brought less than was asked for, and for ever once the
event was that the peer will send no more.

The way by the poller's task takes one turn of the scheduler more, which for many sockets at a time is nothing, and for
a single one is more than what is saved. So who has the line for itself is left to trio: a reader whose messages keep
coming alone while no more than a few others do. There are few of those, and a new one takes the place of the oldest.
"""

from __future__ import annotations

import select
import socket
import sys
from collections import deque
from typing import Final

import trio

# So many sockets are asked for at a time; the others come next.
_MOST: Final = 256

# So many readers may be left to trio; and so many of those that came alone last are looked at.
_LONERS: Final = 4

# So many times a reader must have come alone, with no more than that many others coming meanwhile.
_TIMES_ALONE: Final = 8


def make_poller() -> Poller | None:
    """A poller; None where there is no epoll."""
    return Poller() if sys.platform == "linux" else None


class Poller:
    """Reschedules the tasks that read sockets; see the module's theory. While its task does not run, they wait."""

    def __init__(self) -> None:
        self.readers: dict[int, PolledInput] = {}
        """Those that this wakes, by the number of the socket's descriptor."""
        self._epoll: select.epoll | None = None
        self._alone: dict[PolledInput, int] = {}
        """How often those that came alone last have done so; the latest is the last."""
        self._loners: deque[PolledInput] = deque()

    def watch(self, reader: PolledInput, descriptor: int) -> None:
        """Wake ``reader`` whenever more has come, until :meth:`forget`; and soon, if something is there already."""
        self._set().register(descriptor, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)
        self.readers[descriptor] = reader

    def forget(self, reader: PolledInput, descriptor: int) -> None:
        """The socket is about to be closed, which takes it out of the set. ``descriptor`` is -1 if it is not there."""
        self.readers.pop(descriptor, None)
        self._alone.pop(reader, None)
        if reader in self._loners:
            self._loners.remove(reader)

    async def run(self) -> None:
        """Wake readers until cancelled."""
        with self._set() as epoll:
            while True:
                await trio.lowlevel.wait_readable(epoll)
                # Where several come at a time there will be more soon, and to ask again is cheaper than to wait.
                while len(events := epoll.poll(0, _MOST)) > 1:
                    for descriptor, flags in events:
                        self._wake(descriptor, flags)
                    await trio.lowlevel.checkpoint()
                if events:
                    reader = self._wake(*events[0])
                    if reader is not None:
                        self._came_alone(reader, events[0][0])

    def _wake(self, descriptor: int, flags: int) -> PolledInput | None:
        reader = self.readers.get(descriptor)
        if reader is not None:
            reader.wake(flags != select.EPOLLIN)
        return reader

    def _came_alone(self, reader: PolledInput, descriptor: int) -> None:
        times = self._alone.pop(reader, 0) + 1
        if times < _TIMES_ALONE:
            self._alone[reader] = times
            if len(self._alone) > _LONERS:
                del self._alone[next(iter(self._alone))]
            return
        self._set().unregister(descriptor)
        del self.readers[descriptor]
        reader.leave()
        self._loners.append(reader)
        if len(self._loners) > _LONERS:
            self._loners.popleft().come_back()

    def _set(self) -> select.epoll:
        if self._epoll is None:
            self._epoll = select.epoll()
        return self._epoll


class PolledInput:
    """Reads the socket of a :class:`~trio_rooms._wire.plain.PlainStream`; see ``input.Input``."""

    __slots__ = ("_by_poller", "_descriptor", "_ended", "_poller", "_ready", "_socket", "_task")

    def __init__(self, plain: socket.socket, poller: Poller) -> None:
        self._socket = plain
        self._poller = poller
        self._by_poller = True
        self._descriptor = -1  # while the poller does not know of it
        self._task: trio.lowlevel.Task | None = None
        self._ready = False
        self._ended = False

    async def read(self, max_bytes: int) -> bytes:
        """See ``input.Input``."""
        while True:  # noqa: ASYNC913 - each branch is a checkpoint
            if self._ready:
                await trio.lowlevel.checkpoint()
            elif self._by_poller:
                if self._descriptor < 0:
                    self._begin()
                if self._task is not None:
                    raise trio.BusyResourceError("another task reads this socket")  # as trio has it
                self._task = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._abort)
            else:
                await trio.lowlevel.wait_readable(self._check_open())
            try:
                data = self._socket.recv(max_bytes)
            except BlockingIOError:
                self._ready = False  # what was announced has been read before, with what was there already
            else:
                self._ready = self._ended or len(data) == max_bytes
                return data

    def wake(self, ended: bool) -> None:
        """More has come, or the end."""
        self._ready = True
        if ended:
            self._ended = True
        self._reschedule()

    def leave(self) -> None:
        """The poller has forgotten it: from the next time on trio waits."""
        self._by_poller = False
        self._descriptor = -1

    def come_back(self) -> None:
        """From the next time on the poller waits again."""
        self._by_poller = True

    def close(self) -> None:
        """The socket is about to be closed. A read that waits fails."""
        self._poller.forget(self, self._descriptor)
        self._descriptor = -1
        self._reschedule()

    def _begin(self) -> None:
        descriptor = self._check_open()
        self._poller.watch(self, descriptor)
        self._descriptor = descriptor

    def _check_open(self) -> int:
        descriptor = self._socket.fileno()
        if descriptor < 0:
            raise trio.ClosedResourceError("the socket was closed")
        return descriptor

    def _reschedule(self) -> None:
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)
            self._task = None

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED
