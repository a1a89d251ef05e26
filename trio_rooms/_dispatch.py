"""From a message that was read to what its handler is called with, for one connection.

Theory of operation. Messages have their turn in the order in which they came: ``on_message``, payload decoded,
middleware, handler, reply, all in the connection's own task. Handlers that are concurrent, or stream, run beside in
tasks of their own, bounded in number. What must not wait for a handler (``$cancel``, ``$leave``, answers to requests
of ours) acts when it is read.

Two tasks can read, one at a time. The reader does while the connection's task is busy, or waits for it: it calls
:meth:`Dispatcher.received` for each message, which goes to the inbox. But to wake a task for a message costs as much
as handling it does, and most handlers never wait. So when a message finds the connection's task idle, and what that
did last did not wait, the reader hands the message over and rests: from then on the connection's task reads by itself.
The first time that anything it does has to wait, the reader is woken, and reads again.

For the same reason one scope is around all that the connection's task does until it is idle, instead of one around
each handler. A ``$cancel`` or a deadline cancels that scope; what it has cancelled is answered outside of it.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import trio

from ._answers import Answers, Failure, HookFailed, name_of
from ._asks import take_answer
from ._boundary import is_awaitable, refuse_stray
from ._builtins import AT_ONCE, IN_TURN, room_to_join
from ._context import enter_handler
from ._errors import (
    ActionError,
    BadMessage,
    Busy,
    DeadlineExceeded,
    DuplicateId,
    RequestCancelled,
    UnknownAction,
)
from ._first_wait import watched
from ._messages.envelope import Malformed, Message, is_of_ours
from ._messages.requests import ANSWERED, Inbox, Request
from ._messages.router import Handler
from ._onion import Context
from ._session_function import SessionFunction
from ._wire.transport import TransportClosed

if TYPE_CHECKING:
    from ._connection import Connection


@attrs.frozen
class _Late:
    """What a handler came to whose request was cancelled, or out of time, before it had ended."""

    result: Any


class Dispatcher:
    """The way of one connection's messages; see the module's theory."""

    __slots__ = (
        "_conn",
        "_current",
        "_idle",
        "_limits",
        "_node",
        "_onion",
        "_straight",
        "_waited",
        "in_flight",
        "inbox",
        "session",
    )

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._node = conn._node
        self._limits = conn._node.config.limits
        self.inbox = Inbox(self._node.inbox_bound)
        self.in_flight = Answers(conn)
        self._onion = bool(self._node.registry.middleware)
        self._straight = not (self._onion or self._node.registry.hooks["on_message"])
        self._current: Request | None = None
        # Whether what had its turn last had to wait. At first that is not known, and most begin with a join.
        self._waited = True
        self._idle: trio.lowlevel.ParkingLot | None = None
        session = self._node.registry.session
        self.session: SessionFunction | None = None if session is None else SessionFunction(conn, session)

    # The reader's side

    async def received(self, whole: str | bytes) -> None:
        """One message from the transport. Returns when the reader is to read on."""
        request = self._take_in(whole)
        if request is None:
            return
        if request.handler is None and request.message is not None and request.message.action in AT_ONCE:
            await AT_ONCE[request.message.action](self, request)
            return
        idle = self.inbox.waiting is not None
        if not self.inbox.put(request):  # the connection takes no more messages
            self.in_flight.discard(request)
        elif idle and not self._waited:
            del request, whole  # or they would be kept as long as it rests
            await self.inbox.rest()

    def _take_in(self, whole: str | bytes) -> Request | None:
        """What a message asks for, and of whom; None for an answer, which has acted."""
        self._node.counters.messages_received += 1
        try:
            message = self._conn._format.parse(whole, self._limits, clock=trio.current_time)
        except Malformed as exc:
            return Request(None, exc.ident, exc)
        request = Request(message, message.id)
        action = message.action
        if action is not None:
            request.handler = self._node.registry.router.find(action)
        elif is_of_ours(message.id):
            take_answer(self._conn, message)
            return None
        elif message.binary:
            request.handler = self._node.registry.router.binary
            if request.handler is None and message.format == "binary":
                return Request(None, None, BadMessage("binary messages are not part of this format"))
        if request.handler is None:
            if action == "$join":
                request.joins = room_to_join(self, request)
            elif action == "$cancel" or (self.session is not None and self.session.takes(request)):
                return request  # which is never answered
        try:
            self.in_flight.add(request)
        except DuplicateId as exc:
            return Request(None, message.id, exc)
        return request

    # The connection's task

    async def run(self) -> None:
        """Dispatch until the inbox is closed and empty, and every handler has ended."""
        session = self.session
        if session is not None:
            session.start(self._wake_idle)
            enter_handler(True)  # this task runs nothing else until the end, and those that it starts inherit it
        try:
            # The loop stands here because a coroutine more would stay for the connection's life.
            while True:
                self._current = await self.inbox.take()
                if self._current is None:
                    break
                await self._have_turns()
        finally:
            if session is not None:
                enter_handler(False)
        if session is not None:
            session.close()
        while self.in_flight.concurrent or (session is not None and session.runs):
            self._idle = trio.lowlevel.ParkingLot()
            await self._idle.park()

    async def _have_turns(self) -> None:
        """Handle the current request, and what comes next, until there is none or it is the reader's to read it."""
        late: _Late | None = None
        try:
            with trio.CancelScope() as scope:
                while self._current is not None:
                    self._waited = False
                    late = await watched(self._handle(self._current, scope), self._on_wait)
                    if late is not None:
                        break
                    self._current = None  # or it would be kept until the next one comes
                    if self.inbox.resting is not None:
                        self._current = await self._read(scope)
                    elif len(self.inbox):
                        self._current = await self.inbox.take()
        except Exception as exc:
            if self._current is None:
                raise
            late = _Late(Failure(exc))  # what a group is without the cancellations in it
        except BaseException:
            if self._current is not None:
                self.in_flight.discard(self._current)
            raise
        finally:
            self.inbox.wake_reader()
        if self._current is not None:
            rest = self.in_flight.answer(
                self._current, Failure(self._why_cut(self._current)) if late is None else late.result
            )
            if rest is not None:
                await rest

    def _on_wait(self) -> None:
        self._waited = True
        self.inbox.wake_reader()

    async def _read(self, scope: trio.CancelScope) -> Request | None:
        """Wait for the next request; None if it is the reader's to read on, or to be told of the end."""
        transport, inbox = self._conn._transport, self.inbox
        assert transport is not None
        request = None
        while request is None:  # an answer is nobody's turn
            inbox.reading = scope
            try:
                whole = await transport.receive()
            except TransportClosed:
                return None
            finally:
                inbox.reading = None
            closed = self._conn._closed
            if not (closed is None or closed.by == "peer"):
                return None
            request = self._take_in(whole)
        if inbox.closed:
            self.in_flight.discard(request)
            return None
        return request

    async def _handle(self, request: Request, scope: trio.CancelScope) -> _Late | None:
        """Have a request handled and answered; what its handler came to, if by then the scope is cancelled."""
        handler, message = request.handler, request.message
        if request.cancelled and request.scope is None:
            return None  # answered by who has cancelled it
        if message is None:
            assert request.error is not None
            await self.in_flight.tell(request, request.error)
            return None
        if handler is None:
            if message.action not in IN_TURN:
                await self._without_handler(request, message)
                return None
        elif handler.beside:
            await self._beside(request, handler)
            return None
        try:
            result = await self._result(request, message, scope)
        except Exception as exc:
            result = Failure(exc)
        if self._waited and scope.cancel_called:
            return _Late(result)
        rest = self.in_flight.answer(request, result)
        if rest is not None:
            await rest
        return None

    async def _without_handler(self, request: Request, message: Message) -> None:
        if message.action in AT_ONCE:
            await AT_ONCE[message.action](self, request)
        elif self.session is not None and self.session.takes(request):
            await self.session.put(message)
        elif message.action is None:
            await self.in_flight.tell(request, BadMessage("neither action nor type"))
        else:
            await self.in_flight.tell(request, UnknownAction())

    async def _beside(self, request: Request, handler: Handler) -> None:
        if handler.streams and request.id is None:
            await self.in_flight.tell(request, BadMessage("a streaming action needs an id"))
        elif self.in_flight.concurrent >= self._limits.max_handlers:
            self._node.counters.limit("max_handlers")
            await self.in_flight.tell(request, Busy())
        else:
            # Made here and not when the task first runs, so that a $cancel in between finds a scope.
            request.scope = trio.CancelScope()
            self.in_flight.concurrent += 1
            self._conn._start_task(self._run_beside, request, request.scope)

    async def _run_beside(self, request: Request, scope: trio.CancelScope) -> None:
        try:
            rest = self.in_flight.answer(request, await self._result_within(request, scope))
            if rest is not None:
                await rest
        finally:
            self.in_flight.discard(request)
            self.in_flight.concurrent -= 1
            self._wake_idle()

    async def _result_within(self, request: Request, scope: trio.CancelScope) -> Any:
        """The result of a request that has a scope of its own, which this enters, or the failure."""
        assert request.message is not None
        try:
            with scope:
                return await self._result(request, request.message, scope)
        except Exception as exc:
            return Failure(exc)
        return Failure(self._why_cut(request))

    async def _result(self, request: Request, message: Message, scope: trio.CancelScope) -> Any:
        """What a request results in. Raises what its handler does, and why it was cut before that had begun."""
        request.scope = scope
        handler = request.handler
        deadline = message.deadline
        try:
            if request.cancelled or (deadline != math.inf and deadline <= trio.current_time()):
                raise self._why_cut(request)
            if self._limits.handler_timeout is not None:
                deadline = min(deadline, trio.current_time() + self._limits.handler_timeout)
            if handler is None:
                result: Any = IN_TURN[message.action](self, request)
            elif self._straight and not handler.streams:
                result = handler.function(self._conn, *handler.arguments(message, max_depth=self._limits.max_depth))
                if not is_awaitable(result):  # it is, too, if an undeclared wrapper around an async function returns it
                    return result
            else:
                result = self._call(request, message, handler, deadline, scope)
            if deadline == math.inf:  # of most: moving a scope's deadline costs nearly as much as the scope
                return await result
            scope.deadline = deadline
            try:
                return await result
            finally:
                scope.deadline = math.inf
        except BaseException as exc:
            refuse_stray(exc)
            raise

    async def _call(
        self, request: Request, message: Message, handler: Handler, deadline: float, scope: trio.CancelScope
    ) -> Any:
        """Call a handler that streams, or that stands behind hooks and middleware."""
        try:
            await self._conn._hooks.run("on_message", self._conn, message, scope=scope)
        except ActionError:
            raise
        except Exception as exc:
            raise HookFailed from exc
        arguments = handler.arguments(message, max_depth=self._limits.max_depth)
        if handler.streams:
            return await self._stream(
                request, Context(self._conn, message, deadline, handler, arguments, partial(self._emit, request))
            )
        if self._onion:
            return await self._node.call_handler(Context(self._conn, message, deadline, handler, arguments, None))
        result = handler.function(self._conn, *arguments)
        return await result if is_awaitable(result) else result

    async def _stream(self, request: Request, ctx: Context) -> Any:
        assert request.id is not None
        result = await self._node.call_handler(ctx)
        if result is not None:  # middleware answered by itself
            await self._emit(request, result)
        end = self._conn._format.end(request.id)
        self.in_flight.discard(request)  # who has read the end may use the id again
        await self.in_flight.send(end)
        return ANSWERED

    async def _emit(self, request: Request, item: Any) -> None:
        assert request.id is not None
        await self.in_flight.send(self._conn._format.item(request.id, item))

    def describe(self) -> str:
        """What is in flight, for the log."""
        return f"actions {sorted(name_of(request) for request in self.in_flight)}"

    def _wake_idle(self) -> None:
        if self._idle is not None:
            self._idle.unpark_all()

    def _why_cut(self, request: Request) -> ActionError:
        if request.cancelled:
            return RequestCancelled()
        client_waits = request.message is not None and request.message.deadline > trio.current_time()
        if client_waits and self._limits.handler_timeout is not None:
            self._node.counters.limit("handler_timeout")
        return DeadlineExceeded()
