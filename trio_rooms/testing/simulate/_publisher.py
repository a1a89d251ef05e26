"""Publishing in a run, with a note of what the program was told of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Literal

import attrs
import msgspec
import trio

from trio_rooms import (
    AskRefused,
    BrokerBusy,
    Connection,
    ConnectionGone,
    Manager,
    NotServing,
    OutboxFull,
    Report,
    TooManyAsks,
    UsageError,
)

from ._hooks import link_of
from ._record import Asked, Published, Record


class Say(msgspec.Struct):
    """What is to be published."""

    room: str
    n: int
    pad: int = 0
    exclude: int | None = None
    """The link of a client that is not to get it."""
    key: str | None = None
    once: str | None = None
    """The idempotency key."""
    skip: bool = False
    """Whether it is not to be kept."""
    written: bool = False
    """Whether who publishes it waits until it is written."""
    count: int = 1
    """How many of them, each with the next number; whoever publishes makes them."""


@attrs.frozen(eq=False)
class Publisher:
    """The verbs of a manager."""

    _manager: Manager
    _record: Record
    _conn_of: Callable[[int], Connection | None]
    """The connection of a link."""

    async def publish(self, say: Say) -> Report | None:
        """Publish to a room, and wait."""
        room = self._manager.get_room(say.room)
        if room is None:
            return None
        outcome, written = "unknown", None
        try:
            until: Literal["written", "queued"] = "written" if say.written else "queued"
            report = await room.publish(event_of(say), until=until, **self._options(say))
            outcome = _outcome(report)
            written = report.written if say.written else None
            return report
        except NotServing:
            outcome = "gone"
            return None
        finally:
            self._record.add(Published(say.n, (say.room,), outcome, say.once, written))

    def broadcast(self, rooms: tuple[str, ...], say: Say) -> Report | None:
        """Publish to one room or several, or to everybody, without waiting."""
        outcome = "busy"
        try:
            if len(rooms) == 1:
                report = self._manager.broadcast_to_room(rooms[0], event_of(say), **self._options(say))
            elif rooms:
                report = self._manager.broadcast_to_rooms(rooms, event_of(say))
            else:
                report = self._manager.broadcast_to_all(event_of(say))
            outcome = _outcome(report)
            return report
        except NotServing:
            outcome = "gone"
            return None
        except BrokerBusy:
            return None
        except UsageError:  # several rooms, one of which has a history
            outcome = "refused"
            return None
        finally:
            self._record.add(Published(say.n, rooms, outcome, say.once))

    def send(self, link: int, n: int) -> None:
        """Send to one connection."""
        conn = self._conn_of(link)
        if conn is not None:
            with contextlib.suppress(OutboxFull, ConnectionGone):
                conn.send_nowait({"n": n}, action="direct")

    async def ask(self, conn: Connection, n: int, seconds: float) -> str:
        """Ask a client, and wait so many seconds for its answer; what became of it."""
        outcome, answer = "unknown", None
        try:
            with trio.move_on_after(seconds) as scope:
                answer = await conn.request("question", {"n": n})
                outcome = "answered"
            if scope.cancelled_caught:
                outcome = "late"
        except AskRefused:
            outcome = "refused"
        except ConnectionGone:
            outcome = "gone"
        except TooManyAsks:
            outcome = "busy"
        finally:
            self._record.add(Asked(link_of(conn) or 0, n, seconds, outcome, answer))
        return outcome

    def _options(self, say: Say) -> dict[str, Any]:
        excluded = None if say.exclude is None else self._conn_of(say.exclude)
        return {
            "exclude": () if excluded is None else (excluded,),
            "key": say.key,
            "idempotency_key": say.once,
            "skip_history": say.skip,
        }


def event_of(say: Say) -> dict[str, Any]:
    """What is published: no two of a run are the same."""
    return {"n": say.n, "pad": "x" * say.pad}


def _outcome(report: Report) -> str:
    if report.duplicate:
        return "duplicate"
    return "final" if report.final else "queued"
