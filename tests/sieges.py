"""A server over real sockets under attack, and an innocent client on it that must notice nothing."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import attrs
import trio
import trio.testing

from doors import ask, connect, dial, empty, read_to_end
from listeners import open_descriptors
from trio_rooms import Close, Connection, Manager, Server, serve_rooms
from trio_rooms.testing import Opcode, ServerFrame, TestClient, client_frame, handshake_bytes, parse_server_frames
from trio_rooms.testing._raw import split_response

ROOM = "lobby"


@attrs.define(eq=False)
class Attacker:
    """A client without manners behind its 101."""

    stream: trio.SocketStream
    conn: Connection
    """The server's end."""

    async def send(self, data: bytes) -> None:
        """Send as it is; a server that has closed takes no more."""
        with suppress(trio.BrokenResourceError):
            await self.stream.send_all(data)

    async def sees(self) -> list[ServerFrame]:
        """The frames up to the end of the stream, which is not a reset; then this side ends, too."""
        frames = parse_server_frames(await read_to_end(self.stream))
        await self.stream.aclose()
        await self.conn.wait_closed()
        return frames

    async def sees_text(self) -> bytes:
        """The next frame, which is one of text and comes alone."""
        (frame,) = parse_server_frames(bytes(await self.stream.receive_some()))
        assert frame.opcode == Opcode.TEXT
        return frame.payload


@attrs.define(eq=False)
class Siege:
    """A server, its innocent client, and how the connections of attackers have ended."""

    manager: Manager
    server: Server
    innocent: TestClient
    told: list[Close]

    @property
    def rejected(self) -> dict[str, int]:
        """The handshakes that were refused or have failed, by reason."""
        return dict(self.server.statistics().handshakes_rejected)

    async def dial(self, **options: Any) -> trio.SocketStream:
        """A connection, before any byte; to be closed by the attack."""
        return await dial(self.server, **options)

    async def ask(self, data: bytes) -> bytes:
        """Send bytes, and read to the end."""
        return await ask(self.server, data)

    async def gone(self) -> None:
        """Wait until nobody is left but the innocent."""
        await empty(self.server, but=1)

    @asynccontextmanager
    async def enter(self, **options: Any) -> AsyncGenerator[Attacker]:
        """An attacker that has had its upgrade, and nothing else. Options are those of :func:`dial`."""
        known = set(self.manager.connections)
        async with await self.dial(**options) as stream:
            await stream.send_all(handshake_bytes())
            response = split_response(bytes(await stream.receive_some()))
            assert response is not None
            assert (response[0], response[2]) == (101, b"")
            while not (new := set(self.manager.connections) - known):
                await trio.testing.wait_all_tasks_blocked(0.001)
            yield Attacker(stream, self.manager.connections[new.pop()])

    async def is_unnoticed(self) -> None:
        """The innocent is served, and since the last time has heard nothing of anybody."""
        self.manager.broadcast_to_room(ROOM, "still here")
        assert await self.innocent.receive_json() == "still here"
        assert await self.innocent.request("echo", "me too") == "me too"


def known_descriptors() -> int:
    """How many are open; 0 where nothing tells."""
    return open_descriptors() if os.path.isdir("/dev/fd") else 0


@contextmanager
def no_errors_logged() -> Generator[list[logging.LogRecord]]:
    """Whatever happens in the block, the library logs no error; yields what it logs."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    log = logging.getLogger("trio_rooms")
    log.addHandler(handler)
    try:
        yield records
    finally:
        log.removeHandler(handler)
    errors = [logging.Formatter().format(record) for record in records if record.levelno >= logging.ERROR]
    assert not errors, "\n".join(errors)  # with a message, for this runs without pytest, too


@asynccontextmanager
async def besieged(manager: Manager, **options: Any) -> AsyncGenerator[Siege]:
    """Serve a manager that has an echo, over real sockets and with an innocent client, for the length of an attack.

    Afterwards nothing of the attack is left: no task, no descriptor, no log of an error, and the innocent has noticed
    nothing. Options are those of ``serve_rooms``.
    """
    told: list[Close] = []
    manager.on_disconnect(lambda conn, close: told.append(close))

    @manager.on("enter")
    async def enter(conn: Connection, room: str) -> None:
        await conn.join(room)

    tasks = trio.lowlevel.current_statistics().tasks_living
    with no_errors_logged():
        async with serve_rooms(manager, **options) as server, await connect(server) as innocent:
            await innocent.request("enter", ROOM)
            descriptors = known_descriptors()
            siege = Siege(manager, server, innocent, told)
            yield siege
            await siege.gone()
            assert known_descriptors() == descriptors
            await siege.is_unnoticed()
            assert siege.innocent.pending == ()
            room = manager.get_room(ROOM)
            assert room is not None
            assert len(room.members) == 1
            await innocent.close()
        server.assert_quiescent()
    assert trio.lowlevel.current_statistics().tasks_living == tasks


ECHO = client_frame(Opcode.TEXT, b'{"action":"echo","data":"hi","id":1}')
ANSWER = b'{"id":1,"data":"hi"}'
