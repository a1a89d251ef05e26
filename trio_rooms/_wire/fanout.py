"""One publication into the outboxes of all members of a room: the loop that everything else is built around.

Theory of operation. One pass over the members, whole however many there are, without a checkpoint and without
anything of the user's. What it does per member decides what a delivery costs, so for nearly all of them it is a look
at one slot: a member for whom nothing waits gets the backlog that this pass has made for all such members, and
one that shares a backlog to which the publication has been added already needs nothing at all. All others (who
have a backlog of their own, or a peer that is slow, or no plain socket) go through ``Outbox.put``.

Rooms may be small and many. Then what a pass makes is what a delivery costs, so it makes the shared backlog and
little besides.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import attrs
import msgspec

from .backlog import Backlog, Item, begin
from .departures import Delivery
from .flusher import Flusher
from .frames import OVERHEAD
from .outbox import CLOSED, DROPPED, Outbox


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What a fan-out did. A Struct because it is made for each publication, as those in ``_rooms.publication`` are."""

    enqueued: int
    dropped: int = 0
    displaced: int = 0
    closed: Sequence[str] = ()
    """Whose outbox was full, and whose room ends them for it. They are still members."""

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(
            self.enqueued + other.enqueued,
            self.dropped + other.dropped,
            self.displaced + other.displaced,
            (*self.closed, *other.closed),
        )


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

    # Shared is at most half of an outbox, which is what rooms that drop may fill, and one write.
    max_items: int = attrs.field(init=False, default=attrs.Factory(lambda self: max(1, self.max_messages // 2), True))
    max_cost: int = attrs.field(init=False, default=attrs.Factory(lambda self: self.max_bytes // 2, True))
    max_joined: int = attrs.field(
        init=False, default=attrs.Factory(lambda self: min(self.max_cost, self.write_buffer_size), True)
    )

    def put_all(
        self, item: Item, outboxes: Mapping[str, Outbox], exclude: Collection[str] = (), *, watched: bool = False
    ) -> Outcome:
        """Put ``item`` into the outboxes of all members, which are given by id, but those excluded.

        ``outboxes`` is the room's own mapping, the same at each call: its identity stands for the room. With
        ``watched`` the item itself can be found where it waits.
        """
        targets = outboxes if not exclude else _others(outboxes, exclude)
        # Where nobody shares with another, the bytes are enough; of ten thousand that wait, all else is gone.
        alone = len(outboxes) == 1 and item.overflow == "close" and not watched
        shared: dict[object, Backlog | None] = {}
        woken = self.flusher.many
        dropped = displaced = 0
        closed: list[Outbox] | None = None
        form: object = None
        fresh: Backlog | None = None
        for outbox in targets.values():
            backlog = outbox.backlog
            if backlog is None:
                if outbox.form is not form:
                    form = outbox.form
                    fresh = self._fresh(item, form, outboxes, shared, alone=alone)
                if fresh is not None:
                    outbox.backlog = fresh
                    woken.append(outbox)
                    continue
            elif backlog.last is item:
                continue
            result = self._put(item, outbox, outboxes, shared)
            if result > 0:
                displaced += result
            elif result == DROPPED:
                dropped += 1
            elif result == CLOSED:
                closed = [outbox] if closed is None else [*closed, outbox]
        self.flusher.marked_many()
        if not (dropped or displaced or closed):
            return Outcome(len(targets))
        idents = [ident for ident, outbox in targets.items() if closed and outbox in closed]
        return Outcome(len(targets) - dropped - len(idents), dropped, displaced, idents)

    def put_watched(
        self, item: Item, outboxes: Mapping[str, Outbox], exclude: Collection[str], delivery: Delivery
    ) -> Outcome:
        """As :meth:`put_all`, and ``delivery`` is told when each outbox that took the item has it no more."""
        targets = {ident: outbox for ident, outbox in outboxes.items() if ident not in exclude}
        refused = {ident: outbox.dropped for ident, outbox in targets.items()}
        outcome = self.put_all(item, outboxes, exclude, watched=True)
        for ident, outbox in targets.items():
            if outbox.dropped == refused[ident]:
                outbox.watch(item, delivery)
        return outcome

    def _fresh(
        self, item: Item, form: object, owner: object, shared: dict[object, Backlog | None], *, alone: bool = False
    ) -> Backlog | None:
        """The backlog with nothing but the item that a pass shares out; None if everybody has to take it by itself."""
        if form in shared:
            return shared[form]
        fresh = None
        if item.key is None:  # what a newer one may replace is replaced one by one
            frame = item.frame(form)
            if len(frame.data) + OVERHEAD <= self.max_cost:
                fresh = begin(frame if alone else item, form, frame.data, owner)
        shared[form] = fresh
        return fresh

    def _put(self, item: Item, outbox: Outbox, owner: object, shared: dict[object, Backlog | None]) -> int:
        """Put the item where the usual way does not lead; the result is that of ``Outbox.put``."""
        backlog = outbox.backlog
        if backlog is not None and backlog.owner is owner and item.key is None:
            if self._takes(backlog, item):
                return 0
            outbox.flush()  # what has grown as large as a write is written
            fresh = self._fresh(item, outbox.form, owner, shared) if outbox.backlog is None else None
            if fresh is not None:
                outbox.backlog = fresh
                self.flusher.many.append(outbox)
                return 0
        return outbox.put(item)

    def _takes(self, backlog: Backlog, item: Item) -> bool:
        """Add the item to a backlog of these members, if it has room."""
        cost = backlog.cost_of(item)
        if len(backlog.items) >= self.max_items or backlog.cost + cost > self.max_joined:
            return False
        backlog.add(item, cost)
        return True


def _others(outboxes: Mapping[str, Outbox], exclude: Collection[str]) -> Mapping[str, Outbox]:
    for ident in exclude:
        if ident in outboxes:
            outboxes[ident].stand_apart(outboxes)
    return {ident: outbox for ident, outbox in outboxes.items() if ident not in exclude}
