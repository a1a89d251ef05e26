"""The server's side of the protocol, word for word as a test says it: over memory streams, without a server."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import outcome
import trio
import trio.testing
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Event, Ping, RejectConnection, Request, TextMessage

from trio_rooms.client import ClientRoom, RoomsClient, open_rooms

JSON = "trio-rooms.v1.json"


class FakeServer:
    """Where a client under test connects to: ``connect=server.connect``."""

    def __init__(self) -> None:
        self.down = False
        """Whether nobody listens."""
        self.attempts: list[float] = []
        """When the client tried to connect."""
        self._send, self._receive = trio.open_memory_channel[trio.abc.Stream](math.inf)

    async def connect(self) -> trio.abc.Stream:
        """A stream to this server."""
        self.attempts.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if self.down:
            raise ConnectionRefusedError("nobody listens")
        ours, theirs = trio.testing.memory_stream_pair()
        self._send.send_nowait(theirs)
        return ours

    async def next(self) -> FakeConnection:
        """The next connection, whose upgrade was read and not answered."""
        conn = FakeConnection(await self._receive.receive())
        request = await conn.next_event()
        assert isinstance(request, Request)
        conn.request = request
        return conn

    async def accept(self, **welcome: Any) -> FakeConnection:
        """The next connection, upgraded and welcomed."""
        conn = await self.next()
        await conn.accept()
        await conn.welcome(**welcome)
        return conn


class FakeConnection:
    """One connection, seen from the server."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.request: Request | None = None
        """What the client asked for."""
        self.session: Any = None
        """The data of the client's ``$session``."""
        self._ws = WSConnection(ConnectionType.SERVER)
        self._events: list[Event] = []

    async def accept(self, subprotocol: str | None = JSON) -> None:
        """Answer the upgrade with 101, and read what the client says first, which is in ``session``."""
        await self.write(AcceptConnection(subprotocol=subprotocol))
        if subprotocol is not None:
            self.session = (await self.expect("$session"))["data"]

    async def reject(self, status: int, *headers: tuple[bytes, bytes]) -> None:
        """Answer it with another status, and close."""
        await self.write(RejectConnection(status_code=status, headers=list(headers), has_body=False))
        await self.stream.aclose()

    async def welcome(self, **data: Any) -> None:
        """``$welcome``."""
        await self.send({"action": "$welcome", "data": {"connection": "c", **data}})

    async def write(self, event: Event) -> None:
        """Send one event."""
        await self.stream.send_all(self._ws.send(event))

    async def send(self, obj: object) -> None:
        """Send one message."""
        await self.write(TextMessage(data=json.dumps(obj)))

    async def reply(self, to: dict[str, Any], data: object = None) -> None:
        """Answer a request."""
        await self.send({"id": to["id"], "data": data})

    async def fail(self, to: dict[str, Any], code: str, *, temporary: bool = False) -> None:
        """Answer it with an error."""
        await self.send({"id": to["id"], "error": {"code": code, "message": "no", "temporary": temporary}})

    async def next_event(self) -> Event:
        """What comes next; pings are answered meanwhile."""
        await trio.lowlevel.checkpoint()
        while not self._events:
            data = await self.stream.receive_some()
            self._ws.receive_data(bytes(data) or None)
            for event in self._ws.events():
                if isinstance(event, Ping):
                    await self.write(event.response())
                else:
                    self._events.append(event)
        return self._events.pop(0)

    async def receive(self) -> dict[str, Any]:
        """The next message."""
        event = await self.next_event()
        assert isinstance(event, TextMessage), event
        found = json.loads(event.data)
        assert isinstance(found, dict)
        return found

    async def expect(self, action: str, data: object = ...) -> dict[str, Any]:
        """The next message, which has this action, and these data unless left out."""
        message = await self.receive()
        assert message["action"] == action
        if data is not ...:
            assert message.get("data") == data
        return message

    async def expect_close(self) -> int:
        """The code of the close frame that comes next, which is answered if it is the first."""
        event = await self.next_event()
        assert isinstance(event, CloseConnection), event
        if self._ws.state.name == "REMOTE_CLOSING":
            await self.write(event.response())
        return int(event.code)

    async def close(self, code: int, reason: str = "") -> None:
        """Close politely, and wait for the answer."""
        await self.write(CloseConnection(code=code, reason=reason))
        await self.expect_close()
        await self.stream.aclose()

    async def cut(self) -> None:
        """End without a word."""
        await trio.aclose_forcefully(self.stream)


class Started:
    """A call that runs beside the test: ``await Started(nursery, client.request, "echo").result()``."""

    def __init__(self, nursery: trio.Nursery, function: Callable[..., Awaitable[Any]], *args: Any, **options: Any):
        self.scope = trio.CancelScope()
        self._outcome: outcome.Outcome[Any] | None = None
        self._done = trio.Event()
        nursery.start_soon(self._run, partial(function, *args, **options))

    async def _run(self, call: Callable[[], Awaitable[Any]]) -> None:
        with self.scope:
            try:
                self._outcome = outcome.Value(await call())
            except Exception as exc:
                self._outcome = outcome.Error(exc)
        self._done.set()

    @property
    def done(self) -> bool:
        """Whether it has returned, raised or been cancelled."""
        return self._done.is_set()

    async def result(self) -> Any:
        """What it returned; raises what it raised."""
        await self._done.wait()
        assert self._outcome is not None, "it was cancelled"
        return self._outcome.unwrap()


@asynccontextmanager
async def connected(**options: Any) -> AsyncIterator[tuple[RoomsClient, FakeServer, FakeConnection, trio.Nursery]]:
    """A client that a server has welcomed, and a nursery for what is to run beside the test."""
    server = FakeServer()
    async with open_rooms("ws://test/ws", connect=server.connect, **options) as client, trio.open_nursery() as nursery:
        yield client, server, await server.accept(), nursery
        nursery.cancel_scope.cancel()


async def join(client: RoomsClient, conn: FakeConnection, nursery: trio.Nursery, **reply: Any) -> ClientRoom:
    """The client joins "a", and the server answers so."""
    asked = Started(nursery, client.join, "a")
    await conn.reply(await conn.expect("$join", {"room": "a"}), {"room": "a", **reply})
    room = await asked.result()
    assert isinstance(room, ClientRoom)
    return room
