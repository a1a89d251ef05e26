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
    cancelled: bool = False
    """Cancelled by the client, and told so; nothing more is sent for it."""
    scope: trio.CancelScope | None = None
    """Around its handler while that runs."""


class Inbox:
    """Decoded messages that wait for the dispatcher: a memory channel with a gate in front."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._send, self._receive = trio.open_memory_channel[Request](math.inf)
        self._gate = trio.lowlevel.ParkingLot()
        self._closed = False

    def put(self, request: Request) -> None:
        """Add a request; never refuses, see the module's theory. After :meth:`close` it is dropped."""
        if not self._closed:
            self._send.send_nowait(request)

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
    """Requests of one connection that have not been answered yet, by id."""

    def __init__(self) -> None:
        self._by_id: dict[Id, Request] = {}
        self.concurrent = 0
        """Handlers that run beside the dispatcher."""

    def add(self, request: Request) -> None:
        """Enter a request. Raises :exc:`DuplicateId`; the request that has the id stays as it is."""
        if request.id is None:
            return
        if request.id in self._by_id:
            raise DuplicateId
        self._by_id[request.id] = request

    def discard(self, request: Request) -> None:
        """The request has been answered."""
        if request.id is not None and self._by_id.get(request.id) is request:
            del self._by_id[request.id]

    def cancel(self, ident: Id) -> Request | None:
        """Cancel the request with an id; None if there is none (it may just have been answered).

        The request is returned so that the caller can answer it, if its handler has not begun: a handler
        that runs is answered when it has ended.
        """
        request = self._by_id.get(ident)
        if request is None or request.cancelled:
            return None
        request.cancelled = True
        if request.scope is not None:
            request.scope.cancel(reason="cancelled by the client")
        return request

    def queued(self) -> list[Request]:
        """Requests whose handler has not begun."""
        return [request for request in self._by_id.values() if request.scope is None]

    def __iter__(self) -> Iterator[Request]:
        return iter(tuple(self._by_id.values()))
