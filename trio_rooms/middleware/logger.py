"""Logging of each message: what, who, how long, and how it went."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import trio

from .._errors import ActionError

if TYPE_CHECKING:
    from .._onion import Context
    from .._registry import CallNext, Middleware

# Names are the client's: shown by repr, so that they cannot forge lines, and cut.
_MAX_NAME = 200


def logger(*, level: int = logging.INFO) -> Middleware:
    """Log one record for each message, to the connection's logger.

    Fields (``extra``): ``connection`` and ``user`` of every record of a connection; ``action``, ``request_id``,
    ``outcome`` ("ok", an error's code, "cancelled" or "error") and ``duration`` in seconds. Payloads are not logged.
    """

    async def log_message(ctx: Context, call_next: CallNext) -> Any:
        if not ctx.conn.logger.isEnabledFor(level):
            return await call_next(ctx)
        started = trio.current_time()
        outcome = "cancelled"
        try:
            result = await call_next(ctx)
            outcome = "ok"
            return result
        except ActionError as exc:
            outcome = exc.code
            raise
        except Exception:
            outcome = "error"
            raise
        finally:
            _log(ctx, level, outcome, trio.current_time() - started)

    return log_message


def _log(ctx: Context, level: int, outcome: str, duration: float) -> None:
    action = (ctx.message.action or "")[:_MAX_NAME]
    fields = {"action": action, "request_id": ctx.message.id, "outcome": outcome, "duration": duration}
    # As ``ctx.conn.logger.log`` does it, but for the search through the stack for who has called, which always is us.
    adapter, args = ctx.conn.logger, (action, outcome, duration * 1000)
    text, options = adapter.process("%r %s in %.1f ms", {"extra": fields})
    extra = options.pop("extra")
    if options:  # an adapter of the program's wants more than fields
        adapter.logger.log(level, text, *args, extra=extra, **options)
        return
    log = adapter.logger
    log.handle(log.makeRecord(log.name, level, __file__, _LINE, text, args, None, _log.__name__, extra))


_LINE: Final = _log.__code__.co_firstlineno
