"""Requests that wait for their answers, by id."""

from __future__ import annotations

from typing import Any, Protocol

import trio

from .._errors import UsageError
from ._config import ClientConfig
from ._errors import NotConfirmed, RequestFailed, ServerViolation, StreamOverflow
from ._inbox import Inbox
from ._statistics import Counts


class Pending(Protocol):
    """Somebody who waits for an answer."""

    def take(self, message: dict[str, Any], size: int) -> bool:
        """Act on a message with the id; whether it was the last one."""
        ...

    def lose(self) -> None:
        """The connection was lost: no answer will come."""
        ...


class Requests:
    """Those of one client. Ids are never used twice, so an answer that comes late finds nobody."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._pending: dict[int, Pending] = {}
        self._last = 0

    def add(self, pending: Pending) -> int:
        """Begin to wait; the id."""
        self._last += 1
        self._pending[self._last] = pending
        return self._last

    def remove(self, ident: int) -> None:
        """Wait no longer. Idempotent."""
        self._pending.pop(ident, None)

    def settle(self, ident: object, message: dict[str, Any], size: int) -> None:
        """Give an answer to whoever waits for it."""
        pending = self._pending.get(ident) if isinstance(ident, int) else None
        if not isinstance(ident, int) or pending is None:
            self._counts.unexpected += 1
        elif pending.take(message, size):
            self.remove(ident)

    def lose(self) -> None:
        """The connection is lost, and with it every answer."""
        lost, self._pending = self._pending, {}
        for pending in lost.values():
            pending.lose()


class Reply:
    """Waits for one answer."""

    def __init__(self) -> None:
        self._done = trio.Event()
        self._data: Any = None
        self._error: Exception | None = None
        self.lost: bool = False
        """Whether the connection was lost first."""
        self.streamed: bool = False
        """Whether the answer turned out to be a streamed one."""

    @property
    def open(self) -> bool:
        """Whether an answer may still come."""
        return self.streamed or not self._done.is_set()

    def take(self, message: dict[str, Any], size: int) -> bool:
        """See :class:`Pending`."""
        self._done.set()
        if "error" in message:
            self._error = failure(message["error"])
        elif "more" in message:
            self.streamed = True
            self._error = UsageError("the reply is a streamed one: use client.stream")
        else:
            self._data = message.get("data")
        return True

    def lose(self) -> None:
        """See :class:`Pending`."""
        self.lost = True
        self._done.set()

    async def wait(self) -> None:
        """Until there is an answer, or none will come."""
        await self._done.wait()

    def result(self) -> Any:
        """The data. Raises RequestFailed."""
        if self._error is not None:
            raise self._error
        return self._data


class StreamReply:
    """Waits for the items of a streamed reply, which are kept until somebody takes them."""

    def __init__(self, settings: ClientConfig) -> None:
        self.inbox: Inbox[Any] = Inbox(settings.buffer_messages, settings.buffer_bytes)
        self.open: bool = True
        """Whether the server may still send items."""

    def take(self, message: dict[str, Any], size: int) -> bool:
        """See :class:`Pending`. One plain reply counts as one item."""
        if "error" in message:
            self._finish(failure(message["error"]))
        elif ("data" in message or message.get("more")) and not self.inbox.put(message.get("data"), size):
            self.inbox.finish(StreamOverflow("the items are not taken fast enough"))
            return True
        elif not message.get("more"):
            self._finish(AllItems())
        return not self.open

    def lose(self) -> None:
        """See :class:`Pending`."""
        self._finish(NotConfirmed("the connection was lost before all items had come"))

    def _finish(self, end: Exception) -> None:
        self.open = False
        self.inbox.finish(end)


class Items:
    """The items of a streamed reply: ``async for item in items``. Made by ``client.stream``."""

    def __init__(self, reply: StreamReply) -> None:
        self._reply = reply

    def __aiter__(self) -> Items:
        """Itself: each item is given once."""
        return self

    async def __anext__(self) -> Any:
        """The next item. Raises RequestFailed, NotConfirmed, StreamOverflow. A cancel loses nothing."""
        try:
            return await self._reply.inbox.receive()
        except AllItems:
            raise StopAsyncIteration from None


class AllItems(Exception):
    """The end of a streamed reply."""


def failure(error: object) -> RequestFailed:
    """An error of the server's. Raises ServerViolation."""
    if not isinstance(error, dict) or not isinstance(error.get("code"), str):
        raise ServerViolation("an error without a code")
    return RequestFailed(error["code"], str(error.get("message") or ""), temporary=bool(error.get("temporary")))
