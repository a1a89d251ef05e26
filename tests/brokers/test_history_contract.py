"""What every broker promises that supports "history"."""

from __future__ import annotations

import attrs
import pytest
import trio
from trio.testing import MockClock

from broker_cases import BROKERS, PATIENCE, Case, Node, running, submit
from trio_rooms import Position, Publication, Slice
from trio_rooms.brokers import Broker, Confirmation, Keep, MemoryBroker
from trio_rooms.testing import LaggingBroker

KEEP = Keep(size=10, bytes=1 << 20, ttl=60.0, meta_ttl=600.0)

HISTORY = {name: case for name, case in BROKERS.items() if "history" in case.make().supports}


@pytest.fixture(params=HISTORY.values(), ids=HISTORY)
def case(request: pytest.FixtureRequest) -> Case:
    """Each kind of broker that keeps a history."""
    found: Case = request.param
    return found


def event(number: int, room: str = "r", *, key: str | None = None, keep: Keep | None = KEEP) -> Publication:
    data = b"%d" % number
    return Publication((room,), data, packed=data, keep=keep, idempotency_key=key)


async def publish(broker: Broker, publication: Publication) -> Confirmation:
    with trio.fail_after(PATIENCE):
        await broker.wait_ready()
        return await broker.submit(publication).wait()


async def publish_many(broker: Broker, number: int, room: str = "r") -> list[Position]:
    """The positions of as many events, from 1."""
    confirmed = [await publish(broker, event(one, room)) for one in range(1, number + 1)]
    return [position for one in confirmed if (position := one.position) is not None]


async def read(
    broker: Broker,
    since: Position | None = None,
    *,
    room: str = "r",
    limit: int | None = None,
    reverse: bool = False,
    keep: Keep = KEEP,
) -> Slice:
    with trio.fail_after(PATIENCE):
        return await broker.history(room, keep=keep, since=since, limit=limit, reverse=reverse)


def numbers(part: Slice) -> list[int]:
    return [one.data for one in part.publications]


async def test_positions(case: Case, autojump_clock: MockClock) -> None:
    """What is kept gets offsets that rise within one epoch; the confirmation, the delivery and the history agree."""
    broker = case.make()
    async with running(broker) as node:
        confirmed = await publish_many(broker, 5)
        await node.received(5)
        part = await read(broker)
    assert len(confirmed) == 5
    assert confirmed == node.positions
    assert [one.offset for one in part.publications] == [one.offset for one in confirmed]
    assert sorted({one.offset for one in confirmed}) == [one.offset for one in confirmed]
    assert {one.epoch for one in confirmed} == {part.position.epoch}
    assert part.position == confirmed[-1]
    assert confirmed[0].offset > 0


async def test_what_is_not_kept_has_no_position(case: Case, autojump_clock: MockClock) -> None:
    """It is delivered in its place, and is not in the history."""
    broker = case.make()
    async with running(broker) as node:
        await publish(broker, event(1))
        assert (await publish(broker, event(2, keep=None))).position is None
        await publish(broker, event(3))
        await node.received(3)
        assert [one.data for one in node.delivered] == [b"1", b"2", b"3"]
        assert node.positions[1] is None
        assert numbers(await read(broker)) == [1, 3]


async def test_rooms_have_streams_of_their_own(case: Case, autojump_clock: MockClock) -> None:
    """What is published to one room is not in another's history."""
    broker = case.make()
    async with running(broker):
        await publish_many(broker, 2, "a")
        await publish_many(broker, 3, "b")
        assert numbers(await read(broker, room="a")) == [1, 2]
        assert numbers(await read(broker, room="b")) == [1, 2, 3]


async def test_a_read_begins_the_stream(case: Case, autojump_clock: MockClock) -> None:
    """The position of a room without a publication is one that the first publication continues."""
    broker = case.make()
    async with running(broker):
        before = (await read(broker, limit=0)).position
        (first,) = await publish_many(broker, 1)
        assert before.epoch == first.epoch
        assert before.offset < first.offset
        part = await read(broker, before)
        assert (numbers(part), part.complete) == ([1], True)


async def test_since(case: Case, autojump_clock: MockClock) -> None:
    """Complete is what begins at any position of the stream that is no older than what is kept."""
    broker = case.make()
    async with running(broker):
        positions = await publish_many(broker, 15)
        for missed in range(16):
            since = positions[14 - missed] if missed < 15 else Position(0, positions[0].epoch)
            part = await read(broker, since)
            assert part.complete == (missed <= 10)
            assert numbers(part) == list(range(16 - min(missed, 10), 16))
            assert part.position == positions[-1]


async def test_since_what_was_never_there(case: Case, autojump_clock: MockClock) -> None:
    """A position above the top or of another epoch makes nothing complete, whatever text the epoch is."""
    broker = case.make()
    async with running(broker):
        top = (await publish_many(broker, 3))[-1]
        for offset in (top.offset + 1, 2**40, 2**63 - 1):
            part = await read(broker, Position(offset, top.epoch))
            assert (part.complete, part.publications, part.position) == (False, (), top)
        for epoch in ("", "another", "\0\r\n*", "x" * 10_000):
            part = await read(broker, Position(top.offset, epoch))
            assert (part.complete, part.publications) == (False, ())


async def test_limit_and_reverse(case: Case, autojump_clock: MockClock) -> None:
    """The oldest so many, or the newest, newest first; after a position or before it."""
    broker = case.make()
    async with running(broker):
        positions = await publish_many(broker, 8)
        assert numbers(await read(broker, limit=3)) == [1, 2, 3]
        assert numbers(await read(broker, limit=3, reverse=True)) == [8, 7, 6]
        assert numbers(await read(broker, positions[3], limit=2)) == [5, 6]
        assert numbers(await read(broker, positions[3], limit=2, reverse=True)) == [3, 2]
        assert numbers(await read(broker, positions[3], reverse=True)) == [3, 2, 1]
        assert numbers(await read(broker, limit=0)) == []


async def test_what_was_delivered_is_in_it(case: Case, autojump_clock: MockClock) -> None:
    """A slice that was asked for after a delivery holds what was delivered; and what is not in it comes later."""
    broker = case.make()
    node = Node()
    async with running(broker, node), trio.open_nursery() as nursery:

        async def publish_all() -> None:
            for number in range(1, 10):
                await submit(broker, event(number))

        nursery.start_soon(publish_all)
        for wanted in range(1, 10):
            await node.received(wanted)
            asked_with = len(node.delivered)
            part = await read(broker, limit=0)
            there = node.positions[asked_with - 1]
            assert there is not None
            assert part.position.offset >= there.offset
        await node.received(9)
        assert [one.data for one in node.delivered] == [b"%d" % number for number in range(1, 10)]


async def test_ttl(case: Case, autojump_clock: MockClock) -> None:
    """A publication goes after its time, and the stream after its own; then the epoch is another one."""
    broker = case.make()
    keep = attrs.evolve(KEEP, ttl=10.0, meta_ttl=100.0)
    async with running(broker):
        position = (await publish(broker, event(1, keep=keep))).position
        await trio.sleep(12)
        part = await read(broker, keep=keep)
        assert (part.publications, part.position) == ((), position)
        await trio.sleep(120)
        renewed = (await read(broker, keep=keep)).position
        assert position is not None
        assert renewed.epoch != position.epoch
        assert renewed.offset == 0


async def test_bytes(case: Case, autojump_clock: MockClock) -> None:
    """More bytes than are to be kept are not kept; the oldest go."""
    broker = case.make()
    keep = attrs.evolve(KEEP, bytes=5000)
    async with running(broker):
        for number in range(1, 6):
            await publish(broker, event(number, keep=keep))
        large = Publication(("r",), bytes(2000), packed=bytes(2000), keep=keep)
        await publish(broker, large)
        assert len((await read(broker, keep=keep)).publications) < 6
        await publish(broker, Publication(("r",), bytes(3000), packed=bytes(3000), keep=keep))
        assert (await read(broker, keep=keep)).publications == ()


async def test_excluded_ids_are_kept(case: Case, autojump_clock: MockClock) -> None:
    """Whom a publication was not for is known when it is read."""
    broker = case.make()
    async with running(broker):
        publication = event(1)
        publication.exclude = frozenset({"one", "two"})
        await publish(broker, publication)
        (item,) = (await read(broker)).publications
        assert item.exclude == {"one", "two"}


async def test_idempotency(case: Case, autojump_clock: MockClock) -> None:
    """Of publications with one key to one room the first is delivered, and a repeat is told its position."""
    broker = case.make()
    async with running(broker) as node:
        first = await publish(broker, event(1, key="k"))
        repeat = await publish(broker, event(2, key="k"))
        other_key = await publish(broker, event(3, key="other"))
        other_room = await publish(broker, event(4, "other", key="k"))
        await node.received(3)
        assert [first.duplicate, repeat.duplicate, other_key.duplicate, other_room.duplicate] == [False, True] + [
            False
        ] * 2
        assert repeat.position == first.position
        assert [one.data for one in node.delivered] == [b"1", b"3", b"4"]
        await trio.sleep(290)
        assert (await publish(broker, event(5, key="other"))).duplicate
        await trio.sleep(20)
        assert not (await publish(broker, event(6, key="k"))).duplicate


async def test_idempotency_without_history(case: Case, autojump_clock: MockClock) -> None:
    """A key holds for what is not kept, too."""
    broker = case.make()
    async with running(broker) as node:
        await publish(broker, event(1, key="k", keep=None))
        repeat = await publish(broker, event(2, key="k", keep=None))
        assert (repeat.duplicate, repeat.position) == (True, None)
        await publish(broker, event(3, keep=None))
        await node.received(2)
        assert [one.data for one in node.delivered] == [b"1", b"3"]


@pytest.mark.parametrize("make", [MemoryBroker, LaggingBroker])
async def test_nothing_outlives_a_run(make: type[MemoryBroker | LaggingBroker], autojump_clock: MockClock) -> None:
    """What is only in memory ends with the run: the next one has other epochs, and knows no key."""
    broker = make()
    async with running(broker):
        before = await publish(broker, event(1, key="k"))
    async with running(broker):
        after = await publish(broker, event(2, key="k"))
        assert not after.duplicate
        assert numbers(await read(broker)) == [2]
    assert before.position is not None
    assert after.position is not None
    assert before.position.epoch != after.position.epoch


async def test_forget(autojump_clock: MockClock) -> None:
    """The memory broker can be made to lose a room's stream, as others lose theirs by themselves."""
    broker = MemoryBroker()
    async with running(broker):
        before = (await publish_many(broker, 2))[-1]
        broker.forget("r")
        part = await read(broker, before)
        assert not part.complete
        assert part.position.epoch != before.epoch


async def test_what_a_lagging_broker_loses_it_tells(autojump_clock: MockClock) -> None:
    """A delivery that got lost is kept, confirmed, and told with the next one."""
    broker = LaggingBroker(step=5)
    async with running(broker) as node:
        await publish(broker, event(1))
        await node.received(1)
        broker.losing = 2
        await publish_many(broker, 2)
        await publish(broker, event(4))
        await node.received(2)
        assert [one.data for one in node.delivered] == [b"1", b"4"]
        assert [one.after for one in node.delivered] == [0, 15]
        assert [one.offset for one in (await read(broker)).publications] == [5, 10, 15, 20]
