"""One publication into the outboxes of all members of a room: the loop that everything else is built around.

Theory of operation. One pass over the members, whole however many there are, without a checkpoint and without
anything of the user's. What it does per member decides what a delivery costs, so for nearly all of them it is a look
at one slot: a member for whom nothing waits gets the backlog that this pass has made for all such members, and
one that shares a backlog to which the publication has been added already needs nothing at all. All others (who
have a backlog of their own, or a peer that is slow, or no plain socket) go through ``Outbox.put``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import attrs

from .backlog import Backlog, Item
from .flusher import Flusher
from .frames import OVERHEAD
from .outbox import CLOSED, DROPPED, Outbox


@attrs.define(eq=False)
class Outcome:
    """What a fan-out did."""

    enqueued: int = 0
    dropped: int = 0
    displaced: int = 0
    closed: list[str] = attrs.field(factory=list)
    """Whose outbox was full, and whose room ends them for it. They are still members."""


@attrs.frozen
class FanOut:
    """How to put a publication into many outboxes, which are all bounded alike."""

    flusher: Flusher
    max_messages: int
    """Of each outbox."""
    max_bytes: int
    """Of each outbox."""
    write_buffer_size: int
    """The most bytes of one write."""

    def put_all(self, item: Item, outboxes: Mapping[str, Outbox], exclude: Collection[str] = ()) -> Outcome:
        """Put ``item`` into the outboxes of all members, which are given by id, but those excluded.

        ``outboxes`` is the room's own mapping, the same at each call: its identity stands for the room.
        """
        outcome = Outcome()
        sharing = _Sharing(self, item, outboxes)
        woken: list[Outbox] = []
        targets = outboxes if not exclude else _others(outboxes, exclude)
        form: object = None
        fresh: Backlog | None = None
        for ident, outbox in targets.items():
            backlog = outbox.backlog
            if backlog is None:
                if outbox.form is not form:
                    form = outbox.form
                    fresh = sharing.fresh(form)
                if fresh is not None:
                    outbox.backlog = fresh
                    woken.append(outbox)
                    continue
            elif backlog.last is item:
                continue
            result = sharing.put(outbox, woken)
            if result > 0:
                outcome.displaced += result
            elif result == DROPPED:
                outcome.dropped += 1
            elif result == CLOSED:
                outcome.closed.append(ident)
        outcome.enqueued = len(targets) - outcome.dropped - len(outcome.closed)
        self.flusher.mark_all(woken)
        return outcome


def _others(outboxes: Mapping[str, Outbox], exclude: Collection[str]) -> Mapping[str, Outbox]:
    for ident in exclude:
        if ident in outboxes:
            outboxes[ident].stand_apart(outboxes)
    return {ident: outbox for ident, outbox in outboxes.items() if ident not in exclude}


class _Sharing:
    """The backlogs that one pass shares out."""

    def __init__(self, fan_out: FanOut, item: Item, owner: object) -> None:
        self._item = item
        self._owner = owner
        # Shared is at most half of an outbox, which is what rooms that drop may fill, and one write.
        self._max_items = max(1, fan_out.max_messages // 2)
        self._max_cost = fan_out.max_bytes // 2
        self._max_joined = min(self._max_cost, fan_out.write_buffer_size)
        self._fresh: dict[object, Backlog | None] = {}

    def fresh(self, form: object) -> Backlog | None:
        """A backlog with nothing but the item; None if it is one that everybody has to take by itself."""
        if form not in self._fresh:
            cost = len(self._item.frame(form).data) + OVERHEAD
            backlog = None
            # What a newer one may replace is replaced one by one.
            if self._item.key is None and cost <= self._max_cost:
                backlog = Backlog(form, self._owner)
                backlog.add(self._item, cost)
            self._fresh[form] = backlog
        return self._fresh[form]

    def put(self, outbox: Outbox, woken: list[Outbox]) -> int:
        """Put the item where the usual way does not lead; the result is that of ``Outbox.put``."""
        backlog = outbox.backlog
        if backlog is not None and backlog.owner is self._owner and self._item.key is None:
            if self._takes(backlog):
                return 0
            outbox.flush()  # what has grown as large as a write is written
            fresh = self.fresh(outbox.form) if outbox.backlog is None else None
            if fresh is not None:
                outbox.backlog = fresh
                woken.append(outbox)
                return 0
        return outbox.put(self._item)

    def _takes(self, backlog: Backlog) -> bool:
        """Add the item to a backlog of these members, if it has room."""
        cost = len(self._item.frame(backlog.form).data) + OVERHEAD
        if len(backlog.items) >= self._max_items or backlog.cost + cost > self._max_joined:
            return False
        backlog.add(self._item, cost)
        return True
