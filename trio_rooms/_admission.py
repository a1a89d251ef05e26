"""How many connections may be open, and how many of them may be without a complete request.

A client that connects and says nothing costs a place until its handshake times out, so whoever opens connections
fast enough could hold them all. Therefore the newest handshakes win: the oldest incomplete one is cancelled when
there are too many of them, and also when there is no place left for a new connection. A place that a complete
request has taken is never taken away; with all places taken so, new connections are refused.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import final

import attrs
import trio

# Cancelled handshakes that may still be closing their socket while their place is given to others already. They
# keep their descriptors meanwhile; half of the reserve that the default of max_connections leaves.
_MAX_LEAVING = 32


@final
@attrs.define(eq=False)
class Ticket:
    """A place among the open connections, from accept to the end; made by :meth:`Admission.admit`."""

    _admission: Admission
    _released: bool = attrs.field(default=False, init=False)
    pushed_out: bool = attrs.field(default=False, init=False)
    """Whether the handshake was cancelled in favour of newer ones."""

    @property
    def scope(self) -> trio.CancelScope:
        """As given to :meth:`Admission.admit`, until the request is complete."""
        return self._admission._pending[self]

    def head_complete(self) -> None:
        """The request has been read: from now on nobody pushes this connection out. Idempotent."""
        self._admission._pending.pop(self, None)

    def release(self) -> None:
        """The socket is closed: give the place to others. Idempotent."""
        self._admission._release(self)


@final
class Admission:
    """Hands out the places of one server.

    Args:
      max_connections: Places, pending handshakes included.
      max_pending_handshakes: Of them, those whose request is not complete.
    """

    __slots__ = ("_leaving", "_max_connections", "_max_pending", "_open", "_pending", "pushed_out", "refused")

    def __init__(self, *, max_connections: int, max_pending_handshakes: int) -> None:
        self._max_connections = max_connections
        self._max_pending = max_pending_handshakes
        self._open = 0
        # Oldest first. Not a dict: that takes longer and longer to find its first key when the first is removed often.
        self._pending: OrderedDict[Ticket, trio.CancelScope] = OrderedDict()
        self._leaving = 0
        self.pushed_out = 0
        """Handshakes that were cancelled in favour of newer ones."""
        self.refused = 0
        """Connections that got no ticket."""

    @property
    def open(self) -> int:
        """Tickets not yet released; those of cancelled handshakes count until their task has let go."""
        return self._open

    @property
    def pending(self) -> int:
        """Connections whose request is not complete."""
        return len(self._pending)

    def admit(self, scope: trio.CancelScope) -> Ticket | None:
        """A place for a connection that was just accepted, with its handshake pending; None if there is none left.

        ``scope`` surrounds the connection's task. It is cancelled if newer handshakes push this one out, which can
        happen until :meth:`Ticket.head_complete`. The holder releases the ticket, however the connection ends.
        """
        if self._is_full() and not self._make_place():
            self.refused += 1
            return None
        ticket = Ticket(self)
        self._open += 1
        self._pending[ticket] = scope
        if len(self._pending) > self._max_pending:
            self._push_out_oldest()
        return ticket

    def _is_full(self) -> bool:
        return self._open - min(self._leaving, _MAX_LEAVING) >= self._max_connections

    def _make_place(self) -> bool:
        if not self._pending or self._leaving >= _MAX_LEAVING:
            return False
        self._push_out_oldest()
        return True

    def _push_out_oldest(self) -> None:
        ticket, scope = self._pending.popitem(last=False)
        ticket.pushed_out = True
        self._leaving += 1
        self.pushed_out += 1
        scope.cancel(reason="pushed out by newer handshakes")

    def _release(self, ticket: Ticket) -> None:
        if ticket._released:
            return
        ticket._released = True
        self._open -= 1
        self._pending.pop(ticket, None)
        if ticket.pushed_out:
            self._leaving -= 1
