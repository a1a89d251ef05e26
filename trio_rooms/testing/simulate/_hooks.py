"""The hooks that a simulation adds to a manager, to see what it calls and when."""

from __future__ import annotations

from typing import Any

import attrs
import trio

from trio_rooms import ActionError, Close, Connection, Manager, Room

from ._record import Called, Fault, Record
from ._settings import Settings
from ._trouble import Trouble


def link_of(conn: Connection) -> int | None:
    """The number of the client's connection, which it says in its query."""
    number = conn.query.get("link", "")
    return int(number) if number.isdigit() else None


@attrs.define(eq=False)
class Hooks:
    """Write down each call; wait or fail where that is to happen."""

    record: Record
    settings: Settings
    trouble: Trouble
    serve: int = 0
    """Which server runs."""
    conns: dict[int, Connection] = attrs.field(factory=dict)
    """The open connections by their links."""

    def register(self, manager: Manager) -> None:
        """Add them to ``manager``."""
        manager.on_connect(self._on_connect)
        manager.on_disconnect(self._on_disconnect)
        manager.on_session_expired(self._on_session_expired)
        manager.on_user_online(self._on_user_online)
        manager.on_user_offline(self._on_user_offline)
        if self.settings.room_hooks:
            manager.on_join_room(self._on_join_room)
            manager.on_leave_room(self._on_leave_room)
        if self.settings.opening_hooks:
            manager.on_room_open(self._on_room_open)
            manager.on_room_close(self._on_room_close)

    def _note(self, hook: str, conn: Connection | None, room: str = "", detail: object = None) -> None:
        link = None if conn is None else link_of(conn)
        self.record.add(Called(hook, "" if conn is None else conn.id, link, room, detail, self.serve))

    async def _wait(self) -> None:
        if self.settings.slow_hooks:
            await trio.sleep(0.125)

    async def _on_connect(self, conn: Connection) -> None:
        conn.metadata["visits"] = visits = conn.metadata.get("visits", 0) + 1
        conn.keep("visits")
        self._note("on_connect", conn, detail=(conn.session_id, conn.restored, visits))
        link = link_of(conn)
        if link is not None:
            self.conns[link] = conn
        await self._wait()

    async def _on_disconnect(self, conn: Connection, close: Close) -> None:
        link = link_of(conn)
        if link is not None:
            self.conns.pop(link, None)
        self._note("on_disconnect", conn, detail=(close.code, close.by, conn.statistics()))
        await self._wait()

    async def _on_session_expired(self, session_id: str, user: str | None, metadata: dict[str, Any]) -> None:
        self._note("on_session_expired", None, detail=(session_id, metadata.get("visits")))
        await self._wait()

    async def _on_user_online(self, room: Room, user: str) -> None:
        self._note("on_user_online", None, room.name, user)
        await self._wait()

    async def _on_user_offline(self, room: Room, user: str) -> None:
        self._note("on_user_offline", None, room.name, user)
        await self._wait()

    async def _on_join_room(self, conn: Connection, room: Room) -> None:
        self._note("on_join_room", conn, room.name)
        await self._wait()
        if self.trouble.strikes("veto", link_of(conn)):
            raise ActionError("VETO", "not now", temporary=True)
        if self.trouble.strikes("hook_crash", link_of(conn)):
            raise RuntimeError("this hook was told to fail")

    async def _on_leave_room(self, conn: Connection, room: Room, reason: str) -> None:
        self._note("on_leave_room", conn, room.name, reason)
        await self._wait()
        if self.trouble.strikes("leave_hook_crash", link_of(conn)):
            raise RuntimeError("this hook was told to fail")

    async def _on_room_open(self, room: Room) -> None:
        self._note("on_room_open", None, room.name)
        await self._wait()
        if self.trouble.strikes("opening_crash"):
            self.record.add(Fault(f"opening {room.name}"))
            raise RuntimeError("this hook was told to fail")

    async def _on_room_close(self, room: Room) -> None:
        self._note("on_room_close", None, room.name)
        await self._wait()
