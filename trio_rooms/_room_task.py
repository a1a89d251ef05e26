"""The task of a room: opens it, owns its nursery, waits until it is over, closes it.

Nobody waits *in* this task and it waits for nobody: joins wait for ``opened``, and everything that changes
the room calls ``changed``. So the same loop serves a room that closes at once, one that lingers, and one
whose tasks fail.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import trio

from ._hooks import call_hook

if TYPE_CHECKING:
    from ._node import Node
    from ._room import Room


class RoomTask:
    """What a room has if it has anything to do: see the module's docstring."""

    def __init__(self, room: Room, node: Node, *, after: RoomTask | None) -> None:
        self._room = room
        self._node = node
        self._after = after
        self._opened = trio.Event()
        self._done = trio.Event()
        self._changed = trio.Event()
        self._to_start: list[tuple[Callable[..., Awaitable[Any]], tuple[object, ...]]] = []

    async def wait_open(self) -> None:
        """Wait until ``on_room_open`` has run or failed."""
        await self._opened.wait()

    def changed(self) -> None:
        """Members came or went, the room was closed, or there is a task to start."""
        self._changed.set()

    def start_soon(self, function: Callable[..., Awaitable[Any]], *args: object) -> None:
        """Start a task in the room's nursery, now or as soon as there is one."""
        self._to_start.append((function, args))
        self._changed.set()

    async def run(self) -> None:
        """The task. Runs in the room's own context."""
        try:
            if self._after is not None:
                await self._after._done.wait()
            opened = await self._open()
            self._opened.set()
            if opened:
                await self._live()
                await self._call_close_hooks()
        finally:
            # Also when the server is cancelled: the room must not be found by anybody any more.
            self._room.close()
            self._opened.set()
            self._room._ended()
            self._done.set()

    async def _open(self) -> bool:
        for hook in self._node.registry.hooks["on_room_open"]:
            try:
                await call_hook(hook, self._room, timeout=self._node.config.hook_timeout)
            except Exception as exc:
                self._room._fail()
                await self._node.errors.report(None, exc, f"on_room_open of {self._room.name!r}")
                return False
        return True

    async def _live(self) -> None:
        failure: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                await self._wait_closed(nursery)
                nursery.cancel_scope.cancel(reason=f"room {self._room.name!r} is closed")
        except* Exception as group:
            failure = group
        if failure is not None:
            self._room._fail()
            await self._node.errors.report(None, failure, f"a task of room {self._room.name!r}")

    async def _wait_closed(self, nursery: trio.Nursery) -> None:
        empty_since = math.inf
        while not self._room.closed:
            self._changed = trio.Event()
            while self._to_start:
                function, args = self._to_start.pop(0)
                nursery.start_soon(function, *args)
            empty_since = min(empty_since, trio.current_time()) if self._room._roster.empty else math.inf
            with trio.move_on_at(empty_since + self._room.options.linger) as scope:
                await self._changed.wait()
            if scope.cancelled_caught:
                self._room._expire()

    async def _call_close_hooks(self) -> None:
        for hook in self._node.registry.hooks["on_room_close"]:
            error: Exception | None = None
            with self._node.grace.shield(self._node.config.hook_timeout + 1):
                try:
                    await call_hook(hook, self._room, timeout=self._node.config.hook_timeout)
                except Exception as exc:
                    error = exc
                if error is not None:
                    await self._node.errors.report(None, error, f"on_room_close of {self._room.name!r}")
