"""Publishing with a key: once, however often it is repeated."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from hall import attempt, hall
from histories import CONFIRM, Confirm, history_manager
from messages import receive_all
from trio_rooms import Manager, UsageError
from trio_rooms.brokers import MemoryBroker
from trio_rooms.testing import LaggingBroker


def open_manager(broker: Any = None, *, size: int) -> Manager:
    return history_manager(broker, size=size) if size else Manager(broker=broker)


@pytest.mark.parametrize("size", [0, 10])
@pytest.mark.parametrize("first_waits", [False, True])
@pytest.mark.parametrize("repeat_waits", [False, True])
async def test_a_repeat_gets_the_first_report(
    size: int, first_waits: bool, repeat_waits: bool, autojump_clock: MockClock
) -> None:
    """Whichever verb publishes and whichever repeats: delivered once, and the repeat hears what the first did."""
    manager = open_manager(size=size)
    async with hall(manager) as served:
        guests = [await served.enter() for _ in range(3)]
        for guest in guests:
            room = (await guest.conn.join("r")).room

        async def publish(event: object, *, waits: bool) -> Any:
            if waits:
                return await room.publish(event, idempotency_key="k")
            return room.publish_nowait(event, idempotency_key="k")

        first = await publish(1, waits=first_waits)
        assert (first.final, first.enqueued, first.duplicate) == (True, 3, False)
        assert (first.position is not None) == bool(size)
        await guests[0].conn.write_json(0)
        guests[0].conn.leave("r")
        repeat = await publish(2, waits=repeat_waits)
        assert (repeat.final, repeat.enqueued, repeat.duplicate) == (True, 3, True)
        assert repeat.position == first.position
        assert manager.broadcast_to_room("r", 2, idempotency_key="k") == repeat
        assert await manager.publish("r", 2, idempotency_key="k") == repeat
        assert await receive_all(guests[1].client) == [1]


@pytest.mark.parametrize("confirm", CONFIRM)
@pytest.mark.parametrize("size", [0, 10])
async def test_a_repeat_while_the_first_is_under_way(confirm: Confirm, size: int, autojump_clock: MockClock) -> None:
    """Who was cancelled does not know the outcome, and may repeat with the key: it is published once."""
    manager = open_manager(LaggingBroker(delay=1.0, confirm=confirm), size=size)
    async with hall(manager) as served, trio.open_nursery() as nursery:
        guest = await served.enter()
        room = (await guest.conn.join("r")).room
        for patience in (0.1, 0.7, 1.2):
            with trio.move_on_after(patience):
                await room.publish(patience, idempotency_key="k")
        repeats = [attempt(nursery, lambda: room.publish("again", idempotency_key="k")) for _ in range(3)]
        for repeat in repeats:
            await repeat.over.wait()
            assert (repeat.result.final, repeat.result.enqueued, repeat.result.duplicate) == (True, 1, True)
        assert await receive_all(guest.client, 10) == [0.1]
        assert not served.server._node.carrier._awaited


async def test_per_room(autojump_clock: MockClock) -> None:
    """A key is the room's; what is published to several rooms or to all has none."""
    manager = open_manager(size=0)
    async with hall(manager) as served:
        guest = await served.enter()
        for room in ("a", "b"):
            await guest.conn.join(room)
            assert not manager.broadcast_to_room(room, room, idempotency_key="k").duplicate
            assert manager.broadcast_to_room(room, room, idempotency_key="k").duplicate
        assert await receive_all(guest.client) == ["a", "b"]


async def test_for_five_minutes(autojump_clock: MockClock) -> None:
    """A key is remembered for 300 seconds from its first use."""
    manager = open_manager(size=0)
    async with hall(manager):
        assert not manager.broadcast_to_room("r", 1, idempotency_key="k").duplicate
        await trio.sleep(299.9)
        assert manager.broadcast_to_room("r", 1, idempotency_key="k").duplicate
        await trio.sleep(0.1)
        assert not manager.broadcast_to_room("r", 1, idempotency_key="k").duplicate


@pytest.mark.parametrize("key", ["", "x" * 129, 5, b"k"])
async def test_what_is_no_key(key: Any, autojump_clock: MockClock) -> None:
    """A key is a text of 1 to 128 characters."""
    manager = open_manager(size=0)
    async with hall(manager):
        with pytest.raises(UsageError):
            manager.broadcast_to_room("r", 1, idempotency_key=key)
        manager.broadcast_to_room("r", 1, idempotency_key="x" * 128)


async def test_a_flood_of_keys(autojump_clock: MockClock) -> None:
    """Must hold 5: what is remembered is bounded; beyond it the oldest is forgotten, and published again."""
    broker = MemoryBroker(max_results=100)
    manager = open_manager(broker, size=0)
    async with hall(manager) as served:
        for number in range(12_000):
            manager.broadcast_to_room("r", number, idempotency_key=str(number))
            assert broker.statistics().results <= 100
        assert broker.statistics().results_forgotten == 11_900
        assert len(served.server._node.carrier._reports) <= 10_000
        assert manager.broadcast_to_room("r", 1, idempotency_key="11999").duplicate
        assert not manager.broadcast_to_room("r", 1, idempotency_key="5").duplicate
        await trio.sleep(301)
        assert broker.statistics().results == 0


async def test_a_repeat_whose_report_is_forgotten(autojump_clock: MockClock) -> None:
    """Then only its position is known, from the broker."""
    manager = open_manager(size=10)
    async with hall(manager) as served:
        first = manager.broadcast_to_room("r", 1, idempotency_key="k")
        served.server._node.carrier._reports.clear()
        repeat = manager.broadcast_to_room("r", 1, idempotency_key="k")
        assert (repeat.final, repeat.duplicate, repeat.position) == (False, True, first.position)


async def test_keys_end_with_serve(autojump_clock: MockClock) -> None:
    """Between two serves nothing is remembered."""
    manager = open_manager(size=0)
    for _ in range(2):
        async with hall(manager):
            assert not manager.broadcast_to_room("r", 1, idempotency_key="k").duplicate
            await wait_all_tasks_blocked()
