"""Actions of the library itself; their names start with ``$``. They pass no middleware and no ``on_message``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from .cancel import cancel
from .history import history
from .join import join
from .join import room_to_join as room_to_join
from .leave import leave
from .publish import publish

if TYPE_CHECKING:
    from .._dispatch import Dispatcher
    from .._messages.requests import Request

#: What acts when it is read, and never waits for a handler.
AT_ONCE: Final[dict[str | None, Callable[[Dispatcher, Request], Awaitable[None]]]] = {
    "$cancel": cancel,
    "$leave": leave,
}

#: What has its turn, as handlers do, and whose result is the reply.
IN_TURN: Final[dict[str | None, Callable[[Dispatcher, Request], Awaitable[Any]]]] = {
    "$history": history,
    "$join": join,
    "$publish": publish,
}
