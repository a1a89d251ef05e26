"""A TCP proxy that cuts, stalls and half-closes what goes through it, at random."""

from __future__ import annotations

import random
import socket
import struct
from collections import Counter
from contextlib import suppress

import attrs
import trio

#: What happens to a connection; each but a stall is its end.
TROUBLES = ("reset", "torn", "closed", "half-closed", "stalled", "silent")

BROKEN = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)


@attrs.define(eq=False)
class _Way:
    """One direction of a connection."""

    source: trio.SocketStream
    target: trio.SocketStream
    open: trio.Event
    torn: bool = False

    async def relay(self) -> None:
        async for data in self.source:
            await self.open.wait()
            if self.torn and len(data) > 1:
                await self.target.send_all(data[: len(data) // 2])
                return
            await self.target.send_all(data)
        await self.target.send_eof()


@attrs.define(eq=False)
class RoughProxy:
    """In front of a port of this machine."""

    upstream: int
    rng: random.Random
    lifetime: float
    """Seconds until something happens to a connection, on average."""
    happened: Counter[str] = attrs.field(factory=Counter)
    port: int = 0
    _calm: bool = False
    _connections: list[trio.CancelScope] = attrs.field(factory=list)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen, on a port that is then known, until cancelled."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, self._handle, listeners)
            task_status.started()

    def calm_down(self) -> None:
        """From now on pass everything on; what was open before is cut a last time."""
        self._calm = True
        for scope in self._connections:
            scope.cancel()

    async def _handle(self, client: trio.SocketStream) -> None:
        with suppress(*BROKEN), trio.CancelScope() as scope:
            async with client, await trio.open_tcp_stream("127.0.0.1", self.upstream) as server:
                self._connections.append(scope)
                try:
                    await self._relay(client, server)
                finally:
                    self._connections.remove(scope)

    async def _relay(self, client: trio.SocketStream, server: trio.SocketStream) -> None:
        calm = trio.Event()
        calm.set()
        ways = [_Way(client, server, calm), _Way(server, client, calm)]
        async with trio.open_nursery() as nursery:

            async def relay(way: _Way) -> None:
                with suppress(*BROKEN):
                    await way.relay()
                if way.torn:
                    nursery.cancel_scope.cancel()

            for way in ways:
                nursery.start_soon(relay, way)
            if not self._calm:
                nursery.start_soon(self._trouble, ways, nursery)

    async def _trouble(self, ways: list[_Way], nursery: trio.Nursery) -> None:
        await trio.sleep(self.rng.expovariate(1 / self.lifetime))
        trouble = self.rng.choice(TROUBLES)
        self.happened[trouble] += 1
        way = self.rng.choice(ways)
        if trouble == "torn":
            way.torn = True
        elif trouble == "half-closed":
            with suppress(OSError):
                way.target.socket.shutdown(socket.SHUT_WR)  # also in the middle of a send
        elif trouble in ("stalled", "silent"):
            for one in ways:
                one.open = trio.Event()
            if trouble == "silent":
                return
            await trio.sleep(self.rng.uniform(0.1, 5.0))
            for one in ways:
                one.open.set()
            await self._trouble(ways, nursery)
        else:
            if trouble == "reset":
                for one in ways:
                    one.source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            nursery.cancel_scope.cancel()
