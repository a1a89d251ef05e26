"""From an accepted stream to a living connection: admission, handshake, upgrade; a boundary around each.

Whatever happens to one arrival stays here: it is logged, counted, and its stream closed. Nothing of it
reaches the accept loop or another connection.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from types import TracebackType
from typing import Literal, TypeVar

import attrs
import trio

from ._admission import Admission, Ticket
from ._alarm import Alarm
from ._boundary import own_cancellations_only
from ._connection import Connection
from ._drain import Drain
from ._errors import NotServing
from ._handshake import (
    Admit,
    HandshakePolicy,
    Judgement,
    Upgrade,
    address_full,
    full,
    judge,
    shake_hands,
    shake_hands_at_once,
    turn_away,
)
from ._lifecycle import live
from ._node import Node
from ._per_address import PerAddress
from ._wire.ending import GONE, close_now
from ._wire.head import HandshakeError
from ._wire.input import look
from ._wire.native import NativeTransport
from ._wire.over_trio_websocket import CallersRequest, over_request, over_stream
from ._wire.peer import is_unix, remote_address
from ._wire.proxies import Proxies
from ._wire.request import HandshakeRequest
from ._wire.transport import Offer, Transport, TransportClosed

T = TypeVar("T")

# A connection that has been accepted and is to be lived.
_Begun = tuple[Connection, Transport]

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
        self._handle = self._handle_natively if transport == "native" else self._handle_by_trio_websocket
        limits = node.config.limits
        self._admission = Admission(
            max_connections=limits.max_connections, max_pending_handshakes=limits.max_pending_handshakes
        )
        per_address = limits.max_connections_per_address
        self._per_address = None if per_address is None else PerAddress(per_address)
        proxies = node.config.trusted_proxies
        self._proxies = Proxies(proxies) if proxies else None
        # A connection that lives has a scope of its own, and another one around it would only cost memory: these are
        # around what comes before.
        self._scopes: set[trio.CancelScope] = set()
        self._open = 0
        self._alarm = Alarm(node.spawn)
        self._empty = trio.lowlevel.ParkingLot()
        self._over = False
        self._turning_away = 0

    @property
    def open(self) -> int:
        """Connections and handshakes that are not over."""
        return self._open

    @property
    def pending(self) -> int:
        """Handshakes whose request is not complete."""
        return self._admission.pending

    def limit(self, deadline: float) -> None:
        """Cancel what is not over at ``deadline``."""
        for scope in self._scopes:
            scope.deadline = min(scope.deadline, deadline)
        for conn in self._node.connections.values():
            conn._limit(deadline)

    async def wait_empty(self) -> None:
        """Wait until everything is over; from then on nothing is let in, for nobody would wait for it."""
        await trio.lowlevel.checkpoint()
        while self._open:
            await self._empty.park()
        self._over = True

    def handle(self, stream: trio.abc.Stream) -> Awaitable[None]:
        """Serve whatever the stream brings, and close it. Raises nothing but cancellation, and :exc:`NotServing`."""
        return self._guard(stream, self._handle, self._turn_away)

    def handle_request(self, request: CallersRequest) -> Awaitable[None]:
        """Serve an upgrade that the caller's own trio-websocket server has read. Raises as :meth:`handle`."""
        return self._guard(request, self._handle_request, self._reject)

    async def _guard(
        self,
        arrival: T,
        handle: Callable[[T, Ticket], Awaitable[_Begun | None]],
        turn_away: Callable[[T, HandshakeError], Awaitable[None]],
    ) -> None:
        """Run ``handle`` within a boundary, and the connection that it has begun and left to be lived, if any."""
        if self._over:
            raise NotServing("this manager is not being served")
        self._open += 1
        ticket, refusal = self._admit(arrival)
        try:
            with own_cancellations_only():
                if ticket is not None:
                    begun = await handle(arrival, ticket)
                    if begun is not None:
                        await live(*begun, self._alarm, deadline=self._drain.deadline)
                elif refusal is not None:
                    self._node.counters.reject(refusal.reason)
                    with self._limited(trio.CancelScope()):
                        await turn_away(arrival, refusal)
        except* Exception as group:
            await self._node.errors.report(None, group, "a connection")
        finally:
            if ticket is not None:
                ticket.release()
                if self._per_address is not None:
                    self._per_address.release(ticket)
                if ticket.pushed_out:
                    self._node.counters.reject("pushed_out")
            self._open -= 1
            if not self._open:
                self._empty.unpark_all()

    def _admit(self, arrival: object) -> tuple[Ticket | None, HandshakeError | None]:
        """A place for what has arrived, or why it gets none."""
        address = None
        if self._per_address is not None and isinstance(arrival, trio.abc.Stream):
            address = self._address_at_accept(arrival)
            if self._per_address.is_full(address):  # asked first, so that nobody is pushed out for it
                return None, address_full()
        ticket = self._admission.admit(trio.CancelScope())
        if ticket is None:
            return None, full()
        if self._per_address is not None:
            self._per_address.take(ticket, address)
        return ticket, None

    def _address_at_accept(self, stream: trio.abc.Stream) -> str | None:
        """The client's address, if that is known before there is a request; else None."""
        remote = remote_address(stream)
        if remote is None or (self._proxies is not None and self._proxies.trusts(remote[0], unix=False)):
            return None
        return remote[0]

    def _admit_request(self, ticket: Ticket, unix: bool, request: HandshakeRequest) -> HandshakeRequest:
        """Find out whose request this is; and whether it may come in, if that was not known before."""
        if self._proxies is not None:
            request = self._proxies.see_through(request, unix=unix)
        if self._per_address is not None and not self._per_address.take(ticket, request.remote):
            raise address_full()
        return request

    def _admission_of_requests(self, ticket: Ticket, stream: trio.abc.Stream) -> Admit | None:
        """What is to be asked about the request of a stream; None if there is nothing."""
        if self._proxies is None:
            return None  # the address is that of the socket, which was asked about at accept
        return partial(self._admit_request, ticket, is_unix(stream))

    def _limited(self, scope: trio.CancelScope) -> _Limited:
        """To enter a scope that :meth:`limit` reaches."""
        if self._drain.deadline < scope.deadline:
            scope.deadline = self._drain.deadline
        return _Limited(scope, self._scopes)

    async def _turn_away(self, stream: trio.abc.Stream, refusal: HandshakeError) -> None:
        if self._turning_away >= _MAX_TURNING_AWAY:
            await close_now(stream)
            return
        self._turning_away += 1
        try:
            await turn_away(stream, refusal)
        finally:
            self._turning_away -= 1

    async def _reject(self, request: CallersRequest, refusal: HandshakeError) -> None:
        await request.reject(refusal)

    async def _handle_natively(self, stream: trio.abc.Stream, ticket: Ticket) -> _Begun | None:
        """From the first byte to the 101. What comes after is the caller's: nothing of this is to stay for it."""
        begun = None
        try:
            begun = await self._begin(stream, ticket)
        finally:
            if begun is None:
                await close_now(stream)  # noqa: ASYNC102 - it shields itself
        return begun

    async def _begin(self, stream: trio.abc.Stream, ticket: Ticket) -> _Begun | None:
        config = self._node.config
        deadline = trio.current_time() + config.handshake_timeout
        first = _look(stream, config.limits.max_header_bytes + 1)
        # A scope is made of several objects; a handshake that does not wait goes without.
        admit = self._admission_of_requests(ticket, stream)
        upgrade = None
        if first:
            upgrade = shake_hands_at_once(first, self._policy, remote=remote_address(stream), admit=admit)
        if upgrade is None:
            with self._limited(ticket.scope):
                upgrade = await self._shake_hands(stream, ticket, admit, first)
            if upgrade is None:
                return None
        ticket.head_complete()
        conn = self._connection(upgrade)
        transport = NativeTransport(
            stream,
            trailing=upgrade.trailing,
            max_message_bytes=config.limits.max_message_bytes,
            max_fragments=config.limits.max_fragments,
            message_timeout=config.limits.message_timeout,
            read_buffer_size=config.read_buffer_size,
            before_read=conn._dispatcher.inbox.room,
            poller=self._node.poller,
        )
        with suppress(TransportClosed):
            rest = transport.accept(upgrade.key, upgrade.subprotocol)
            if rest is None:
                return conn, transport
            with self._limited(trio.CancelScope(deadline=deadline)):
                await rest
                return conn, transport
        self._node.counters.reject("hangup")
        return None

    async def _handle_by_trio_websocket(self, stream: trio.abc.Stream, ticket: Ticket) -> None:
        config = self._node.config
        deadline = trio.current_time() + config.handshake_timeout
        upgrade: Upgrade | None = None
        with self._limited(ticket.scope):
            upgrade = await self._shake_hands(stream, ticket, self._admission_of_requests(ticket, stream))
        if upgrade is not None:
            conn = self._connection(upgrade)
            offer = over_stream(
                stream,
                key=upgrade.key,
                subprotocol=upgrade.subprotocol,
                trailing=upgrade.trailing,
                max_message_bytes=config.limits.max_message_bytes,
                read_buffer_size=config.read_buffer_size,
                before_read=conn._dispatcher.inbox.wait_for_room,
            )
            await self._live_over(offer, conn, deadline)

    async def _handle_request(self, request: CallersRequest, ticket: Ticket) -> None:
        ticket.head_complete()
        deadline = trio.current_time() + self._node.config.handshake_timeout
        described = request.describe()
        decision: Judgement | HandshakeError | None = None
        with self._limited(trio.CancelScope()):
            policy, failures = self._policy_and_failures()
            admit = partial(self._admit_request, ticket, False)
            decision = await judge(described, policy, admit)
            await self._report(failures)
            if isinstance(decision, HandshakeError):
                await request.reject(decision)
        if isinstance(decision, Judgement):
            subprotocol = decision.subprotocol
            conn = Connection(self._node, decision.request, decision.identity, subprotocol)
            offer = over_request(
                request,
                subprotocol=subprotocol,
                max_message_bytes=self._node.config.limits.max_message_bytes,
                before_read=conn._dispatcher.inbox.wait_for_room,
            )
            await self._live_over(offer, conn, deadline)

    async def _shake_hands(
        self, stream: trio.abc.Stream, ticket: Ticket, admit: Admit | None, first: bytes | None = None
    ) -> Upgrade | None:
        policy, failures = self._policy_and_failures()
        upgrade = await shake_hands(
            stream,
            policy,
            remote=remote_address(stream),
            head_complete=ticket.head_complete,
            admit=admit,
            first=first,
        )
        await self._report(failures)
        return upgrade

    def _policy_and_failures(self) -> tuple[HandshakePolicy, list[Exception]]:
        """The policy for one handshake, and where it puts what ``authenticate`` raises."""
        failures: list[Exception] = []
        if self._policy.authenticate is None:
            return self._policy, failures
        return attrs.evolve(self._policy, failed=failures.append), failures

    def _connection(self, upgrade: Upgrade) -> Connection:
        return Connection(self._node, upgrade.request, upgrade.identity, upgrade.subprotocol)

    async def _live_over(self, offers: AbstractAsyncContextManager[Offer], conn: Connection, deadline: float) -> None:
        async with offers as offer:
            transport: Transport | None = None
            with self._limited(trio.CancelScope(deadline=deadline)), suppress(TransportClosed):
                transport = await offer.accept()
            if transport is None:
                self._node.counters.reject("hangup")
            else:
                await live(conn, transport, self._alarm, deadline=self._drain.deadline)

    async def _report(self, failures: list[Exception]) -> None:
        for failure in failures:
            await self._node.errors.report(None, failure, "authenticate")


def _look(stream: trio.abc.Stream, max_bytes: int) -> bytes | None:
    """What has come with the connection; None if that is nothing yet, or cannot be told."""
    try:
        return look(stream, max_bytes)
    except GONE:
        return b""  # as good as its end


class _Limited:
    """A cancel scope that is among others while the block runs; a generator would cost more than the scope."""

    __slots__ = ("_among", "_scope")

    def __init__(self, scope: trio.CancelScope, among: set[trio.CancelScope]) -> None:
        self._scope = scope
        self._among = among

    def __enter__(self) -> trio.CancelScope:
        self._among.add(self._scope)
        return self._scope.__enter__()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._among.discard(self._scope)
        return self._scope.__exit__(exc_type, exc, traceback)
