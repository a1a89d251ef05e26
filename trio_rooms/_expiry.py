"""The end of sessions: ``on_session_expired``, once for each, in time.

Theory of operation. Who ends a session by its own end, or pushes one out, is a connection that is over; it calls the
hooks itself, in :meth:`Expiry.settle`, so that a program whose hooks are slow slows what makes them due, and no queue
of them grows. Those whose time has come are the keeper's, a task that is there only while sessions are kept. It takes a
few at a time, for the same reason. Serve ends with all that are left: then one deadline is over all of them, and each
is still called.
"""

from __future__ import annotations

import contextvars
import math
from functools import partial
from typing import TYPE_CHECKING

import trio

from ._sessions import Session, Sessions

if TYPE_CHECKING:
    from ._connection import Connection
    from ._node import Node

# How many sessions have their hooks called at the same time.
_AT_ONCE = 32


class Expiry:
    """What ends the sessions of one node, and tells the program."""

    def __init__(self, node: Node, sessions: Sessions) -> None:
        self._node = node
        self._sessions = sessions
        self._kept = False
        self._over = False
        self._deadline = math.inf
        self._scope: trio.CancelScope | None = None

    def left(self, conn: Connection) -> None:
        """As :meth:`Sessions.left`, and have the time of what is kept run. Idempotent."""
        self._sessions.left(conn)
        if self._sessions.kept and not self._kept:
            self._kept = True
            self._node.spawn(self._keep, contextvars.Context())

    async def settle(self) -> None:
        """Call the hooks of what has ended by the end of a connection. Bounded by ``hook_timeout`` for each hook."""
        while self._sessions.due:
            await self._call(self._sessions.due.popleft())

    def end_all(self) -> None:
        """Serve ends: have every session end that is kept. No connection is left."""
        self._over = True
        if self._scope is not None:
            self._scope.cancel(reason="serve ends")

    async def _keep(self) -> None:
        """The keeper."""
        try:
            while not self._over:
                await self._end(trio.current_time())
                expiry = self._sessions.next_expiry
                if expiry is None:
                    return
                if not self._over:
                    with trio.CancelScope(deadline=expiry) as self._scope:
                        await trio.sleep_forever()
        finally:
            self._kept = False
            self._scope = None
        await self._end_the_rest()

    async def _end_the_rest(self) -> None:
        seconds = self._node.config.hook_timeout
        self._deadline = trio.current_time() + seconds
        with self._node.grace.shield(seconds):
            await self._end(math.inf)
        for session in self._sessions.take_expired(math.inf, self._sessions.kept):
            await self._call(session)  # there is no time left, and a hook ends where it would wait

    async def _end(self, now: float) -> None:
        while ended := self._sessions.take_expired(now, _AT_ONCE):
            async with trio.open_nursery() as nursery:
                for session in ended:
                    nursery.start_soon(self._call, session)

    async def _call(self, session: Session) -> None:
        # A little longer than the hook's own timeout, so that it is this one that is seen to pass.
        seconds = min(self._node.config.hook_timeout + 1, self._deadline - trio.current_time())
        shield = partial(self._node.grace.shield, seconds)
        for hook in self._node.registry.hooks["on_session_expired"]:
            await self._node.errors.call(
                None, "on_session_expired", hook, session.id, session.user, session.metadata, shield=shield
            )
