"""Publishing: who gets an event, in which order, what the report says, and what a cancel leaves."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import pytest
import trio
from trio.testing import MockClock

from hall import Guest, Hall, attempt, hall, record, settle
from trio_rooms import (
    BadRoom,
    BrokerBusy,
    Config,
    Connection,
    EncodingError,
    Limits,
    Manager,
    MessageTooLarge,
    NotServing,
    Publication,
    Report,
    Room,
    UsageError,
)
from trio_rooms.brokers import Confirmation, MemoryBroker
from trio_rooms.testing import LaggingBroker, ReplyError

Confirm = Literal["before", "with", "after"]
CONFIRM: list[Confirm] = ["before", "with", "after"]


def delivered(enqueued: int = 0, dropped: int = 0, closed: int = 0, displaced: int = 0) -> Report:
    return Report(True, enqueued, dropped, closed, displaced)


async def member_of(guest: Guest, *rooms: str) -> Guest:
    for room in rooms:
        await guest.conn.join(room)
    return guest


def room_of(manager: Manager, name: str) -> Room:
    room = manager.get_room(name)
    assert room is not None
    return room


# Who gets it, and as what


async def test_members_get_it(autojump_clock: MockClock) -> None:
    """Each member gets the event, plain ones as it is and v1 ones in an envelope; others get nothing."""
    manager = Manager()
    async with hall(manager) as served:
        plain = await member_of(await served.enter(), "r")
        v1 = await member_of(await served.enter(v1=True), "r")
        other = await member_of(await served.enter(), "other")
        assert manager.broadcast_to_room("r", {"n": 1}) == delivered(enqueued=2)
        assert await plain.client.receive_json() == {"n": 1}
        assert await v1.client.receive_json() == {"room": "r", "data": {"n": 1}}
        await other.client.receive_nothing(1)


async def test_not_before_and_not_after_membership(autojump_clock: MockClock) -> None:
    """Nobody gets what was published before its join or after its leave."""
    manager = Manager()
    async with hall(manager) as served:
        guest = await served.enter()
        await member_of(await served.enter(), "r")
        manager.broadcast_to_room("r", "before")
        await guest.conn.join("r")
        manager.broadcast_to_room("r", "while")
        guest.conn.leave("r")
        assert manager.broadcast_to_room("r", "after") == delivered(enqueued=1)
        assert await guest.client.receive_json() == "while"
        await guest.client.receive_nothing(1)


async def test_nobody_there(autojump_clock: MockClock) -> None:
    """Publishing to a room that does not exist is no error, reaches nobody and opens no room."""
    manager = Manager()
    opened: list[Room] = []
    manager.on_room_open(opened.append)
    async with hall(manager):
        assert manager.broadcast_to_room("nowhere", 1) == delivered()
        assert manager.broadcast_to_rooms(["nowhere", "elsewhere"], 1) == delivered()
        assert manager.broadcast_to_all(1) == delivered()
        assert manager.get_room("nowhere") is None
        await settle()
        assert not opened


async def test_to_all(autojump_clock: MockClock) -> None:
    """Everybody gets a broadcast to all, members of rooms or not, with or without an action."""
    manager = Manager()
    async with hall(manager) as served:
        plain, v1 = await served.enter(), await member_of(await served.enter(v1=True), "r")
        out = await served.enter()
        assert manager.broadcast_to_all({"n": 1}, exclude=[out.conn]) == delivered(enqueued=2)
        assert manager.broadcast_to_all(2, action="notice") == delivered(enqueued=3)
        assert await plain.client.receive_json() == {"n": 1}
        assert await plain.client.receive_json() == {"action": "notice", "data": 2}
        assert await v1.client.receive_json() == {"data": {"n": 1}}
        assert await v1.client.receive_json() == {"action": "notice", "data": 2}
        assert await out.client.receive_json() == {"action": "notice", "data": 2}


async def test_several_rooms_one_copy(autojump_clock: MockClock) -> None:
    """A member of several of the rooms gets one copy, as an event of the first of them that it is in."""
    manager = Manager()
    async with hall(manager) as served:
        both = await member_of(await served.enter(v1=True), "b", "a")
        only_b = await member_of(await served.enter(v1=True), "b")
        plain = await member_of(await served.enter(), "a", "b")
        assert manager.broadcast_to_rooms(["a", "nowhere", "b", "a"], "hi") == delivered(enqueued=3)
        assert await both.client.receive_json() == {"room": "a", "data": "hi"}
        assert await only_b.client.receive_json() == {"room": "b", "data": "hi"}
        assert await plain.client.receive_json() == "hi"
        for guest in (both, only_b, plain):
            await guest.client.receive_nothing(1)


async def test_several_rooms_of_which_one_is_given(autojump_clock: MockClock) -> None:
    """One room in a list is the same as that room; none is nothing."""
    manager = Manager()
    async with hall(manager) as served:
        guest = await member_of(await served.enter(), "a")
        assert manager.broadcast_to_rooms((name for name in ["a"]), "hi") == delivered(enqueued=1)
        assert manager.broadcast_to_rooms([], "no") == delivered()
        assert await guest.client.receive_json() == "hi"
        await guest.client.receive_nothing(1)


@pytest.mark.parametrize("by", ["connection", "id", "both"])
async def test_exclude(by: str, autojump_clock: MockClock) -> None:
    """Connections can be left out, by themselves or by their id, in every verb; they count nowhere."""
    manager = Manager()
    async with hall(manager) as served:
        a, b, c = [await member_of(await served.enter(), "r", "s") for _ in range(3)]
        exclude: list[Connection | str] = {
            "connection": [a.conn, b.conn],
            "id": [a.conn.id, b.conn.id, "unknown"],
            "both": [a.conn, a.conn.id, b.conn.id],
        }[by]
        room = room_of(manager, "r")
        assert manager.broadcast_to_room("r", 1, exclude=iter(exclude)) == delivered(enqueued=1)
        assert manager.broadcast_to_rooms(["r", "s"], 2, exclude=exclude) == delivered(enqueued=1)
        assert room.publish_nowait(3, exclude=exclude) == delivered(enqueued=1)
        assert await room.publish(4, exclude=exclude) == delivered(enqueued=1)
        assert manager.broadcast_to_all(5, exclude=exclude) == delivered(enqueued=1)
        assert [await c.client.receive_json() for _ in range(5)] == [1, 2, 3, 4, 5]
        await a.client.receive_nothing(1)
        await b.client.receive_nothing(1)


# Mistakes, before anybody is harmed


@pytest.mark.parametrize("verb", ["room", "rooms", "all", "publish_nowait", "publish"])
async def test_what_cannot_be_encoded(verb: str, autojump_clock: MockClock) -> None:
    """An event that is no JSON, or that no outbox could hold, is an error of the publisher and reaches nobody."""
    manager = Manager(config=Config(limits=Limits(outbox_bytes=4096)))
    async with hall(manager) as served:
        guest = await member_of(await served.enter(), "r")

        async def publish(event: object) -> Report:
            if verb == "room":
                return manager.broadcast_to_room("r", event)
            if verb == "rooms":
                return manager.broadcast_to_rooms(["r", "s"], event)
            if verb == "all":
                return manager.broadcast_to_all(event)
            if verb == "publish_nowait":
                return room_of(manager, "r").publish_nowait(event)
            return await room_of(manager, "r").publish(event)

        with pytest.raises(EncodingError):
            await publish(object())
        with pytest.raises(MessageTooLarge):
            await publish("x" * 4096)
        assert guest.conn.closed is None
        assert guest.conn.statistics().enqueued == guest.conn.statistics().dropped == 0
        assert await publish("x" * 3000) == delivered(enqueued=1)


async def test_what_passes_fits(autojump_clock: MockClock) -> None:
    """Whatever is not too large fits into an empty outbox of either format, also with a name that JSON escapes."""
    manager = Manager(config=Config(limits=Limits(outbox_bytes=2048)))
    name = '"' * 100
    async with hall(manager) as served:
        for v1 in (False, True):
            await member_of(await served.enter(v1=v1), name)
        size = 2048
        while True:
            try:
                report = manager.broadcast_to_room(name, "x" * size)
            except MessageTooLarge:
                size -= 1
            else:
                break
        assert report == delivered(enqueued=2)
        assert size > 1000


@pytest.mark.parametrize("name", ["", "$all", "a b", "x" * 256, 7])
async def test_publishing_to_what_is_no_room(name: Any, autojump_clock: MockClock) -> None:
    """A name that no room can have is refused with a code, since a program may have it from a client."""
    manager = Manager()

    @manager.on("say")
    def say(conn: Connection, data: str) -> None:
        manager.broadcast_to_room(name, data)

    async with hall(manager) as served:
        with pytest.raises(BadRoom, match="name"):
            manager.broadcast_to_room(name, 1)
        with pytest.raises(BadRoom, match="name"):
            manager.broadcast_to_rooms(["r", name], 1)
        guest = await served.enter()
        with pytest.raises(ReplyError) as error:
            await guest.client.request("say", "hello")
        assert error.value.code == "BAD_ROOM"
        assert guest.conn.closed is None


async def test_text_where_several_are_meant(autojump_clock: MockClock) -> None:
    """A string is not taken for a list of its characters, neither of rooms nor of connections."""
    manager = Manager()
    async with hall(manager):
        with pytest.raises(UsageError):
            manager.broadcast_to_rooms("room", 1)
        with pytest.raises(UsageError):
            manager.broadcast_to_room("room", 1, exclude="some-id")


def test_without_a_server() -> None:
    """Nothing can be published while the manager is not served; there are no rooms then."""
    manager = Manager()
    for publish in (
        lambda: manager.broadcast_to_room("r", 1),
        lambda: manager.broadcast_to_rooms(["r"], 1),
        lambda: manager.broadcast_to_all(1),
    ):
        with pytest.raises(NotServing):
            publish()
    assert manager.get_room("r") is None
    assert manager.rooms() == []


async def test_from_a_thread() -> None:
    """A thread publishes by calling into trio."""
    manager = Manager()
    async with hall(manager) as served:
        guest = await member_of(await served.enter(), "r")

        def work() -> Report:
            return trio.from_thread.run_sync(manager.broadcast_to_room, "r", "from a thread")

        assert await trio.to_thread.run_sync(work) == delivered(enqueued=1)
        assert await guest.client.receive_json() == "from a thread"
        await guest.client.close()


# What the report says

LIMIT = 8


def stalled_manager(overflow: Any, **limits: int) -> Manager:
    """A manager whose outboxes are small, with writes that never time out."""
    manager = Manager(
        config=Config(
            limits=Limits(outbox_messages=LIMIT, **limits), write_buffer_size=1, write_timeout=1e6, ping_interval=1e6
        )
    )
    manager.room("r*", overflow=overflow)
    return manager


async def stalled_guest(served: Hall) -> Guest:
    """A guest to whom nothing can be written any more."""
    guest, stream = await served.enter_faulty()
    stream.stall_sending()
    return guest


async def stick(guest: Guest) -> None:
    """Give the writer one frame to be stuck with."""
    guest.conn.send_nowait("stuck")
    await settle()


@pytest.mark.parametrize(
    ("overflow", "expected"),
    [
        ("close", delivered(enqueued=1, closed=1)),
        ("drop_newest", delivered(enqueued=1, dropped=1)),
        ("drop_oldest", delivered(enqueued=2, displaced=1)),
        ("conflate", delivered(enqueued=2, displaced=1)),
    ],
)
async def test_report_of_each_policy(overflow: str, expected: Report, autojump_clock: MockClock) -> None:
    """Invariant 6: enqueued, dropped and closed make up the members; displaced counts what was pushed out."""
    manager = stalled_manager(overflow)
    async with hall(manager) as served:
        healthy = await member_of(await served.enter(), "r")
        slow = await member_of(await stalled_guest(served), "r")
        await stick(slow)
        room = room_of(manager, "r")
        places = LIMIT if overflow == "close" else LIMIT // 2
        for number in range(places):
            assert room.publish_nowait(number, key="k" if number == 1 else None) == delivered(enqueued=2)
            await settle()
        report = room.publish_nowait("over", key="k")
        assert report == expected
        assert (slow.conn.closed is not None) is (overflow == "close")
        assert [await healthy.client.receive_json() for _ in range(places)] == list(range(places))
        assert await healthy.client.receive_json() == "over"
        after = room.publish_nowait("next", key="k")
        assert after.enqueued + after.dropped + after.closed == len(room.members)
        await healthy.client.aclose()
        await slow.client.aclose()


async def test_the_first_matching_policy_of_several_rooms(autojump_clock: MockClock) -> None:
    """A copy for several rooms is under the policy of the room as whose event it goes."""
    manager = Manager(
        config=Config(limits=Limits(outbox_messages=1), write_buffer_size=1, write_timeout=1e6, ping_interval=1e6)
    )
    manager.room("drops", overflow="drop_newest")
    async with hall(manager) as served:
        slow = await member_of(await stalled_guest(served), "drops", "closes")
        await stick(slow)
        manager.broadcast_to_room("closes", 1)
        assert manager.broadcast_to_rooms(["drops", "closes"], 2) == delivered(dropped=1)
        assert slow.conn.closed is None
        assert manager.broadcast_to_rooms(["closes", "drops"], 3) == delivered(closed=1)
        assert slow.conn.closed is not None
        assert slow.conn.closed.code == 4008
        await slow.client.aclose()


async def test_to_all_closes_who_has_no_room(autojump_clock: MockClock) -> None:
    """A broadcast to all ends whose outbox is full with 4008, once, and counts one that is ending as dropped."""
    manager = Manager(
        config=Config(limits=Limits(outbox_messages=2), write_buffer_size=1, write_timeout=1e6, ping_interval=1e6)
    )
    async with hall(manager) as served:
        slow = await stalled_guest(served)
        await served.enter()
        await stick(slow)
        for number in range(2):
            assert manager.broadcast_to_all(number) == delivered(enqueued=2)
            await settle()
        assert manager.broadcast_to_all(2) == delivered(enqueued=1, closed=1)
        assert manager.broadcast_to_all(3) == delivered(enqueued=1, dropped=1)
        assert slow.conn.closed is not None
        assert slow.conn.closed.code == 4008
        await slow.client.aclose()


async def test_deliver_calls_nothing_of_the_users(autojump_clock: MockClock) -> None:
    """Invariant 11: a fan-out that ends members runs no hook and no handler; the rest happens in other tasks."""
    manager = stalled_manager("close")
    log = record(manager)
    manager.on_room_close(lambda room: log.append(("close", room.name, "")))
    async with hall(manager) as served:
        guests = [await member_of(await stalled_guest(served), "r", "r2") for _ in range(3)]
        for guest in guests:
            await stick(guest)
        for number in range(LIMIT):
            manager.broadcast_to_room("r", number)
        before = len(log)
        assert manager.broadcast_to_room("r", "over") == delivered(closed=3)
        assert len(log) == before
        assert manager.get_room("r") is None
        assert not any(guest.conn.rooms for guest in guests)
        await settle()
        assert sorted(entry[0] for entry in log[before:]) == ["close"] * 2 + ["disconnect"] * 3 + ["leave"] * 6
        for guest in guests:
            await guest.client.aclose()


async def test_publishing_within_a_hook(autojump_clock: MockClock) -> None:
    """I4: a hook that publishes to the room whose member it is called for neither waits for itself nor is lost."""
    manager = Manager()

    @manager.on_join_room
    async def joining(conn: Connection, room: Room) -> None:
        room.publish_nowait(f"{conn.metadata['name']} is coming")
        await room.publish("and is nearly there")

    @manager.on_leave_room
    async def left(conn: Connection, room: Room, reason: str) -> None:
        await room.publish(f"{conn.metadata['name']} {reason}")

    async with hall(manager) as served:
        a, b = await served.enter(), await served.enter()
        a.conn.metadata["name"], b.conn.metadata["name"] = "a", "b"
        await a.conn.join("r")
        await b.conn.join("r")
        b.conn.leave("r")
        events = [await a.client.receive_json() for _ in range(3)]
        assert events == ["b is coming", "and is nearly there", "b left"]
        await b.client.receive_nothing(1)


# publish, publish_nowait, and a broker that takes time


@pytest.mark.parametrize("confirm", CONFIRM)
async def test_publish_waits_for_both(confirm: Confirm, autojump_clock: MockClock) -> None:
    """publish returns when the broker has confirmed and this node has delivered, whichever is last."""
    manager = Manager(broker=LaggingBroker(delay=2.0, confirm=confirm))
    async with hall(manager) as served:
        guest = await member_of(await served.enter(), "r")
        start = trio.current_time()
        assert await room_of(manager, "r").publish("hi") == delivered(enqueued=1)
        assert trio.current_time() - start == (3.0 if confirm == "after" else 2.0)
        assert await guest.client.receive_json() == "hi"


@pytest.mark.parametrize("confirm", CONFIRM)
async def test_nowait_promises_a_place_only(confirm: Confirm, autojump_clock: MockClock) -> None:
    """With a broker that takes time the report of publish_nowait is not final and its numbers are 0."""
    manager = Manager(broker=LaggingBroker(delay=2.0, confirm=confirm))
    async with hall(manager) as served:
        guest = await member_of(await served.enter(), "r")
        assert manager.broadcast_to_room("r", "hi") == Report()
        assert room_of(manager, "r").publish_nowait("ho") == Report()
        assert [await guest.client.receive_json() for _ in range(2)] == ["hi", "ho"]


@pytest.mark.parametrize("confirm", CONFIRM)
async def test_what_the_task_sends_next_stands_behind(confirm: Confirm, autojump_clock: MockClock) -> None:
    """What a task sends to a member after its publish has returned comes after the event."""
    manager = Manager(broker=LaggingBroker(confirm=confirm))
    async with hall(manager) as served:
        guest = await member_of(await served.enter(), "r")
        room = room_of(manager, "r")
        for number in range(5):
            await room.publish(["event", number])
            guest.conn.send_nowait(["direct", number])
        got = [await guest.client.receive_json() for _ in range(10)]
        assert got == [[kind, number] for number in range(5) for kind in ("event", "direct")]


@pytest.mark.parametrize("confirm", CONFIRM)
@pytest.mark.parametrize("seed", range(10))
async def test_order_of_both_kinds(confirm: Confirm, seed: int, autojump_clock: MockClock) -> None:
    """Each task's submissions of both kinds keep their order, none is lost or repeated; all members see one order."""
    rng = random.Random(seed)
    manager = Manager(broker=LaggingBroker(delay=0.1, confirm=confirm, bound=4))
    taken: dict[int, list[int]] = {}
    async with hall(manager) as served:
        guests = [await member_of(await served.enter(), "r") for _ in range(2)]
        room = room_of(manager, "r")

        async def publisher(first: int) -> None:
            mine = taken[first] = []
            for number in range(first, first + 10):
                await trio.sleep(rng.choice([0, 0, 0.05, 0.3]))
                try:
                    await room.publish(number) if rng.random() < 0.5 else room.publish_nowait(number)
                except BrokerBusy:
                    continue
                mine.append(number)

        async with trio.open_nursery() as nursery:
            for first in (0, 100, 200, 300, 400, 500):
                nursery.start_soon(publisher, first)
        await trio.sleep(10)
        number = sum(len(mine) for mine in taken.values())
        seen = [[await guest.client.receive_json() for _ in range(number)] for guest in guests]
        await guests[0].client.receive_nothing(1)
        assert seen[0] == seen[1]
        for first, mine in taken.items():
            assert [one for one in seen[0] if first <= one < first + 100] == mine


class ByHand(MemoryBroker):
    """Takes publications when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.full = True
        self.ready = trio.Event()

    def submit(self, publication: Publication) -> Any:
        if self.full:
            raise BrokerBusy
        return super().submit(publication)

    async def wait_ready(self) -> None:
        await self.ready.wait()


async def test_nowait_does_not_overtake_who_waits(autojump_clock: MockClock) -> None:
    """While a publish waits for room, publish_nowait is refused, even in the moment in which there is room again."""
    broker = ByHand()
    manager = Manager(broker=broker)
    async with hall(manager) as served, trio.open_nursery() as nursery:
        guest = await member_of(await served.enter(), "r")
        room = room_of(manager, "r")
        waiting = [attempt(nursery, room.publish, name) for name in ("first", "second")]
        await settle()
        broker.full = False
        broker.ready.set()
        for publish in (room.publish_nowait, partial(manager.broadcast_to_room, "r"), manager.broadcast_to_all):
            with pytest.raises(BrokerBusy):
                publish("overtakes")
        for outcome in waiting:
            await outcome.over.wait()
        assert room.publish_nowait("third") == delivered(enqueued=1)
        got = [await guest.client.receive_json() for _ in range(3)]
        assert sorted(got[:2]) == ["first", "second"]
        assert got[2] == "third"


@pytest.mark.parametrize("cancelled", [True, False])
async def test_nothing_is_kept_of_a_publication(cancelled: bool, autojump_clock: MockClock) -> None:
    """Invariant 5: the node forgets a publication when nobody waits for it any more."""
    manager = Manager(broker=LaggingBroker(delay=2.0))
    async with hall(manager) as served:
        await member_of(await served.enter(), "r")
        with trio.move_on_after(1 if cancelled else 10):
            await room_of(manager, "r").publish("x")
        assert not served.server._node.carrier._awaited


async def test_busy(autojump_clock: MockClock) -> None:
    """At the broker's bound nowait raises BrokerBusy and sends nothing, and publish waits for its turn."""
    manager = Manager(broker=LaggingBroker(delay=2.0, bound=2))
    async with hall(manager) as served:
        guest = await member_of(await served.enter(), "r")
        room = room_of(manager, "r")
        room.publish_nowait(1)
        manager.broadcast_to_all(2)
        for publish in (
            lambda: room.publish_nowait("no"),
            lambda: manager.broadcast_to_room("r", "no"),
            lambda: manager.broadcast_to_rooms(["r", "s"], "no"),
            lambda: manager.broadcast_to_all("no"),
        ):
            with pytest.raises(BrokerBusy):
                publish()
        assert await room.publish(3) == delivered(enqueued=1)
        assert [await guest.client.receive_json() for _ in range(3)] == [1, 2, 3]
        await guest.client.receive_nothing(10)


async def test_publishers_that_wait_keep_their_order(autojump_clock: MockClock) -> None:
    """Tasks that wait for room in the broker get it in the order in which they came."""
    manager = Manager(broker=LaggingBroker(delay=1.0, bound=1))
    async with hall(manager) as served:
        guest = await member_of(await served.enter(), "r")
        room = room_of(manager, "r")
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(room.publish, number)
                await settle()
        assert [await guest.client.receive_json() for _ in range(8)] == list(range(8))


@pytest.mark.parametrize("confirm", CONFIRM)
async def test_cancel_while_it_waits_for_room(confirm: Confirm, autojump_clock: MockClock) -> None:
    """A publish that is cancelled before the broker has taken it was not published; others behind it go on."""
    manager = Manager(broker=LaggingBroker(delay=2.0, confirm=confirm, bound=1))
    async with hall(manager) as served:
        guest = await member_of(await served.enter(), "r")
        room = room_of(manager, "r")
        room.publish_nowait("first")
        async with trio.open_nursery() as nursery:
            cancelled = attempt(nursery, room.publish, "cancelled")
            await settle()
            nursery.start_soon(room.publish, "behind")
            await settle()
            cancelled.scope.cancel()
        assert [await guest.client.receive_json() for _ in range(2)] == ["first", "behind"]
        await guest.client.receive_nothing(10)
        room.publish_nowait("free again")
        assert await guest.client.receive_json() == "free again"


@pytest.mark.parametrize("confirm", CONFIRM)
@pytest.mark.parametrize("after", [0.0, 0.5, 1.5, 2.0, 2.5])
async def test_cancel_later(confirm: Confirm, after: float, autojump_clock: MockClock) -> None:
    """A publish that is cancelled after the broker has taken it is delivered all the same, once."""
    manager = Manager(broker=LaggingBroker(delay=2.0, confirm=confirm))
    async with hall(manager) as served:
        guest = await member_of(await served.enter(), "r")
        room = room_of(manager, "r")
        async with trio.open_nursery() as nursery:
            outcome = attempt(nursery, room.publish, "once")
            await settle()
            await trio.sleep(after)
            outcome.scope.cancel()
        assert await guest.client.receive_json() == "once"
        await guest.client.receive_nothing(10)


async def test_publish_that_is_cancelled_already(autojump_clock: MockClock) -> None:
    """publish is a checkpoint before anything is published."""
    manager = Manager()
    async with hall(manager) as served:
        guest = await member_of(await served.enter(), "r")
        with trio.CancelScope() as scope:
            scope.cancel()
            await room_of(manager, "r").publish("no")
        assert scope.cancelled_caught
        await guest.client.receive_nothing(1)


class Half(MemoryBroker):
    """Confirms and never delivers, as a broker does whose link to this node has broken."""

    def submit(self, publication: Publication) -> Any:
        return Confirmed()


class Confirmed:
    confirmation = Confirmation()

    async def wait(self) -> Confirmation:
        await trio.lowlevel.checkpoint()
        return self.confirmation


@pytest.mark.parametrize(
    "make",
    [Half, lambda: LaggingBroker(delay=1000.0), lambda: LaggingBroker(delay=1000.0, bound=1)],
    ids=["never delivers", "never confirms", "has no room"],
)
async def test_end_of_the_server_leaves_no_publisher_waiting(
    make: Callable[[], Any], autojump_clock: MockClock
) -> None:
    """A task of the program that publishes while the server ends is told; it does not wait for ever."""
    manager = Manager(broker=make(), config=Config(shutdown_timeout=1, ping_interval=1e6))
    async with trio.open_nursery() as nursery:
        outcomes = []
        async with hall(manager) as served:
            guest = await served.enter()
            await guest.conn.join("r")
            room = room_of(manager, "r")
            outcomes += [attempt(nursery, room.publish, number) for number in range(3)]
            await settle()
        for outcome in outcomes:
            with trio.fail_after(1):
                await outcome.over.wait()
            assert isinstance(outcome.error, NotServing)


async def test_subscribed_while_there_is_a_room(autojump_clock: MockClock) -> None:
    """B3: the broker's subscriptions are those of the rooms that exist, also after joins that were given up."""
    broker = LaggingBroker(delay=2.0)
    manager = Manager(broker=broker)
    async with hall(manager) as served:
        guests = [await served.enter() for _ in range(3)]
        async with trio.open_nursery() as nursery:
            stays = attempt(nursery, guests[0].conn.join, "stays")
            left = attempt(nursery, guests[1].conn.join, "left")
            cancelled = attempt(nursery, guests[2].conn.join, "cancelled")
            await trio.sleep(1)
            guests[1].conn.leave("left")
            cancelled.scope.cancel()
        assert stays.error is None
        assert left.error is not None
        assert broker.subscribed == {"stays"}
        guests[0].conn.leave("stays")
        assert broker.subscribed == set()


@pytest.mark.parametrize("seed", range(20))
async def test_subscriptions_converge(seed: int, autojump_clock: MockClock) -> None:
    """B3: whatever the order of joins, leaves and cancels, subscriptions end as the rooms; none is left."""
    rng = random.Random(seed)
    broker = LaggingBroker(delay=0.2)
    manager = Manager(broker=broker)
    names = ["a", "b", "c"]
    async with hall(manager) as served:
        guests = [await served.enter() for _ in range(4)]

        async def churn(guest: Guest) -> None:
            for _ in range(20):
                name = rng.choice(names)
                with trio.move_on_after(rng.choice([0.0, 0.1, 0.2, 0.3, 5])):
                    try:
                        await guest.conn.join(name)
                    except Exception:
                        await trio.lowlevel.checkpoint()
                if rng.random() < 0.7:
                    guest.conn.leave(rng.choice(names))

        async def leaver() -> None:
            for _ in range(40):
                await trio.sleep(0.07)
                rng.choice(guests).conn.leave(rng.choice(names))

        async with trio.open_nursery() as nursery:
            for guest in guests:
                nursery.start_soon(churn, guest)
            nursery.start_soon(leaver)
        await trio.sleep(1)
        assert broker.subscribed == {room.name for room in manager.rooms()}
        for guest in guests:
            for name in names:
                guest.conn.leave(name)
        assert manager.rooms() == []
        assert broker.subscribed == set()
