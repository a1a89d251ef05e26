"""Middleware around a handler: the layers of an onion, made into one call when serving begins."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import attrs

from ._boundary import is_awaitable
from ._messages.envelope import Message
from ._messages.router import Handler

if TYPE_CHECKING:
    from ._connection import Connection
    from ._registry import CallNext, Middleware


@attrs.define(eq=False)
class Context:
    """What middleware gets: one message on its way to its handler."""

    conn: Connection
    """The connection that sent it."""
    message: Message
    """The message."""
    deadline: float
    """The trio time at which the handler is cancelled; ``inf`` for never."""
    _handler: Handler = attrs.field(repr=False)
    _arguments: tuple[Any, ...] = attrs.field(repr=False)
    _emit: Callable[[Any], Awaitable[None]] | None = attrs.field(repr=False)
    """Sends an item of a stream; None where the handler does not stream."""


def compose(middleware: list[Middleware]) -> CallNext:
    """Make one call of an onion; the first middleware is the outermost."""
    call: CallNext = _call_handler
    for layer in reversed(middleware):
        call = _wrap(layer, call)
    return call


def _wrap(layer: Middleware, call_next: CallNext) -> CallNext:
    def wrapped(ctx: Context) -> Awaitable[Any]:
        return layer(ctx, call_next)

    return wrapped


async def _call_handler(ctx: Context) -> Any:
    """The core of the onion."""
    result = ctx._handler.function(ctx.conn, *ctx._arguments)
    if ctx._emit is not None:
        async with aclosing(result) as items:
            async for item in items:
                await ctx._emit(item)
        return None
    # Also what an undeclared wrapper around an async function returns.
    return await result if is_awaitable(result) else result
