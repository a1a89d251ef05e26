"""What has happened in a run, as it was seen from outside: written once, read by the checks, never changed.

Entries stand in the order in which they happened, each with its virtual time. The checks know nothing but these.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import attrs
import trio

from trio_rooms import Report, Statistics


@attrs.frozen
class Opened:
    """A client has begun a connection."""

    link: int
    client: int
    serve: int
    """Which of the servers it goes to."""


@attrs.frozen
class Welcomed:
    """The upgrade was accepted."""

    link: int


@attrs.frozen
class Sent:
    """A client is about to send a message. Nothing tells whether it arrived."""

    link: int
    message: Mapping[str, Any]


@attrs.frozen
class Seen:
    """A client has received a message."""

    link: int
    message: Any


@attrs.frozen
class Ended:
    """A client knows that its connection is over."""

    link: int
    code: int
    """Of the server's close frame; 1006 without one."""
    reason: str = ""
    by_client: bool = False
    """Whether the client has closed or dropped it itself."""


@attrs.frozen
class Wrote:
    """What the server has put on the wire of a connection in memory; noted at the end of a run."""

    link: int
    messages: tuple[Any, ...]
    """Those that have left as a whole."""
    taken: int
    """How many of them the server can know to have left: the rest went out with a call that has failed."""
    behind_half: bytes = b""
    """What was written behind half a frame."""


@attrs.frozen
class Broken:
    """A client has received what no server may send."""

    link: int
    what: str


@attrs.frozen
class Fault:
    """Something was broken on purpose; ``link`` is whom it concerns, None for anybody."""

    kind: str
    link: int | None = None


@attrs.frozen
class Submitted:
    """The broker has taken a publication."""

    number: int
    """Counts submissions; the publication is known by it."""
    rooms: tuple[str, ...]
    data: bytes


@attrs.frozen
class Delivered:
    """A publication was put into the outboxes of its recipients."""

    number: int
    rooms: tuple[str, ...]
    data: bytes
    exclude: frozenset[str]
    recipients: Mapping[str, str | None]
    """By the id of the connection the room by which it is one: the members at that moment, less excluded."""
    closing: frozenset[str]
    """Those of the recipients that were ending already."""
    policies: Mapping[str, str]
    """What each of the rooms does at the bound."""
    report: Report
    offset: int | None = None
    epoch: str | None = None


@attrs.frozen
class Kept:
    """A publication has got its position in a room's history; whether it is delivered is another matter."""

    room: str
    offset: int
    epoch: str
    data: bytes
    exclude: frozenset[str]
    size: int
    """How many the room keeps."""
    ttl: float
    """For how long."""


@attrs.frozen
class Published:
    """What the program was told of something that it has published."""

    n: int
    rooms: tuple[str, ...]
    outcome: str
    """"final", "queued", "duplicate", "refused", "busy", "gone", or "unknown" where it was cancelled meanwhile."""
    once: str | None = None
    """The idempotency key."""
    written: int | None = None
    """Where it was waited for until it was written: how many outboxes did so."""


@attrs.frozen
class Asked:
    """What became of a request to a client."""

    link: int
    n: int
    seconds: float
    """How long was waited for the answer."""
    outcome: str
    """"answered", "refused", "gone", "busy", "late"; "unknown" where it was cancelled by something else."""
    answer: Any = None


@attrs.frozen
class Answered:
    """A client is about to answer a request of the server's."""

    link: int
    n: int


@attrs.frozen
class Followed:
    """A task of the program begins to follow a room."""

    number: int
    room: str
    overflow: str
    since: tuple[int, str] | None
    recovered: bool | None
    at: tuple[int, str] | None
    """Where it begins."""
    pause: float = 0
    """Seconds that it takes after each event."""
    most: int = 256
    """Events that may wait for it."""


@attrs.frozen
class Received:
    """A task that follows a room has received an event."""

    number: int
    data: Any
    at: tuple[int, str] | None


@attrs.frozen
class Unfollowed:
    """A task follows a room no more."""

    number: int
    why: str
    """"left", "ended" with the server, "lost", or "gone" where it never began."""
    dropped: int = 0
    displaced: int = 0


@attrs.frozen
class Given:
    """A client of the library has received an event of a room, or a gap."""

    client: int
    room: str
    data: Any = None
    at: tuple[int, str] | None = None
    gap: str | None = None
    """Why something may be missing; "over" where its membership has ended for good."""


@attrs.frozen
class Called:
    """A hook of the program has been called."""

    hook: str
    conn: str
    link: int | None
    room: str = ""
    detail: Any = None
    serve: int = 0


@attrs.frozen
class Measured:
    """The largest values so far of what is bounded, together with the bounds."""

    name: str
    value: float
    bound: float


@attrs.frozen
class Served:
    """A server has ended."""

    serve: int
    killed: bool
    statistics: Statistics
    problem: str | None
    """What ``assert_quiescent`` has found."""


@attrs.frozen
class Healed:
    """From here on nothing is broken any more; every client is to get where it wants to be."""

    round: int
    """Counts the times that this was tried."""


@attrs.frozen
class Settled:
    """A client has come to rest: connected, and in these rooms."""

    link: int
    client: int
    rooms: tuple[str, ...]


@attrs.frozen
class Unsettled:
    """A client did not get where it wants to be."""

    client: int
    why: str


@attrs.frozen
class Rested:
    """Where a client of the library is when all has come to rest."""

    client: int
    rooms: tuple[str, ...]
    """Those that it is in."""
    missing: tuple[str, ...]
    """Those that it wants to be in, and is not."""


@attrs.frozen
class Beacon:
    """Published to a room when all had come to rest; these connections are in it."""

    n: int
    room: str
    links: tuple[int, ...]
    present: tuple[tuple[str, int | None], ...] = ()
    """The user and the link of each of the room's members."""
    library: tuple[int, ...] = ()
    """The clients of the library that are in it."""


@attrs.frozen
class Finished:
    """The end of the run. ``tasks`` are those that are left."""

    tasks: int
    before: int


@attrs.frozen
class Crashed:
    """The run itself has raised."""

    error: str


T = TypeVar("T")


class Record:
    """Append-only."""

    def __init__(self) -> None:
        self._entries: list[tuple[float, Any]] = []

    def add(self, entry: object) -> None:
        """Add what happens now."""
        self._entries.append((trio.current_time(), entry))

    def add_at(self, time: float, entry: object) -> None:
        """Add what has happened outside of the run."""
        self._entries.append((time, entry))

    def __iter__(self) -> Iterator[tuple[float, Any]]:
        return iter(self._entries)

    def __getitem__(self, index: int) -> tuple[float, Any]:
        return self._entries[index]

    def __len__(self) -> int:
        return len(self._entries)

    def of(self, kind: type[T]) -> Iterator[tuple[int, T]]:
        """The entries of a kind, each with its place."""
        for index, (_, entry) in enumerate(self._entries):
            if type(entry) is kind:
                yield index, entry

    def lines(self) -> Iterator[str]:
        """The trace, a line for each entry."""
        for index, (time, entry) in enumerate(self._entries):
            yield f"{index:5} {time:9.4f} {_shown(entry)}"

    def digest(self) -> str:
        """What two runs have in common if their traces are the same."""
        hasher = hashlib.sha256()
        for line in self.lines():
            hasher.update(line.encode())
        return hasher.hexdigest()


def _shown(value: object) -> str:
    """As ``repr``, but the same in each process: sets have no order of their own."""
    cls: Any = type(value)
    if attrs.has(cls):
        fields = ", ".join(f"{field.name}={_shown(getattr(value, field.name))}" for field in attrs.fields(cls))
        return f"{cls.__name__}({fields})"
    if isinstance(value, (frozenset, set)):
        return "{" + ", ".join(sorted(map(_shown, value))) + "}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_shown(key)}: {_shown(one)}" for key, one in value.items()) + "}"
    return repr(value)
