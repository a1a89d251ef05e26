"""Clients that come back to their sessions, for the tests of those."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from hall import Gate
from trio_rooms import Config, Connection, HandshakeRequest, Identity, Manager
from trio_rooms.testing import MemoryServer, TestClient

V1 = "trio-rooms.v1.json"
FORMATS = [V1, "trio-rooms.v1.msgpack"]

WINDOW = 60.0


def make_manager(**options: Any) -> Manager:
    """A manager with sessions, whose users are named in the query, with rooms for all (``open-*``) and for members."""
    manager = Manager(config=Config(**{"session_window": WINDOW, "ping_interval": 10_000, **options}))
    manager.room("open-*", authorize=allow)

    @manager.authenticate
    async def authenticate(request: HandshakeRequest) -> Identity:
        return Identity(user=request.query.get("user"))

    @manager.on("join")
    async def join(conn: Connection, room: str) -> None:
        await conn.join(room)

    @manager.on("keep")
    def keep(conn: Connection, data: dict[str, Any]) -> None:
        conn.metadata.update(data)
        conn.keep(*data)

    return manager


def gated(manager: Manager) -> Gate:
    """Add the room ``gate``, which who comes back to its session joins when the gate is opened."""
    gate = Gate()

    async def authorize(conn: Connection, room: str, data: object) -> bool:
        if conn.restored:
            await gate()
        return True

    manager.room("gate", authorize=authorize)
    return gate


async def allow(conn: Connection, room: str, data: object) -> bool:
    """An ``authorize`` that says yes."""
    return True


@attrs.define(eq=False)
class Visit:
    """A client, what it was told first, and the server's end of it."""

    client: TestClient
    welcome: Mapping[str, Any]
    conn: Connection

    @property
    def token(self) -> str:
        return str(self.welcome["session"])

    async def join(self, *rooms: str) -> None:
        for room in rooms:
            await self.client.request("$join", {"room": room})

    async def lose(self) -> None:
        """The connection is lost, and the server has noticed."""
        await self.client.aclose()
        await self.conn.wait_closed()


async def visit(
    memory: MemoryServer,
    token: str | None = None,
    *,
    user: str | None = None,
    subprotocol: str = V1,
    positions: Mapping[str, object] | None = None,
) -> Visit:
    """A new client, with the token of its session if it has one."""
    path = "/ws" if user is None else f"/ws?user={user}"
    client = await memory.connect(subprotocol=subprotocol, path=path)
    data: dict[str, object] = {} if token is None else {"session": token}
    if positions is not None:
        data["positions"] = positions
    await client.send_action("$session", data)
    message = await client.receive_json()
    assert message["action"] == "$welcome"
    return Visit(client, message["data"], memory.manager.connections[message["data"]["connection"]])
