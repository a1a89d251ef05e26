"""What the library asks of a broker.

Members are served from ``deliver`` only, on the publisher's node too; nothing is echoed ahead of the
broker. A broker keeps the order of submissions to one room from one node, and calls ``deliver`` in one
order per room on all nodes.

A broker that supports "history" numbers what is to be kept (``publication.keep``) and hands out the position with it.
Offsets rise within a room and an epoch, but may have gaps, for brokers that number a whole stream (NATS, Kafka). So
only the broker can say whether a slice is complete; nobody else does arithmetic with offsets. A new epoch is a new
stream: whatever had a position in the old one has lost its place. Positions of an old epoch must not come after those
of a new one.

What is kept is not lost in silence. A broker that may have missed something of a room delivers it later, in its order
(what has been delivered before is ignored), or says with ``publication.after``, of the next one that it delivers, what
that one comes after. The node compares this with what it has got. Rooms in which nothing more comes it asks about from
time to time, by reading what there is after the position that its members have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import attrs
import trio

from .._room_options import Keep as Keep
from .._rooms.history import Position, Slice
from .._rooms.publication import Publication, Report

#: Given to a broker: serves the members of this node. Synchronous, and calls nothing of the user's.
Deliver = Callable[[Publication, Position | None], Report]


@attrs.frozen
class Confirmation:
    """What a broker says of a publication that it has taken for good."""

    position: Position | None = None
    """Where it stands, if it is kept; that of the first one, if it is a duplicate."""
    duplicate: bool = False
    """Whether its ``idempotency_key`` has been published to its room before: it is not delivered."""


class Submission(Protocol):
    """A publication that a broker has been given."""

    @property
    def confirmation(self) -> Confirmation | None:
        """The confirmation, if it is there already."""

    async def wait(self) -> Confirmation:
        """Wait until the broker has confirmed it. Raises if it failed.

        A cancel leaves the outcome unknown.
        """


class Broker(Protocol):
    """Carries publications to every node that serves members of their rooms."""

    @property
    def supports(self) -> frozenset[str]:
        """Of "history", "presence", "sessions"; a configuration that needs more fails at start."""

    async def run(self, deliver: Deliver, *, task_status: trio.TaskStatus[None]) -> None:
        """Connect, call ``task_status.started()``, and carry until cancelled.

        Afterwards ``submit`` raises :exc:`NotServing`, and what waits in ``Submission.wait`` has raised it. It
        may be run again. Raises :exc:`AlreadyServing` if it runs and can serve only one node.
        """

    def submit(self, publication: Publication) -> Submission:
        """Take a publication, first in first out for each room. Raises :exc:`BrokerBusy` at the bound.

        On this node, the object itself comes back in ``deliver``, whether or not the room is subscribed to. With
        ``publication.keep`` it is numbered and kept, for at most so long and in at most so much room as that says. With
        an ``idempotency_key`` it is delivered once for each key and room, within five minutes at least unless the
        broker's bound is met.
        """

    async def wait_ready(self) -> None:
        """Wait until a submission would not meet the bound; another task may be quicker."""

    async def subscribe(self, room: str) -> None:
        """Return when publications to the room reach this node. Idempotent."""

    def unsubscribe(self, room: str) -> None:
        """A hint that no member is left; a broker may act on it later, or not if one has come back."""

    async def history(
        self,
        room: str,
        *,
        keep: Keep,
        since: Position | None,
        limit: int | None,
        reverse: bool,
    ) -> Slice:
        """Read a room's stream, which begins if there is none. Only asked of who supports "history".

        The oldest ``limit`` publications (None: all, 0: only the position) after ``since``; with ``reverse`` the
        newest, before ``since``. All of one moment: what is not in it, and has a higher offset than its position, is
        delivered later, if the room is subscribed to. So whatever was delivered before this was called is in it. The
        epoch of ``since`` may be any text, as it comes from clients; its offset is from 0 to 2**63 - 1.
        """
