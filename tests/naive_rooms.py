"""Rooms whose members write to sockets that do as they are told, and beside each member what it must do.

Theory of operation. The real thing decides when it offers what waits to a socket: in the flusher's turn, at the bound
of an outbox, when a shared backlog is full. A model that foretold that would be the same code once more. So the model,
one plain list a connection, is told of every call of the socket, and checks that it is one that was allowed: the
oldest messages of the list, whole and in order, or exactly the rest of what was begun; and nothing but the writer
completes a rest. What a policy then does follows from the list alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

from plain_sockets import ToldSocket, native_over
from trio_rooms import OutboxFull, Publication
from trio_rooms._errors import ConnectionGone, MessageTooLarge
from trio_rooms._room_options import Overflow
from trio_rooms._rooms.roster import Roster, union
from trio_rooms._wire.backlog import NOTHING, Backlog
from trio_rooms._wire.fanout import FanOut
from trio_rooms._wire.flusher import Flusher
from trio_rooms._wire.frames import OVERHEAD, Frame, close_frame, make_frame
from trio_rooms._wire.outbox import CLOSED, DROPPED, Outbox, flush_all
from trio_rooms._wire.sink import Sink
from trio_rooms._wire.transport import TransportClosed

POLICIES: dict[str, Overflow] = {
    "close": "close",
    "also": "close",
    "newest": "drop_newest",
    "oldest": "drop_oldest",
    "conflate": "conflate",
}
REFUSED = -3
_CLOSE = close_frame(4008, "")


@attrs.frozen(eq=False)
class Padded:
    """A format that puts something before each event."""

    before: bytes

    def publication(self, publication: Publication) -> Frame:
        return make_frame(self.before + publication.data, text=True)


FORMATS = (Padded(b""), Padded(b"another format: "))


@attrs.frozen
class Entry:
    """One message of the model; of no room and never dropped if it is private."""

    data: bytes
    room: str | None = None
    policy: Overflow = "close"
    key: str | None = None

    @property
    def cost(self) -> int:
        return len(self.data) + OVERHEAD


@attrs.define(eq=False)
class Naive:
    """What one connection must do."""

    max_messages: int
    max_bytes: int
    max_write: int
    queue: list[Entry] = attrs.field(factory=list)
    begun: int = 0
    """Messages that the writer has taken out of the queue and is writing."""
    in_hand: int = 0
    """Messages that a flush has taken out, because the socket took a part of them."""
    rest: bytes = b""
    open: bool = True
    closing: bool = False
    close_sent: bool = False
    enqueued: int = 0
    written: int = 0
    displaced: int = 0
    discarded: int = 0
    dropped: int = 0
    pending: Entry | None = None
    """What the operation that is running puts."""
    result: int | None = None
    may_offer: bool = False
    offered: bool = False

    def put(self, entry: Entry, *, may_offer: bool) -> None:
        """Begin to put a message. ``may_offer``: whether the socket can be offered what waits."""
        self.pending, self.result = entry, None
        self.may_offer, self.offered = may_offer, False

    def decided(self) -> int:
        """The result of what was put: how many it displaced, or what else became of it."""
        if self.pending is not None:
            self._decide()
        assert self.result is not None
        return self.result

    def discard(self) -> None:
        """The connection ends: what is not written never will be."""
        self.open = False
        self.discarded += len(self.queue) + self.in_hand
        self.queue, self.in_hand = [], 0

    def failed_or_cancelled(self) -> None:
        """The writer ends in the middle of a write."""
        self.discarded += self.begun
        self.begun = 0

    def sent(self, data: bytes, taken: int | None, *, by_writer: bool) -> None:
        """The socket was asked to take ``data`` and took so much of it; None: it failed."""
        if self.closing:
            assert by_writer
            assert data == self.rest + (b"" if self.close_sent else _CLOSE), "not the rest and the close frame"
            self.close_sent, self.rest = True, data[taken or 0 :]
        elif self.rest:
            assert by_writer, "somebody writes past a frame that was begun"
            assert data == self.rest, "not the rest"
            self._took_rest(taken)
        else:
            count = self._count(data)
            if count is None:
                self._decide()
                count = self._count(data)
            assert count, "not the oldest messages"
            assert count == 1 or len(data) <= self.max_write
            if by_writer:
                self.begun, self.queue, self.rest = count, self.queue[count:], data
                self._took_rest(taken)
            else:
                self._took(count, data, taken)

    def _took_rest(self, taken: int | None) -> None:
        if taken is None:
            return
        self.rest = self.rest[taken:]
        if not self.rest:
            self.written += self.begun + self.in_hand
            self.begun = self.in_hand = 0

    def _took(self, count: int, data: bytes, taken: int | None) -> None:
        self.offered = True
        if not taken:
            return
        whole = 0
        while whole < count and len(b"".join(one.data for one in self.queue[: whole + 1])) <= taken:
            whole += 1
        self.written += whole
        self.in_hand = count - whole
        self.queue = self.queue[count:]
        self.rest = data[taken:]

    def _count(self, data: bytes) -> int | None:
        """Of how many of the oldest messages it is the bytes; None if of no number of them."""
        for count in range(1, len(self.queue) + 1):
            if b"".join(one.data for one in self.queue[:count]) == data:
                return count
        return None

    def _decide(self) -> None:
        entry, self.pending = self.pending, None
        assert entry is not None
        same_key = [
            one for one in self.queue if entry.policy == "conflate" and entry.key and _same(one, entry, key=True)
        ]
        self.result = self._decision(entry, same_key)
        if self.open and entry.cost <= self.max_bytes and self.result not in (0, len(same_key)):
            assert self.offered or not self.may_offer, "a policy was applied to what the socket was not offered"
        if self.result >= 0:
            self.enqueued += 1
            self.queue.append(entry)
        elif self.result != REFUSED:
            self.dropped += 1
        if self.result == CLOSED:
            self.open = False

    def _decision(self, entry: Entry, same_key: list[Entry]) -> int:
        private = entry.key == _PRIVATE
        if not self.open:
            return REFUSED if private else DROPPED
        if entry.policy == "close":
            queue = [*self.queue, entry]
            if len(queue) <= self.max_messages and sum(one.cost for one in queue) <= self.max_bytes:
                return 0
            return REFUSED if private else CLOSED
        kept = [one for one in self.queue if one not in same_key]
        while not self._legal([*kept, entry]):
            own = [one for one in kept if _same(one, entry)]
            if entry.policy == "drop_newest" or not own:
                return DROPPED
            kept.remove(own[0])
        displaced = len(self.queue) - len(kept)
        self.queue = kept
        self.displaced += displaced
        return displaced

    def _legal(self, queue: list[Entry]) -> bool:
        droppable = [one for one in queue if one.policy != "close"]
        return (
            len(queue) <= self.max_messages
            and sum(one.cost for one in queue) <= self.max_bytes
            and len(droppable) <= max(1, self.max_messages // 2)
            and sum(one.cost for one in droppable) <= self.max_bytes / 2
        )


_PRIVATE = "private"


def _same(one: Entry, other: Entry, *, key: bool = False) -> bool:
    return one.room == other.room and (not key or one.key == other.key)


@attrs.define(eq=False)
class Member:
    """A connection: the real thing, and the naive one."""

    id: str
    crowd: Crowd
    naive: Naive
    plain: ToldSocket
    sink: Sink
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    task: trio.lowlevel.Task | None = None

    @property
    def outbox(self) -> Outbox:
        return self.sink.outbox

    async def live(self) -> None:
        """As a connection does: write to the end, and close."""
        self.task = trio.lowlevel.current_task()
        self.plain.on_send = self._on_send
        transport = native_over(self.plain.stream)
        with self.scope, contextlib.suppress(TransportClosed):
            await self.sink.run(transport)
        self.naive.failed_or_cancelled()
        self.end()
        self.naive.closing = True
        await transport.close(4008, "")

    def end(self) -> None:
        """Leave all rooms, and throw away what waits."""
        self.leave_all()
        self.sink.discard()
        self.naive.discard()

    def finish(self) -> None:
        """Leave all rooms, and write what waits."""
        self.leave_all()
        self.sink.finish()
        self.naive.open = False

    def leave_all(self) -> None:
        for roster in self.crowd.rooms.values():
            roster.remove(self.id)

    def send(self, data: bytes) -> None:
        """Send a private frame."""
        frame = make_frame(data, text=True)
        self.put(Entry(frame.data, key=_PRIVATE))
        try:
            self.outbox.send_nowait(frame)
            result = 0
        except (OutboxFull, ConnectionGone, MessageTooLarge):
            result = REFUSED
        assert self.naive.decided() == result

    def put(self, entry: Entry) -> None:
        """Tell the naive one what is going to be put."""
        self.naive.put(entry, may_offer=self.outbox.send_now is not None and bool(self.naive.queue))

    def check(self) -> None:
        """The books of both are the same, and add up."""
        naive, stats = self.naive, self.outbox.statistics()
        assert (stats.messages, stats.bytes) == (len(naive.queue), sum(one.cost for one in naive.queue))
        for name in ("enqueued", "written", "displaced", "discarded", "dropped"):
            assert getattr(stats, name) == getattr(naive, name), name
        on_their_way = naive.begun + naive.in_hand
        assert stats.enqueued == stats.written + stats.displaced + stats.discarded + stats.messages + on_their_way
        items = self.outbox.backlog.items if self.outbox.backlog is not None else []
        assert [item.frame(self.outbox.form).data for item in items] == [one.data for one in naive.queue]

    def _on_send(self, data: bytes, taken: int | None) -> None:
        self.naive.sent(data, taken, by_writer=trio.lowlevel.current_task() is self.task)


@attrs.define(eq=False)
class Crowd:
    """All members and rooms."""

    members: dict[str, Member]
    rooms: dict[str, Roster[Member, Outbox]]
    everybody: dict[str, Outbox]
    fan_out: FanOut

    def join(self, member: Member, room: str) -> None:
        roster = self.rooms[room]
        if member.naive.open and member.id not in roster.members:
            assert roster.reserve(member.id)
            assert roster.begin(member, member.outbox)

    def publish(self, rooms: tuple[str, ...], data: bytes, *, key: str | None, exclude: frozenset[str]) -> None:
        """As a node delivers: to one room, to several (one copy each), or to all."""
        publication = Publication(rooms, data, key=key)
        closed: list[str] = []
        if not rooms:
            closed = self._put_all(publication, self.everybody, exclude)
        elif len(rooms) == 1:
            publication.overflow = POLICIES[rooms[0]]
            closed = self._put_all(publication, self.rooms[rooms[0]].outboxes, exclude)
        else:
            for name, outboxes in union(((name, self.rooms[name]) for name in rooms), exclude):
                part = publication.to(name)
                part.overflow = POLICIES[name]
                closed += self._put_all(part, outboxes, ())
        for ident in closed:
            self.members[ident].end()

    def _put_all(self, item: Publication, outboxes: Mapping[str, Outbox], exclude: Collection[str]) -> list[str]:
        targets = [self.members[ident] for ident in outboxes if ident not in exclude]
        for member in targets:
            frame = item.frame(member.outbox.form)  # type: ignore[arg-type]
            member.put(Entry(frame.data, item.room, item.overflow, item.key))
        outcome = self.fan_out.put_all(item, outboxes, exclude)
        results = {member.id: member.naive.decided() for member in targets}
        assert outcome.dropped == list(results.values()).count(DROPPED)
        assert list(outcome.closed) == [ident for ident, result in results.items() if result == CLOSED]
        assert outcome.displaced == sum(result for result in results.values() if result > 0)
        assert outcome.enqueued == len(targets) - outcome.dropped - len(outcome.closed)
        return list(outcome.closed)

    def check(self) -> None:
        """Each is as it must be, and who shares a backlog is a member of its room and has not ended."""
        sharing: dict[int, Backlog] = {}
        for member in self.members.values():
            member.check()
            backlog = member.outbox.backlog
            if backlog is None or backlog is NOTHING:
                continue
            assert backlog.form is member.outbox.form
            if backlog.owner is None:
                assert id(backlog) not in sharing, "what is one's own is shared"
            else:
                assert member.naive.open
                for roster in self.rooms.values():
                    assert backlog.owner is not roster.outboxes or member.id in roster.members
            sharing[id(backlog)] = backlog


@asynccontextmanager
async def crowd(
    memberships: Mapping[str, Collection[str]],
    *,
    flush: bool = True,
    max_messages: int = 8,
    max_bytes: int = 2000,
    max_write: int = 500,
    **sockets: Any,
) -> AsyncIterator[Crowd]:
    """Members, given with their rooms, whose writers sleep. ``flush``: whether the flusher has its task."""
    flusher = Flusher(flush_all)
    bounds = {"max_messages": max_messages, "max_bytes": max_bytes}
    fan_out = FanOut(flusher, **bounds, write_buffer_size=max_write)
    found = Crowd({}, {name: Roster() for name in POLICIES}, {}, fan_out)
    async with contextlib.AsyncExitStack() as stack:
        for number, ident in enumerate(memberships):
            plain = stack.enter_context(contextlib.closing(ToldSocket(**sockets)))
            sink = Sink(FORMATS[number % 2], **bounds, write_buffer_size=max_write, write_timeout=1000, flusher=flusher)
            found.members[ident] = Member(ident, found, Naive(**bounds, max_write=max_write), plain, sink)
            found.everybody[ident] = sink.outbox
        nursery = await stack.enter_async_context(trio.open_nursery())
        for member in found.members.values():
            nursery.start_soon(member.live)
        if flush:
            nursery.start_soon(flusher.run)
        await wait_all_tasks_blocked()
        for ident, rooms in memberships.items():
            for room in rooms:
                found.join(found.members[ident], room)
        yield found
        nursery.cancel_scope.cancel()
