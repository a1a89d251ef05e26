"""What the server asks of the client, and what it tells it under an action."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import trio

from .._errors import ActionError, Busy, EncodingError, InternalError, UnknownAction
from ._config import ClientConfig
from ._statistics import Counts

if TYPE_CHECKING:
    from ._link import Link

#: Called with the data of a message; what it returns, or what its coroutine does, is the answer.
Handler = Callable[[Any], Any]

LOG = logging.getLogger("trio_rooms.client")


class Handlers:
    """The program's handlers, by action, and those that run."""

    def __init__(self, settings: ClientConfig, counts: Counts, nursery: trio.Nursery) -> None:
        self._settings = settings
        self._counts = counts
        self._nursery = nursery
        self._by_action: dict[str, Handler] = {}
        self._running = 0

    def add(self, action: str, handler: Handler) -> None:
        """From now on the handler is called; one that was there before is replaced."""
        self._by_action[action] = handler

    def take(self, link: Link, message: dict[str, Any]) -> bool:
        """Begin to handle a message; False if it asks for nothing and no handler is there for it."""
        ident, action = message.get("id"), message["action"]
        handler = self._by_action.get(action)
        if handler is None:
            if ident is not None:
                self._fail(link, ident, UnknownAction())
            return ident is not None
        if self._running >= self._settings.max_handlers:
            if ident is None:
                self._counts.dropped += 1
            else:
                self._fail(link, ident, Busy())
            return True
        self._running += 1
        self._nursery.start_soon(self._run, link, handler, ident, message.get("data"), name=f"handler of {action}")
        return True

    async def _run(self, link: Link, handler: Handler, ident: object, data: object) -> None:
        try:
            result = handler(data)
            if inspect.isawaitable(result):
                result = await result
            if ident is not None:
                link.send_now({"id": ident, "data": result})
        except ActionError as exc:
            self._fail(link, ident, exc)
        except Exception as exc:
            # The server learns of a failure and not of its text; whoever runs the client finds it in the log.
            LOG.exception("a handler of the client failed")
            self._fail(link, ident, exc if isinstance(exc, ActionError) else InternalError())
        finally:
            self._running -= 1

    def _fail(self, link: Link, ident: object, error: ActionError) -> None:
        if ident is None:
            return
        told = {"code": error.code, "message": error.message, "temporary": error.temporary}
        try:
            link.send_now({"id": ident, "error": told})
        except EncodingError:
            link.send_now({"id": ident, "error": {"code": "INTERNAL", "message": "", "temporary": False}})
