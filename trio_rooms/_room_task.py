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

from ._boundary import own_cancellations_only
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
        self._empty_since = math.inf
        self._to_start: list[tuple[Callable[..., Awaitable[Any]], tuple[object, ...]]] = []
        self._failures: list[Exception] = []

    async def wait_open(self) -> None:
        """Wait until ``on_room_open`` has run or failed."""
        await self._opened.wait()

    def occupied(self) -> None:
        """A place was taken: a linger time that runs is over."""
        self._empty_since = math.inf

    def vacated(self) -> None:
        """The last place was given up: the linger time begins."""
        self._empty_since = trio.current_time()
        self._changed.set()

    def linger_changed(self) -> None:
        """The linger time is another one than it was."""
        self._changed.set()

    def closed(self) -> None:
        """The room was closed."""
        self._changed.set()

    def start_soon(self, function: Callable[..., Awaitable[Any]], *args: object) -> None:
        """Start a task in the room's nursery, now or as soon as there is one."""
        self._to_start.append((function, args))
        self._changed.set()

    async def run(self) -> None:
        """The task. Runs in the room's own context; cancelled only when the server has no time left."""
        try:
            if self._after is not None:
                await self._after._done.wait()
            if not self._room.closed and await self._open():
                self._opened.set()
                try:
                    await self._live()
                finally:
                    # With no time left a hook is still called, and cut off at its first checkpoint.
                    await self._call_close_hooks()  # noqa: ASYNC102 - they are shielded
        finally:
            # Also when it was cancelled: nobody may find the room, or wait for it, any more.
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
                self._opened.set()
                await self._node.errors.report(None, exc, f"on_room_open of {self._room.name!r}")
                return False
        return True

    async def _live(self) -> None:
        async with trio.open_nursery() as nursery:
            await self._wait_closed(nursery)
            nursery.cancel_scope.cancel(reason=f"room {self._room.name!r} is closed")
        for failure in self._failures:
            await self._node.errors.report(None, failure, f"a task of room {self._room.name!r}")

    async def _run_task(self, function: Callable[..., Awaitable[Any]], args: tuple[object, ...]) -> None:
        try:
            with own_cancellations_only():
                await function(*args)
        except Exception as exc:
            self._failures.append(exc)
            self._room._fail()

    async def _wait_closed(self, nursery: trio.Nursery) -> None:
        while not self._room.closed:
            self._changed = trio.Event()
            while self._to_start:
                function, args = self._to_start.pop(0)
                nursery.start_soon(self._run_task, function, args, name=function)
            with trio.move_on_at(self._empty_since + self._room._linger):
                await self._changed.wait()
            if trio.current_time() >= self._empty_since + self._room._linger:
                self._room._retire()

    async def _call_close_hooks(self) -> None:
        if self._room._presence is not None:
            await self._room._presence.settle()
        what = f"on_room_close of {self._room.name!r}"
        # A little longer than the hook's own timeout, so that it is this one that is seen to pass.
        seconds = self._node.config.hook_timeout + 1
        for hook in self._node.registry.hooks["on_room_close"]:
            await self._node.errors.call(None, what, hook, self._room, shield=lambda: self._node.grace.shield(seconds))
