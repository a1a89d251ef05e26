"""An exception in a handler becomes an error reply, and the connection lives on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._errors import ActionError, InternalError

if TYPE_CHECKING:
    from .._onion import Context
    from .._registry import CallNext, Middleware


def recovery(*, close: bool = False) -> Middleware:
    """Turn exceptions of everything inside it into ``INTERNAL``.

    ``on_error`` runs with the exception. Without this middleware a handler's exception ends its connection with
    1011 once the request was answered; with ``close=True`` that is so, too, but middleware further out sees the
    ``INTERNAL`` error instead of the exception. Exceptions never reach another connection either way.
    ActionErrors pass.
    """

    async def recover(ctx: Context, call_next: CallNext) -> Any:
        try:
            return await call_next(ctx)
        except ActionError:
            raise
        except Exception as exc:
            error = InternalError()
            error.fatal = close
            raise error from exc

    return recover
