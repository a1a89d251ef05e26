"""What a program says to the server: over the connection that there is, or the next one.

Theory of operation. A message is queued on one connection, and that may be lost at any time. Nothing is told of what
was still in the queue: it was certainly not sent, so it is queued anew on the next connection. What was on its way may
have been done or not; then it is the caller's word that decides, who knows whether it may be done twice.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
from msgspec import UNSET

from ._config import ClientConfig
from ._errors import LinkLost, NotConfirmed
from ._link import Link, Outgoing
from ._requests import Items, Pending, Reply, Requests, StreamReply

#: Codes that say that the client itself did wrong: whatever did it is not sent again.
_OUR_FAULT = frozenset({1002, 1007, 1009})


@attrs.frozen
class _Asked:
    """A request that was queued."""

    link: Link
    ident: int
    outgoing: Outgoing


class Asking:
    """See the module's theory. ``wait_link`` returns the connection as soon as there is one, or raises ClientEnded."""

    def __init__(self, settings: ClientConfig, requests: Requests, wait_link: Callable[[], Awaitable[Link]]) -> None:
        self._settings = settings
        self._requests = requests
        self._wait_link = wait_link

    async def request(
        self, action: str, data: object = UNSET, *, room: str | None = None, idempotent: bool = False
    ) -> Any:
        """See ``RoomsClient.request``."""
        while True:
            reply = Reply()
            asked = await self._ask(action, data, room, reply)
            try:
                await reply.wait()
            finally:
                self._forget(asked, unanswered=reply.open)
            if not reply.lost:
                return reply.result()
            at_fault = asked.link.end is not None and asked.link.end.code in _OUR_FAULT
            if asked.outgoing.taken and (at_fault or not idempotent):
                raise NotConfirmed(f"the connection was lost before {action!r} was answered")

    @asynccontextmanager
    async def stream(self, action: str, data: object, *, room: str | None) -> AsyncIterator[Items]:
        """See ``RoomsClient.stream``."""
        reply = StreamReply(self._settings)
        asked = await self._ask(action, data, room, reply)
        try:
            yield Items(reply)
        finally:
            self._forget(asked, unanswered=reply.open)

    async def send(self, action: str, data: object, *, room: str | None) -> None:
        """See ``RoomsClient.send``."""
        while True:
            link = await self._wait_link()
            try:
                await link.send(_envelope(action, data, None, room))
            except LinkLost:
                continue
            return

    async def _ask(self, action: str, data: object, room: str | None, pending: Pending) -> _Asked:
        while True:
            link = await self._wait_link()
            ident = self._requests.add(pending)
            try:
                return _Asked(link, ident, await link.send(_envelope(action, data, ident, room)))
            except LinkLost:
                self._requests.remove(ident)
            except BaseException:
                self._requests.remove(ident)
                raise

    def _forget(self, asked: _Asked, *, unanswered: bool) -> None:
        """Nobody waits any more; the server is told if it still works on it."""
        self._requests.remove(asked.ident)
        if unanswered and not asked.link.recall(asked.outgoing):
            asked.link.send_now({"action": "$cancel", "data": {"id": asked.ident}})


def _envelope(action: str, data: object, ident: int | None, room: str | None) -> dict[str, Any]:
    """A message to the server. With an id, it is told how long the caller will wait."""
    message: dict[str, Any] = {"action": action}
    if data is not UNSET:
        message["data"] = data
    if room is not None:
        message["room"] = room
    if ident is not None:
        message["id"] = ident
        left = trio.current_effective_deadline() - trio.current_time()
        if math.isfinite(left):
            message["timeout_ms"] = max(1, int(left * 1000))
    return message
