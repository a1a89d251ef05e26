"""Many outboxes flushed in a row, which mostly are members of one room that share a backlog.

Theory of operation. Beside the system call a flush is a handful of looks at the outbox and its backlog, and those at
the backlog have the same outcome for all who share it. So they are made once, for as long as the next outbox has the
same. Nothing in a flush changes a shared backlog: who goes on alone, because its peer is slow, takes a copy. And it
is never more than one write: it is one publication, or several that are together no larger (see ``fanout``).
"""

from __future__ import annotations

from collections.abc import Iterable

from .outbox import Outbox


def flush_all(outboxes: Iterable[Outbox]) -> None:
    """As :meth:`Outbox.flush` of each, in order."""
    shared, data, count = None, b"", 0
    for outbox in outboxes:
        send, backlog = outbox.send_now, outbox.backlog
        if backlog is not shared or backlog is None:
            if backlog is None or backlog.owner is None:
                outbox.flush()
                continue
            shared, data, count = backlog, backlog.joined(), len(backlog.items)
        if send is None:
            continue
        try:
            taken = send(data)
        except BlockingIOError:
            taken = 0
        except OSError:
            outbox.outlet.failed()
            continue
        if taken < len(data):
            outbox.outlet.blocked(count, data, taken)
            continue
        outbox._passed += count
        outbox.backlog = outbox._empty
        if outbox._senders or outbox._departures is not None:
            outbox._make_room()
