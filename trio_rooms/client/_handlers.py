"""What the server asks of the client, and what it tells it under an action."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import trio

from .._errors import ActionError, Busy, EncodingError, InternalError, UnknownAction
from ._config import ClientConfig
from ._errors import ServerViolation
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
        # The requests of the connection that there is, by the server's ids.
        self._asked: dict[object, trio.CancelScope] = {}

    def add(self, action: str, handler: Handler) -> None:
        """From now on the handler is called; one that was there before is replaced."""
        self._by_action[action] = handler

    def take(self, link: Link, message: dict[str, Any]) -> bool:
        """Begin to handle a message; False if it asks for nothing and no handler is there for it."""
        ident, action = message.get("id"), message["action"]
        if ident is not None and not isinstance(ident, str | int):
            raise ServerViolation("an id is neither text nor a number")
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
        scope = trio.CancelScope()
        if ident is not None:
            self._asked[ident] = scope
        name = f"handler of {action}"
        self._nursery.start_soon(self._run, link, handler, ident, message.get("data"), scope, name=name)
        return True

    def cancel(self, ident: object) -> None:
        """The server does not wait for an answer any more."""
        if isinstance(ident, str | int) and ident in self._asked:
            self._asked[ident].cancel(reason="the server has cancelled its request")

    def cancel_all(self) -> None:
        """The connection is lost, and with it every request of the server. Handlers of messages go on."""
        for scope in self._asked.values():
            scope.cancel(reason="the connection that asked is lost")
        self._asked.clear()

    async def _run(self, link: Link, handler: Handler, ident: object, data: object, scope: trio.CancelScope) -> None:
        try:
            with scope:
                result = handler(data)
                if inspect.isawaitable(result):
                    result = await result
                if ident is not None:
                    link.answer({"id": ident, "data": result})
        except ActionError as exc:
            self._fail(link, ident, exc)
        except Exception:
            # The server learns of a failure and not of its text; whoever runs the client finds it in the log.
            LOG.exception("a handler of the client failed")
            self._fail(link, ident, InternalError())
        finally:
            self._running -= 1
            if self._asked.get(ident) is scope:
                del self._asked[ident]

    def _fail(self, link: Link, ident: object, error: ActionError) -> None:
        if ident is None:
            return
        told = {"code": error.code, "message": error.message, "temporary": error.temporary}
        try:
            link.answer({"id": ident, "error": told})
        except EncodingError:
            link.answer({"id": ident, "error": {"code": "INTERNAL", "message": "", "temporary": False}})
