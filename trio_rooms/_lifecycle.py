"""How a connection lives and ends.

Theory of operation. The connection's own task runs the middleware and the dispatcher; reader, writer and
pinger run beside it. The pinger is started when its first ping is due, and the writer whenever there is something
that the flusher does not write, so that most connections do without at most times. Whoever finds the end (the
program, the peer, the network, the pinger, a full outbox, a crash, a cancellation from outside) records it through
``Connection._end``, where the first cause wins, and stops as much as it must:

- closed by the program: handlers are cancelled, the writer empties the outbox, then the close frame goes;
- drained: the same, but handlers finish first;
- closed by the peer: what it had sent before is still handled, for ``close_timeout``; nothing is sent;
- lost, dead, violated, overflowed: everything is cancelled at once.

All of them arrive at :func:`_finish`, which is shielded and bounded: the transport is closed with the
recorded code while the hooks that are due run.
"""

from __future__ import annotations

import contextvars
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

import trio

from ._alarm import Alarm
from ._boundary import own_cancellations_only, says_only_gone
from ._context import current_connection, enter_connection
from ._errors import ActionError, InternalError
from ._keepalive import first_ping, keep_alive
from ._opening import Opening
from ._wire.sink import WriteTimedOut
from ._wire.transport import Close, Transport, TransportClosed

if TYPE_CHECKING:
    from ._connection import Connection
    from ._expiry import Expiry
    from ._registry import ConnectionMiddleware


async def live(conn: Connection, transport: Transport, alarm: Alarm, *, deadline: float = math.inf) -> None:
    """Run a connection from its upgrade to its end, which is begun at ``deadline`` at the latest.

    Its pinger sleeps in ``alarm``. Raises nothing but cancellation from outside.
    """
    before = current_connection()
    enter_connection(conn)
    conn._context = contextvars.copy_context()
    conn._transport = transport
    conn._node.counters.accepted += 1
    conn._node.add_connection(conn)
    if conn._node.draining:
        conn._drain()
    error: BaseException | None = None
    try:
        try:
            async with trio.open_nursery() as nursery:
                if deadline < math.inf:
                    nursery.cancel_scope.deadline = deadline
                conn._nursery = nursery
                # With names, as trio would make a string for each task.
                nursery.start_soon(_read, conn, transport, name="trio_rooms reader")
                if conn._node.sessions is not None and conn._format.v1:
                    conn._opening = Opening(conn, transport, partial(_start_writer, conn, transport))
                else:
                    conn._sink.begin(transport, partial(_start_writer, conn, transport))
                pinger = alarm.call_at(
                    first_ping(conn._node.config.ping_interval, conn._node.rng),
                    partial(_start_pinger, conn, transport, alarm),
                )
                try:
                    await _serve(conn)
                    await _flush(conn, nursery.cancel_scope)
                    nursery.cancel_scope.cancel(reason="all is written")
                finally:
                    pinger.leave()
                    conn._nursery = None  # whoever still wants to start a task there is told ConnectionGone
        except* Exception as group:
            error = group
    finally:
        if error is not None:
            conn._end(Close(1011, "internal error"))
        await _finish(conn, transport, error)  # noqa: ASYNC102 - it shields itself
        enter_connection(before)  # the task may be the program's own, which goes on


async def _serve(conn: Connection) -> None:
    """Middleware, on_connect, messages; returns when there is nothing more to dispatch."""
    opening = conn._opening
    if opening is None:
        conn._notify("$welcome", {"connection": conn.id})
    with conn._work:
        try:
            with own_cancellations_only():
                try:
                    if opening is not None:
                        await opening.begin()
                    await compose(conn._node.registry.connection_middleware)(conn)
                finally:
                    if conn._opening is not None:
                        conn._opening.welcome()  # before a close that is due now
        except InternalError:
            conn.close(1011, "internal error")  # a hook of a join that it made; reported there
        except ActionError as exc:
            conn.close(4500, exc.code)
        except Exception as exc:
            if not (conn._ending and says_only_gone(exc)):
                await conn._node.errors.report(conn, exc, "on_connect or connection middleware")
            conn.close(1011, "internal error")
        else:
            if not conn._on_connect_begun:
                conn.close(1008, "refused")


def compose(
    middleware: list[ConnectionMiddleware],
) -> Callable[[Connection], Awaitable[None]]:
    """Make one call of an onion around a connection's life; the first middleware is the outermost."""
    call: Callable[[Connection], Awaitable[None]] = _connected
    for layer in reversed(middleware):
        call = partial(_call_layer, layer, call)
    return call


async def _call_layer(
    layer: ConnectionMiddleware, call_next: Callable[[Connection], Awaitable[None]], conn: Connection
) -> None:
    await layer(conn, call_next)


def _connected(conn: Connection) -> Awaitable[None]:
    # Not a coroutine itself: it would stay for the connection's life, and do nothing.
    conn._on_connect_begun = True
    if conn._session is not None:
        conn._session.began = True
    greets = conn._opening is not None or conn._node.registry.hooks["on_connect"]
    return _greet_and_run(conn) if greets else conn._dispatcher.run()


async def _greet_and_run(conn: Connection) -> None:
    await conn._hooks.run("on_connect", conn)
    if conn._opening is not None:
        await conn._opening.join_again()
    await conn._dispatcher.run()


async def _flush(conn: Connection, scope: trio.CancelScope) -> None:
    """Let the writer empty the outbox, for a bounded time; then ``scope`` is cancelled."""
    conn._end(conn._draining or Close(1000))
    conn._cancel_work("the connection is closing")
    conn._sink.finish()
    scope.deadline = min(scope.deadline, trio.current_time() + conn._node.config.close_timeout)
    if conn._writing:
        conn._flushed = trio.Event()
        await conn._flushed.wait()


async def _read(conn: Connection, transport: Transport) -> None:
    """The reader: from the transport to the inbox, until the transport says how it ended."""
    while True:  # noqa: ASYNC913 - every transport's receive is a checkpoint
        try:
            message = await transport.receive()
        except TransportClosed as exc:
            _transport_ended(conn, exc.close)
            conn._dispatcher.inbox.close(discard=False)
            return
        # The writer may have met the peer's close before the last messages in front of it have come to us.
        if conn._closed is None or conn._closed.by == "peer":
            await conn._dispatcher.received(message)
        del message  # or it would be kept until the next one comes


def _start_writer(conn: Connection, transport: Transport) -> None:
    if conn._nursery is not None:
        conn._writing = True
        conn._context.run(partial(conn._nursery.start_soon, _write, conn, transport, name="trio_rooms writer"))


async def _write(conn: Connection, transport: Transport) -> None:
    """The writer: from the outbox to the transport; when all is written that ever will be, it is the last."""
    try:
        await conn._sink.run(transport)
    except TransportClosed as exc:
        _transport_ended(conn, exc.close)
    except WriteTimedOut:
        conn._node.counters.limit("write_timeout")
        conn._end(Close(1006, "a write timed out", "network"))
        conn._cancel_all("a write timed out")
    conn._writing = False
    if conn._flushed is not None:
        conn._flushed.set()


def _transport_ended(conn: Connection, close: Close) -> None:
    """The transport has told the reader or the writer that it is over."""
    first = conn._end(close)
    if close.by == "peer" and _busy(conn):
        conn._sink.wake_writer()  # which answers its close frame; nobody else would for a while
    conn._sink.discard()
    if close.by == "peer" and first:
        # What it sent before its close frame is still handled; nobody waits for the answers any more.
        conn._work.deadline = trio.current_time() + conn._node.config.close_timeout
    elif first or (conn._closed is not None and conn._closed.by == "server"):
        conn._cancel_all(f"the connection was lost ({close.code})")


def _busy(conn: Connection) -> bool:
    """Whether a connection that is ending may take its time until :func:`_finish`."""
    dispatcher = conn._dispatcher
    return (
        dispatcher.inbox.waiting is None
        or dispatcher.in_flight.concurrent > 0
        or bool(conn._tasks)
        or bool(conn._node.registry.connection_middleware)
    )


def _start_pinger(conn: Connection, transport: Transport, alarm: Alarm) -> None:
    if conn._nursery is not None:
        conn._context.run(partial(conn._nursery.start_soon, _watch, conn, transport, alarm, name="trio_rooms pinger"))


def _watch(conn: Connection, transport: Transport, alarm: Alarm) -> Awaitable[None]:
    """The pinger. Not a coroutine itself: it would stay as long as the connection, and do nothing."""
    node = conn._node
    return keep_alive(
        conn._sink,
        transport,
        interval=node.config.ping_interval,
        timeout=node.config.pong_timeout,
        sleep_until=alarm.sleep_until,
        died=conn._died,
    )


async def _finish(conn: Connection, transport: Transport, error: BaseException | None) -> None:
    """The end of every connection: out of the indexes, the transport closed, hooks run."""
    node = conn._node
    if conn._closed is None:  # cancelled from outside
        conn._end(Close(node.close_code, "the server is closing"))
    close = conn._closed
    assert close is not None
    conn._dispatcher.inbox.close(discard=True)
    conn._sink.discard()
    node.remove_connection(conn)
    node.counters.absorb(conn.outbox)
    # Posted before anything can wait: an on_error hook that hangs must not take on_disconnect with it.
    if conn._on_connect_begun:
        conn._hooks.post("on_disconnect", conn, close)
    try:
        if error is None and not conn._hooks.busy:
            _leave_session(conn)
            await _close_transport(conn, transport, close)
        else:
            with node.grace.shield(max(node.config.close_timeout, node.config.hook_timeout)):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_close_transport, conn, transport, close)
                    await _run_last_hooks(conn, error)
    finally:
        expiry = _leave_session(conn)
        if expiry is not None:
            await expiry.settle()  # noqa: ASYNC102 - it shields itself
        node.counters.closed(close)
        conn._over = True
        if conn._gone is not None:
            conn._gone.set()


async def _close_transport(conn: Connection, transport: Transport, close: Close) -> None:
    if close.by != "network":
        with conn._node.grace.shield(conn._node.config.close_timeout):
            await transport.close(close.code, close.reason)
    await transport.abort()


async def _run_last_hooks(conn: Connection, error: BaseException | None) -> None:
    node = conn._node
    conn._hooks.limit(trio.current_time() + node.config.hook_timeout)
    if error is not None:
        await node.errors.report(conn, error, "connection")
    await conn._hooks.wait_idle()
    _leave_session(conn)


def _leave_session(conn: Connection) -> Expiry | None:
    """The connection's hooks are over: it has no part in its session any more. Who ends that, if it had one."""
    if conn._session is None:
        return None
    expiry = conn._node.expiry
    assert expiry is not None
    expiry.left(conn)
    return expiry
