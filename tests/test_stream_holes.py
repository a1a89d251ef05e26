"""Streams that begin anew, repeat themselves, or have a hole: what becomes of the members."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from followers import Follower
from hall import attempt, hall
from histories import history_manager
from messages import receive_all
from trio_rooms import Limits, Position, Publication, Report, Slice, SubscriptionLost
from trio_rooms.brokers import Keep, MemoryBroker
from trio_rooms.testing import LaggingBroker

# New epochs


@pytest.mark.parametrize("make", [MemoryBroker, LaggingBroker])
async def test_a_new_epoch_ends_the_members(make: Any, autojump_clock: MockClock) -> None:
    """When the stream begins anew its members are closed with 4010; back again, they are told that all is new."""
    broker = make()
    manager = history_manager(broker)
    async with hall(manager) as served:
        follower = Follower()
        guest = await served.enter(v1=True)
        await follower.join(guest.client)
        await manager.rooms()[0].publish(1)
        (broker if isinstance(broker, MemoryBroker) else broker.store).forget("r")
        manager.broadcast_to_room("r", 2)
        follower.take(await guest.client.receive_json())
        await guest.client.expect_close(4010)
        assert served.server.statistics().insufficient == 1
        again = await served.enter(v1=True)
        reply = await follower.join(again.client)
        assert not reply["recovered"]
        assert reply["offset"] == 1
        assert len({stretch.epoch for stretch in follower.stretches}) == 2


async def test_who_publishes_first_in_a_new_epoch_waits_for_the_delivery(autojump_clock: MockClock) -> None:
    """What was delivered before, in the old stream, does not say that it will not come."""
    broker = LaggingBroker(delay=2.0, confirm="before")
    manager = history_manager(broker)
    async with hall(manager) as served:
        guest = await served.enter(v1=True)
        room = (await guest.conn.join("r")).room
        async with trio.open_nursery() as nursery:
            old = attempt(nursery, room.publish, "old")
            await wait_all_tasks_blocked()
            new = attempt(nursery, room.publish, "new")
            await trio.sleep(1.5)  # kept, and not delivered yet
            broker.store.forget("r")
        assert old.result.final
        assert new.result.final
        assert old.result.position.epoch != new.result.position.epoch


async def test_a_join_that_meets_a_new_epoch_first(autojump_clock: MockClock) -> None:
    """The other members are closed, what is still delivered of the old stream is for nobody, and the join goes on."""
    broker = LaggingBroker(delay=2.0)
    manager = history_manager(broker)
    async with hall(manager) as served:
        old = await served.enter(v1=True)
        await old.client.request("$join", {"room": "r"})
        room = manager.get_room("r")
        assert room is not None
        publishing = await served.enter(v1=True)
        async with trio.open_nursery() as nursery:
            late = attempt(nursery, room.publish, "of the old stream")
            joining = attempt(nursery, publishing.conn.join, "r")
            # Kept at 1, delivered at 2; the join is subscribed at 2, reads from 2 to 4, and looks at 3.
            await trio.sleep(1.5)
            broker.store.forget("r")
            await joining.over.wait()
            await late.over.wait()
        assert joining.result.recovered is None
        assert await old.client.receive_json() == {"room": "r", "offset": 1, "data": "of the old stream"}
        await old.client.expect_close(4010)
        await room.publish("new")
        assert await publishing.client.receive_json() == {"room": "r", "offset": 1, "data": "new"}


@pytest.mark.parametrize("old", [0, 2])
@pytest.mark.parametrize("new", [0, 1, 3])
async def test_a_new_epoch_while_the_reply_waits(old: int, new: int, autojump_clock: MockClock) -> None:
    """A join whose reply waits for a place begins in the new stream, and nothing happens to the members of that."""
    broker = MemoryBroker()
    manager = history_manager(broker, limits=Limits(outbox_messages=4))
    async with hall(manager) as served:
        for number in range(old):
            manager.broadcast_to_room("r", f"old {number}")
        guest, stream = await served.enter_faulty(v1=True)
        stream.stall_sending()
        while guest.conn.statistics().messages < 4:
            guest.conn.send_nowait("fill", action="fill")
            await wait_all_tasks_blocked()
        await guest.client.send_action("$join", {"room": "r"}, id=1)
        await wait_all_tasks_blocked()
        broker.forget("r")
        for number in range(new):
            manager.broadcast_to_room("r", f"new {number}")
        member = await served.enter(v1=True)
        there = await member.client.request("$join", {"room": "r"})
        stream.resume_sending()
        while (message := await guest.client.receive_json()).get("id") != 1:
            assert message["action"] == "fill"
        assert message["data"] == there == {"room": "r", "epoch": there["epoch"], "offset": new}
        manager.broadcast_to_room("r", "later")
        for one in (guest, member):
            assert await one.client.receive_json() == {"room": "r", "offset": new + 1, "data": "later"}
        assert served.server.statistics().insufficient == 0


class AnswersLate(MemoryBroker):
    """What it is asked first is known soon, and answered late."""

    def __init__(self) -> None:
        super().__init__()
        self._asked = False

    async def history(
        self, room: str, *, keep: Keep, since: Position | None, limit: int | None, reverse: bool
    ) -> Slice:
        late, self._asked = not self._asked, True
        part = await super().history(room, keep=keep, since=since, limit=limit, reverse=reverse)
        if late:
            await trio.sleep(1)
        return part


async def test_a_join_that_is_overtaken_by_one_in_a_new_epoch(autojump_clock: MockClock) -> None:
    """What it has read is of a stream that is over, so it reads again; nothing happens to the other one."""
    broker = AnswersLate()
    manager = history_manager(broker)
    async with hall(manager) as served:
        slow, quick = await served.enter(v1=True), await served.enter(v1=True)
        async with trio.open_nursery() as nursery:
            joining = attempt(nursery, slow.conn.join, "r")
            await trio.sleep(0.5)
            broker.forget("r")
            there = await quick.conn.join("r")
            await joining.over.wait()
        assert joining.result.position == there.position
        manager.broadcast_to_room("r", 1)
        for guest in (slow, quick):
            assert await guest.client.receive_json() == {"room": "r", "offset": 1, "data": 1}
        assert served.server.statistics().insufficient == 0


async def test_what_comes_of_an_old_epoch_is_for_nobody(autojump_clock: MockClock) -> None:
    """Once a stream has been followed by another, what comes of it is dropped, and counted; who waits is told."""
    broker = LaggingBroker(delay=2.0)
    manager = history_manager(broker)
    async with hall(manager) as served:
        old = await served.enter(v1=True)
        await old.client.request("$join", {"room": "r"})
        room = manager.get_room("r")
        assert room is not None
        stream = room._stream
        assert stream is not None
        async with trio.open_nursery() as nursery:
            late = attempt(nursery, room.publish, "old")
            await trio.sleep(1.5)
            stream.begin(old.conn, Position(0, "the next"))
            await late.over.wait()
        assert late.result.final
        assert (late.result.enqueued, late.result.position.offset) == (0, 1)
        assert served.server.statistics().repeated == 1


async def test_what_was_delivered_before_is_not_again(autojump_clock: MockClock) -> None:
    """A broker may deliver again what it is not sure of: members get it once, it is counted, its report stays."""
    manager = history_manager()
    async with hall(manager) as served:
        guest = await served.enter(v1=True)
        joined = await guest.conn.join("r")
        assert joined.position is not None
        node = served.server._node
        first = manager.broadcast_to_room("r", 1, idempotency_key="k")
        again = Publication(("r",), b"1", packed=b"\x01", idempotency_key="k")
        report = node.deliver(again, Position(1, joined.position.epoch))
        assert (report.final, report.enqueued, report.position) == (True, 0, first.position)
        manager.broadcast_to_room("r", 2)
        assert [message["data"] for message in await receive_all(guest.client)] == [1, 2]
        assert served.server.statistics().repeated == 1
        repeat = manager.broadcast_to_room("r", 1, idempotency_key="k")
        assert (repeat.duplicate, repeat.enqueued) == (True, 1)


# Holes that the broker knows of


async def test_a_hole_ends_those_for_whom_it_is_one(autojump_clock: MockClock) -> None:
    """When the broker says that it has lost something, members without it are closed with 4010, and recover."""
    broker = LaggingBroker(delay=1.0, step=10)
    manager = history_manager(broker)
    published: list[tuple[Report, int]] = []
    async with hall(manager) as served:
        early = await served.enter(v1=True)
        follower = Follower()
        await follower.join(early.client)
        room = manager.get_room("r")
        assert room is not None
        published.append((await room.publish(1), 1))
        broker.losing = 1
        manager.broadcast_to_room("r", 2)
        await trio.sleep(5)
        late = await served.enter(v1=True)
        knows = Follower()
        await knows.join(late.client)  # it begins behind what was lost
        published.append((await room.publish(3), 3))
        follower.take(await early.client.receive_json())
        await early.client.expect_close(4010)
        assert served.server.statistics().insufficient == 1
        knows.take(await late.client.receive_json())
        assert knows.seen == [3]
        again = await served.enter(v1=True)
        assert (await follower.join(again.client))["recovered"]
        assert follower.seen == [1, 2, 3]


async def test_a_hole_during_a_join(autojump_clock: MockClock) -> None:
    """What was lost while a join waits, with its history read, is not recovered; without `since` it does not matter."""
    broker = LaggingBroker(delay=1.0)
    manager = history_manager(broker, limits=Limits(outbox_messages=2))
    async with hall(manager) as served:
        anchor = await served.enter(v1=True)
        since = await anchor.client.request("$join", {"room": "r"})
        guest, stream = await served.enter_faulty(v1=True)
        stream.stall_sending()
        while True:
            try:
                guest.conn.send_nowait("in the way")
            except trio.WouldBlock:
                break
            await wait_all_tasks_blocked()
        asked = {"room": "r", "since": {"epoch": since["epoch"], "offset": 0}}
        await guest.client.send_action("$join", asked, id=1)
        await trio.sleep(5)
        room = manager.get_room("r")
        assert room is not None
        broker.losing = 1
        manager.broadcast_to_room("r", "lost")
        assert (await room.publish("delivered")).final
        stream.resume_sending()
        (reply,) = [message for message in await receive_all(guest.client) if "id" in message]
        assert (reply["data"]["recovered"], reply["data"]["offset"]) == (False, 2)
        assert served.server.statistics().limited == {}


async def test_a_hole_before_the_read(autojump_clock: MockClock) -> None:
    """What the broker has lost before the first delivery that a join holds is read again, and recovered."""
    broker = LaggingBroker(delay=1.0)
    manager = history_manager(broker)
    async with hall(manager) as served:
        guest = await served.enter(v1=True)
        follower = Follower()
        await follower.join(guest.client)
        await guest.client.close()
        # The join subscribes until 1, reads until 2, looks at 1.5. Lost: kept at 1.6, "delivered" at 2.1.
        back = await served.enter(v1=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follower.follow, back.client)
            await trio.sleep(1.1)
            broker.losing = 1
            manager.broadcast_to_room("r", "lost")
            manager.broadcast_to_room("r", "there")
            await trio.sleep(20)
            await back.client.aclose()
        assert follower.seen == ["lost", "there"] or follower.stretches


@pytest.mark.parametrize("step", [1, 5])
async def test_a_task_that_follows_is_told_of_a_hole(step: int, autojump_clock: MockClock) -> None:
    """A subscription is lost where its room's stream has a hole; from its position it goes on without one."""
    broker = LaggingBroker(delay=1.0, step=step)
    manager = history_manager(broker)
    async with hall(manager):
        async with manager.subscribe("r") as events:
            await manager.publish("r", 1)
            broker.losing = 1
            manager.broadcast_to_room("r", 2)
            await manager.publish("r", 3)
            assert (await anext(events)).data == 1
            with pytest.raises(SubscriptionLost):
                await anext(events)
        async with manager.subscribe("r", since=events.position) as events:
            assert events.recovered
            assert [(await anext(events)).data for _ in range(2)] == [2, 3]
