"""The function that a program has registered with ``manager.session``, for one connection: what it reads, and its run.

Theory of operation. It runs beside the handlers, in a task of its own, and the connection ends when it does. Messages
that no handler takes are its own: each has its turn, and is then put where ``conn.read_json`` takes it from. There is
room for so many, and the messages behind those wait for their turn, as they would for a handler.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import trio

from ._boundary import own_cancellations_only, says_only_gone
from ._errors import ActionError, InternalError
from ._messages.envelope import Message
from ._messages.requests import Request, send

if TYPE_CHECKING:
    from ._connection import Connection
    from ._registry import Session


class SessionFunction:
    """See the module's theory."""

    __slots__ = ("_conn", "_function", "_to_it", "messages", "runs")

    def __init__(self, conn: Connection, function: Session) -> None:
        self._conn = conn
        self._function = function
        channels = trio.open_memory_channel[Message](conn._node.config.limits.session_messages)
        self._to_it, self.messages = channels
        self.runs: bool = False
        """Whether it has begun, and not ended yet."""

    def takes(self, request: Request) -> bool:
        """Whether a message is for it."""
        if request.handler is not None or request.message is None:
            return False
        return not (request.message.action or "").startswith("$")

    async def put(self, message: Message) -> None:
        """Give it a message; waits for room."""
        await send(self._to_it, message, on_full=partial(self._conn._node.counters.limit, "session_messages"))

    def start(self, ended: Callable[[], None]) -> None:
        """Begin to run it; ``ended`` is called when it has."""
        self.runs = True
        self._conn._start_task(self._run, ended)

    def close(self) -> None:
        """No more messages will come."""
        self._to_it.close()

    async def _run(self, ended: Callable[[], None]) -> None:
        conn = self._conn
        try:
            with own_cancellations_only():
                await self._function(conn)
        except InternalError:
            conn.close(1011, "internal error")  # a hook of a join that it made; reported there
        except ActionError as exc:
            conn.close(4500, exc.code)
        except Exception as exc:
            # At the end read_json raises ConnectionGone; at any other time that is about another connection.
            if not (conn._taking_no_more and says_only_gone(exc)):
                await conn._node.errors.report(conn, exc, "session")
                conn.close(1011, "internal error")
        else:
            if not conn._taking_no_more:  # or the drain would end with this code instead of its own
                conn.close(1000)
        finally:
            self.runs = False
            ended()
