"""The positions of members beside the ends of their streams: what a broker loses without a word is found."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from followers import Follower
from hall import attempt, hall, record
from histories import allow, publish
from messages import receive_all
from trio_rooms import Config, Manager, Position, Publication, Slice, SubscriptionLost
from trio_rooms.brokers import Confirmation, Keep, MemoryBroker, Submission
from trio_rooms.testing import LaggingBroker

INTERVAL = 40.0


def manager_over(broker: Any, *, interval: float | None = INTERVAL, history_size: int = 10, **options: Any) -> Manager:
    manager = Manager(
        config=Config(ping_interval=1e6, pong_timeout=1e6, position_check_interval=interval), broker=broker
    )
    manager.room("*", authorize=allow, history_size=history_size, **options)
    return manager


@pytest.mark.parametrize("step", [1, 8])
async def test_a_lost_delivery_is_found(step: int, autojump_clock: MockClock) -> None:
    """Where nothing more is published nobody would notice: members are closed with 4010 in time, and recover."""
    broker = LaggingBroker(delay=1.0, step=step)
    manager = manager_over(broker)
    async with hall(manager) as served:
        follower = Follower()
        guest = await served.enter(v1=True)
        await follower.join(guest.client)
        broker.losing = 1
        manager.broadcast_to_room("r", "lost")
        with trio.fail_after(2 * INTERVAL + 11):
            await guest.client.expect_close(4010)
        assert served.server.statistics().insufficient == 1
        again = await served.enter(v1=True)
        assert (await follower.join(again.client))["recovered"]
        assert follower.seen == ["lost"]
        assert await receive_all(again.client, 10 * INTERVAL) == []


async def test_who_has_it_stays(autojump_clock: MockClock) -> None:
    """Who joined behind what was lost, and rooms where nothing was lost, notice nothing."""
    broker = LaggingBroker(delay=1.0)
    manager = manager_over(broker)
    async with hall(manager) as served:
        early, late, elsewhere = [await served.enter(v1=True) for _ in range(3)]
        await early.conn.join("r")
        await elsewhere.conn.join("other")
        await publish(served, "other", 1)
        broker.losing = 1
        manager.broadcast_to_room("r", "lost")
        await trio.sleep(5)
        joined = await late.conn.join("r")
        assert joined.position is not None
        assert joined.position.offset == 1
        await early.client.expect_close(4010)
        assert await receive_all(late.client, 10 * INTERVAL) == []
        assert len(await receive_all(elsewhere.client, 1)) == 1
        assert served.server.statistics().insufficient == 1


async def test_who_joined_behind_it_stays_alone(autojump_clock: MockClock) -> None:
    """Also when nobody is left for whom it was lost."""
    broker = LaggingBroker(delay=1.0)
    manager = manager_over(broker)
    async with hall(manager) as served:
        early, late = await served.enter(v1=True), await served.enter(v1=True)
        await early.conn.join("r")
        broker.losing = 1
        manager.broadcast_to_room("r", "lost")
        await trio.sleep(5)
        await late.conn.join("r")
        early.conn.leave("r")
        assert await receive_all(late.client, 10 * INTERVAL) == []


async def test_what_is_under_way_is_no_loss(autojump_clock: MockClock) -> None:
    """A broker that is always behind by a little ends nobody."""
    broker = LaggingBroker(delay=3.0, bound=1000)
    manager = manager_over(broker)
    async with hall(manager) as served:
        guest = await served.enter(v1=True)
        await guest.conn.join("r")
        for one in range(200):
            manager.broadcast_to_room("r", one)
        got = await receive_all(guest.client, 60)
        assert [message["data"] for message in got] == list(range(200))


async def test_a_stream_that_begins_anew_is_found(autojump_clock: MockClock) -> None:
    """Though nothing is published in it."""
    broker = LaggingBroker(delay=1.0)
    manager = manager_over(broker)
    async with hall(manager) as served:
        guest = await served.enter(v1=True)
        await guest.conn.join("r")
        await publish(served, "r", 1)
        broker.store.forget("r")
        assert (await receive_all(guest.client, 2 * INTERVAL))[1:] == [4010]


async def test_what_was_lost_and_has_gone_is_found(autojump_clock: MockClock) -> None:
    """That it is not kept any more does not make it seen."""
    broker = LaggingBroker(delay=1.0)
    manager = manager_over(broker, history_ttl=5.0)
    async with hall(manager) as served:
        follower = Follower()
        guest = await served.enter(v1=True)
        await follower.join(guest.client)
        broker.losing = 1
        manager.broadcast_to_room("r", "lost")
        assert await receive_all(guest.client, 2 * INTERVAL) == [4010]
        again = await served.enter(v1=True)
        assert not (await follower.join(again.client))["recovered"]


async def test_it_can_be_switched_off(autojump_clock: MockClock) -> None:
    """With None nobody looks."""
    broker = LaggingBroker(delay=1.0)
    manager = manager_over(broker, interval=None)
    async with hall(manager) as served:
        guest = await served.enter(v1=True)
        await guest.conn.join("r")
        broker.losing = 1
        manager.broadcast_to_room("r", "lost")
        assert await receive_all(guest.client, 20 * INTERVAL) == []


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_broker_that_cannot_be_asked(hangs: bool, autojump_clock: MockClock) -> None:
    """It is reported, once a round; nobody is ended for it, and when it can be asked again, it is."""

    class Failing(LaggingBroker):
        failing = False

        async def history(
            self, room: str, *, keep: Keep, since: Position | None, limit: int | None, reverse: bool
        ) -> Slice:
            if self.failing and hangs:
                await trio.sleep_forever()
            if self.failing:
                raise OSError("no way")
            return await super().history(room, keep=keep, since=since, limit=limit, reverse=reverse)

    broker = Failing(delay=1.0)
    manager = manager_over(broker)
    log = record(manager)
    async with hall(manager) as served:
        guest = await served.enter(v1=True)
        for room in ("r", "a", "b"):
            await guest.conn.join(room)
        broker.losing = 1
        manager.broadcast_to_room("r", "lost")
        broker.failing = True
        assert await receive_all(guest.client, 4.5 * INTERVAL) == []
        errors = [entry[1] for entry in log if entry[0] == "error"]
        assert set(errors) == {"TooSlowError" if hangs else "OSError"}
        assert len(errors) == (2 if hangs else 4)
        broker.failing = False
        assert await receive_all(guest.client, 3 * INTERVAL) == [4010]


async def test_one_room_that_cannot_be_asked_about(autojump_clock: MockClock) -> None:
    """The rooms behind it are looked at."""

    class Failing(LaggingBroker):
        async def history(
            self, room: str, *, keep: Keep, since: Position | None, limit: int | None, reverse: bool
        ) -> Slice:
            if room == "a" and limit == 1:
                raise OSError("no way")
            return await super().history(room, keep=keep, since=since, limit=limit, reverse=reverse)

    broker = Failing(delay=1.0)
    manager = manager_over(broker)
    log = record(manager)
    async with hall(manager) as served:
        guest = await served.enter(v1=True)
        await guest.conn.join("a")
        await guest.conn.join("r")
        broker.losing = 1
        manager.broadcast_to_room("r", "lost")
        assert await receive_all(guest.client, 3 * INTERVAL) == [4010]
        assert [entry[1] for entry in log if entry[0] == "error"] == ["OSError"]


async def test_nobody_looks_where_nothing_can_be_lost(autojump_clock: MockClock) -> None:
    """The broker of one process is not asked."""
    reads: list[str] = []
    broker = MemoryBroker()
    read = broker.history

    async def history(room: str, **options: Any) -> Slice:
        reads.append(room)
        return await read(room, **options)

    broker.history = history  # type: ignore[method-assign]
    async with hall(manager_over(broker)) as served:
        guest = await served.enter(v1=True)
        await guest.conn.join("r")
        await trio.sleep(10 * INTERVAL)
        assert reads == ["r"]


# Who waits for what was lost


@pytest.mark.parametrize("history_size", [0, 10])
async def test_a_publisher_does_not_wait_for_ever(history_size: int, autojump_clock: MockClock) -> None:
    """A publication that was confirmed and not delivered for so long is told as not final: nobody knows of it here."""
    broker = LaggingBroker(delay=1.0)
    manager = manager_over(broker, history_size=history_size)
    async with hall(manager) as served:
        broker.losing = 1
        before = trio.current_time()
        report = await publish(served, "r", "lost")
        assert (report.final, report.enqueued, report.position is None) == (False, 0, not history_size)
        assert INTERVAL < trio.current_time() - before <= 2 * INTERVAL + 2


@pytest.mark.parametrize("confirm", ["before", "with", "after"])
async def test_a_publisher_hears_from_what_comes_behind(confirm: Any, autojump_clock: MockClock) -> None:
    """When what stands behind it is delivered, it is known at once that it will not be."""
    broker = LaggingBroker(delay=1.0, confirm=confirm)
    manager = manager_over(broker)
    async with hall(manager) as served, trio.open_nursery() as nursery:
        broker.losing = 1
        lost = attempt(nursery, publish, served, "r", "lost")
        await wait_all_tasks_blocked()
        second = attempt(nursery, publish, served, "r", "second")
        other = attempt(nursery, publish, served, "other", "other")
        with trio.fail_after(5):
            for outcome in (lost, second, other):
                await outcome.over.wait()
        assert (lost.result.final, lost.result.position.offset) == (False, 1)
        assert (second.result.final, second.result.position.offset) == (True, 2)
        assert other.result.final
        assert not served.server._node.carrier._awaited


async def test_a_confirmation_that_comes_last(autojump_clock: MockClock) -> None:
    """Also when its confirmation comes later than what stands behind it."""

    class Late:
        """Confirmed long after it was."""

        def __init__(self, submission: Submission) -> None:
            self._submission = submission
            self.confirmation: Confirmation | None = None

        async def wait(self) -> Confirmation:
            await trio.sleep(10)
            return await self._submission.wait()

    class Slow(LaggingBroker):
        def submit(self, publication: Publication) -> Any:
            submission = super().submit(publication)
            return Late(submission) if publication.data == b'"lost"' else submission

    broker = Slow(delay=1.0)
    manager = manager_over(broker)
    async with hall(manager) as served, trio.open_nursery() as nursery:
        broker.losing = 1
        lost = attempt(nursery, publish, served, "r", "lost")
        await wait_all_tasks_blocked()
        assert (await publish(served, "r", "second")).final
        with trio.fail_after(10):
            await lost.over.wait()
        assert (lost.result.final, lost.result.position.offset) == (False, 1)


async def test_a_task_that_follows_is_looked_after(autojump_clock: MockClock) -> None:
    """What was lost behind the last event of a subscription is found, too; one that has everything goes on."""
    broker = LaggingBroker(delay=1.0, step=3)
    manager = manager_over(broker)
    async with hall(manager), manager.subscribe("r") as lost, manager.subscribe("other") as whole:
        await manager.publish("other", 1)
        broker.losing = 1
        manager.broadcast_to_room("r", "lost")
        with trio.fail_after(2 * INTERVAL + 11), pytest.raises(SubscriptionLost):
            await anext(lost)
        assert (await anext(whole)).data == 1
        with trio.move_on_after(5 * INTERVAL) as scope:
            await anext(whole)
        assert scope.cancelled_caught
