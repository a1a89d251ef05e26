"""What a client is told of what it asked for: results, errors, and nothing of what is not for it.

What a handler raises: an ActionError is told to the client. Anything else ends this connection with 1011
after its request was answered ``INTERNAL``, unless the recovery middleware turned it into an ActionError on
its way out. Either way it is reported, and nobody else notices.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

import trio

from ._boundary import says_only_gone
from ._errors import ActionError, ConnectionGone, EncodingError, InternalError, MessageTooLarge, OutboxFull, is_ours
from ._hooks import AlreadyReported
from ._messages.requests import ANSWERED, InFlight, Request
from ._wire.frames import Frame

if TYPE_CHECKING:
    from ._connection import Connection


class Failure:
    """An exception in the place of a result."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error


class HookFailed(InternalError):
    """An ``on_message`` hook raised what is not for the client, and is not reported yet."""


class Answers(InFlight):
    """The requests of one connection that have not been answered yet, and how they are."""

    __slots__ = ("_conn",)

    def __init__(self, conn: Connection) -> None:
        super().__init__()
        self._conn = conn

    def answer(self, request: Request, result: Any) -> Awaitable[None] | None:
        """Answer a request with its result, a :class:`Failure` or nothing more; what is to be awaited for it, if any.

        Most often the reply is queued when this returns. A connection that ends takes its replies with it, counted.
        """
        if type(result) is Failure:
            return self._told(request, result.error)
        if result is ANSWERED:
            self.discard(request)
            return None
        try:
            frame = self._reply_nowait(request, result)
        except Exception as exc:  # it cannot be encoded, or is too large
            return self._crashed(request, exc)
        return None if frame is None else self.send(frame)

    async def tell(self, request: Request, error: ActionError) -> None:
        """Tell the client that a request failed, or that a message without an id did."""
        self.discard(request)
        self._conn._node.counters.errors_told[error.code if is_ours(error) else "custom"] += 1
        try:
            await self.send(self._conn._format.error(request.id, error))
        except (EncodingError, MessageTooLarge) as exc:  # a code or a text of the program's
            await self.report(exc, f"the error {type(error).__name__} of action {name_of(request)}")
            self._conn.close(1011, "internal error")

    async def send(self, frame: Frame) -> None:
        """Send a part of an answer, waiting for room. Always a checkpoint."""
        try:
            await self._conn.outbox.send(frame)
        except ConnectionGone:
            self._conn.outbox.dropped += 1
            await trio.lowlevel.checkpoint()  # or a generator that yields for ever would never let go of the thread

    async def report(self, error: BaseException, what: str) -> None:
        """Report an error, unless it is that the client has gone: no news where its connection is ending."""
        if not (self._conn._ending and says_only_gone(error)):
            await self._conn._node.errors.report(self._conn, error, what)

    def _reply_nowait(self, request: Request, result: Any) -> Frame | None:
        """Queue a reply; the frame if there is no room for it."""
        self.discard(request)  # now: who has read the reply may use the id again
        if request.id is None:
            return None
        frame = self._conn._format.reply(request.id, result)
        try:
            self._conn.outbox.send_nowait(frame)
        except OutboxFull:
            return frame
        except ConnectionGone:
            self._conn.outbox.dropped += 1
        return None

    def _told(self, request: Request, error: Exception) -> Awaitable[None]:
        request.over = True
        return self._failed(request, error) if isinstance(error, ActionError) else self._crashed(request, error)

    async def _failed(self, request: Request, error: ActionError) -> None:
        fatal = isinstance(error, InternalError) and error.fatal
        if isinstance(error, InternalError) and error.__cause__ is not None:
            if not isinstance(error, AlreadyReported):  # which has been reported
                what = "on_message" if isinstance(error, HookFailed) else f"action {name_of(request)}"
                await self.report(error.__cause__, what)
            error = self._conn._node.told(error.__cause__)
        await self.tell(request, error)
        if fatal:
            self._conn.close(1011, "internal error")

    async def _crashed(self, request: Request, error: Exception) -> None:
        await self.report(error, f"action {name_of(request)}")
        await self.tell(request, self._conn._node.told(error))
        self._conn.close(1011, "internal error")


def name_of(request: Request) -> str:
    """The action of a request, for the log."""
    if request.message is None:
        return "?"
    action = request.message.action
    return repr((action or "")[:200]) if action is not None or request.handler is None else request.handler.action
