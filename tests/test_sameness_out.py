"""What leaves is the same through the flusher, through the writer alone, and through a stream that is no socket.

The same program of publications, messages, pings and ends is run in each of these ways, with sockets that take
what they are allowed. Between its steps everybody does what can be done, so that all ways are at the same point.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import attrs
import hypothesis
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from trio_rooms import ConnectionGone, OutboxFull, Publication
from trio_rooms._wire.departures import Delivery
from trio_rooms._wire.frames import make_frame
from trio_rooms.testing import Opcode, client_frame, close_payload, parse_server_frames
from ways_out import WRITE_TIMEOUT, Bounds, Hall, Member, Nature, WayName, in_one_way

#: 200 without a profile that asks for more.
EXAMPLES = hypothesis.settings(max_examples=max(200, hypothesis.settings().max_examples))

OURS: tuple[WayName, ...] = ("flusher", "writer", "stream")
POLICIES = {"close": "close", "newest": "drop_newest", "oldest": "drop_oldest", "conflate": "conflate"}
MEMBERS = 3

#: Every queue is one write, and overflows where a peer is slow. No burst of BURST overflows by itself, for then the
#: flusher's way is by design another: it offers what waits to the socket before a policy applies.
ONE_WRITE = Bounds(max_messages=8, max_bytes=2000, write_buffer_size=1 << 20)
BURST = 4
#: Nothing overflows, and a queue is many writes.
MANY_WRITES = [Bounds(max_messages=1000, max_bytes=1 << 20, write_buffer_size=size) for size in (1, 100, 400)]


@attrs.frozen
class Publish:
    """A publication of so many bytes or little more."""

    room: str
    size: int
    exclude: frozenset[str]
    key: str | None


@attrs.frozen
class Send:
    """A private message."""

    member: int
    size: int


@attrs.frozen
class Move:
    """Leave a room, or join it."""

    member: int
    room: str
    join: bool


@attrs.frozen
class Burst:
    """Actions with no checkpoint between them."""

    actions: list[Publish | Send | Move]
    hurried: bool
    """Whether the next step comes before everybody has done what can be done."""


@attrs.frozen
class Do:
    """Something that happens to one connection, between two steps."""

    member: int
    what: Literal["ping", "pinged", "closed", "finish", "discard", "cancel"]


@attrs.frozen
class Allow:
    """A peer reads."""

    member: int
    more: float


@attrs.frozen
class Wait:
    """Time passes, so that a write that was begun takes too long."""


Step = Burst | Do | Allow | Wait

_members = st.integers(0, MEMBERS - 1)
_rooms = st.sampled_from(sorted(POLICIES))
_sizes = st.integers(0, 60)
_nobody = st.just(frozenset[str]())
_somebody = st.frozensets(_members.map(str), min_size=1, max_size=2)
_actions = st.one_of(
    st.builds(Publish, st.just("close"), _sizes, _nobody, st.none()),
    st.builds(Publish, st.sampled_from(["newest", "oldest"]), _sizes, _nobody, st.none()),
    st.builds(Publish, st.just("conflate"), _sizes, _nobody, st.sampled_from([None, "a", "a", "b"])),
    st.builds(Publish, _rooms, _sizes, _somebody, st.sampled_from([None, "a"])),
    st.builds(Send, _members, _sizes),
    st.builds(Move, _members, _rooms, st.booleans()),
)
_lists = st.lists(_actions, min_size=2, max_size=BURST)
_allow = st.builds(Allow, _members, st.integers(1, 200) | st.integers(1, 20) | st.just(math.inf))
_pinged = st.builds(Do, _members, st.just("pinged"))
_controls = _pinged | st.builds(Do, _members, st.just("ping"))
_finish = st.builds(Do, _members, st.just("finish"))
_ends = _finish | st.builds(Do, _members, st.sampled_from(["closed", "discard", "cancel"])) | st.builds(Wait)


def _steps(ends: st.SearchStrategy[Step], hurried: st.SearchStrategy[bool]) -> st.SearchStrategy[list[Step]]:
    usual = [st.builds(Burst, _lists, hurried)] * 8 + [_allow] * 2 + [_controls] * 2
    return st.lists(st.one_of(*usual, ends), min_size=8, max_size=20)


def _natures(breaks_at: st.SearchStrategy[float]) -> st.SearchStrategy[list[Nature]]:
    nature = st.builds(
        Nature,
        takes=st.sampled_from([0, 10, math.inf]) | st.integers(0, 300),
        piece=st.sampled_from([math.inf, math.inf, 50, 3, 1]),
        breaks_at=breaks_at,
    )
    return st.lists(nature, min_size=MEMBERS, max_size=MEMBERS)


@attrs.define
class Program:
    """Runs the steps, and notes what was promised to whom."""

    steps: list[Step]
    scale: int = 1
    keys: bool = True
    """Whether newer publications replace older ones."""
    promised: list[list[bytes]] = attrs.field(factory=lambda: [[] for _ in range(MEMBERS)])
    watch: bool = False
    """Whether publications are waited for."""
    watched: list[tuple[Publication, frozenset[str]]] = attrs.field(factory=list)
    """Those, and which members may have got them."""
    reports: list[object] = attrs.field(factory=list)
    _number: int = 0

    async def __call__(self, hall: Hall) -> None:
        for room in POLICIES:
            for member in hall.members:
                hall.join(room, member)
        async with trio.open_nursery() as nursery:
            for step in self.steps:
                if isinstance(step, Burst):
                    for action in step.actions:
                        self._act(hall, action)
                    if step.hurried:
                        await trio.lowlevel.checkpoint()
                        continue
                elif isinstance(step, Wait):
                    await trio.sleep(WRITE_TIMEOUT + 1)
                elif isinstance(step, Allow):
                    hall.members[step.member].way.allow(step.more)
                else:
                    self._do(hall.members[step.member], step.what, nursery)
                await wait_all_tasks_blocked()
                self._check_watched(hall)
            nursery.cancel_scope.cancel()

    def _act(self, hall: Hall, action: Publish | Send | Move) -> None:
        if isinstance(action, Move):
            member = hall.members[action.member]
            (hall.join if action.join else hall.leave)(action.room, member)
            return
        self._number += 1
        data = b"%d:" % self._number + b"x" * (action.size * self.scale)
        if isinstance(action, Send):
            try:
                hall.members[action.member].outbox.send_nowait(make_frame(data, text=True))
            except (ConnectionGone, OutboxFull) as exc:
                self.reports.append(type(exc))
            else:
                self.promised[action.member].append(data)
            return
        for name in hall.rooms[action.room].keys() - action.exclude:
            self.promised[int(name)].append(data)
        publication = Publication(
            (action.room,),
            data,
            action.exclude,
            action.key if self.keys and action.room == "conflate" else None,
            overflow=POLICIES[action.room],  # type: ignore[arg-type]
            delivery=Delivery() if self.watch else None,
        )
        if self.watch:
            self.watched.append((publication, frozenset(hall.rooms[action.room].keys() - action.exclude)))
        self.reports.append(hall.publish(publication))

    def _check_watched(self, hall: Hall) -> None:
        """While nothing moves: what is waited for is over just when it is queued nowhere, and in nobody's hand."""
        for publication, names in self.watched:
            assert publication.delivery is not None
            members = [hall.members[int(name)] for name in names]
            queued = any(publication in member.outbox._items for member in members)
            if publication.delivery.over:
                assert not queued
            else:
                assert queued or any(in_hand(member, publication.data) for member in members)

    def _do(self, member: Member, what: str, nursery: trio.Nursery) -> None:
        self._number += 1
        does: dict[str, Callable[[], None]] = {
            "ping": lambda: nursery.start_soon(member.sink.ping),
            "pinged": lambda: member.way.send(client_frame(Opcode.PING, b"%d" % self._number)),
            "closed": lambda: member.way.send(client_frame(Opcode.CLOSE, close_payload(1000))),
            "finish": member.finish,
            "discard": member.discard,
            "cancel": member.cancel,
        }
        does[what]()


def in_hand(member: Member, payload: bytes) -> bool:
    """Whether a message is on its way from the queue to the socket, which has not taken all of that batch."""
    stats = member.statistics
    if stats.enqueued == stats.written + stats.displaced + stats.discarded + stats.messages:
        return False
    frames = parse_server_frames(member.taken, allow_partial=True)
    data = [frame.payload for frame in frames if frame.opcode == Opcode.TEXT]
    return payload not in data[: stats.written]


def check(member: Member, promised: list[bytes]) -> None:
    """What holds in every way: whole frames, once, in their order, nothing behind a close frame, and the accounts."""
    frames = parse_server_frames(member.taken, allow_partial=True)
    size = sum(len(frame.payload) + (2 if len(frame.payload) < 126 else 4) for frame in frames)
    torn = member.taken[size:]
    data = [frame.payload for frame in frames if frame.opcode == Opcode.TEXT]
    rest = iter(promised)
    assert all(payload in rest for payload in data)
    assert all(frame.opcode != Opcode.CLOSE for frame in (frames if torn else frames[:-1]))
    if torn and torn[0] & 0xF == Opcode.TEXT:
        # The end of the stream lies in a frame: nothing else was put into it.
        assert any(make_frame(payload, text=True).data.startswith(torn) for payload in rest)
    stats = member.statistics
    assert stats.messages == 0
    assert stats.enqueued == stats.written + stats.displaced + stats.discarded
    assert stats.written <= len(data)
    if not stats.discarded:
        assert len(data) == stats.written
        assert len(promised) == stats.enqueued + stats.dropped


def run(way: WayName, program: Program, natures: list[Nature], bounds: Bounds) -> list[Member]:
    """Run a program in one way, and check what holds in each."""
    members = in_one_way(way, program, natures, bounds)
    for member, promised in zip(members, program.promised, strict=True):
        check(member, promised)
    return members


@pytest.mark.long
@EXAMPLES
@given(_steps(_ends, st.just(False)), _natures(st.sampled_from([math.inf] * 4) | st.integers(0, 500)))
def test_same_bytes(steps: list[Step], natures: list[Nature]) -> None:
    """Invariants 3, 6: the same bytes, drops and reports in each way, whatever the sockets take, and when."""
    reports = []
    ways = []
    for way in OURS:
        program = Program(steps)
        ways.append(run(way, program, natures, ONE_WRITE))
        reports.append(program.reports)
    for flushed, written, streamed in zip(*ways, strict=True):
        assert flushed.taken == written.taken
        if flushed.cut_off:
            # A stream does not tell what it took of a write that was cancelled, so nothing may follow.
            assert written.taken.startswith(streamed.taken)
        else:
            assert streamed.taken == written.taken
    assert reports[0] == reports[1] == reports[2]


@pytest.mark.long
@EXAMPLES
@given(_steps(_pinged, st.booleans()), _natures(st.just(math.inf)), st.sampled_from(MANY_WRITES))
def test_same_frames(steps: list[Step], natures: list[Nature], bounds: Bounds) -> None:
    """Invariant 3: in many small writes, some of them under way at any time, all is there, once and in its order."""
    ways = [run(way, Program(steps, keys=False), natures, bounds) for way in OURS]
    for flushed, written, streamed in zip(*ways, strict=True):
        assert by_kind(flushed) == by_kind(written) == by_kind(streamed)


@pytest.mark.long
@EXAMPLES
@given(
    _steps(_ends, st.booleans()),
    _natures(st.sampled_from([math.inf] * 4) | st.integers(0, 500)),
    st.sampled_from([ONE_WRITE, Bounds(max_messages=8, max_bytes=2000, write_buffer_size=100)]),
)
def test_what_is_waited_for(steps: list[Step], natures: list[Nature], bounds: Bounds) -> None:
    """A publication that is waited for is over when no outbox has it, and is told apart: written, or lost."""
    for way in OURS:
        program = Program(steps, watch=True)
        members = run(way, program, natures, bounds)
        for publication, names in program.watched:
            assert publication.delivery is not None
            assert publication.delivery.over
            frame = make_frame(publication.data, text=True).data
            sent = [member for member in members if member.name in names and frame in member.taken]
            lossless = [member for member in sent if not member.statistics.discarded]
            assert len(lossless) <= publication.delivery.written <= len(sent)


@pytest.mark.sockets
@pytest.mark.long
@EXAMPLES
@given(_steps(_pinged, st.booleans()), st.sampled_from(MANY_WRITES))
def test_real_sockets(steps: list[Step], bounds: Bounds) -> None:
    """Invariant 3: what leaves through a socket with a small buffer and a slow reader is the same, too."""
    natures = [Nature()] * MEMBERS
    ways = [run(way, Program(steps, scale=100, keys=False), natures, bounds) for way in ("real", "stream")]
    for real, streamed in zip(*ways, strict=True):
        assert by_kind(real) == by_kind(streamed)


def by_kind(member: Member) -> dict[int, list[bytes]]:
    """All that it wrote, control frames apart from data; nothing is cut off.

    When a ping goes out between the data depends on what was under way, and two that are due together are one.
    """
    frames = parse_server_frames(member.taken)
    kinds = {opcode: [frame.payload for frame in frames if frame.opcode == opcode] for opcode in Opcode}
    return {**kinds, Opcode.PING: kinds[Opcode.PING][:1]}
