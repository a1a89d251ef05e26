"""The function registered with ``manager.session``: its messages, and what its end means for the connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from ._boundary import own_cancellations_only, says_only_gone
from ._errors import ActionError, InternalError
from ._messages.envelope import Message
from ._messages.requests import Request

if TYPE_CHECKING:
    from ._connection import Connection
    from ._registry import Session


class SessionRun:
    """The session of one connection, from its start beside the dispatcher to its end."""

    def __init__(self, conn: Connection, session: Session, *, max_messages: int) -> None:
        self._conn = conn
        self._session = session
        self._messages, self.for_session = trio.open_memory_channel[Message](max_messages)
        self.running = False

    def wants(self, request: Request) -> bool:
        """Whether this is a message that no handler takes. It is never answered."""
        message = request.message
        return request.handler is None and message is not None and not (message.action or "").startswith("$")

    async def give(self, message: Message) -> None:
        """Wait until there is room for a message."""
        await self._messages.send(message)

    def close(self) -> None:
        """No message comes any more."""
        self._messages.close()

    def start(self, ended: Callable[[], None]) -> None:
        """Start it in a task of the connection; ``ended`` is called when it is over."""
        self.running = True
        self._conn._start_task(self._run, ended)

    async def _run(self, ended: Callable[[], None]) -> None:
        conn = self._conn
        try:
            with own_cancellations_only():
                await self._session(conn)
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
            self.running = False
            ended()
