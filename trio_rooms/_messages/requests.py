"""Requests from arrival to reply: the bounded inbox, and what is in flight.

Theory of operation. The reader puts every message of one read into the inbox, so it never stops in the
middle of what has been read; before the transport reads *again* it waits at the inbox's gate until fewer
than ``limit`` messages are left. So the bound is the limit plus what one read brings, TCP slows a peer
that sends faster than its handlers run, and control frames within what was read are still answered.

To wake the dispatcher for a message costs as much as handling it. So the reader may hand over a message and *rest*:
then the dispatcher reads by itself until it wakes the reader, which it does before it waits for anything but messages.

While answers of the client are waited for, the bound is another one, in bytes: the answer that a handler waits for may
stand behind messages that wait for the handler.

Every connection has these, and most are idle: a queue and a gate are made when the first message has to wait.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, TypeVar

import attrs
import trio

from .._errors import ActionError, DuplicateId
from .codec import Id
from .envelope import Message
from .router import Handler

T = TypeVar("T")

#: What stands for a result where the request has been answered already.
ANSWERED: Final[Any] = object()


@attrs.define(eq=False)
class Request:
    """A message on its way through the connection. Either it has a message, or an error to be told."""

    message: Message | None
    id: Id | None
    error: ActionError | None = None
    handler: Handler | None = None
    """Who is to handle the message; None for the library's own actions and unknown ones."""
    joins: str | None = None
    """The room that it asks to join."""
    cancelled: bool = False
    """Cancelled by the client."""
    scope: trio.CancelScope | None = None
    """Around its handler while that runs, and perhaps around what comes after it."""
    over: bool = False
    """Its handler has ended, too late to cancel it."""

    def cancel(self) -> bool:
        """Cancel it; whether the caller has to answer it now: a handler that runs is answered when it has ended."""
        if self.cancelled or self.over:
            return False
        self.cancelled = True
        if self.scope is not None:
            self.scope.cancel(reason="cancelled by the client")
        return self.scope is None


# What a message is charged that waits, besides its length: about what the objects around it take.
_CHARGE = 512

# One read may bring thousands of messages; others get their turn after this many.
_TAKES_PER_TURN = 32


@attrs.define(eq=False)
class Bound:
    """How many messages an inbox may hold; one for all of a node, which counts how often they were full."""

    messages: int
    bytes_ahead: int = 0
    """Bytes that it may hold instead, if that is more, while answers are waited for."""
    reached: int = 0
    """Times that reading had to wait for room."""
    reached_ahead: int = 0
    """The same, while answers were waited for."""

    def reach(self, ahead: bool) -> None:
        """Count that reading has to wait for room."""
        if ahead:
            self.reached_ahead += 1
        else:
            self.reached += 1

    def counts(self) -> Counter[str]:
        """How often each of the limits was reached, by its name."""
        return Counter(inbox_messages=self.reached, read_ahead_bytes=self.reached_ahead)


class Inbox:
    """Decoded messages that wait for the dispatcher, the only one who takes, with a gate in front.

    A request that comes while the dispatcher waits for one is handed to it at once and is never queued.
    """

    __slots__ = (
        "_ahead",
        "_bound",
        "_bytes",
        "_gate",
        "_handed",
        "_queue",
        "_taken",
        "closed",
        "reading",
        "resting",
        "waiting",
    )

    def __init__(self, bound: Bound) -> None:
        self._bound = bound
        self._queue: deque[Request] | None = None
        self._gate: trio.lowlevel.ParkingLot | None = None
        self.waiting: trio.lowlevel.Task | None = None
        """The dispatcher's task while it waits for a request: there is none, and none that is being handled."""
        self._handed: Request | None = None
        self._taken = 0
        self._ahead = 0  # requests to the client that wait
        self._bytes = 0  # what is charged for all that waits; only up to date while there are such requests
        self.closed: bool = False
        """Whether nothing more is taken in."""
        self.resting: trio.lowlevel.Task | None = None
        """The reader's task while it rests."""
        self.reading: trio.CancelScope | None = None
        """Around the dispatcher while it waits for what it reads by itself; cancelled by :meth:`close`."""

    def put(self, request: Request) -> bool:
        """Add a request; never refuses for want of room, see the module's theory. False after :meth:`close`."""
        if self.closed:
            return False
        if self.waiting is not None:
            self._handed = request
            self._wake()
        else:
            if self._queue is None:
                self._queue = deque()
            self._queue.append(request)
            if self._ahead:
                self._bytes += _charge(request)
        return True

    def begin_reading_ahead(self) -> None:
        """A request to the client waits for its answer, until :meth:`end_reading_ahead` is called."""
        if not self._ahead:
            self._bytes = sum(map(_charge, self._queue or ()))
        self._ahead += 1
        self._open_gate()

    def end_reading_ahead(self) -> None:
        """It does not wait any more. What has been read ahead stays."""
        self._ahead -= 1

    async def rest(self) -> None:
        """For the reader: leave the reading to the dispatcher, which has just been handed a request."""
        self.resting = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort_rest)

    def wake_reader(self) -> None:
        """For the dispatcher: leave the reading to the reader again, if it rests."""
        if self.resting is not None:
            trio.lowlevel.reschedule(self.resting)
            self.resting = None

    def room(self) -> Awaitable[None] | None:
        """As :meth:`wait_for_room`, but None where there is nothing to await."""
        return self.wait_for_room() if self._queue and self._full else None

    @property
    def _full(self) -> bool:
        if self.closed or len(self) < self._bound.messages:
            return False
        return not self._ahead or self._bytes >= self._bound.bytes_ahead

    async def wait_for_room(self) -> None:
        """The gate: what a transport awaits before it reads more. Open for ever once the inbox is closed.

        A checkpoint only if it is shut; reading is one anyway.
        """
        counted: bool | None = None
        while self._full:
            ahead = self._ahead > 0
            if ahead is not counted:
                counted = ahead
                self._bound.reach(ahead)
            if self._gate is None:
                self._gate = trio.lowlevel.ParkingLot()
            await self._gate.park()

    async def take(self) -> Request | None:
        """The next request; None when closed and empty.

        Sees a cancellation each time; with requests waiting, others get their turn every so many.
        """
        if self._queue:
            self._taken += 1
            if self._taken % _TAKES_PER_TURN:
                await trio.lowlevel.checkpoint_if_cancelled()
            else:
                await trio.lowlevel.checkpoint()
        if self._queue:
            request = self._queue.popleft()
            if self._ahead:
                self._bytes -= _charge(request)
            if not self._full:
                self._open_gate()
            return request
        if not self.closed:
            self.waiting = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        handed, self._handed = self._handed, None
        return handed

    async def first(self) -> Request | None:
        """Wait for the first request, which stays to be taken; None when closed and empty. As cancellable as that."""
        request = await self.take()
        if request is not None:
            if self._queue is None:
                self._queue = deque()
            self._queue.appendleft(request)
            if self._ahead:
                self._bytes += _charge(request)
        return request

    def close(self, *, discard: bool) -> None:
        """Take nothing more in; with ``discard`` forget what waits. Idempotent."""
        self.closed = True
        if discard:
            self._queue, self._bytes = None, 0
        self._open_gate()
        if self.waiting is not None:
            self._wake()
        if self.reading is not None:
            self.reading.cancel(reason="no more messages are taken")

    def __len__(self) -> int:
        return len(self._queue) if self._queue else 0

    def _open_gate(self) -> None:
        if self._gate is not None:
            self._gate.unpark_all()

    def _wake(self) -> None:
        assert self.waiting is not None
        trio.lowlevel.reschedule(self.waiting)
        self.waiting = None

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self.waiting = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _abort_rest(self, _: object) -> trio.lowlevel.Abort:
        self.resting = None
        return trio.lowlevel.Abort.SUCCEEDED


def _charge(request: Request) -> int:
    return _CHARGE if request.message is None else _CHARGE + len(request.message.whole)


async def send(channel: trio.MemorySendChannel[T], value: T, *, on_full: Callable[[], None]) -> None:
    """As ``channel.send(value)``; calls ``on_full`` where that has to wait for room."""
    await trio.lowlevel.checkpoint_if_cancelled()
    try:
        channel.send_nowait(value)
    except trio.WouldBlock:
        on_full()
        await channel.send(value)
    else:
        await trio.lowlevel.cancel_shielded_checkpoint()


class InFlight:
    """Requests of one connection that have not been answered yet, and messages without an id that still run."""

    __slots__ = ("_requests", "concurrent")

    def __init__(self) -> None:
        # What has no id stands under itself. None while there are none.
        self._requests: dict[Id | Request, Request] | None = None
        self.concurrent = 0
        """Handlers that run beside the dispatcher."""

    def add(self, request: Request) -> None:
        """Enter a request. Raises :exc:`DuplicateId`; the request that has the id stays as it is."""
        key = request if request.id is None else request.id
        if self._requests is None:
            self._requests = {key: request}
        elif self._requests.setdefault(key, request) is not request:
            raise DuplicateId

    def discard(self, request: Request) -> None:
        """The request has been answered, or is in this step: its id is free. Idempotent."""
        if self._requests is None:
            return
        key = request if request.id is None else request.id
        if self._requests.get(key) is request:
            del self._requests[key]
            if not self._requests:
                self._requests = None

    def find(self, ident: Id) -> Request | None:
        """The request with an id; None if there is none (it may just have been answered)."""
        return None if self._requests is None else self._requests.get(ident)

    def __iter__(self) -> Iterator[Request]:
        return iter(() if self._requests is None else tuple(self._requests.values()))
