"""A hall whose rooms have presence, and what its clients know of who is there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs

from hall import Gate, settle
from messages import V1, receive_all
from trio_rooms import Config, Connection, HandshakeRequest, Identity, Limits, Manager, PresenceOptions, Room, Server
from trio_rooms.testing import FaultyStream, MemoryServer, TestClient, serve_in_memory

# Virtual seconds, in which everything that is on its way comes.
_MOMENT = 0.001


async def allow(conn: Connection, room: str, data: Any) -> bool:
    """Everybody may join."""
    return True


def make_manager(presence: PresenceOptions | None, *, limits: Limits | None = None, **options: Any) -> Manager:
    """Rooms "r*" have this presence; users are who they say, and clients may join and set their entries."""
    manager = Manager(config=Config(ping_interval=10_000, limits=limits or Limits()))
    manager.room("r*", authorize=allow, presence=presence, **options)

    @manager.authenticate
    async def authenticate(request: HandshakeRequest) -> Identity:
        return Identity(user=request.query.get("user"))

    @manager.on("set")
    async def set_entry(conn: Connection, data: Any) -> None:
        conn.set_presence("r", data)

    @manager.on("leave")
    async def leave(conn: Connection, data: str) -> None:
        conn.leave(data)

    return manager


def note_users(manager: Manager, gate: Gate | None = None) -> list[tuple[str, str, str]]:
    """What the hooks of users are called with; with a gate, the first of them waits there."""
    log: list[tuple[str, str, str]] = []

    @manager.on_user_online
    async def online(room: Room, user: str) -> None:
        log.append(("online", room.name, user))
        if gate is not None:
            await gate()

    @manager.on_user_offline
    async def offline(room: Room, user: str) -> None:
        log.append(("offline", room.name, user))

    return log


@attrs.define(eq=False)
class Member:
    """A client in room "r", and what it has been told of the others."""

    client: TestClient
    stream: FaultyStream
    conn: Connection
    room: str = "r"
    pushes: list[dict[str, Any]] = attrs.field(factory=list)
    others: list[Any] = attrs.field(factory=list)
    """Messages that are about something else."""
    known: dict[str, dict[str, Any]] = attrs.field(factory=dict)
    """By user and id."""

    async def read(self) -> list[dict[str, Any]]:
        """Read all that has come; the pushes among it, each of which fits to what is known."""
        await settle()
        before = len(self.pushes)
        for message in await receive_all(self.client, _MOMENT):
            self.take(message)
        return self.pushes[before:]

    def take(self, message: Any) -> None:
        """Act on a message as a client does."""
        if message.get("action") != "$presence":
            self.others.append(message)
            return
        assert message["room"] == self.room
        push = message["data"]
        self.pushes.append(push)
        if "users" in push:
            self.known = {user: {entry["id"]: entry for entry in entries} for user, entries in push["users"].items()}
            return
        for user, entries in push["leaves"].items():
            for entry in entries:
                del self.known[user][entry["id"]]
        for user, entries in push["joins"].items():
            for entry in entries:
                assert self.known.get(user, {}).get(entry["id"]) != entry, "no news"
                self.known.setdefault(user, {})[entry["id"]] = entry
        self.known = {user: entries for user, entries in self.known.items() if entries}

    @property
    def users(self) -> list[str]:
        """The users that it knows to be there."""
        return list(self.known)

    def data(self, user: str) -> list[dict[str, Any]]:
        """What it knows of a user's connections, without their ids."""
        return [{name: entry[name] for name in entry if name != "id"} for entry in self.known[user].values()]


@attrs.define(eq=False)
class Club:
    """A server with a room "r"."""

    manager: Manager
    memory: MemoryServer

    @property
    def server(self) -> Server:
        return self.memory.server

    @property
    def room(self) -> Room:
        room = self.manager.get_room("r")
        assert room is not None
        return room

    async def enter(self, user: str | None, *, room: str = "r", subprotocol: str | None = V1) -> Member:
        """A new client in the room, with nothing read but the reply."""
        streams: list[FaultyStream] = []

        def wrap(stream: Any) -> FaultyStream:
            streams.append(FaultyStream(stream))
            return streams[0]

        known = set(self.manager.connections)
        path = "/ws" if user is None else f"/ws?user={user}"
        client = await self.memory.connect(path=path, subprotocol=subprotocol, wrap=wrap)
        await settle()
        (new,) = set(self.manager.connections) - known
        member = Member(client, streams[0], self.manager.connections[new], room)
        await client.request("$join", {"room": room})
        return member


@asynccontextmanager
async def club(presence: PresenceOptions | None, **options: Any) -> AsyncIterator[Club]:
    """Serve a manager of :func:`make_manager`; at the end nothing is left."""
    manager = make_manager(presence, **options)
    async with serve(manager) as served:
        yield served


@asynccontextmanager
async def serve(manager: Manager) -> AsyncIterator[Club]:
    """Serve a manager; at the end nothing is left."""
    async with serve_in_memory(manager) as memory:
        yield Club(manager, memory)
    memory.server.assert_quiescent()
