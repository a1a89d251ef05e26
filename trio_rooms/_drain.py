"""Shutdown is closing, then cancelling.

Theory of operation. ``begin`` turns readiness off; ``serve`` then stops to accept and calls :meth:`Drain.run`.
Every connection is served normally until its own slot in a window that is as long as ``drain_rate`` makes
it, so that clients do not come back all in the same moment; then its handlers finish, its outbox is written, and
it is closed with 1012 (1001 if the node is not coming back). At ``shutdown_timeout`` what is left is
cancelled, and ``close_timeout`` later even the shields of close frames and hooks are over. Only code that
shields itself without a deadline, or blocks the thread, can hold ``serve`` longer: the watchdog names it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from ._arrivals import Arrivals
    from ._node import Node

# How much longer than promised a shutdown may take before the log says what holds it.
_PATIENCE = 1.0


class Drain:
    """The shutdown of one server, from the decision to the end."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._begun = trio.Event()
        self.deadline: float = math.inf
        """When what is left is cancelled."""

    def begin(self, *, returning: bool) -> None:
        """Decide to shut down. Synchronous and idempotent; the first call counts."""
        if not self._node.draining:
            self._node.draining = True
            self._node.close_code = 1012 if returning else 1001
            self._begun.set()

    async def wait_begun(self) -> None:
        """Wait for the decision."""
        await self._begun.wait()

    async def run(self, arrivals: Arrivals) -> None:
        """Close everything politely, within the deadline; returns when no connection is left."""
        config = self._node.config
        now = trio.current_time()
        self.deadline = now + config.shutdown_timeout
        arrivals.limit(self.deadline)
        self._node.grace.limit(self.deadline + config.close_timeout)
        connections = list(self._node.connections.values())
        self._node.rng.shuffle(connections)
        window = min(len(connections) / config.drain_rate, config.shutdown_timeout / 2)
        for conn in connections:
            # Clients reset their backoff on 1012, so the spread of their return has to come from here.
            conn._notify("$drain", {"reconnect_in_ms": int(1000 * window * (1 + self._node.rng.random()))})
        slots = sorted(self._node.rng.uniform(0, window) for _ in connections)
        for conn, slot in zip(connections, slots, strict=True):
            if conn.closed is None:
                await trio.sleep_until(now + slot)
                conn._drain()
        await arrivals.wait_empty()

    def abandon(self, arrivals: Arrivals) -> None:
        """Serve was cancelled, or has failed: cancel everything now; close frames and hooks get their time."""
        self.begin(returning=False)
        config = self._node.config
        self.deadline = trio.current_time()
        arrivals.limit(self.deadline)
        self._node.grace.limit(self.deadline + max(config.close_timeout, config.hook_timeout))

    async def watch(self) -> None:
        """Name what holds the shutdown longer than it may take."""
        await self._begun.wait()
        config = self._node.config
        limit = config.shutdown_timeout + config.close_timeout
        await trio.sleep(limit + _PATIENCE)
        held_by = [
            *(f"{conn!r} in {conn._dispatcher.describe()}" for conn in self._node.connections.values()),
            *(f"task {task.name}" for task in self._node.nursery.child_tasks),
        ]
        self._node.logger.error("shutdown takes longer than %s s; held by: %s", limit, ", ".join(held_by) or "?")
