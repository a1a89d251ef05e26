"""The record of a run, sorted for the checks: by connection and by publication."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import attrs
import msgspec

from ._record import (
    Called,
    Delivered,
    Ended,
    Fault,
    Kept,
    Opened,
    Record,
    Seen,
    Sent,
    Settled,
    Submitted,
    Welcomed,
    Wrote,
)
from ._settings import Settings


@attrs.define(eq=False)
class LinkHistory:
    """One connection, as its client saw it and as the program did."""

    number: int
    client: int
    serve: int
    plain: bool = False
    """Whether it has no subprotocol: it sees what was published and nothing around it."""
    welcomed: bool = False
    conn: str | None = None
    """Its id, if anybody has learned it."""
    session: str | None = None
    """The id of its session, if the program has learned it."""
    talk: list[tuple[int, Sent | Seen]] = attrs.field(factory=list)
    """What its client sent and saw, each with its place in the record."""
    struck: list[tuple[int, str]] = attrs.field(factory=list)
    """The kinds of faults that concern it, each with its place in the record."""
    begun: int = 0
    """The place in the record at which its client began it."""
    ended: Ended | None = None
    wrote: Wrote | None = None
    """What the server has put on its wire, where that is known."""
    settled: bool = False
    """Whether its client has come to rest on it."""
    hooks: list[Called] = attrs.field(factory=list)

    @property
    def faults(self) -> frozenset[str]:
        """The kinds of faults that concern it."""
        return frozenset(kind for _, kind in self.struck)

    @property
    def seen(self) -> Iterator[dict[str, Any]]:
        """The messages that its client has received."""
        return (entry.message for _, entry in self.talk if isinstance(entry, Seen))

    @property
    def sent(self) -> Iterator[Any]:
        """The messages that its client has sent, or begun to."""
        return (entry.message for _, entry in self.talk if isinstance(entry, Sent))

    def is_excluded(self, exclude: frozenset[str]) -> bool:
        """Whether what excludes these is not for it: by the connection, or by the session."""
        return self.conn in exclude or self.session in exclude

    @property
    def left(self) -> bool:
        """Whether its client has closed or dropped it."""
        return self.ended is not None and self.ended.by_client

    @property
    def close(self) -> Called | None:
        """The call of ``on_disconnect``."""
        return next((call for call in self.hooks if call.hook == "on_disconnect"), None)

    def __str__(self) -> str:
        return f"link {self.number} of client {self.client}"


@attrs.frozen(eq=False)
class Delivery:
    """A publication that was delivered, and what it says."""

    index: int
    """Its place in the record."""
    entry: Delivered
    event: Any

    @property
    def n(self) -> object:
        """By what our own programs know it."""
        return self.event.get("n") if isinstance(self.event, dict) else None


@attrs.define(eq=False)
class History:
    """A record, and what can be looked up in it."""

    record: Record
    settings: Settings

    @cached_property
    def links(self) -> dict[int, LinkHistory]:
        """All connections that clients have begun."""
        found: dict[int, LinkHistory] = {}
        for index, (_, entry) in enumerate(self.record):
            if type(entry) is Opened:
                found[entry.link] = LinkHistory(
                    entry.link, entry.client, entry.serve, self.settings.formats[entry.client] == "plain", begun=index
                )
                continue
            link = found.get(getattr(entry, "link", None) or -1)
            if link is not None:
                _enter(link, index, entry)
        return found

    @cached_property
    def deliveries(self) -> list[Delivery]:
        """All publications that were delivered, in the order in which they were."""
        return [Delivery(index, entry, msgspec.json.decode(entry.data)) for index, entry in self.record.of(Delivered)]

    @cached_property
    def lost(self) -> frozenset[str]:
        """What the broker has taken and never delivered, by the numbers of our own programs."""
        delivered = {entry.number for _, entry in self.record.of(Delivered)}
        lost = (msgspec.json.decode(one.data) for _, one in self.record.of(Submitted) if one.number not in delivered)
        return frozenset(str(event["n"]) for event in lost if isinstance(event, dict) and "n" in event)

    @cached_property
    def holes(self) -> frozenset[str]:
        """Rooms with something in their streams that was never delivered."""
        entries = (one.entry for one in self.deliveries if one.entry.offset is not None)
        delivered = {(entry.rooms[0], entry.offset, entry.epoch) for entry in entries}
        kept = (entry for _, entry in self.record.of(Kept))
        return frozenset(one.room for one in kept if (one.room, one.offset, one.epoch) not in delivered)

    @cached_property
    def kept(self) -> dict[tuple[str, str], list[Kept]]:
        """What the broker has kept, by room and epoch, in the order of the offsets."""
        found: dict[tuple[str, str], list[Kept]] = {}
        for _, entry in self.record.of(Kept):
            found.setdefault((entry.room, entry.epoch), []).append(entry)
        return found

    @cached_property
    def _times(self) -> dict[int, float]:
        return {id(entry): time for time, entry in self.record}

    def time_of(self, entry: object) -> float:
        """When an entry was made."""
        return self._times[id(entry)]

    def time_at(self, index: int) -> float:
        """When the entry at a place was made."""
        return self.record[index][0]

    def deliveries_to(self, link: LinkHistory) -> list[tuple[Delivery, str | None]]:
        """What a connection is to get, each with the room by which it does; but not what it is told the position of."""
        conn = link.conn
        if conn is None:
            return []
        return [
            (one, one.entry.recipients[conn])
            for one in self.deliveries
            if (one.entry.offset is None or link.plain)
            and conn in one.entry.recipients
            and conn not in one.entry.closing
        ]

    @cached_property
    def calls(self) -> list[Called]:
        """The hooks that were called."""
        return [entry for _, entry in self.record.of(Called)]

    @cached_property
    def faults(self) -> frozenset[str]:
        """The kinds of faults that have struck anybody."""
        return frozenset(entry.kind for _, entry in self.record.of(Fault))


def _enter(link: LinkHistory, index: int, entry: object) -> None:
    if isinstance(entry, (Sent, Seen)):
        link.talk.append((index, entry))
        if isinstance(entry, Seen) and isinstance(entry.message, dict) and entry.message.get("action") == "$welcome":
            link.conn = entry.message["data"]["connection"]
    elif isinstance(entry, Called):
        link.hooks.append(entry)
        link.conn = entry.conn
        if entry.hook == "on_connect":
            link.session = entry.detail[0]
    elif isinstance(entry, Fault):
        link.struck.append((index, entry.kind))
    elif isinstance(entry, Ended):
        link.ended = entry
    elif isinstance(entry, Wrote):
        link.wrote = entry
    elif isinstance(entry, Settled):
        link.settled = True
    elif isinstance(entry, Welcomed):
        link.welcomed = True
