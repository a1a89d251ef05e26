"""From a message that was read to the reply that is written, for one connection.

Theory of operation. The reader calls :meth:`Dispatcher.received` for each message. What must not wait for a
handler (``$cancel``, ``$leave``) acts there and then; everything else goes to the inbox. The connection's own
task takes it out, in order: ``on_message``, payload decoded, middleware, handler, reply. Handlers that are
concurrent, or stream, run beside in tasks of their own, bounded in number.

A ``def`` handler that has nobody before it is called by the reader at once, in the connection's context: to wake
the connection's task for it costs as much as all the rest. What it leaves to do, if anything (an error to report, an
awaitable that it returned, a reply for which there is no room), is that task's, as if that had called the handler.

What a handler raises: an ActionError is told to the client. Anything else ends this connection with 1011
after its request was answered ``INTERNAL``, unless the recovery middleware turned it into an ActionError on
its way out. Either way it is reported, and nobody else notices.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import trio

from ._boundary import own_cancellations_only, says_only_gone
from ._builtins import cancel, join, leave, room_to_join
from ._context import enter_handler
from ._errors import (
    ActionError,
    BadMessage,
    Busy,
    ConnectionGone,
    DuplicateId,
    EncodingError,
    InternalError,
    MessageTooLarge,
    OutboxFull,
    UnknownAction,
    is_ours,
)
from ._hooks import AlreadyReported
from ._messages.envelope import Malformed, Message, parse
from ._messages.requests import ANSWERED, Inbox, InFlight, Request
from ._messages.router import Handler
from ._onion import Context
from ._session import SessionRun
from ._wire.frames import Frame
from ._work import SPENT

if TYPE_CHECKING:
    from ._connection import Connection


#: What is to be awaited to answer a request.
Answer = Callable[[], Awaitable[None]]


class Dispatcher:
    """The way of one connection's messages; see the module's theory."""

    __slots__ = (
        "_conn",
        "_idle",
        "_limits",
        "_node",
        "_straight",
        "in_flight",
        "inbox",
        "session",
    )

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._node = conn._node
        self._limits = conn._node.config.limits
        self.inbox = Inbox(self._limits.inbox_messages)
        self.in_flight = InFlight()
        self._straight = not (self._node.registry.middleware or self._node.registry.hooks["on_message"])
        self._idle: trio.lowlevel.ParkingLot | None = None
        session = self._node.registry.session
        self.session: SessionRun | None = None
        if session is not None:
            self.session = SessionRun(conn, session, max_messages=self._limits.session_messages)

    async def received(self, text: str | bytes) -> None:
        """One message from the transport."""
        self._node.counters.messages_received += 1
        request = self._parse(text)
        if request.handler is None and request.message is not None:
            action = request.message.action
            if action == "$cancel":
                await cancel(self, request)
                return
            if action == "$leave":
                await leave(self, request)
                return
            if action == "$join":
                request.joins = room_to_join(self, request)
        elif self._is_done_at_once(request):
            return
        if self.inbox.put(request):
            return
        if request.rest is not None:  # its handler has closed the connection
            self._start_beside(request)
        else:  # the connection takes no more messages
            self.in_flight.discard(request)

    def _is_done_at_once(self, request: Request) -> bool:
        """Call a ``def`` handler if its turn is now and nothing stands around it; whether that was all.

        If it was called and there is more to do, ``request.rest`` says what.
        """
        waiting = self.inbox.waiting
        if waiting is None or not self._straight or request.handler is None or not request.handler.inline:
            return False
        try:
            with own_cancellations_only():
                result = waiting.context.run(self._begin, request)
            if not inspect.isawaitable(result) and self._reply_nowait(request, result) is None:
                return True
            request.rest = lambda: result
        except Exception as exc:
            request.rest = partial(_raise, exc)
        request.scope = trio.CancelScope()  # so that a $cancel leaves the answer to who does the rest
        return False

    def _parse(self, text: str | bytes) -> Request:
        if isinstance(text, bytes):
            return Request(None, None, BadMessage("binary messages are not part of this format"))
        try:
            message = parse(text, self._limits, now=trio.current_time())
        except Malformed as exc:
            return Request(None, exc.ident, exc)
        request = Request(message, message.id)
        if message.action is not None:
            request.handler = self._node.registry.router.find(message.action)
        for_session = self.session is not None and self.session.wants(request)
        if message.action != "$cancel" and not for_session:  # these are never answered
            try:
                self.in_flight.add(request)
            except DuplicateId as exc:
                return Request(None, message.id, exc)
        return request

    async def run(self) -> None:
        """Dispatch until the inbox is closed and empty, and every handler has ended."""
        if self.session is not None:
            self.session.start(self._wake_idle)
            enter_handler(True)  # this task runs nothing else until the end, and those that it starts inherit it
        work = self._conn._work
        answer: Answer | None = None
        try:
            over = False
            while not over:
                # All of it stands here because each coroutine more would stay for the connection's life.
                request: Request | None = None
                with work.stand() as scope:
                    if answer is not None:
                        await answer()
                    while (request := await self.inbox.take()) is not None:
                        if request.handler is None or request.handler.beside or request.cancelled:
                            answer = await self._handle(request)
                        else:  # the usual way, and the shorter one
                            answer = await self._run(request)
                        if scope.cancel_called:
                            break  # what is to be awaited now is awaited in the next scope
                        if answer is not None:
                            await answer()
                        request = answer = None  # or they would be kept until the next ones come
                    else:
                        await self._wait_for_those_beside()
                        over = True
                if scope.cancelled_caught:
                    over = work.over or request is None
                    answer = None if request is None else partial(self._failed, request, request.why_cut())
        finally:
            if self.session is not None:
                enter_handler(False)

    async def _handle(self, request: Request) -> Answer | None:
        """Handle a request of whatever kind; what is to be awaited to answer it, if anything."""
        if request.cancelled and request.scope is None:
            return None  # answered by who has cancelled it
        if request.error is not None:
            return partial(self.tell, request, request.error)
        if request.handler is None:
            return await self._without_handler(request)
        if request.handler.beside:
            return self._beside(request, request.handler)
        return await self._run(request)

    async def _wait_for_those_beside(self) -> None:
        if self.session is not None:
            self.session.close()
        while self.in_flight.concurrent or (self.session is not None and self.session.running):
            self._idle = trio.lowlevel.ParkingLot()
            await self._idle.park()

    async def _without_handler(self, request: Request) -> Answer | None:
        message = request.message
        assert message is not None
        if message.action == "$join":
            return await self._run(request)
        if self.session is not None and self.session.wants(request):
            await self.session.give(message)
            return None
        if message.action is None:
            return partial(self.tell, request, BadMessage("neither action nor type"))
        return partial(self.tell, request, UnknownAction())

    def _beside(self, request: Request, handler: Handler) -> Answer | None:
        if handler.streams and request.id is None:
            return partial(self.tell, request, BadMessage("a streaming action needs an id"))
        if self.in_flight.concurrent >= self._limits.max_handlers:
            return partial(self.tell, request, Busy())
        self._start_beside(request)
        return None

    def _start_beside(self, request: Request) -> None:
        # Made here and not when the task first runs, so that a $cancel in between finds a scope.
        request.scope = request.scope or trio.CancelScope()
        self.in_flight.concurrent += 1
        self._conn._start_task(self._run_beside, request)

    async def _run_beside(self, request: Request) -> None:
        try:
            answer = await self._run(request)
            if answer is not None:
                await answer()
        finally:
            self.in_flight.discard(request)
            self.in_flight.concurrent -= 1
            self._wake_idle()

    async def _run(self, request: Request) -> Answer | None:
        """Run what is to handle a request, or the rest of it; what is to be awaited to answer it, if anything."""
        try:
            with own_cancellations_only():
                if request.rest is None:
                    result = self._begin(request)
                else:
                    rest, request.rest = request.rest, None  # an exception in it would refer to itself
                    result = rest()
                if inspect.isawaitable(result):  # also what an undeclared wrapper around an async function returns
                    result = await self._within_scope(request, result)
        except ActionError as exc:
            return partial(self._failed, request, exc)
        except Exception as exc:
            return partial(self._crashed, request, exc)
        if result is ANSWERED:
            self.in_flight.discard(request)
            return None
        return self._reply(request, result)

    def _begin(self, request: Request) -> Any:
        """What a request results in, or something to await for it."""
        handler, message = request.handler, request.message
        assert message is not None
        if request.cancelled or (message.deadline != math.inf and message.deadline <= trio.current_time()):
            raise request.why_cut()
        if handler is None:
            return join(self, request)
        if not self._straight or handler.streams:
            return self._call(request, message, handler)
        return handler.function(self._conn, *handler.arguments(message, max_depth=self._limits.max_depth))

    async def _within_scope(self, request: Request, awaitable: Awaitable[Any]) -> Any:
        assert request.message is not None
        deadline = request.message.deadline
        if self._limits.handler_timeout is not None:
            deadline = min(deadline, trio.current_time() + self._limits.handler_timeout)
        if request.id is None and request.joins is None and deadline == math.inf:
            return await awaitable  # nothing could cancel it
        if request.scope is None and deadline == math.inf:
            request.scope = self._conn._work.standing
            try:
                return await awaitable
            finally:
                request.scope = SPENT
        scope = request.scope = request.scope or trio.CancelScope()
        if deadline != math.inf:  # setting it is a quarter of what a scope costs
            scope.deadline = deadline
        with scope:
            return await awaitable
        raise request.why_cut()

    async def _call(self, request: Request, message: Message, handler: Handler) -> Any:
        """Call a handler that streams, or that stands behind hooks and middleware."""
        await self._call_hooks(message)
        arguments = handler.arguments(message, max_depth=self._limits.max_depth)
        deadline = math.inf if request.scope in (None, self._conn._work.standing) else request.scope.deadline

        async def emit(item: Any) -> None:
            assert request.id is not None
            await self._send(self._conn._format.item(request.id, item))

        ctx = Context(self._conn, message, deadline, handler, arguments, emit)
        result = await self._node.call_handler(ctx)
        if not handler.streams:
            return result
        assert request.id is not None
        if result is not None:  # middleware answered by itself
            await emit(result)
        end = self._conn._format.end(request.id)
        self.in_flight.discard(request)  # who has read the end may use the id again
        await self._send(end)
        return ANSWERED

    async def _call_hooks(self, message: Message) -> None:
        if not self._node.registry.hooks["on_message"]:
            return
        try:
            await self._conn._hooks.run("on_message", self._conn, message)
        except ActionError:
            raise
        except Exception as exc:
            await self._report(exc, "on_message")  # noqa: ASYNC120 - which logs it first
            raise AlreadyReported from exc

    async def _failed(self, request: Request, error: ActionError) -> None:
        fatal = isinstance(error, InternalError) and error.fatal
        if isinstance(error, InternalError) and error.__cause__ is not None:
            if not isinstance(error, AlreadyReported):  # which has been reported
                await self._report(error.__cause__, f"action {request.name}")
            error = self._node.told(error.__cause__)
        await self.tell(request, error)
        if fatal:
            self._conn.close(1011, "internal error")

    async def _crashed(self, request: Request, error: Exception) -> None:
        await self._report(error, f"action {request.name}")
        await self.tell(request, self._node.told(error))
        self._conn.close(1011, "internal error")

    async def _report(self, error: BaseException, what: str) -> None:
        # That the client has gone is no news where its connection is ending.
        if not (self._conn._ending and says_only_gone(error)):
            await self._node.errors.report(self._conn, error, what)

    async def tell(self, request: Request, error: ActionError) -> None:
        """Tell the client that a request failed, or that a message without an id did."""
        self.in_flight.discard(request)
        self._node.counters.errors_told[error.code if is_ours(error) else "custom"] += 1
        try:
            await self._send(self._conn._format.error(request.id, error))
        except (EncodingError, MessageTooLarge) as exc:  # a code or a text of the program's
            await self._report(exc, f"the error {type(error).__name__} of action {request.name}")
            self._conn.close(1011, "internal error")

    async def reply(self, request: Request, result: Any) -> None:
        """Answer a request, waiting for room. A connection that ends takes its replies with it, counted."""
        answer = self._reply(request, result)
        if answer is not None:
            await answer()

    def _reply(self, request: Request, result: Any) -> Answer | None:
        """Answer a request; what is to be awaited for it, if there is no room now or it cannot be encoded."""
        try:
            frame = self._reply_nowait(request, result, at_once=not self.inbox)
        except Exception as exc:  # it cannot be encoded, or is too large
            return partial(self._crashed, request, exc)
        return None if frame is None else partial(self._send, frame)

    def _reply_nowait(self, request: Request, result: Any, *, at_once: bool = False) -> Frame | None:
        """Answer a request; the frame if there is no room for it."""
        self.in_flight.discard(request)  # now: who has read the reply may use the id again
        if request.id is None:
            return None
        frame = self._conn._format.reply(request.id, result)
        try:
            self._conn.outbox.send_nowait(frame, at_once=at_once)
        except OutboxFull:
            return frame
        except ConnectionGone:
            self._conn.outbox.dropped += 1
        return None

    async def _send(self, frame: Frame) -> None:
        """Send a part of a reply, or an error, in the same way. Always a checkpoint."""
        try:
            await self._conn.outbox.send(frame)
        except ConnectionGone:
            self._conn.outbox.dropped += 1
            await trio.lowlevel.checkpoint()  # or a generator that yields for ever would never let go of the thread

    def describe(self) -> str:
        """What is in flight, for the log."""
        return f"actions {sorted(request.name for request in self.in_flight)}"

    def _wake_idle(self) -> None:
        if self._idle is not None:
            self._idle.unpark_all()


def _raise(error: Exception) -> NoReturn:
    raise error
