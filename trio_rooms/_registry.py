"""What is registered with a manager, and frozen while it serves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import attrs

from ._errors import AlreadyServing
from ._handshake import Authenticate, Page
from ._hooks import Hooks
from ._messages.router import Router
from ._rooms.patterns import Patterns

if TYPE_CHECKING:
    from ._connection import Connection
    from ._onion import Context

#: What middleware calls to go on: the rest of the onion, and at its core the handler.
CallNext = Callable[["Context"], Awaitable[Any]]

#: ``async def mw(ctx, call_next): return await call_next(ctx)``
Middleware = Callable[["Context", CallNext], Awaitable[Any]]

#: ``async def mw(conn, call_next): await call_next(conn)``
ConnectionMiddleware = Callable[["Connection", Callable[["Connection"], Awaitable[None]]], Awaitable[None]]

#: ``async def session(conn)``
Session = Callable[["Connection"], Awaitable[None]]


@attrs.define(eq=False)
class Registry:
    """Handlers, hooks, middleware, pages, room options, ``authenticate`` and ``session``."""

    router: Router = attrs.field(factory=Router)
    hooks: Hooks = attrs.field(factory=Hooks)
    patterns: Patterns = attrs.field(factory=Patterns)
    middleware: list[Middleware] = attrs.field(factory=list)
    connection_middleware: list[ConnectionMiddleware] = attrs.field(factory=list)
    pages: dict[str, Page] = attrs.field(factory=dict)
    authenticate: Authenticate | None = None
    session: Session | None = None
    frozen: bool = False

    def freeze(self, frozen: bool) -> None:
        """Allow or refuse additions."""
        self.frozen = self.router.frozen = self.hooks.frozen = frozen

    def check_open(self, what: str) -> None:
        """Raise :exc:`AlreadyServing` if additions are refused."""
        if self.frozen:
            raise AlreadyServing(f"{what} before the manager is served")
