"""One event on its way to the members of a room, encoded once and framed once per format.

A program may publish to ten thousand rooms of one member each, and then what is made per publication is what a
delivery costs. So the classes here are Structs of msgspec, which take a tenth of the time to make that a frozen attrs
class takes; and they are unknown to the garbage collector (``gc=False``), or the many that wait to be written would be
searched again and again. None of them is ever in a cycle.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from .._room_options import Keep, Overflow
from .history import HistoryItem, Position

if TYPE_CHECKING:
    from .._wire.departures import Delivery
    from .._wire.frames import Frame


class Format(Protocol):
    """A wire format as far as a publication needs one."""

    def publication(self, publication: Publication, /) -> Frame:
        """The frame that a member with this format gets."""
        ...

    def marker(self, publication: Publication, /) -> Frame:
        """The frame that it gets instead if it is excluded from what is kept."""
        ...


#: Until when a publication is waited for.
Until = Literal["queued", "written"]


class Report(msgspec.Struct, frozen=True, gc=False):
    """What a publication did on this node, at the moment it was delivered.

    ``enqueued + dropped + closed`` = members less excluded, and less those who have it of the history already, with
    which they joined a moment ago. It says nothing about receipt: enqueued means
    that the outbox took it.

    Reports can be added: the numbers of the sum are the sums, and it is final if all are. ``written`` is None if for
    one of those that enqueued something it is. A sum is a duplicate if one of them is, whose numbers are then those of
    an earlier publication. It has no position, but where all have the same.
    """

    final: bool = False
    """Whether it has been delivered on this node; until then the numbers are 0."""
    enqueued: int = 0
    """Outboxes that took it."""
    dropped: int = 0
    """Outboxes that refused it, by their room's policy or because the connection is ending."""
    closed: int = 0
    """Members whose connection it ended, because their outbox was full and the policy is "close"."""
    displaced: int = 0
    """Earlier publications that it pushed out of outboxes, or replaced there."""
    position: Position | None = None
    """Where it stands in the room's stream; None if the room has no history, or it was not to be kept."""
    duplicate: bool = False
    """Whether its ``idempotency_key`` has been published before. Then this publication was not, and the rest is what
    is known of the first: all of it on the node that has delivered that, else its position."""
    written: int | None = None
    """Of ``enqueued``, how many the system has taken to send; the others were displaced, or discarded when their
    connection ended. None where it was not waited for, which ``until="written"`` does."""

    def __add__(self, other: Report) -> Report:
        return Report(
            final=self.final and other.final,
            enqueued=self.enqueued + other.enqueued,
            dropped=self.dropped + other.dropped,
            closed=self.closed + other.closed,
            displaced=self.displaced + other.displaced,
            position=self.position if self.position == other.position else None,
            duplicate=self.duplicate or other.duplicate,
            written=_sum_of_written(self, other),
        )


def _sum_of_written(*reports: Report) -> int | None:
    if any(report.written is None and report.enqueued for report in reports):
        return None
    known = [report.written for report in reports if report.written is not None]
    return sum(known) if known else None


class Publication(msgspec.Struct, eq=False, gc=False):
    """What a broker carries. Identity matters: on its own node, the object that was submitted is delivered.

    ``rooms`` are its targets, empty for everybody. ``data`` is the event in JSON, ``packed`` in MessagePack.
    ``exclude`` holds connection ids; ``key`` says what a newer publication replaces where the room conflates;
    ``action`` is for publications to everybody.

    ``packed`` is None where it has not been asked for yet, which can only be within the submission to a broker that
    delivers at once. Any other finds it there, and carries both: between nodes, MessagePack that is made of JSON would
    have lost what JSON lacks.
    """

    rooms: tuple[str, ...]
    data: bytes
    exclude: frozenset[str] = frozenset()
    key: str | None = None
    action: str | None = None
    overflow: Overflow = "close"
    """The policy of the room that it is being delivered to; set by ``deliver``."""
    report: Report | None = None
    """What the delivery on the publisher's node did; set by ``deliver``."""
    on_delivered: Callable[[], None] | None = None
    """Called when it was delivered on the publisher's node."""
    delivery: Delivery | None = None
    """Told what becomes of it on the publisher's node, where somebody waits for that."""
    packed: bytes | None = None
    """The event in MessagePack, if it is known."""
    keep: Keep | None = None
    """What the broker is to keep of its room; None if this publication is not kept, and gets no position."""
    idempotency_key: str | None = None
    """The broker delivers one publication of this key to its room; repeats are told the first one's position."""
    after: int | None = None
    """The offset of what stands before it in the room's stream; set by a broker that may have lost that. None: nothing
    was lost since what was delivered before."""
    offset: int | None = None
    """Its number in the room's stream; set by ``deliver``."""
    event: object = msgspec.UNSET
    """What ``packed`` is made of while it is None: the program's own object, kept for no longer than that."""
    whole: Publication | None = None
    """Of a part: what it is a part of, where ``packed`` and ``event`` stand."""
    _form: Format | None = None
    """The format that a frame was asked for first, which in most rooms is the only one."""
    _frame: Frame | None = None
    _frames: dict[Format, Frame] | None = None
    """Of all other formats."""

    @property
    def room(self) -> str | None:
        """The one room; None for everybody."""
        return self.rooms[0] if self.rooms else None

    def frame(self, form: Format, /) -> Frame:
        """Its frame in a format, made at the first call."""
        if self._form is form and self._frame is not None:
            return self._frame
        if self._frame is None:
            self._form, self._frame = form, form.publication(self)
            return self._frame
        if self._frames is None:
            self._frames = {}
        if form not in self._frames:
            self._frames[form] = form.publication(self)
        return self._frames[form]

    def to(self, room: str) -> Publication:
        """This publication for one of its rooms."""
        return Publication((room,), self.data, self.exclude, self.key, self.action, self.overflow, whole=self)

    def kept(self, offset: int) -> HistoryItem:
        """What a broker keeps of it."""
        assert self.packed is not None, "made before it is submitted"
        return HistoryItem(offset, self.data, self.packed, self.exclude)


class Marker(msgspec.Struct, gc=False):
    """In the place of a publication, for a member that it is not for: only the position moves on."""

    publication: Publication
    overflow: Overflow = "close"
    key: str | None = None

    @property
    def room(self) -> str | None:
        """The room of the publication."""
        return self.publication.room

    def frame(self, form: Format, /) -> Frame:
        """Its frame; there is a marker for one member in a thousand, so it is made for each."""
        return form.marker(self.publication)
