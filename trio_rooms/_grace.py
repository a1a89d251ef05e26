"""Shields with a deadline for what must still happen after a cancellation, and one deadline above them all.

A connection that was cancelled still sends a close frame and runs its hooks, shielded, for a bounded time.
When the server shuts down, no such time may reach beyond the moment at which ``serve`` has promised to
return: :meth:`Grace.limit` cuts what is open and what comes later.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import trio


class Grace:
    """The shields of one server."""

    def __init__(self) -> None:
        self.hard_deadline: float = math.inf
        """No shield reaches beyond it."""
        self._scopes: set[trio.CancelScope] = set()

    @contextmanager
    def shield(self, seconds: float) -> Iterator[trio.CancelScope]:
        """A scope that cancellation from outside does not reach, for at most ``seconds``."""
        deadline = min(trio.current_time() + seconds, self.hard_deadline)
        with trio.CancelScope(shield=True, deadline=deadline) as scope:
            self._scopes.add(scope)
            try:
                yield scope
            finally:
                self._scopes.discard(scope)

    def limit(self, deadline: float) -> None:
        """Let no shield, open or to come, reach beyond ``deadline``."""
        self.hard_deadline = min(self.hard_deadline, deadline)
        for scope in self._scopes:
            scope.deadline = min(scope.deadline, self.hard_deadline)
