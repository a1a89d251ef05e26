"""The program is told who came online in a room and who went offline.

Theory of operation. Users come and go in code that cannot wait, and what the program does about it may take long. So
nothing of what happened is kept, only of whom ``on_user_online`` has been called and ``on_user_offline`` not yet, and
whose state may not be as the program was told. One task looks at them, one after another, as long as there are any:
each online is followed by one offline, never two of a kind for the same user, and who came and went before its
turn is not mentioned. Both collections are bounded by the users of the room, twice over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from ._hooks import HookName
    from ._room import Room


class UserEvents:
    """The hooks of one room's users; see the module's theory."""

    def __init__(self, room: Room, is_online: Callable[[str], bool]) -> None:
        self._room = room
        self._node = room._node
        self._is_online = is_online
        hooks = self._node.registry.hooks
        self._wanted = bool(hooks["on_user_online"] or hooks["on_user_offline"])
        self._online: dict[str, None] = {}
        self._due: dict[str, None] = {}
        self._running = False

    def moved(self, user: str) -> None:
        """A user has come or gone: have the hooks called, soon."""
        if not self._wanted:
            return
        if self._is_online(user) == (user in self._online):
            self._due.pop(user, None)
            return
        self._due.setdefault(user)
        if not self._running and not self._room.closed:
            self._running = True
            self._room.start_soon(self._run)

    async def settle(self) -> None:
        """The room is closed, and its tasks are over: call what is still due."""
        while self._due:
            await self._tell_next()

    async def _run(self) -> None:
        try:
            while self._due:
                await self._tell_next()
                await trio.lowlevel.checkpoint()
        finally:
            self._running = False

    async def _tell_next(self) -> None:
        user = next(iter(self._due))
        del self._due[user]
        online = self._is_online(user)
        name: HookName = "on_user_online" if online else "on_user_offline"
        if online:
            self._online[user] = None
            self._node.counters.told_online += 1
        else:
            del self._online[user]
            self._node.counters.told_online -= 1
        seconds = self._node.config.hook_timeout + 1  # as in RoomTask: the hook's own timeout is to be seen to pass
        for hook in self._node.registry.hooks[name]:
            what = f"{name} of {user!r} in {self._room.name!r}"
            await self._node.errors.call(
                None, what, hook, self._room, user, shield=lambda: self._node.grace.shield(seconds)
            )
