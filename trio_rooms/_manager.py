"""The application object: what is registered with it, how it is served, and the verbs that reach clients."""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from types import MappingProxyType
from typing import Any

import trio

from . import _gc
from ._arrivals import TransportName
from ._config import Config
from ._connection import Connection
from ._context import current_connection, current_room
from ._errors import AlreadyServing, NotServing, UsageError
from ._joining import Joined
from ._node import Node
from ._presence import check_presence
from ._publishing import Publishing
from ._registrar import Registrar
from ._registry import Middleware
from ._room import Room
from ._server import Server, serve
from ._signals import run_until_signalled
from ._wire.over_trio_websocket import CallersRequest, WebSocketRequest
from ._wire.upgrade import AllowedOrigins
from .brokers.base import Broker
from .brokers.memory import MemoryBroker


class Manager(Registrar, Publishing):
    """Handlers, hooks, middleware, room options and configuration, ready to be served.

    Make it anywhere, also outside ``trio.run``. It is frozen while it is served: then everything that registers
    raises :exc:`AlreadyServing`. It can be served again afterwards, and nothing of one run is left for the next.

    Args:
      config: Settings and limits.
      logger: Where errors are logged; default ``logging.getLogger("trio_rooms")``.
      middleware: As for :meth:`use`.
      broker: Carries publications; default is the broker of one process.
      debug: Tell clients the text of exceptions. Off by default, and for development only.
    """

    def __init__(
        self,
        *,
        config: Config | None = None,
        logger: logging.Logger | logging.LoggerAdapter[Any] | None = None,
        middleware: Iterable[Middleware] = (),
        broker: Broker | None = None,
        debug: bool = False,
    ) -> None:
        super().__init__(middleware)
        self.config: Config = Config() if config is None else config
        """The configuration it was made with."""
        self.logger: logging.Logger | logging.LoggerAdapter[Any] = (
            logging.getLogger("trio_rooms") if logger is None else logger
        )
        """The logger it was made with."""
        self._broker = MemoryBroker() if broker is None else broker
        self._debug = debug
        self._server: Server | None = None
        self._shutdown_asked: bool | None = None

    async def serve(  # noqa: ASYNC128 - task_status is handed on
        self,
        *,
        host: str | Sequence[str] | None = "127.0.0.1",
        port: int = 0,
        path: str | None = "/ws",
        unix_path: str | os.PathLike[str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        listeners: Sequence[trio.abc.Listener[Any]] | None = None,
        allowed_origins: AllowedOrigins = "same",
        transport: TransportName = "native",
        task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until shut down: ``server = await nursery.start(manager.serve)``.

        Returns when a shutdown that was begun is complete; then nothing is left of it. Cancelling it skips the
        drain: clients get a close frame, within ``close_timeout``, and hooks run, within ``hook_timeout``.

        Args:
          host: The address or name to listen on, or several of them, which all get the same port. None: every interface
            of this machine, IPv4 and IPv6.
          port: The port; 0 lets the system choose, see ``server.port``.
          path: Where upgrades are accepted, with or without a query; None accepts them anywhere.
          unix_path: Listen on a Unix socket at this path instead of ``host`` and ``port``. Who may connect is decided
            by the file's permissions, which are what the umask leaves, and those of its directory. A socket that a
            server left behind is replaced, one where somebody listens is not; at the end the file is removed.
          ssl_context: Speak TLS, with this context of a server. The handshake of TLS is a part of
            ``handshake_timeout``.
          listeners: Use these instead of ``host``, ``port`` and ``unix_path``, and close them at the end. For TLS wrap
            them in a ``trio.SSLListener``. An empty list serves only what is given to :meth:`handle_connection`.
          allowed_origins: "same" (default): pages of the same host and port, and clients that send no Origin.
            A list of "https://app.example.com" or "https://*.example.com": those. None: any.
          transport: Who reads and writes frames: "native" (default), the library itself, or "trio-websocket". That one
            does not enforce ``max_fragments``, ``message_timeout`` and the size that a frame declares, and writes
            each frame by itself.

        Raises :exc:`AlreadyServing`, OSError if it cannot listen, :exc:`UsageError` if these do not go together, and
        whatever the broker fails with.
        """
        if self._registry.frozen:
            raise AlreadyServing("this manager is being served")
        check_presence(self._registry.patterns, self.config.limits)
        self._registry.freeze(True)
        try:
            await serve(
                self._make_node,
                host=host,
                port=port,
                path=path,
                unix_path=unix_path,
                ssl_context=ssl_context,
                listeners=listeners,
                allowed_origins=allowed_origins,
                transport=transport,
                on_server=self._set_server,
                task_status=task_status,
            )
        finally:
            self._server = None
            self._shutdown_asked = None
            self._registry.freeze(False)

    async def handle_connection(self, connection: trio.abc.Stream | WebSocketRequest) -> None:
        """Serve a connection that the caller accepted; returns when it is over. Cancelling it closes it with 1001.

        A stream is ours from the first byte: the handshake is read from it, with that of TLS before it where it is a
        ``trio.SSLStream``, and it is closed at the end. Given a
        request of the caller's own trio-websocket server, the limits of handshake and frames are those of that
        server; origin, ``authenticate`` and everything after the upgrade are ours.

        Raises :exc:`NotServing` unless the manager is served (``listeners=[]`` serves without listening), and
        nothing on account of the client.
        """
        arrivals = self._running()._arrivals
        request = CallersRequest.wrap(connection)
        if request is not None:
            await arrivals.handle_request(request)
        elif isinstance(connection, trio.abc.Stream):
            await arrivals.handle(connection)
        else:
            raise UsageError(f"handle_connection takes a trio stream or a trio-websocket request, not {connection!r}")

    def run(
        self,
        *,
        host: str | Sequence[str] | None = "127.0.0.1",
        port: int = 8080,
        path: str | None = "/ws",
        unix_path: str | os.PathLike[str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        allowed_origins: AllowedOrigins = "same",
        on_listening: Callable[[Server], None] | None = None,
        tune_gc: bool = True,
    ) -> None:
        """Serve as a whole program, until SIGINT or SIGTERM has been answered with a shutdown.

        A second SIGINT cancels at once. Calls ``trio.run``.

        Args:
          host, port, path, unix_path, ssl_context, allowed_origins: As for :meth:`serve`.
          on_listening: Called once with the server.
          tune_gc: Tune Python's cyclic garbage collector before ``on_listening`` is called: what is there by then is
            frozen, the thresholds are 10000, 2, 500 unless the first was higher or 0. When ``run`` ends, the
            thresholds are what they were and all is unfrozen, also what the program itself had frozen. False leaves
            the collector alone.
        """
        serve = partial(
            self.serve,
            host=host,
            port=port,
            path=path,
            unix_path=unix_path,
            ssl_context=ssl_context,
            allowed_origins=allowed_origins,
        )

        async def serve_it() -> None:
            async with trio.open_nursery() as nursery:
                server = await nursery.start(serve)
                if tune_gc:
                    _gc.tune()
                if on_listening is not None:
                    on_listening(server)

        with _gc.restored() if tune_gc else nullcontext():
            trio.run(run_until_signalled, serve_it, self.begin_shutdown)

    def begin_shutdown(self, *, returning: bool = True) -> None:
        """Begin to shut down; synchronous and idempotent. Without a running serve it does nothing.

        Clients are closed with 1012, which says that the service restarts; ``returning=False`` closes them with
        1001, which says that it goes away.
        """
        if self._server is not None:
            self._server.begin_shutdown(returning=returning)
        elif self._registry.frozen and self._shutdown_asked is None:
            self._shutdown_asked = returning  # serve is on its way up, see _set_server

    async def shutdown(self) -> None:
        """Shut down and wait until serve has ended.

        In a task of a connection or room it only begins: the end would wait for that task. Cancelling it does not
        call the shutdown off. Always a checkpoint.
        """
        server = self._server
        self.begin_shutdown()
        await trio.lowlevel.checkpoint()
        if server is not None and current_connection() is None and current_room() is None:
            await server.wait_closed()

    @property
    def server(self) -> Server | None:
        """The running serve, if there is one."""
        return self._server

    @property
    def connections(self) -> Mapping[str, Connection]:
        """The open connections of this node by id; a live view, empty where nothing is served."""
        return MappingProxyType(self._node.connections if self._server is not None else {})

    def get_room(self, name: str) -> Room | None:
        """The room of that name, if it exists on this node; None also where nothing is served."""
        return self._node.rooms.get(name) if self._server is not None else None

    def rooms(self) -> list[Room]:
        """The rooms that exist on this node; a copy."""
        return list(self._node.rooms.values()) if self._server is not None else []

    async def join_room(self, conn: Connection, room: str) -> Joined:
        """As :meth:`Connection.join`."""
        return await conn.join(room)

    def leave_room(self, conn: Connection, room: str) -> bool:
        """As :meth:`Connection.leave`."""
        return conn.leave(room)

    def _running(self) -> Server:
        if self._server is None:
            raise NotServing("this manager is not being served")
        return self._server

    @property
    def _node(self) -> Node:
        return self._running()._node

    def _set_server(self, server: Server) -> None:
        self._server = server
        if self._shutdown_asked is not None:
            server.begin_shutdown(returning=self._shutdown_asked)

    def _make_node(self, nursery: trio.Nursery) -> Node:
        return Node(
            config=self.config,
            registry=self._registry,
            broker=self._broker,
            logger=self.logger,
            debug=self._debug,
            nursery=nursery,
        )


@asynccontextmanager
async def serve_rooms(
    manager: Manager,
    *,
    host: str | Sequence[str] | None = "127.0.0.1",
    port: int = 0,
    path: str | None = "/ws",
    unix_path: str | os.PathLike[str] | None = None,
    ssl_context: ssl.SSLContext | None = None,
    listeners: Sequence[trio.abc.Listener[Any]] | None = None,
    allowed_origins: AllowedOrigins = "same",
    transport: TransportName = "native",
) -> AsyncIterator[Server]:
    """``async with serve_rooms(manager, port=8080) as server:`` serves for the length of the block.

    Leaving the block shuts down with a drain. An exception or a cancellation skips the drain; clients still get
    a close frame. As with every nursery, exceptions come out in an exception group. A shutdown that
    somebody else begins does not end the block: ``await server.wait_closed()`` waits for one.

    The arguments are those of :meth:`Manager.serve`.
    """
    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            partial(
                manager.serve,
                host=host,
                port=port,
                path=path,
                unix_path=unix_path,
                ssl_context=ssl_context,
                listeners=listeners,
                allowed_origins=allowed_origins,
                transport=transport,
            )
        )
        yield server
        server.begin_shutdown()
