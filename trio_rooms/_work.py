"""What the close of a connection cancels: the program's code, while the writer goes on.

Theory of operation. The program's code runs in three places: around the dispatcher (connection middleware,
``on_connect``), in the dispatcher (handlers, in order) and beside it (concurrent handlers, the session, tasks).
Each has a scope, and the close of the connection cancels them all.

The dispatcher's is also what a client's ``$cancel`` cancels. A scope for each request would cost a tenth of all that an
echo costs, so one *stands* for all requests until it is cancelled. If then the connection goes on, it was for a
request, and a new one takes its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio

#: In the place of a request's scope when its handler is over: a client that cancels it now changes nothing.
SPENT: Final = trio.CancelScope()


class Work:
    """The scopes around the program's code in one connection; see the module's theory."""

    __slots__ = ("_tasks", "around", "standing")

    def __init__(self) -> None:
        self.around = trio.CancelScope()
        """Around the dispatcher; entered only where the program has code there."""
        self.standing: trio.CancelScope | None = None
        """The dispatcher's, while it runs."""
        self._tasks: set[trio.CancelScope] | None = None

    @property
    def over(self) -> bool:
        """Whether it was cancelled, or its time has passed."""
        return self.around.cancel_called

    def stand(self) -> trio.CancelScope:
        """A new standing scope, for the dispatcher to enter."""
        self.standing = trio.CancelScope(deadline=self.around.deadline)
        if self.over:
            self.standing.cancel(reason="the connection is closing")
        return self.standing

    @contextmanager
    def beside(self) -> Iterator[None]:
        """A scope for a task of its own, which :meth:`limit` does not concern."""
        if self._tasks is None:
            self._tasks = set()
        with trio.CancelScope() as scope:
            self._tasks.add(scope)
            if self.over:
                scope.cancel(reason="the connection is closing")
            try:
                yield
            finally:
                self._tasks.discard(scope)

    def cancel(self, reason: str) -> None:
        """Cancel all of it. Idempotent."""
        self.around.cancel(reason=reason)
        if self.standing is not None:
            self.standing.cancel(reason=reason)
        for scope in self._tasks or ():
            scope.cancel(reason=reason)

    def limit(self, deadline: float) -> None:
        """Cancel what the dispatcher does, and what is around it, at ``deadline``."""
        self.around.deadline = deadline
        if self.standing is not None:
            self.standing.deadline = deadline
