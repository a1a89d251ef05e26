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
from collections.abc import Awaitable
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
    DeadlineExceeded,
    DuplicateId,
    EncodingError,
    InternalError,
    MessageTooLarge,
    OutboxFull,
    RequestCancelled,
    UnknownAction,
    is_ours,
)
from ._hooks import AlreadyReported
from ._messages.envelope import Malformed, Message, parse
from ._messages.requests import ANSWERED, Inbox, InFlight, Request
from ._messages.router import Handler
from ._onion import Context
from ._wire.frames import Frame

if TYPE_CHECKING:
    from ._connection import Connection
    from ._registry import Session


class Dispatcher:
    """The way of one connection's messages; see the module's theory."""

    __slots__ = (
        "_conn",
        "_idle",
        "_limits",
        "_node",
        "_session_runs",
        "_straight",
        "_to_session",
        "for_session",
        "in_flight",
        "inbox",
    )

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._node = conn._node
        self._limits = conn._node.config.limits
        self.inbox = Inbox(self._limits.inbox_messages)
        self.in_flight = InFlight()
        self._straight = not (self._node.registry.middleware or self._node.registry.hooks["on_message"])
        self._idle: trio.lowlevel.ParkingLot | None = None
        self._session_runs = False
        self._to_session: trio.MemorySendChannel[Message] | None = None
        self.for_session: trio.MemoryReceiveChannel[Message] | None = None
        if self._node.registry.session is not None:
            channels = trio.open_memory_channel[Message](self._limits.session_messages)
            self._to_session, self.for_session = channels

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
        if message.action != "$cancel" and not self._is_for_session(request):  # these are never answered
            try:
                self.in_flight.add(request)
            except DuplicateId as exc:
                return Request(None, message.id, exc)
        return request

    def _is_for_session(self, request: Request) -> bool:
        if self._to_session is None or request.handler is not None or request.message is None:
            return False
        return not (request.message.action or "").startswith("$")

    async def run(self) -> None:
        """Dispatch until the inbox is closed and empty, and every handler has ended."""
        session = self._node.registry.session
        if session is not None:
            self._session_runs = True
            self._conn._start_task(self._run_session, session)
            enter_handler(True)  # this task runs nothing else until the end, and those that it starts inherit it
        try:
            # The loop stands here because a coroutine more would stay for the connection's life.
            while (request := await self.inbox.take()) is not None:
                if request.cancelled and request.scope is None:
                    pass  # answered by who has cancelled it
                elif request.error is not None:
                    await self.tell(request, request.error)
                elif request.handler is None:
                    await self._without_handler(request)
                elif request.handler.beside:
                    await self._beside(request, request.handler)
                else:
                    await self._run(request)
                del request  # or it would be kept until the next one comes
        finally:
            if session is not None:
                enter_handler(False)
        if self._to_session is not None:
            self._to_session.close()
        while self.in_flight.concurrent or self._session_runs:
            self._idle = trio.lowlevel.ParkingLot()
            await self._idle.park()

    async def _without_handler(self, request: Request) -> None:
        message = request.message
        assert message is not None
        if message.action == "$join":
            await self._run(request)
        elif self._to_session is not None and self._is_for_session(request):
            await self._to_session.send(message)
        elif message.action is None:
            await self.tell(request, BadMessage("neither action nor type"))
        else:
            await self.tell(request, UnknownAction())

    async def _beside(self, request: Request, handler: Handler) -> None:
        if handler.streams and request.id is None:
            await self.tell(request, BadMessage("a streaming action needs an id"))
        elif self.in_flight.concurrent >= self._limits.max_handlers:
            await self.tell(request, Busy())
        else:
            self._start_beside(request)

    def _start_beside(self, request: Request) -> None:
        # Made here and not when the task first runs, so that a $cancel in between finds a scope.
        request.scope = request.scope or trio.CancelScope()
        self.in_flight.concurrent += 1
        self._conn._start_task(self._run_beside, request)

    async def _run_beside(self, request: Request) -> None:
        try:
            await self._run(request)
        finally:
            self.in_flight.concurrent -= 1
            self._wake_idle()

    async def _run(self, request: Request) -> None:
        """Run what is to handle a request, or the rest of it, and answer with what comes of it."""
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
            await self._failed(request, exc)
        except Exception as exc:
            await self._crashed(request, exc)
        else:
            if result is not ANSWERED:
                await self.reply(request, result)
        finally:
            self.in_flight.discard(request)

    def _begin(self, request: Request) -> Any:
        """What a request results in, or something to await for it."""
        handler, message = request.handler, request.message
        assert message is not None
        if request.cancelled or (message.deadline != math.inf and message.deadline <= trio.current_time()):
            raise _why_cut(request)
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
        scope = request.scope = request.scope or trio.CancelScope()
        if deadline != math.inf:  # setting it is a quarter of what a scope costs
            scope.deadline = deadline
        with scope:
            return await awaitable
        raise _why_cut(request)

    async def _call(self, request: Request, message: Message, handler: Handler) -> Any:
        """Call a handler that streams, or that stands behind hooks and middleware."""
        await self._call_hooks(message)
        arguments = handler.arguments(message, max_depth=self._limits.max_depth)
        deadline = math.inf if request.scope is None else request.scope.deadline

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
                await self._report(error.__cause__, f"action {_name(request)}")
            error = self._node.told(error.__cause__)
        await self.tell(request, error)
        if fatal:
            self._conn.close(1011, "internal error")

    async def _crashed(self, request: Request, error: Exception) -> None:
        await self._report(error, f"action {_name(request)}")
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
            await self._report(exc, f"the error {type(error).__name__} of action {_name(request)}")
            self._conn.close(1011, "internal error")

    async def reply(self, request: Request, result: Any) -> None:
        """Answer a request, waiting for room. A connection that ends takes its replies with it, counted."""
        try:
            frame = self._reply_nowait(request, result)
            if frame is not None:
                await self._send(frame)
        except Exception as exc:  # it cannot be encoded, or is too large
            await self._crashed(request, exc)

    def _reply_nowait(self, request: Request, result: Any) -> Frame | None:
        """Answer a request; the frame if there is no room for it."""
        self.in_flight.discard(request)  # now: who has read the reply may use the id again
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

    async def _send(self, frame: Frame) -> None:
        """Send a part of a reply, or an error, in the same way. Always a checkpoint."""
        try:
            await self._conn.outbox.send(frame)
        except ConnectionGone:
            self._conn.outbox.dropped += 1
            await trio.lowlevel.checkpoint()  # or a generator that yields for ever would never let go of the thread

    def describe(self) -> str:
        """What is in flight, for the log."""
        return f"actions {sorted(_name(request) for request in self.in_flight)}"

    async def _run_session(self, session: Session) -> None:
        try:
            with own_cancellations_only():
                await session(self._conn)
        except InternalError:
            self._conn.close(1011, "internal error")  # a hook of a join that it made; reported there
        except ActionError as exc:
            self._conn.close(4500, exc.code)
        except Exception as exc:
            # At the end read_json raises ConnectionGone; at any other time that is about another connection.
            if not (self._conn._taking_no_more and says_only_gone(exc)):
                await self._node.errors.report(self._conn, exc, "session")
                self._conn.close(1011, "internal error")
        else:
            if not self._conn._taking_no_more:  # or the drain would end with this code instead of its own
                self._conn.close(1000)
        finally:
            self._session_runs = False
            self._wake_idle()

    def _wake_idle(self) -> None:
        if self._idle is not None:
            self._idle.unpark_all()


def _raise(error: Exception) -> NoReturn:
    raise error


def _why_cut(request: Request) -> ActionError:
    return RequestCancelled() if request.cancelled else DeadlineExceeded()


def _name(request: Request) -> str:
    return repr((request.message.action or "")[:200]) if request.message is not None else "?"
