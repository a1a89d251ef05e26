"""Requests to a client: ``conn.request``.

Theory of operation. A request bears an id of ours, and a message without an action that bears such an id is an answer.
It acts when it is read, by whoever reads: it wakes the task that waits for it, which decodes it. So an answer waits for
no handler, passes no hook and no middleware, and overtakes messages that came before it and wait for their turn.

That a handler may wait for an answer of its own client needs one thing more: messages of that client queue up behind
the handler, and with a full inbox nothing would be read any more, the answer included. So while a request waits, the
inbox has another bound, in bytes, which is far off (``limits.read_ahead_bytes``). Order is kept: what is read ahead
waits for its turn like everything else.

Whatever ends the connection ends its requests, in ``Connection._end``. A request that is cancelled is forgotten, so a
late answer finds nothing, as does one to what was never asked; both are dropped and counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import attrs
import msgspec
import trio

from ._errors import AskRefused, BadAnswer, BadMessage, ConnectionGone, TooManyAsks
from ._messages.decoding import DECODE_ERRORS, Decoders, told

if TYPE_CHECKING:
    from ._connection import Connection
    from ._messages.envelope import Message
    from ._wire.frames import Frame


class _Error(msgspec.Struct):
    code: str
    message: str = ""
    temporary: bool = False


class _Failure(msgspec.Struct):
    error: _Error | None = None


_failures: Final = Decoders(_Failure)


@attrs.define(eq=False)
class _Ask:
    """One request that waits."""

    settled: trio.Event = attrs.field(factory=trio.Event)
    answer: Message | None = None
    """None when it is settled: the connection has ended."""


class Asks:
    """The requests to one client that wait for their answers; see the module's theory."""

    __slots__ = ("_conn", "_last", "_pending")

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._last = 0
        self._pending: dict[str, _Ask] = {}

    async def ask(self, action: str, data: object, type: Any) -> Any:
        """Send a request and wait for its answer; see ``Connection.request``."""
        conn = self._conn
        if conn._opening is not None:
            conn._opening.check_task()
        limits = conn._node.config.limits
        decoders = Decoders(type)  # now, for it raises what msgspec does for a type that it cannot build
        if len(self._pending) >= limits.max_pending_asks:
            conn._node.counters.limit("max_pending_asks")
            raise TooManyAsks("too many requests wait for answers of this client")
        self._last += 1
        ident = f"${self._last}"
        answer = await self._answer(ident, conn._format.ask(ident, action, data))
        return _result(answer, decoders, limits.max_depth)

    async def _answer(self, ident: str, frame: Frame) -> Message:
        conn = self._conn
        inbox = conn._dispatcher.inbox
        ask = self._pending[ident] = _Ask()
        inbox.begin_reading_ahead()
        sent = False
        try:
            await conn.outbox.send(frame)
            sent = True
            await ask.settled.wait()
        except trio.Cancelled:
            if ask.answer is not None:  # it has come, but the cancel was first
                conn._node.counters.answers_dropped += 1
            elif sent:
                conn._notify("$cancel", {"id": ident})
            raise
        finally:
            self._pending.pop(ident, None)
            inbox.end_reading_ahead()
        if ask.answer is None:
            raise ConnectionGone("the connection has ended")
        return ask.answer

    def take(self, answer: Message) -> bool:
        """Give an answer to who waits for it; False if nobody does."""
        assert isinstance(answer.id, str)
        ask = self._pending.pop(answer.id, None)
        if ask is None:
            return False
        ask.answer = answer
        ask.settled.set()
        return True

    def end(self) -> None:
        """The connection has ended: nothing will be answered any more."""
        for ask in self._pending.values():
            ask.settled.set()
        self._pending.clear()


def asks_of(conn: Connection) -> Asks:
    """Those of a connection, made with the first of them."""
    if conn._asks is None:
        conn._asks = Asks(conn)
    return conn._asks


def take_answer(conn: Connection, answer: Message) -> None:
    """An answer was read."""
    if conn._asks is None or not conn._asks.take(answer):
        conn._node.counters.answers_dropped += 1


def _result(answer: Message, decoders: Decoders, max_depth: int) -> Any:
    """The data of an answer. Raises :exc:`AskRefused`, :exc:`BadAnswer`."""
    whole = answer.whole
    try:
        if isinstance(whole, str):
            error = _failures.json.decode(whole.encode()).error
        else:
            error = _failures.msgpack.decode(whole).error
        if error is None:
            return answer._build(decoders, answer.raw, max_depth)
    except DECODE_ERRORS as exc:
        raise BadAnswer(told(exc)) from exc
    except BadMessage as exc:
        raise BadAnswer(exc.message) from exc
    raise AskRefused(error.code, error.message, temporary=error.temporary)
