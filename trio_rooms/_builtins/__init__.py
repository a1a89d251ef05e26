"""Actions of the library itself; their names start with ``$``. They pass no middleware and no ``on_message``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from .cancel import cancel
from .history import history
from .join import join
from .join import join_reply as join_reply
from .join import room_to_join as room_to_join
from .leave import leave
from .presence import presence
from .publish import publish
from .session import returning as returning
from .session import session

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
    "$presence": presence,
    "$publish": publish,
    "$session": session,
}
