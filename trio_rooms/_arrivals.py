"""From an accepted stream to a living connection: admission, handshake, upgrade; a boundary around each.

Whatever happens to one arrival stays here: it is logged, counted, and its stream closed. Nothing of it
reaches the accept loop or another connection.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Literal

import attrs
import trio

from ._admission import Admission, Ticket
from ._boundary import own_cancellations_only
from ._connection import Connection
from ._drain import Drain
from ._errors import NotServing
from ._handshake import HandshakePolicy, Upgrade, full, judge, shake_hands, turn_away
from ._lifecycle import live
from ._node import Node
from ._wire import native, over_trio_websocket
from ._wire.ending import close_now
from ._wire.over_trio_websocket import CallersRequest, over_request
from ._wire.transport import Offer, TransportClosed

#: Which transport carries the connections of a server.
TransportName = Literal["native", "trio-websocket"]

# Connections beyond max_connections that are being told so at the same time; each may take two seconds, and holds a
# descriptor meanwhile. More of them are closed without a word. Half of the reserve that the default of
# max_connections leaves; admission has the other half.
_MAX_TURNING_AWAY = 32


class Arrivals:
    """The door of one server, and the scopes of everything that has come through it."""

    def __init__(self, node: Node, drain: Drain, policy: HandshakePolicy, transport: TransportName) -> None:
        self._node = node
        self._drain = drain
        self._policy = policy
        self._transport = transport
        limits = node.config.limits
        self._admission = Admission(
            max_connections=limits.max_connections, max_pending_handshakes=limits.max_pending_handshakes
        )
        self._scopes: set[trio.CancelScope] = set()
        self._empty = trio.lowlevel.ParkingLot()
        self._over = False
        self._turning_away = 0

    @property
    def open(self) -> int:
        """Connections and handshakes that are not over."""
        return len(self._scopes)

    @property
    def pending(self) -> int:
        """Handshakes whose request is not complete."""
        return self._admission.pending

    def limit(self, deadline: float) -> None:
        """Cancel what is not over at ``deadline``."""
        for scope in self._scopes:
            scope.deadline = min(scope.deadline, deadline)

    async def wait_empty(self) -> None:
        """Wait until everything is over; from then on nothing is let in, for nobody would wait for it."""
        await trio.lowlevel.checkpoint()
        while self._scopes:
            await self._empty.park()
        self._over = True

    async def handle(self, stream: trio.abc.Stream) -> None:
        """Serve whatever the stream brings, and close it. Raises nothing but cancellation, and :exc:`NotServing`."""
        await self._guard(lambda ticket: self._handle(stream, ticket), lambda: self._turn_away(stream))

    async def handle_request(self, request: CallersRequest) -> None:
        """Serve an upgrade that the caller's own trio-websocket server has read. Raises as :meth:`handle`."""
        await self._guard(lambda ticket: self._handle_request(request, ticket), lambda: request.reject(full()))

    async def _guard(
        self, handle: Callable[[Ticket], Awaitable[None]], turn_away: Callable[[], Awaitable[None]]
    ) -> None:
        if self._over:
            raise NotServing("this manager is not being served")
        with trio.CancelScope(deadline=self._drain.deadline) as scope:
            ticket = self._admission.admit(scope)
            self._scopes.add(scope)
            try:
                with own_cancellations_only():
                    if ticket is not None:
                        await handle(ticket)
                    else:
                        self._node.counters.reject("full")
                        await turn_away()
            except* Exception as group:
                await self._node.errors.report(None, group, "a connection")
            finally:
                if ticket is not None:
                    ticket.release()
                self._scopes.discard(scope)
                if not self._scopes:
                    self._empty.unpark_all()
        if ticket is not None and ticket.pushed_out:
            self._node.counters.reject("pushed_out")

    async def _turn_away(self, stream: trio.abc.Stream) -> None:
        if self._turning_away >= _MAX_TURNING_AWAY:
            await close_now(stream)
            return
        self._turning_away += 1
        try:
            await turn_away(stream)
        finally:
            self._turning_away -= 1

    async def _handle(self, stream: trio.abc.Stream, ticket: Ticket) -> None:
        deadline = trio.current_time() + self._node.config.handshake_timeout
        failures: list[Exception] = []
        policy = attrs.evolve(self._policy, failed=failures.append)
        upgrade = await shake_hands(stream, policy, remote=remote_address(stream), head_complete=ticket.head_complete)
        await self._report(failures)
        if upgrade is None:
            return
        conn = Connection(self._node, upgrade.request, upgrade.identity, upgrade.subprotocol)
        await self._live(conn, self._open(stream, upgrade, conn), deadline)

    def _open(self, stream: trio.abc.Stream, upgrade: Upgrade, conn: Connection) -> AbstractAsyncContextManager[Offer]:
        config = self._node.config
        over_stream: Callable[..., AbstractAsyncContextManager[Offer]] = over_trio_websocket.over_stream
        if self._transport == "native":
            over_stream = partial(
                native.over_stream,
                max_fragments=config.limits.max_fragments,
                message_timeout=config.limits.message_timeout,
            )
        return over_stream(
            stream,
            key=upgrade.key,
            subprotocol=upgrade.subprotocol,
            trailing=upgrade.trailing,
            max_message_bytes=config.limits.max_message_bytes,
            read_buffer_size=config.read_buffer_size,
            before_read=conn._dispatcher.inbox.wait_for_room,
        )

    async def _handle_request(self, request: CallersRequest, ticket: Ticket) -> None:
        ticket.head_complete()
        deadline = trio.current_time() + self._node.config.handshake_timeout
        failures: list[Exception] = []
        policy = attrs.evolve(self._policy, failed=failures.append)
        described = request.describe()
        decision = await judge(described, policy)
        await self._report(failures)
        if not isinstance(decision, tuple):
            await request.reject(decision)
            return
        identity, subprotocol = decision
        conn = Connection(self._node, described, identity, subprotocol)
        await self._live(
            conn,
            over_request(
                request,
                subprotocol=subprotocol,
                max_message_bytes=self._node.config.limits.max_message_bytes,
                before_read=conn._dispatcher.inbox.wait_for_room,
            ),
            deadline,
        )

    async def _live(self, conn: Connection, offer: AbstractAsyncContextManager[Offer], deadline: float) -> None:
        async with offer as upgrade:
            try:
                with trio.fail_at(deadline):
                    transport = await upgrade.accept()
            except (TransportClosed, trio.TooSlowError):
                self._node.counters.reject("hangup")
                return
            if self._node.draining:
                conn._drain()
            await live(conn, transport)

    async def _report(self, failures: list[Exception]) -> None:
        for failure in failures:
            await self._node.errors.report(None, failure, "authenticate")


def remote_address(stream: trio.abc.Stream) -> tuple[str, int] | None:
    """Host and port of the peer, if the stream is one of TCP, with TLS or without."""
    inner: Any = stream
    if isinstance(inner, trio.SSLStream):
        inner = inner.transport_stream
    if not isinstance(inner, trio.SocketStream):
        return None
    try:
        name = inner.socket.getpeername()
    except OSError:
        return None
    return (name[0], name[1]) if isinstance(name, tuple) and len(name) >= 2 else None
