"""What the library asks of a broker.

Members are served from ``deliver`` only, on the publisher's node too; nothing is echoed ahead of the
broker. A broker keeps the order of submissions to one room from one node, and calls ``deliver`` in one
order per room on all nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import attrs
import trio

from .._rooms.publication import Publication, Report


@attrs.frozen
class Position:
    """Where a publication stands in its room's stream. Offsets rise, but need not be contiguous."""

    offset: int
    """The number within the epoch."""
    epoch: str
    """Which run of the stream the offset belongs to: offsets of different epochs cannot be compared."""


#: Given to a broker: serves the members of this node. Synchronous, and calls nothing of the user's.
Deliver = Callable[[Publication, Position | None], Report]


class Submission(Protocol):
    """A publication that a broker has taken."""

    async def wait(self) -> Position | None:
        """Wait until the broker has confirmed it; its position, if the broker numbers. Raises if it failed.

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

        On this node, the object itself comes back in ``deliver``.
        """

    async def wait_ready(self) -> None:
        """Wait until a submission would not meet the bound; another task may be quicker."""

    async def subscribe(self, room: str) -> None:
        """Return when publications to the room reach this node. Idempotent."""

    def unsubscribe(self, room: str) -> None:
        """A hint that no member is left; a broker may act on it later, or not if one has come back."""
