"""Requests from arrival to reply: the bounded inbox, and what is in flight.

Theory of operation. The reader puts every message of one read into the inbox, so it never stops in the
middle of what has been read; before the transport reads *again* it waits at the inbox's gate until fewer
than ``limit`` messages are left. So the bound is the limit plus what one read brings, TCP slows a peer
that sends faster than its handlers run, and control frames within what was read are still answered.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

import attrs
import trio

from .._errors import ActionError, DuplicateId
from .codec import Id
from .envelope import Message

#: What stands for a result where the request has been answered already.
ANSWERED: Final[Any] = object()


@attrs.define(eq=False)
class Request:
    """A message on its way through the connection. Either it has a message, or an error to be told."""

    message: Message | None
    id: Id | None
    error: ActionError | None = None
    joins: str | None = None
    """The room that it asks to join."""
    cancelled: bool = False
    """Cancelled by the client."""
    scope: trio.CancelScope | None = None
    """Around its handler while that runs."""

    def cancel(self) -> bool:
        """Cancel it; whether the caller has to answer it now: a handler that runs is answered when it has ended."""
        if self.cancelled:
            return False
        self.cancelled = True
        if self.scope is not None:
            self.scope.cancel(reason="cancelled by the client")
        return self.scope is None


class Inbox:
    """Decoded messages that wait for the dispatcher: a memory channel with a gate in front."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._send, self._receive = trio.open_memory_channel[Request](math.inf)
        self._gate = trio.lowlevel.ParkingLot()
        self._closed = False

    def put(self, request: Request) -> bool:
        """Add a request; never refuses for want of room, see the module's theory. False after :meth:`close`."""
        if not self._closed:
            self._send.send_nowait(request)
        return not self._closed

    async def wait_for_room(self) -> None:
        """The gate: what a transport awaits before it reads more. Open for ever once the inbox is closed."""
        await trio.lowlevel.checkpoint()
        while not self._closed and len(self) >= self._limit:
            await self._gate.park()

    async def take(self) -> Request:
        """The next request. Raises ``trio.EndOfChannel`` when closed and empty. Always a checkpoint."""
        request = await self._receive.receive()
        if len(self) < self._limit:
            self._gate.unpark_all()
        return request

    def close(self, *, discard: bool) -> None:
        """Take nothing more in; with ``discard`` forget what waits. Idempotent."""
        self._closed = True
        self._send.close()
        self._gate.unpark_all()
        while discard:
            try:
                self._receive.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                return

    def __len__(self) -> int:
        return self._receive.statistics().current_buffer_used


class InFlight:
    """Requests of one connection that have not been answered yet, and messages without an id that still run."""

    def __init__(self) -> None:
        self._by_id: dict[Id, Request] = {}
        self._without_id: set[Request] = set()
        self.concurrent = 0
        """Handlers that run beside the dispatcher."""

    def add(self, request: Request) -> None:
        """Enter a request. Raises :exc:`DuplicateId`; the request that has the id stays as it is."""
        if request.id is None:
            self._without_id.add(request)
        elif request.id in self._by_id:
            raise DuplicateId
        else:
            self._by_id[request.id] = request

    def discard(self, request: Request) -> None:
        """The request has been answered."""
        if request.id is None:
            self._without_id.discard(request)
        elif self._by_id.get(request.id) is request:
            del self._by_id[request.id]

    def find(self, ident: Id) -> Request | None:
        """The request with an id; None if there is none (it may just have been answered)."""
        return self._by_id.get(ident)

    def __iter__(self) -> Iterator[Request]:
        return iter((*self._by_id.values(), *self._without_id))
