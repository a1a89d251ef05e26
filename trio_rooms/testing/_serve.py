"""Serving a manager in memory, and opening clients to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Literal

import trio
import trio.testing

from trio_rooms import Manager, Server, serve_rooms

from ._client import TestClient
from ._outcomes import HandshakeRefused


class MemoryServer:
    """A running server without a listener; made by :func:`serve_in_memory`."""

    def __init__(self, manager: Manager, server: Server, nursery: trio.Nursery) -> None:
        self.manager = manager
        """The manager that is served."""
        self.server = server
        """Its server: ``statistics()``, ``begin_shutdown()``."""
        self._nursery = nursery

    def open_stream(self, wrap: Callable[[trio.abc.Stream], trio.abc.Stream] | None = None) -> trio.abc.Stream:
        """The client's end of a new connection, before any byte. ``wrap`` goes around the server's end."""
        ours, theirs = trio.testing.memory_stream_pair()
        stream: trio.abc.Stream = theirs if wrap is None else wrap(theirs)
        self._nursery.start_soon(self.manager.handle_connection, stream)
        return ours

    async def connect(
        self,
        *,
        path: str = "/ws",
        host: str = "testserver",
        headers: Iterable[tuple[str, str]] = (),
        subprotocol: str | Sequence[str] | None = None,
        wrap: Callable[[trio.abc.Stream], trio.abc.Stream] | None = None,
        wrap_client: Callable[[trio.abc.Stream], trio.abc.Stream] | None = None,
    ) -> TestClient:
        """A connected client, yours to close; arguments as for :func:`open_client`."""
        stream = self.open_stream(wrap)
        if wrap_client is not None:
            stream = wrap_client(stream)
        return await TestClient.connect(stream, path=path, host=host, headers=headers, subprotocol=subprotocol)


@asynccontextmanager
async def serve_in_memory(
    manager: Manager, *, path: str | None = "/ws", transport: Literal["native", "trio-websocket"] = "native"
) -> AsyncIterator[MemoryServer]:
    """Serve a manager for the length of the block, without a socket; then assert that nothing is left.

    ``path`` and ``transport`` are those of :meth:`~trio_rooms.Manager.serve`.
    Leaving the block shuts down, with a drain; in virtual time that takes no time.
    """
    serving = serve_rooms(manager, listeners=[], path=path, transport=transport)
    async with trio.open_nursery() as nursery, serving as server:
        yield MemoryServer(manager, server, nursery)
    server.assert_quiescent()


@asynccontextmanager
async def open_client(
    manager: Manager,
    *,
    path: str = "/ws",
    host: str = "testserver",
    headers: Iterable[tuple[str, str]] = (),
    subprotocol: str | Sequence[str] | None = None,
    wrap: Callable[[trio.abc.Stream], trio.abc.Stream] | None = None,
    wrap_client: Callable[[trio.abc.Stream], trio.abc.Stream] | None = None,
) -> AsyncIterator[TestClient]:
    """A client connected to ``manager`` over a pair of memory streams.

    Serves the manager for the length of the block if nobody does yet. The client drops its stream at the end,
    unless it was closed before. ``wrap`` and ``wrap_client`` go around the server's and the client's end, for
    instance a :class:`FaultyStream`.

    Raises :exc:`HandshakeRefused` if the server refuses the upgrade.
    """
    refused: HandshakeRefused | None = None
    async with _served(manager) as server:
        try:
            client = await server.connect(
                path=path, host=host, headers=headers, subprotocol=subprotocol, wrap=wrap, wrap_client=wrap_client
            )
        except HandshakeRefused as exc:
            refused = exc
        else:
            try:
                yield client
            finally:
                await client.aclose()
    # Raised out here, where no nursery can wrap it in a group.
    if refused is not None:
        raise refused


@asynccontextmanager
async def _served(manager: Manager) -> AsyncIterator[MemoryServer]:
    """The manager's running server, or one for the length of the block."""
    if manager.server is None:
        async with serve_in_memory(manager) as server:
            yield server
    else:
        async with trio.open_nursery() as nursery:
            yield MemoryServer(manager, manager.server, nursery)
