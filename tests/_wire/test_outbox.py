"""The outbox: bounds, policies, waiting senders, and accounts that always balance."""

from __future__ import annotations

import tracemalloc
from functools import partial
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_rooms import ConnectionGone, MessageTooLarge, OutboxFull, Publication
from trio_rooms._room_options import Overflow
from trio_rooms._wire.frames import Frame, make_frame
from trio_rooms._wire.outbox import CLOSED, DROPPED, Outbox

BIG = 1 << 20


class Bare:
    """A format without an envelope."""

    def publication(self, publication: Publication) -> Frame:
        return make_frame(publication.data, text=True)


BARE = Bare()


@attrs.define(eq=False)
class FakeOutlet:
    """A sink that only notes that it was called."""

    wakes: list[None]

    def wake(self) -> None:
        self.wakes.append(None)

    def blocked(self, count: int, data: bytes, taken: int) -> None:
        raise AssertionError("there is no socket")

    def failed(self) -> None:
        raise AssertionError("there is no socket")


def make_outbox(max_messages: int = 8, max_bytes: int = BIG, wakes: list[None] | None = None) -> Outbox:
    """An outbox; ``wakes`` grows with every call of its sink."""
    outlet = FakeOutlet([] if wakes is None else wakes)
    return Outbox(BARE, max_messages=max_messages, max_bytes=max_bytes, outlet=outlet)


def event(data: object, overflow: Overflow = "close", *, room: str = "r", key: str | None = None) -> Publication:
    """A publication of a room with a policy."""
    return Publication((room,), str(data).encode(), key=key, overflow=overflow)


def private(data: object = "") -> Frame:
    """A private frame."""
    return make_frame(str(data).encode(), text=True)


def written(outbox: Outbox, max_bytes: int = BIG) -> list[str]:
    """Take like a writer whose writes succeed; the messages."""
    batch = outbox.take(max_bytes)
    outbox.wrote(len(batch))
    return [frame.payload.decode() for frame in batch]


def check(outbox: Outbox) -> None:
    """Invariant 6: what was taken in is written, displaced, discarded or still there."""
    stats = outbox.statistics()
    assert stats.enqueued == stats.written + stats.displaced + stats.discarded + stats.messages


# The two bounds


def test_bound_in_messages() -> None:
    """As many messages fit as there are places, however small they are."""
    outbox = make_outbox(max_messages=3)
    for n in range(3):
        outbox.send_nowait(private(n))
    with pytest.raises(OutboxFull):
        outbox.send_nowait(private(3))
    assert written(outbox) == ["0", "1", "2"]
    outbox.send_nowait(private(4))
    check(outbox)


def test_bound_in_bytes() -> None:
    """Each message is charged its frame, header included, plus 64 bytes."""
    cost = 2 + 10 + 64
    outbox = make_outbox(max_messages=1000, max_bytes=3 * cost)
    for _ in range(3):
        outbox.send_nowait(private("x" * 10))
    assert outbox.statistics().bytes == 3 * cost
    with pytest.raises(OutboxFull):
        outbox.send_nowait(private())
    one_less = make_outbox(max_messages=1000, max_bytes=3 * cost - 1)
    for _ in range(2):
        one_less.send_nowait(private("x" * 10))
    with pytest.raises(OutboxFull):
        one_less.send_nowait(private("x" * 10))


def test_outbox_full_is_would_block() -> None:
    """Who knows trio's channels catches the same exception."""
    outbox = make_outbox(max_messages=1)
    outbox.send_nowait(private())
    with pytest.raises(trio.WouldBlock):
        outbox.send_nowait(private())


async def test_larger_than_the_outbox() -> None:
    """What could never fit is refused at once, and is not waited for."""
    outbox = make_outbox(max_bytes=100)
    outbox.send_nowait(private("x" * 34))  # 100 with header and charge
    outbox.take(BIG)
    for size in (35, 1000):
        with pytest.raises(MessageTooLarge):
            outbox.send_nowait(private("x" * size))
        with pytest.raises(MessageTooLarge):
            await outbox.send(private("x" * size))
        with pytest.raises(MessageTooLarge):
            outbox.fits(len(private("x" * size).data))
    assert outbox.fits(36)


def test_charge_holds() -> None:
    """S4: the bound in bytes filled with 16-byte messages takes less than twice the bound of memory."""
    outbox = make_outbox(max_messages=BIG, max_bytes=BIG)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        count = 0
        with pytest.raises(OutboxFull):  # noqa: PT012 - filled until it raises
            while True:
                outbox.send_nowait(private(f"{count:016}"))
                count += 1
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == BIG // (18 + 64)
    assert after - before < 2 * BIG


def test_shared_publications_cost_a_pointer() -> None:
    """S4: what many members share is not copied for each of them."""
    publications = [event(f"{n:04000}") for n in range(200)]
    for publication in publications:
        publication.frame(BARE)
    outboxes = [make_outbox(max_messages=BIG) for _ in range(10)]
    tracemalloc.start()
    try:
        for outbox in outboxes:
            for publication in publications:
                assert outbox.put(publication) == 0
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 10 * 200 * 100


def test_every_message_wakes_the_writer() -> None:
    """Queueing calls for the writer; a refusal does not."""
    wakes: list[None] = []
    outbox = make_outbox(max_messages=2, wakes=wakes)
    outbox.send_nowait(private())
    outbox.put(event(1))
    assert len(wakes) == 2
    with pytest.raises(OutboxFull):
        outbox.send_nowait(private())
    assert outbox.put(event(2, "drop_newest")) == DROPPED
    assert len(wakes) == 2


# Taking


def test_take_nothing() -> None:
    """An empty outbox gives an empty batch."""
    outbox = make_outbox()
    assert not outbox
    assert outbox.take(BIG) == []


def test_take_in_order() -> None:
    """Private messages and publications leave in the order in which they came."""
    outbox = make_outbox()
    outbox.send_nowait(private("a"))
    outbox.put(event("b"))
    outbox.put(event("c", "drop_oldest"))
    outbox.send_nowait(private("d"))
    assert outbox
    assert written(outbox) == ["a", "b", "c", "d"]
    assert outbox.statistics().bytes == 0
    check(outbox)


@pytest.mark.parametrize(("max_bytes", "sizes"), [(1, [1, 1, 1]), (24, [2, 1]), (35, [2, 1]), (36, [3])])
def test_a_batch_is_bounded(max_bytes: int, sizes: list[int]) -> None:
    """A batch has at most so many bytes of frames, but one frame at least; what is left stays in order."""
    outbox = make_outbox()
    for n in range(3):
        outbox.send_nowait(private(f"{n:010}"))  # a frame of 12 bytes
    batches = [written(outbox, max_bytes) for _ in sizes]
    assert [len(batch) for batch in batches] == sizes
    assert [data for batch in batches for data in batch] == [f"{n:010}" for n in range(3)]
    assert not outbox


# Policies; ``outbox`` has eight places


@pytest.mark.parametrize(
    ("overflow", "results", "left"),
    [
        ("close", [0] * 8 + [CLOSED] + [DROPPED] * 91, range(8)),
        ("drop_newest", [0] * 4 + [DROPPED] * 96, range(4)),
        ("drop_oldest", [0] * 4 + [1] * 96, range(96, 100)),
        ("conflate", [0] * 4 + [1] * 96, range(96, 100)),
    ],
)
def test_policies(overflow: Overflow, results: list[int], left: range) -> None:
    """S1: a hundred publications to a member that takes none, by policy: exact results, counts and order."""
    outbox = make_outbox(max_messages=8)
    assert [outbox.put(event(n, overflow)) for n in range(100)] == results
    stats = outbox.statistics()
    assert stats.enqueued == sum(result >= 0 for result in results)
    assert stats.displaced == sum(result for result in results if result > 0)
    assert stats.dropped == sum(result < 0 for result in results)
    check(outbox)
    assert written(outbox) == [str(n) for n in left]
    check(outbox)


def test_conflate_keeps_the_last_of_each_key() -> None:
    """S2: of a thousand updates of ten keys the last of each is left, in the order of the last updates."""
    outbox = make_outbox(max_messages=20)
    updates = [(n, str(n * 7 % 10)) for n in range(1000)]
    results = [outbox.put(event(n, "conflate", key=key)) for n, key in updates]
    assert results == [0] * 10 + [1] * 990
    last = {key: n for n, key in updates}
    assert written(outbox) == [str(n) for n in sorted(last.values())]
    check(outbox)


def test_conflate_takes_the_end_of_the_queue() -> None:
    """S2: the newer takes the end of the queue, not the place of the older."""
    outbox = make_outbox()
    for data, key in [("a1", "a"), ("b1", "b"), ("a2", "a")]:
        outbox.put(event(data, "conflate", key=key))
    assert written(outbox) == ["b1", "a2"]


def test_keys_belong_to_their_room() -> None:
    """The same key in another room is another key, and no key replaces nothing."""
    outbox = make_outbox(max_messages=20)
    assert outbox.put(event(1, "conflate", key="k", room="a")) == 0
    assert outbox.put(event(2, "conflate", key="k", room="b")) == 0
    assert outbox.put(event(3, "conflate", room="a")) == 0
    assert outbox.put(event(4, "conflate", room="a")) == 0
    assert written(outbox) == ["1", "2", "3", "4"]


def test_conflate_without_the_key_drops_the_oldest() -> None:
    """Where no publication has the key, the oldest of the room make place."""
    outbox = make_outbox(max_messages=4)
    assert [outbox.put(event(key, "conflate", key=key)) for key in "abc"] == [0, 0, 1]
    assert written(outbox) == ["b", "c"]


def test_conflate_to_something_larger() -> None:
    """A newer value that is larger than the one that it replaces displaces the oldest, too."""
    cost = 2 + 10 + 64
    outbox = make_outbox(max_messages=100, max_bytes=4 * cost)
    outbox.put(event("a" * 10, "conflate", key="a"))
    outbox.put(event("b" * 10, "conflate", key="b"))
    assert outbox.put(event("B" * 20, "conflate", key="b")) == 2
    assert written(outbox) == ["B" * 20]
    check(outbox)


@pytest.mark.parametrize("overflow", ["drop_oldest", "conflate"])
def test_nothing_is_displaced_in_vain(overflow: Overflow) -> None:
    """What would not fit even without the older ones of its room leaves them where they are."""
    outbox = make_outbox(max_messages=100, max_bytes=1000)
    outbox.send_nowait(private("x" * 500))
    outbox.put(event("old", overflow, key="k"))
    assert outbox.put(event("n" * 400, overflow, key="k")) == DROPPED
    assert written(outbox) == ["x" * 500, "old"]
    assert outbox.statistics().displaced == 0
    assert outbox.statistics().dropped == 1
    check(outbox)


@pytest.mark.parametrize("overflow", ["drop_oldest", "conflate", "drop_newest"])
def test_larger_than_what_may_ever_drop(overflow: Overflow) -> None:
    """A publication of a dropping room that is larger than half of the outbox is dropped."""
    outbox = make_outbox(max_messages=100, max_bytes=1000)
    outbox.put(event("old", overflow))
    assert outbox.put(event("n" * 450, overflow)) == DROPPED
    assert outbox.put(event("n" * 300, overflow)) == 0
    assert written(outbox) == ["old", "n" * 300]


@pytest.mark.parametrize("overflow", ["drop_oldest", "conflate"])
def test_only_publications_of_the_same_room_go(overflow: Overflow) -> None:
    """S1: a policy never removes a reply, nor what another room has published."""
    outbox = make_outbox(max_messages=8)
    outbox.send_nowait(private("reply"))
    outbox.put(event("other", overflow, room="other"))
    outbox.put(event("careful", "close", room="careful"))
    for n in range(50):
        outbox.put(event(n, overflow))
    outbox.send_nowait(private("another reply"))
    assert written(outbox) == ["reply", "other", "careful", "47", "48", "49", "another reply"]
    check(outbox)


@pytest.mark.parametrize("overflow", ["drop_oldest", "conflate", "drop_newest"])
def test_with_none_of_its_own_the_new_one_is_dropped(overflow: Overflow) -> None:
    """Where others fill the outbox, or the half of it, a room that drops loses what is new."""
    outbox = make_outbox(max_messages=4)
    for n in range(4):
        outbox.send_nowait(private(n))
    assert outbox.put(event("x", overflow)) == DROPPED
    half = make_outbox(max_messages=4)
    for n in range(2):
        half.put(event(n, overflow, room="chatter"))
    assert half.put(event("x", overflow)) == DROPPED
    assert written(half) == ["0", "1"]


@pytest.mark.parametrize(("places", "droppable"), [(1, 1), (2, 1), (3, 1), (4, 2), (9, 4)])
def test_dropping_rooms_have_half_the_places(places: int, droppable: int) -> None:
    """All dropping rooms together fill half of the places, and one at least; the rest is for what must not be lost."""
    outbox = make_outbox(max_messages=places)
    results = [outbox.put(event(n, "drop_newest", room=f"r{n}")) for n in range(places + 1)]
    assert results.count(0) == droppable
    for n in range(places - droppable):
        outbox.send_nowait(private(n))
    assert outbox.put(event("x", room="careful")) == CLOSED


def test_dropping_rooms_have_half_the_bytes() -> None:
    """Dropping rooms fill at most half of the bytes; room comes back as theirs are written."""
    cost = 2 + 10 + 64
    outbox = make_outbox(max_messages=100, max_bytes=5 * cost)
    assert [outbox.put(event("x" * 10, "drop_newest")) for _ in range(3)] == [0, 0, DROPPED]
    for _ in range(3):
        outbox.send_nowait(private("x" * 10))
    outbox.take(1)
    assert outbox.put(event("x" * 10, "drop_newest")) == 0


def test_the_one_that_closes_is_the_last() -> None:
    """After an overflow that closes, everything is refused, whatever there would be room for."""
    outbox = make_outbox(max_messages=1)
    outbox.put(event(1))
    assert outbox.put(event(2)) == CLOSED
    outbox.take(BIG)
    assert outbox.put(event(3)) == DROPPED
    assert outbox.put(event(4, "drop_oldest")) == DROPPED
    with pytest.raises(ConnectionGone):
        outbox.send_nowait(private())
    assert outbox.statistics().dropped == 3


# Closing


async def test_close() -> None:
    """A closed outbox takes nothing, counts what it refuses, and still gives what it has."""
    outbox = make_outbox()
    outbox.send_nowait(private("last"))
    outbox.close()
    outbox.close()
    assert outbox.put(event(1)) == DROPPED
    for refused in (partial(outbox.send_nowait, private()), partial(outbox.fits, 1)):
        with pytest.raises(ConnectionGone):
            refused()
    with pytest.raises(ConnectionGone):
        await outbox.send(private())
    assert written(outbox) == ["last"]
    check(outbox)


async def test_aclose() -> None:
    """It is a trio channel: aclose closes it, and is a checkpoint."""
    outbox = make_outbox()
    with trio.testing.assert_checkpoints():
        await outbox.aclose()
    with pytest.raises(ConnectionGone):
        outbox.send_nowait(private())


def test_discard() -> None:
    """Invariant 6: what is thrown away at the end is counted, and its room with it."""
    outbox = make_outbox()
    outbox.send_nowait(private())
    outbox.put(event(1, "drop_oldest"))
    outbox.discard()
    assert not outbox
    stats = outbox.statistics()
    assert (stats.discarded, stats.messages, stats.bytes) == (2, 0, 0)
    outbox.discard()
    assert outbox.statistics() == stats
    assert outbox.put(event(2)) == DROPPED
    check(outbox)


# Waiting for room


@attrs.define
class Senders:
    """Tasks that send, and what became of them."""

    outbox: Outbox
    nursery: trio.Nursery
    done: list[str] = attrs.field(factory=list)
    gone: list[str] = attrs.field(factory=list)

    async def send(self, data: str) -> trio.CancelScope:
        """Start to send; returns when that waits or is done."""
        scope = trio.CancelScope()
        self.nursery.start_soon(self._send, data, scope)
        await wait_all_tasks_blocked()
        return scope

    async def _send(self, data: str, scope: trio.CancelScope) -> None:
        with scope:
            try:
                await self.outbox.send(private(data))
                self.done.append(data)
            except ConnectionGone:
                self.gone.append(data)


async def test_send_is_a_checkpoint() -> None:
    """Sending is a checkpoint, also where there is room."""
    outbox = make_outbox()
    with trio.testing.assert_checkpoints():
        await outbox.send(private("x"))
    assert written(outbox) == ["x"]


async def test_send_when_cancelled() -> None:
    """A send in a cancelled scope queues nothing."""
    outbox = make_outbox()
    with trio.CancelScope() as scope:
        scope.cancel()
        await outbox.send(private("x"))
    assert scope.cancelled_caught
    assert not outbox


async def test_senders_wait_in_line(autojump_clock: MockClock) -> None:
    """Who waits is served in the order of coming, one for each place, and nobody gets in between."""
    outbox = make_outbox(max_messages=1)
    outbox.send_nowait(private("first"))
    async with trio.open_nursery() as nursery:
        senders = Senders(outbox, nursery)
        for data in "abc":
            await senders.send(data)
        assert outbox.statistics().waiting == 3
        assert senders.done == []
        for n, data in enumerate("abc"):
            outbox.take(1)
            with pytest.raises(OutboxFull):
                outbox.send_nowait(private("pushes in"))
            await wait_all_tasks_blocked()
            assert senders.done == list("abc"[: n + 1])
            assert outbox.statistics().waiting == 2 - n
            assert outbox.statistics().messages == 1
            assert outbox.enqueued == n + 2
            assert data in senders.done
    assert written(outbox) == ["c"]


async def test_the_line_holds_for_send_nowait(autojump_clock: MockClock) -> None:
    """A small message does not overtake a large one that waits, even where the small one would fit."""
    outbox = make_outbox(max_bytes=1000)
    outbox.send_nowait(private("x" * 500))
    async with trio.open_nursery() as nursery:
        senders = Senders(outbox, nursery)
        await senders.send("L" * 600)
        with pytest.raises(OutboxFull):
            outbox.send_nowait(private("s"))
        assert not outbox.fits(1)
        await senders.send("s")
        assert written(outbox) == ["x" * 500]
        await wait_all_tasks_blocked()
        assert sorted(senders.done) == ["L" * 600, "s"]
        assert written(outbox) == ["L" * 600, "s"]
    check(outbox)


async def test_publications_do_not_stand_in_line(autojump_clock: MockClock) -> None:
    """Publications never wait, also not behind those who do; room that a writer makes goes to those who wait first."""
    outbox = make_outbox(max_messages=2)
    outbox.send_nowait(private("0"))
    outbox.send_nowait(private("1"))
    async with trio.open_nursery() as nursery:
        senders = Senders(outbox, nursery)
        await senders.send("reply")
        assert written(outbox, 1) == ["0"]
        assert outbox.put(event("x", "drop_newest")) == DROPPED
        assert written(outbox) == ["1", "reply"]


async def test_cancelled_sender(autojump_clock: MockClock) -> None:
    """Who is cancelled while it waits has sent nothing, and those behind it move up at once."""
    outbox = make_outbox(max_bytes=1000)
    outbox.send_nowait(private("x" * 500))
    async with trio.open_nursery() as nursery:
        senders = Senders(outbox, nursery)
        large = await senders.send("L" * 600)
        small = await senders.send("s")
        assert senders.done == []
        large.cancel()
        await wait_all_tasks_blocked()
        assert large.cancelled_caught
        assert not small.cancelled_caught
        assert senders.done == ["s"]
    assert written(outbox) == ["x" * 500, "s"]
    check(outbox)


async def test_cancelled_in_the_middle_of_the_line(autojump_clock: MockClock) -> None:
    """The order of the others does not change."""
    outbox = make_outbox(max_messages=1)
    outbox.send_nowait(private())
    async with trio.open_nursery() as nursery:
        senders = Senders(outbox, nursery)
        scopes = [await senders.send(data) for data in "abc"]
        scopes[1].cancel()
        await wait_all_tasks_blocked()
        for _ in range(2):
            outbox.take(1)
            await wait_all_tasks_blocked()
        assert senders.done == ["a", "c"]


async def test_cancelled_when_already_queued(autojump_clock: MockClock) -> None:
    """A cancel that comes when the frame is queued already is too late: send returns, and it is sent once."""
    outbox = make_outbox(max_messages=1)
    outbox.send_nowait(private("first"))
    async with trio.open_nursery() as nursery:
        senders = Senders(outbox, nursery)
        scope = await senders.send("late")
        outbox.take(1)
        scope.cancel()
        await wait_all_tasks_blocked()
        assert senders.done == ["late"]
    assert written(outbox) == ["late"]


@pytest.mark.parametrize("end", [Outbox.close, Outbox.discard])
async def test_close_wakes_senders(autojump_clock: MockClock, end: Any) -> None:
    """The end of the outbox ends every wait with ConnectionGone; nothing of theirs was queued."""
    outbox = make_outbox(max_messages=1)
    outbox.send_nowait(private("first"))
    async with trio.open_nursery() as nursery:
        senders = Senders(outbox, nursery)
        for data in "ab":
            await senders.send(data)
        end(outbox)
        assert outbox.take(BIG) == [] or end is Outbox.close
        await wait_all_tasks_blocked()
        assert sorted(senders.gone) == ["a", "b"]
        assert senders.done == []
    assert outbox.statistics().waiting == 0
    assert outbox.enqueued == 1


async def test_overflow_wakes_senders(autojump_clock: MockClock) -> None:
    """An overflow that closes ends the waits of replies, too."""
    outbox = make_outbox(max_messages=1)
    outbox.send_nowait(private())
    async with trio.open_nursery() as nursery:
        senders = Senders(outbox, nursery)
        await senders.send("reply")
        assert outbox.put(event("x")) == CLOSED
        await wait_all_tasks_blocked()
        assert senders.gone == ["reply"]


async def test_wait_fits(autojump_clock: MockClock) -> None:
    """Wait until a message of a size would be queued; then it is, as long as nothing comes in between."""
    outbox = make_outbox(max_bytes=1000)
    frame = private("x" * 500)
    with trio.testing.assert_checkpoints():
        await outbox.wait_fits(len(frame.data))
    outbox.send_nowait(private("y" * 700))
    fitted = trio.Event()

    async def wait() -> None:
        await outbox.wait_fits(len(frame.data))
        outbox.send_nowait(frame)
        fitted.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        assert not fitted.is_set()
        outbox.take(1)
        await fitted.wait()
    assert outbox.take(1) == [frame]


async def test_close_wakes_wait_fits(autojump_clock: MockClock) -> None:
    """The end of the outbox ends this wait, too."""
    outbox = make_outbox(max_messages=1)
    outbox.send_nowait(private())
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(ConnectionGone):
                await outbox.wait_fits(10)

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        outbox.close()


# Against a model

POLICIES: dict[str, Overflow] = {"c": "close", "n": "drop_newest", "o": "drop_oldest", "k": "conflate", "K": "conflate"}


@attrs.frozen
class Entry:
    """One message of the model; of no room if it is private."""

    name: str
    cost: int
    room: str | None = None
    key: str | None = None

    @property
    def droppable(self) -> bool:
        return self.room is not None and POLICIES[self.room] != "close"


@attrs.define
class Model:
    """What the outbox must do, written for reading: whole lists, and sums made anew each time."""

    max_messages: int
    max_bytes: int
    queue: list[Entry] = attrs.field(factory=list)
    open: bool = True
    enqueued: int = 0
    displaced: int = 0
    discarded: int = 0
    dropped: int = 0
    written: int = 0

    def legal(self, queue: list[Entry]) -> bool:
        droppable = [entry for entry in queue if entry.droppable]
        return (
            len(queue) <= self.max_messages
            and sum(entry.cost for entry in queue) <= self.max_bytes
            and len(droppable) <= max(1, self.max_messages // 2)
            and sum(entry.cost for entry in droppable) <= self.max_bytes / 2
        )

    def fits(self, entry: Entry) -> bool:
        queue = [*self.queue, entry]
        return len(queue) <= self.max_messages and sum(one.cost for one in queue) <= self.max_bytes

    def add(self, entry: Entry) -> None:
        self.queue.append(entry)
        self.enqueued += 1

    def put(self, entry: Entry) -> int:
        assert entry.room is not None
        policy = POLICIES[entry.room]
        if not self.open:
            self.dropped += 1
            return DROPPED
        if policy == "close":
            if self.fits(entry):
                self.add(entry)
                return 0
            self.dropped += 1
            self.open = False
            return CLOSED
        kept = list(self.queue)
        if policy == "conflate" and entry.key is not None:
            kept = [one for one in kept if (one.room, one.key) != (entry.room, entry.key)]
        while not self.legal([*kept, entry]):
            own = [one for one in kept if one.room == entry.room]
            if policy == "drop_newest" or not own:
                self.dropped += 1
                return DROPPED
            kept.remove(own[0])
        displaced = len(self.queue) - len(kept)
        self.queue = kept
        self.displaced += displaced
        self.add(entry)
        return displaced

    def take(self, max_bytes: int) -> list[str]:
        batch: list[Entry] = []
        while self.queue and (not batch or sum(one.cost - 64 for one in [*batch, self.queue[0]]) <= max_bytes):
            batch.append(self.queue.pop(0))
        self.written += len(batch)
        return [one.name for one in batch]

    def discard(self) -> None:
        self.open = False
        self.discarded += len(self.queue)
        self.queue = []


SIZES = st.integers(5, 120)
STEPS = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(sorted(POLICIES)), st.sampled_from([None, "a", "b", "c"]), SIZES),
    st.tuples(st.just("put"), st.sampled_from("nokK"), st.sampled_from([None, "a", "b", "c"]), SIZES),
    st.tuples(st.just("send"), SIZES),
    st.tuples(st.just("take"), st.integers(1, 400)),
)


def compare(outbox: Outbox, model: Model) -> None:
    """The outbox's books are those of the model."""
    stats = outbox.statistics()
    assert stats.messages == len(model.queue)
    assert stats.bytes == sum(entry.cost for entry in model.queue)
    counted = (stats.enqueued, stats.written, stats.displaced, stats.discarded, stats.dropped)
    assert counted == (model.enqueued, model.written, model.displaced, model.discarded, model.dropped)
    check(outbox)


@given(
    max_messages=st.integers(1, 10),
    max_bytes=st.integers(200, 1200),
    steps=st.lists(STEPS, max_size=60),
    discard=st.booleans(),
)
def test_like_the_model(max_messages: int, max_bytes: int, steps: list[Any], discard: bool) -> None:
    """Invariant 6: for any sequence of calls the results, the order and the accounts are those of a simple model."""
    outbox, model = make_outbox(max_messages, max_bytes), Model(max_messages, max_bytes)
    for n, (what, *args) in enumerate(steps):
        if what == "take":
            assert written(outbox, args[0]) == model.take(args[0])
        elif what == "put":
            room, key, size = args
            name = str(n).ljust(size, ".")
            entry = Entry(name, len(private(name).data) + 64, room, key)
            assert outbox.put(event(name, POLICIES[room], room=room, key=key)) == model.put(entry)
        else:
            name = str(n).ljust(args[0], ".")
            entry = Entry(name, len(private(name).data) + 64)
            if model.open and model.fits(entry):
                outbox.send_nowait(private(name))
                model.add(entry)
            else:
                with pytest.raises((OutboxFull, ConnectionGone, MessageTooLarge)):
                    outbox.send_nowait(private(name))
        compare(outbox, model)
    if discard:
        outbox.discard()
        model.discard()
        compare(outbox, model)
    assert written(outbox) == model.take(BIG)
    compare(outbox, model)


@given(
    max_messages=st.integers(1, 4),
    max_bytes=st.integers(200, 600),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("send"), SIZES),
            st.tuples(st.just("cancel"), st.integers(0, 10)),
            st.tuples(st.just("take"), st.integers(1, 400)),
            st.tuples(st.just("put"), st.sampled_from("nok"), SIZES),
        ),
        max_size=25,
    ),
)
async def test_waiting_senders_like_a_queue(max_messages: int, max_bytes: int, steps: list[Any]) -> None:
    """Invariant 6: whoever waits, gives up or is served: each message that was sent is written once, in their order."""
    outbox = make_outbox(max_messages, max_bytes)
    out: list[str] = []
    async with trio.open_nursery() as nursery:
        senders = Senders(outbox, nursery)
        scopes: dict[str, trio.CancelScope] = {}
        for n, (what, *args) in enumerate(steps):
            name = f"{n} ".ljust(args[-1], ".")
            if what == "send":
                scopes[name] = await senders.send(name)
            elif what == "cancel" and scopes:
                list(scopes.values())[args[0] % len(scopes)].cancel()
                await wait_all_tasks_blocked()
            elif what == "put":
                outbox.put(event("event", POLICIES[args[0]], room=args[0]))
            elif what == "take":
                out += written(outbox, args[0])
                await wait_all_tasks_blocked()
            stats = outbox.statistics()
            assert stats.messages <= max_messages
            assert stats.bytes <= max_bytes
            assert stats.messages > 0 or stats.waiting == 0
            check(outbox)
        while outbox:
            out += written(outbox)
            await wait_all_tasks_blocked()
        assert outbox.statistics().waiting == 0
        assert outbox.statistics().bytes == 0
    sent = [name for name in scopes if not scopes[name].cancelled_caught]
    assert [name for name in out if name != "event"] == sent
    assert sorted(senders.done) == sorted(sent)
