"""One running ``serve``: listeners, the tree of tasks, the addresses, and what is left at the end.

The tree, outermost first; each part is over before the one around it::

    broker, the flusher, and the watchdog of a shutdown that does not end
    └── tasks: rooms, and hooks that outlive their connection
        └── connections, each in a boundary of its own
            └── listeners: cancelled first
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Sequence

import trio

from ._accept import accept_forever
from ._arrivals import Arrivals, TransportName
from ._counters import Statistics, frozen
from ._drain import Drain
from ._formats import SUBPROTOCOLS
from ._handshake import HandshakePolicy
from ._listening import Listener, Place, listen, locate
from ._node import Node
from ._positions import watch_positions
from ._wire.ending import close_now
from ._wire.upgrade import AllowedOrigins, check_origins


class Server:
    """What ``serve_rooms`` and ``nursery.start(manager.serve)`` give: one serve, running or over."""

    def __init__(
        self,
        node: Node,
        arrivals: Arrivals,
        drain: Drain,
        *,
        places: tuple[Place, ...],
        path: str | None,
    ) -> None:
        self._node = node
        self._arrivals = arrivals
        self._drain = drain
        self._path = path
        self._places = places
        self._over = trio.Event()

    def __repr__(self) -> str:
        return f"<Server {', '.join(self.urls) or 'without listeners'}>"

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Host and port of each listener that has them; Unix sockets have none."""
        return tuple(place.address for place in self._places if place.address is not None)

    @property
    def unix_paths(self) -> tuple[str, ...]:
        """The path of each listener that is a Unix socket, absolute."""
        return tuple(place.unix_path for place in self._places if place.unix_path is not None)

    @property
    def port(self) -> int:
        """The port of the first listener that has one. Raises ValueError if no listener has."""
        if not self.addresses:
            raise ValueError("the server has no listener with a port")
        return self.addresses[0][1]

    @property
    def url(self) -> str:
        """The first of :attr:`urls`. Raises ValueError if no listener has an address."""
        if not self._places:
            raise ValueError("the server has no listener with an address")
        return self.urls[0]

    @property
    def urls(self) -> tuple[str, ...]:
        """For each listener with an address its URL, as a client on this machine would use it.

        ``ws://host:port/path``, ``wss://`` where TLS is spoken; for a server that listens on every interface the host
        is the loopback address. A Unix socket is ``ws+unix:///its/path.sock:/path``, which is how some clients name it.
        """
        return tuple(place.url(self._path or "/") for place in self._places)

    @property
    def draining(self) -> bool:
        """Whether shutdown has begun: new handshakes are refused with 503."""
        return self._node.draining

    def begin_shutdown(self, *, returning: bool = True) -> None:
        """As :meth:`Manager.begin_shutdown`."""
        self._drain.begin(returning=returning)

    async def wait_closed(self) -> None:
        """Wait until this serve is over; from a task of a connection or room it would wait for itself.

        It does not begin the end; a cancel changes nothing. Always a checkpoint.
        """
        await self._over.wait()

    def statistics(self) -> Statistics:
        """A snapshot; after the end the final numbers. It looks at each connection, so do not ask for every message."""
        node = self._node
        counters = node.counters
        outboxes = [conn.outbox for conn in node.connections.values()]
        return Statistics(
            connections=len(node.connections),
            pending_handshakes=self._arrivals.pending,
            rooms=len(node.rooms),
            draining=node.draining,
            accepted=counters.accepted,
            handshakes_rejected=frozen(counters.rejected),
            limited=frozen(counters.limited + node.inbox_bound.counts()),
            accept_errors=counters.accept_errors,
            messages_received=counters.messages_received,
            answers_dropped=counters.answers_dropped,
            errors_told=frozen(counters.errors_told),
            handler_errors=node.errors.count,
            closes=frozen(counters.closes),
            dead_peers=counters.dead_peers,
            enqueued=counters.enqueued + sum(outbox.enqueued for outbox in outboxes),
            written=counters.written + sum(outbox.written for outbox in outboxes),
            displaced=counters.displaced + sum(outbox.displaced for outbox in outboxes),
            discarded=counters.discarded + sum(outbox.discarded for outbox in outboxes),
            dropped=counters.dropped + sum(outbox.dropped for outbox in outboxes),
            presence_entries=counters.presence_entries,
            presence_pushes=counters.presence_pushes,
            presence_resyncs=counters.presence_resyncs,
            repeated=counters.repeated,
            insufficient=counters.insufficient,
            sessions_kept=0 if node.sessions is None else node.sessions.kept,
            sessions_restored=counters.sessions_restored,
            sessions_refused=counters.sessions_refused,
            sessions_expired=counters.sessions_expired,
        )

    def assert_quiescent(self) -> None:
        """Assert that nothing is left. For tests, after ``serve`` has returned.

        Raises AssertionError naming every connection, room, handshake, user entry, session and task that remains, and
        how many entries of presence.
        """
        node = self._node
        left = [
            *(f"connection {conn!r}" for conn in node.connections.values()),
            *(f"user {user!r}" for user in node.users),
            *(f"room {room!r}" for room in node.rooms.values()),
            *(f"closing room {room!r}" for room in node.closing_rooms.values()),
            *(f"session {session.id!r}" for session in (() if node.sessions is None else node.sessions.all)),
            *(f"task {task.name}" for task in node.nursery.child_tasks),
        ]
        if self._arrivals.open:
            left.append(f"{self._arrivals.open} places at the door")
        if node.poller is not None and node.poller.readers:
            left.append(f"{len(node.poller.readers)} sockets that are waited for")
        if not self._over.is_set():
            left.append("serve itself")
        counters = node.counters
        if counters.presence_entries:
            left.append(f"{counters.presence_entries} entries of presence")
        if counters.told_online:
            left.append(f"{counters.told_online} users that are still online")
        lost = counters.enqueued - counters.written - counters.displaced - counters.discarded
        if not node.connections and lost:
            left.append(f"{lost} messages that are accounted for nowhere")
        if left:
            raise AssertionError("left after serve: " + ", ".join(left))


async def serve(  # noqa: ASYNC128 - task_status is handed on
    make_node: Callable[[trio.Nursery], Node],
    *,
    host: str | Sequence[str] | None,
    port: int,
    path: str | None,
    unix_path: str | os.PathLike[str] | None,
    ssl_context: ssl.SSLContext | None,
    listeners: Sequence[Listener] | None,
    allowed_origins: AllowedOrigins,
    transport: TransportName,
    on_server: Callable[[Server], None],
    task_status: trio.TaskStatus[Server],
) -> None:
    """Serve until a shutdown has been completed; see the module's tree."""
    check_origins(allowed_origins)
    opened = await listen(host=host, port=port, unix_path=unix_path, ssl_context=ssl_context, listeners=listeners)
    server: Server | None = None

    def make_server(tasks: trio.Nursery) -> Server:
        node = make_node(tasks)
        drain = Drain(node)
        arrivals = Arrivals(node, drain, _policy(node, path, allowed_origins), transport)
        return Server(node, arrivals, drain, places=locate(opened), path=path)

    connections_over = trio.Event()
    broker = trio.CancelScope()
    try:
        async with trio.open_nursery() as root:
            server = await root.start(_run_tasks, make_server, connections_over, broker)
            try:
                on_server(server)
                await root.start(_run_broker, server._node, broker)
                await _run_connections(server, opened, task_status)
            finally:
                for room in tuple(server._node.rooms.values()):
                    room.close()
                if server._node.expiry is not None:
                    server._node.expiry.end_all()
                connections_over.set()
    finally:
        for listener in opened:
            await close_now(listener)  # noqa: ASYNC102 - it shields itself
        if server is not None:
            server._over.set()


async def _run_tasks(
    make_server: Callable[[trio.Nursery], Server],
    connections_over: trio.Event,
    broker: trio.CancelScope,
    *,
    task_status: trio.TaskStatus[Server],
) -> None:
    """Own the tasks of rooms and hooks until the connections, which need them to the end, are over.

    Shielded: a cancellation of the server reaches them through the connections and the closing of the rooms. The
    shield has no deadline, since the connections have one; then the tasks get the one of the grace.
    """
    # A shielded task must not be begun by a start() that was cancelled already: nobody would end it.
    await trio.lowlevel.checkpoint_if_cancelled()
    with trio.CancelScope(shield=True):
        async with trio.open_nursery() as outer:
            async with trio.open_nursery() as tasks:
                server = make_server(tasks)
                outer.start_soon(server._drain.watch)
                outer.start_soon(server._node.flusher.run)
                if server._node.poller is not None:
                    outer.start_soon(server._node.poller.run)
                outer.start_soon(watch_positions, server._node)
                task_status.started(server)
                await connections_over.wait()
                tasks.cancel_scope.deadline = server._node.grace.hard_deadline
            outer.cancel_scope.cancel(reason="served")
    broker.cancel(reason="served")


async def _run_broker(
    node: Node, scope: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run the broker until everything that may publish is over, also when the server is cancelled.

    The shield has no deadline of its own: :func:`_run_tasks` ends it, and is bounded. While the broker connects there
    is no shield, so that one that cannot connect does not hold the program.
    """
    with scope:
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(node.broker.run, node.deliver)
                await trio.lowlevel.checkpoint_if_cancelled()
                scope.shield = True
                task_status.started()
        finally:
            node.broker_ended()


async def _run_connections(
    server: Server,
    listeners: Sequence[Listener],
    task_status: trio.TaskStatus[Server],
) -> None:
    drain, arrivals = server._drain, server._arrivals
    async with trio.open_nursery() as connections:
        try:
            async with trio.open_nursery() as listening:
                for listener in listeners:
                    listening.start_soon(_accept, listener, arrivals, connections, server._node)
                task_status.started(server)
                await drain.wait_begun()
                listening.cancel_scope.cancel(reason="shutting down")
            await drain.run(arrivals)
        except BaseException:
            # Cancelled from outside, or a listener failed. Connections that a caller's task serves must end, too.
            drain.abandon(arrivals)
            with trio.CancelScope(shield=True):  # as bounded as the connections are, which abandon has cancelled
                await arrivals.wait_empty()
            raise


async def _accept(listener: Listener, arrivals: Arrivals, connections: trio.Nursery, node: Node) -> None:
    await accept_forever(listener, arrivals.handle, connections, errors=node.counters.accept_failed, logger=node.logger)


def _policy(node: Node, path: str | None, allowed_origins: AllowedOrigins) -> HandshakePolicy:
    registry = node.registry
    return HandshakePolicy(
        config=node.config,
        path=path,
        allowed_origins=allowed_origins,
        pages=registry.pages,
        authenticate=registry.authenticate,
        subprotocols=SUBPROTOCOLS,
        refusing=lambda: (503, "DRAINING") if node.draining else None,
        rejected=node.counters.reject,
        failed=lambda exc: None,
    )
