"""A served manager whose hooks write down what happens, and whose clients come with their connection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

from trio_rooms import Close, Connection, Manager, Room
from trio_rooms.testing import FaultyStream, MemoryServer, TestClient, serve_in_memory

V1 = "trio-rooms.v1.json"


@attrs.define(eq=False)
class Guest:
    """A client and the server's end of it."""

    client: TestClient
    conn: Connection


@attrs.define(eq=False)
class Hall:
    """A served manager."""

    manager: Manager
    memory: MemoryServer

    @property
    def server(self) -> Any:
        return self.memory.server

    async def enter_faulty(self, *, v1: bool = False) -> tuple[Guest, FaultyStream]:
        """A new client, and the server's end of its stream, for faults."""
        streams: list[FaultyStream] = []

        def wrap(stream: trio.abc.Stream) -> FaultyStream:
            streams.append(FaultyStream(stream))
            return streams[0]

        return await self.enter(v1=v1, wrap=wrap), streams[0]

    async def enter(self, *, v1: bool = False, **options: Any) -> Guest:
        """A new client; one with a v1 format has had its ``$welcome``."""
        known = set(self.manager.connections)
        client = await self.memory.connect(subprotocol=V1 if v1 else None, **options)
        await wait_all_tasks_blocked()
        (new,) = set(self.manager.connections) - known
        if v1:
            assert (await client.receive_json())["action"] == "$welcome"
        return Guest(client, self.manager.connections[new])


@asynccontextmanager
async def hall(manager: Manager, **options: Any) -> AsyncIterator[Hall]:
    """Serve a manager, with the options of ``serve_in_memory``; at the end nothing of it is left."""
    async with serve_in_memory(manager, **options) as memory:
        yield Hall(manager, memory)


def record(manager: Manager) -> list[tuple[object, ...]]:
    """What the hooks of a manager are called with: the event's name first, the connection's id last."""
    log: list[tuple[object, ...]] = []

    @manager.on_connect
    def on_connect(conn: Connection) -> None:
        log.append(("connect", conn.id))

    @manager.on_disconnect
    def on_disconnect(conn: Connection, close: Close) -> None:
        log.append(("disconnect", close.code, conn.id))

    @manager.on_join_room
    def on_join_room(conn: Connection, room: Room) -> None:
        log.append(("join", room.name, conn.id))

    @manager.on_leave_room
    def on_leave_room(conn: Connection, room: Room, reason: str) -> None:
        log.append(("leave", room.name, reason, conn.id))

    @manager.on_error
    def on_error(conn: Connection | None, error: BaseException) -> None:
        log.append(("error", type(error).__name__, conn and conn.id))

    return log


def of(log: list[tuple[object, ...]], event: str, conn: Connection | None = None) -> list[tuple[object, ...]]:
    """The records of one event, of one connection, without the event's name and the connection."""
    return [entry[1:-1] for entry in log if entry[0] == event and (conn is None or entry[-1] == conn.id)]


@attrs.define(eq=False)
class Gate:
    """A place where a task stops until the test lets it go on."""

    reached: trio.Event = attrs.field(factory=trio.Event)
    open: trio.Event = attrs.field(factory=trio.Event)

    async def __call__(self) -> None:
        self.reached.set()
        await self.open.wait()


@attrs.define(eq=False)
class Outcome:
    """A call in a task of its own, and what came of it."""

    result: Any = None
    error: BaseException | None = None
    over: trio.Event = attrs.field(factory=trio.Event)
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    async def of(self, function: Callable[..., Awaitable[Any]], *args: object) -> None:
        try:
            with self.scope:
                self.result = await function(*args)
        except Exception as exc:
            self.error = exc
        finally:
            self.over.set()


def attempt(nursery: trio.Nursery, function: Callable[..., Awaitable[Any]], *args: object) -> Outcome:
    """Call a function in a task, to see later what came of it."""
    outcome = Outcome()
    nursery.start_soon(outcome.of, function, *args)
    return outcome


def pause(seconds: Callable[[], float]) -> Callable[..., Awaitable[None]]:
    """A hook that takes its time and does nothing with it."""

    async def hook(*args: object) -> None:
        await trio.sleep(seconds())

    return hook


async def settle() -> None:
    """Let everything happen that can happen without time passing."""
    await wait_all_tasks_blocked()
