"""A client that is asked by tasks of its test, and a server whose handlers ask."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Literal

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

from messages import V1
from trio_rooms import Config, Connection, Limits, Manager, Message, RoomsError, Statistics
from trio_rooms.testing import MemoryServer, TestClient, serve_in_memory

Transport = Literal["native", "trio-websocket"]
TRANSPORTS: list[Transport] = ["native", "trio-websocket"]


def asking(**limits: Any) -> Manager:
    """A manager whose handler asks the client what that wants to be asked."""
    manager = Manager(config=Config(ping_interval=10_000, limits=Limits(**limits)))

    @manager.on("ask")
    async def ask(conn: Connection, data: Any) -> Any:
        return await conn.request("question", data)

    @manager.on("ask for")
    async def ask_for(conn: Connection, seconds: float) -> Any:
        with trio.move_on_after(seconds):
            return await conn.request("question")
        return "no answer"

    @manager.on("echo")
    def echo(conn: Connection, message: Message) -> Any:
        return message.data

    return manager


@attrs.define
class Asked:
    """A connection, its client, and a nursery for what asks."""

    client: TestClient
    conn: Connection
    memory: MemoryServer
    nursery: trio.Nursery
    results: list[Any] = attrs.field(factory=list)
    """What each request has come to, in order."""
    scopes: list[trio.CancelScope] = attrs.field(factory=list)
    """Around each request, in the order in which they were begun."""

    async def begin(self, action: str = "question", data: object = None, **options: Any) -> dict[str, Any]:
        """Ask from a task that is nobody's, and return what the client is sent."""
        self.nursery.start_soon(partial(self._ask, action, data, **options))
        request: dict[str, Any] = await self.client.receive_json()
        return request

    async def _ask(self, action: str, data: object, **options: Any) -> None:
        with trio.CancelScope() as scope:
            self.scopes.append(scope)
            try:
                self.results.append(await self.conn.request(action, data, **options))
            except RoomsError as exc:
                self.results.append(exc)

    async def result(self) -> Any:
        """What the oldest of them has come to."""
        await wait_all_tasks_blocked()
        return self.results.pop(0)

    @property
    def statistics(self) -> Statistics:
        """Of the server."""
        return self.memory.server.statistics()


@asynccontextmanager
async def asked(
    manager: Manager | None = None, *, subprotocol: str | None = V1, transport: Transport = "native", **limits: Any
) -> AsyncIterator[Asked]:
    """A connected client that nothing has been sent to that it has not read."""
    manager = asking(**limits) if manager is None else manager
    async with serve_in_memory(manager, transport=transport) as memory, trio.open_nursery() as nursery:
        client = await memory.connect(subprotocol=subprotocol)
        if subprotocol:
            assert (await client.receive_json())["action"] == "$welcome"
        await wait_all_tasks_blocked()
        (conn,) = manager.connections.values()
        yield Asked(client, conn, memory, nursery)
        await client.aclose()
