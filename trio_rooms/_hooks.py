"""Hooks: who is registered, and the order in which the hooks of one connection run.

Theory of operation. The hooks of a connection run one at a time in the order of their events. Some events
come from code that waits for its hooks (a join), others from code that cannot wait (a leave, which is
synchronous and works in a cancelled ``finally``). Both stand in one line: a task that waits for its turn, or
a call that a runner makes when it gets to the head. The runner exists only while there is something to run;
it lives in a nursery of the server, shields each hook for at most ``hook_timeout``, and so finishes what a
dying connection has left to run. A hook that makes an event of its own connection (a join in ``on_connect``)
is inside its turn already and does not wait for itself; so are the tasks that it has started, but only while
the turn lasts.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar, Token
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Literal, get_args

import attrs
import trio

from ._boundary import is_awaitable, own_cancellations_only
from ._errors import AlreadyServing, HookTimeout, InternalError, UsageError
from ._first_wait import watched

if TYPE_CHECKING:
    from ._connection import Connection

HookName = Literal[
    "on_connect",
    "on_disconnect",
    "on_message",
    "on_error",
    "on_join_room",
    "on_leave_room",
    "on_room_open",
    "on_room_close",
    "on_user_online",
    "on_user_offline",
    "on_session_expired",
]

Hook = Callable[..., Any]
Logger = logging.Logger | logging.LoggerAdapter[Any]


class Hooks:
    """The registered hooks of a manager, each list in order of registration."""

    def __init__(self) -> None:
        self._hooks: dict[str, list[Hook]] = {name: [] for name in get_args(HookName)}
        self.frozen = False

    def add(self, name: HookName, hook: Hook) -> None:
        """Register a hook."""
        if self.frozen:
            raise AlreadyServing("hooks are registered before the manager is served")
        if not callable(hook):
            raise UsageError(f"{name} takes a function, not {hook!r}")
        self._hooks[name].append(hook)

    def __getitem__(self, name: HookName) -> list[Hook]:
        return self._hooks[name]


class AlreadyReported(InternalError):
    """A hook, ``authorize`` or the broker raised what is not for the client; it was reported where that happened."""


async def call_hook(hook: Hook, *args: object, timeout: float, scope: trio.CancelScope | None = None) -> None:  # noqa: ASYNC109 - a setting, not the caller's patience
    """Call one hook, ``def`` or ``async def``. Raises what it raises, or :exc:`HookTimeout`.

    ``scope`` is around the call anyway, with nothing else in it, and so can be spared one of its own: then it is that
    which is cancelled when the time is over.
    """
    with own_cancellations_only():
        result = hook(*args)
        if not is_awaitable(result):
            return
        if scope is not None and type(result) is CoroutineType:
            await _await_within(scope, hook, result, timeout)
            return
    with trio.move_on_after(timeout) as own, own_cancellations_only():
        await result
    if own.cancelled_caught:
        raise _too_long(hook, timeout)


async def ask(hook: Hook, *args: object, timeout: float) -> Any:  # noqa: ASYNC109 - as above
    """As :func:`call_hook`, of a function whose result is wanted."""
    with trio.move_on_after(timeout), own_cancellations_only():
        result = hook(*args)
        return await result if is_awaitable(result) else result
    raise _too_long(hook, timeout)


async def _await_within(
    scope: trio.CancelScope,
    hook: Hook,
    coroutine: Coroutine[Any, Any, Any],
    timeout: float,  # noqa: ASYNC109 - as above
) -> None:
    deadline, limit = scope.deadline, math.inf

    def set_limit() -> None:
        nonlocal limit
        limit = trio.current_time() + timeout
        if limit < deadline:
            scope.deadline = limit

    error: BaseException | None = None
    try:
        await watched(coroutine, set_limit)
    except BaseException as exc:  # noqa: ASYNC103 - raised below
        error = exc
    if limit < deadline:  # it had to wait
        over = scope.cancel_called and trio.current_time() >= limit
        scope.deadline = deadline
        if over:
            error = _without_cancelled(error) or _too_long(hook, timeout)
    if error is not None:
        raise error


def _without_cancelled(error: BaseException | None) -> BaseException | None:
    """What a scope would let pass that was cancelled."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1]
    return None if isinstance(error, trio.Cancelled) else error


def _too_long(hook: Hook, timeout: float) -> HookTimeout:
    return HookTimeout(f"{_name(hook)} ran longer than {timeout} s")


def _name(hook: Hook) -> str:
    return str(getattr(hook, "__name__", hook))


class ErrorReporter:
    """Logs errors and gives them to ``on_error``; an ``on_error`` that raises is logged and nothing more."""

    def __init__(self, hooks: Hooks, logger: Logger, *, timeout: float) -> None:
        self._hooks = hooks
        self._logger = logger
        self._timeout = timeout
        self.count: int = 0

    async def report(self, conn: Connection | None, error: BaseException, what: str) -> None:
        """Tell everybody who wants to know that ``what`` failed."""
        self.count += 1
        logger = self._logger if conn is None else conn.logger
        logger.error("%s failed: %s", what, type(error).__name__, exc_info=error)
        for hook in self._hooks["on_error"]:
            try:
                await call_hook(hook, conn, error, timeout=self._timeout)
            except Exception:
                logger.exception("on_error failed")

    async def call(
        self,
        conn: Connection | None,
        what: str,
        hook: Hook,
        *args: object,
        shield: Callable[[], AbstractContextManager[trio.CancelScope]],
    ) -> None:
        """Call a hook whose failure has no other consequence than a report; both within ``shield``."""
        try:
            with shield() as scope:
                await call_hook(hook, *args, timeout=self._timeout)
            if scope.cancelled_caught:
                raise HookTimeout(f"{_name(hook)} was cut off: there was no time left")
        except Exception as exc:
            with shield():
                await self.report(conn, exc, what)


@attrs.define(eq=False)
class _Turn:
    """A task that waits until the line has come to it."""

    task: trio.lowlevel.Task


@attrs.define(eq=False)
class _Call:
    """A hook that the runner calls when the line has come to it."""

    name: HookName
    hook: Hook
    args: tuple[object, ...]


# The turns that the calling task is in: of several connections, where the hook of one joins another to a room.
_turns: ContextVar[frozenset[object]] = ContextVar("trio_rooms_hook_turns", default=frozenset())


class _Entered:
    """See ``HookQueue._entered``. A class, because with on_message each message has a turn."""

    __slots__ = ("_queue", "_token")

    def __init__(self, queue: HookQueue) -> None:
        self._queue = queue
        self._token: Token[frozenset[object]] | None = None

    def __enter__(self) -> None:
        current = self._queue._current = object()
        self._token = _turns.set(_turns.get() | {current})

    def __exit__(self, *_: object) -> None:
        assert self._token is not None
        _turns.reset(self._token)
        self._queue._current = None
        self._queue._pass_on()


class HookQueue:
    """The line in which the hooks of one connection stand; see the module's theory."""

    __slots__ = ("_conn", "_current", "_deadline", "_idle", "_line", "_scope", "busy")

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._line: tuple[_Turn | _Call, ...] = ()  # hardly ever longer than one
        self.busy = False
        """Whether anybody is in the line, or has the turn."""
        self._current: object | None = None
        self._idle: trio.lowlevel.ParkingLot | None = None
        self._deadline = math.inf
        self._scope: trio.CancelScope | None = None

    @property
    def inside(self) -> bool:
        """Whether the calling task is in a hook of this connection, so that a turn would wait for itself."""
        return self._current in _turns.get()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """A block in which no other hook of this connection runs; waits for those that come before."""
        if self.inside:
            yield
            return
        if self.busy:
            await self._wait_turn()
        self.busy = True
        with self._entered():
            yield

    async def run(self, name: HookName, *args: object, scope: trio.CancelScope | None = None) -> None:
        """Call the hooks of an event, if any, in their turn; the first that raises ends it with its exception.

        For ``scope`` see :func:`call_hook`.
        """
        hooks = self._conn._node.registry.hooks[name]
        if not hooks:
            return
        timeout = self._conn._node.config.hook_timeout
        if self.inside:
            for hook in hooks:
                await call_hook(hook, *args, timeout=timeout, scope=scope)
            return
        if self.busy:
            await self._wait_turn()
        self.busy = True
        with self._entered():
            for hook in hooks:
                await call_hook(hook, *args, timeout=timeout, scope=scope)

    def post(self, name: HookName, *args: object) -> None:
        """Have the hooks of an event called when their turn has come; what they raise is reported."""
        for hook in self._conn._node.registry.hooks[name]:
            self._line = (*self._line, _Call(name, hook, args))
        if self._line and not self.busy:
            self.busy = True
            self._spawn_runner()

    def limit(self, deadline: float) -> None:
        """From now on nothing takes longer than until ``deadline``; each hook is still called."""
        self._deadline = min(self._deadline, deadline)
        if self._scope is not None:
            self._scope.deadline = min(self._scope.deadline, self._deadline)

    async def wait_idle(self) -> None:
        """Wait until nobody is in the line."""
        await trio.lowlevel.checkpoint()
        if self._idle is None:
            self._idle = trio.lowlevel.ParkingLot()
        while self.busy:
            await self._idle.park()

    def _spawn_runner(self) -> None:
        # In a nursery that outlives the connection.
        self._conn._node.spawn(self._run, self._conn._context)

    async def _wait_turn(self) -> None:
        turn = _Turn(trio.lowlevel.current_task())
        self._line = (*self._line, turn)

        def abort(_: object) -> trio.lowlevel.Abort:
            self._line = tuple(one for one in self._line if one is not turn)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def _entered(self) -> _Entered:
        """The turn itself; at its end it is somebody else's."""
        return _Entered(self)

    async def _run(self) -> None:
        with self._entered():
            while self._line and isinstance(call := self._line[0], _Call):
                self._line = self._line[1:]
                await self._conn._node.errors.call(self._conn, call.name, call.hook, *call.args, shield=self._shield)

    @contextmanager
    def _shield(self) -> Iterator[trio.CancelScope]:
        node = self._conn._node
        # A little longer than the hook's own timeout, so that it is this one that is seen to pass.
        seconds = min(node.config.hook_timeout + 1, self._deadline - trio.current_time())
        with node.grace.shield(seconds) as self._scope:
            yield self._scope
        self._scope = None

    def _pass_on(self) -> None:
        """Give the turn to whoever is next."""
        if not self._line:
            self.busy = False
            if self._idle is not None:
                self._idle.unpark_all()
            return
        head = self._line[0]
        if isinstance(head, _Turn):
            self._line = self._line[1:]
            trio.lowlevel.reschedule(head.task)
        else:
            self._spawn_runner()
