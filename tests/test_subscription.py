"""Tasks of the program that follow a room: what they get, what happens when they are slow, and what is left."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import attrs
import msgspec
import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, assert_no_checkpoints

from hall import attempt, hall, record, settle
from trio_rooms import (
    BadRoom,
    Config,
    Connection,
    Limits,
    Manager,
    NotServing,
    Position,
    Report,
    RoomEvent,
    RoomNotFound,
    Subscription,
    SubscriptionLost,
    UsageError,
    serve_rooms,
)
from trio_rooms.testing import LaggingBroker, serve_in_memory

Confirm = Literal["before", "with", "after"]


async def take(events: Subscription, count: int) -> list[Any]:
    """The next events' data."""
    return [(await anext(events)).data for _ in range(count)]


async def nothing_more(events: Subscription) -> None:
    """Nothing comes for a while."""
    with trio.move_on_after(1):
        event = await anext(events)
        raise AssertionError(f"{event} came")


# What it gets


async def test_it_gets_what_members_get(autojump_clock: MockClock) -> None:
    """The same events in the same order, each as builtins or as a type, with the room's name."""
    manager = Manager()

    @attrs.frozen
    class Step:
        n: int

    async with hall(manager) as served, manager.subscribe("r") as events:
        guest = await served.enter()
        await guest.conn.join("r")
        manager.broadcast_to_room("r", {"n": 1})
        manager.broadcast_to_room("other", {"n": 2})
        await manager.publish("r", {"n": 3})
        event = await anext(events)
        assert event == RoomEvent("r", b'{"n":1}')
        assert event.data == {"n": 1}
        assert event.decode(Step) == Step(1)
        assert (event.room, event.position, event.offset) == ("r", None, None)
        with pytest.raises(msgspec.ValidationError):
            event.decode(list[int])
        assert await take(events, 1) == [{"n": 3}]
        assert events.room == "r"
        assert events.position is None
        assert events.recovered is None
        assert [await guest.client.receive_json() for _ in range(2)] == [{"n": 1}, {"n": 3}]


async def test_from_when_until_when(autojump_clock: MockClock) -> None:
    """It gets what is published within the block, and ends behind it."""
    manager = Manager()
    async with hall(manager):
        manager.broadcast_to_room("r", "before")
        async with manager.subscribe("r") as events:
            manager.broadcast_to_room("r", "within")
        manager.broadcast_to_room("r", "after")
        assert [event.data async for event in events] == ["within"]


async def test_of_several_rooms_and_to_all(autojump_clock: MockClock) -> None:
    """An event for several rooms comes once to a task that follows one of them; one for everybody does not come."""
    manager = Manager()
    async with hall(manager), manager.subscribe("b") as events, manager.subscribe("b") as others:
        manager.broadcast_to_rooms(["a", "b"], 1)
        manager.broadcast_to_all(2)
        manager.broadcast_to_room("b", 3)
        for one in (events, others):
            assert await take(one, 2) == [1, 3]
            await nothing_more(one)


async def test_it_is_no_member(autojump_clock: MockClock) -> None:
    """It opens no room, runs no hook, is in no count, takes no place, and no exclusion means it."""
    manager = Manager()
    manager.room("r", capacity=1)
    log = record(manager)
    manager.on_room_open(lambda room: log.append(("open", room.name, "")))
    async with hall(manager) as served, manager.subscribe("r") as events:
        await settle()
        assert manager.get_room("r") is None
        assert manager.broadcast_to_room("r", 1) == Report(True)
        guest = await served.enter()
        await guest.conn.join("r")
        room = manager.get_room("r")
        assert room is not None
        assert room.members == (guest.conn,)
        assert room.publish_nowait(2, exclude=[guest.conn]) == Report(True)
        guest.conn.leave("r")
        await settle()
        assert manager.get_room("r") is None
        assert await take(events, 2) == [1, 2]
        assert [entry[0] for entry in log] == ["connect", "open", "join", "leave"]


@pytest.mark.parametrize("confirm", ["before", "with", "after"])
async def test_the_broker_brings_the_room(confirm: Confirm, autojump_clock: MockClock) -> None:
    """The broker is subscribed as long as anybody wants the room: members, or tasks that follow it."""
    broker = LaggingBroker(delay=2.0, confirm=confirm)
    manager = Manager(broker=broker)
    async with hall(manager) as served:
        guest = await served.enter()
        start = trio.current_time()
        async with manager.subscribe("r") as events:
            assert trio.current_time() - start == 2.0
            assert broker.subscribed == {"r"}
            await guest.conn.join("r")
            async with manager.subscribe("r"):
                pass
            guest.conn.leave("r")
            assert broker.subscribed == {"r"}
            manager.broadcast_to_room("r", 1)
            assert await take(events, 1) == [1]
            await guest.conn.join("r")
        assert broker.subscribed == {"r"}
        guest.conn.leave("r")
        assert not broker.subscribed


async def test_cancelled_while_it_is_entered(autojump_clock: MockClock) -> None:
    """A cancel while the broker subscribes leaves nothing behind."""
    broker = LaggingBroker(delay=2.0)
    manager = Manager(broker=broker)
    async with hall(manager) as served:
        with trio.move_on_after(1) as scope:
            async with manager.subscribe("r"):
                raise AssertionError("entered")
        assert scope.cancelled_caught
        await trio.sleep(10)
        assert not broker.subscribed
        assert not served.server._node.subscriptions.rooms


async def test_an_exception_in_the_block(autojump_clock: MockClock) -> None:
    """What the block raises comes out as it is, and nothing is left."""
    broker = LaggingBroker()
    manager = Manager(broker=broker)
    async with hall(manager):
        with pytest.raises(KeyError):
            async with manager.subscribe("r"):
                raise KeyError
        assert not broker.subscribed


async def test_checkpoints(autojump_clock: MockClock) -> None:
    """Entering and each event are checkpoints, leaving is none; a cancel loses no event."""
    manager = Manager()
    async with hall(manager):
        manager_context = manager.subscribe("r")
        with assert_checkpoints():
            events = await manager_context.__aenter__()
        manager.broadcast_to_room("r", 1)
        with trio.CancelScope() as scope:
            scope.cancel()
            await anext(events)
        with assert_checkpoints():
            assert (await anext(events)).data == 1
        with trio.move_on_after(1):
            await anext(events)
        manager.broadcast_to_room("r", 2)
        assert await take(events, 1) == [2]
        with assert_no_checkpoints():
            await manager_context.__aexit__(None, None, None)


async def test_several_tasks_iterate(autojump_clock: MockClock) -> None:
    """Each event goes to one of the tasks that iterate."""
    manager = Manager()
    got: list[Any] = []

    async def follow(events: Subscription) -> None:
        async for event in events:
            got.append(event.data)
            await trio.sleep(1)

    async with hall(manager), manager.subscribe("r") as events, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(follow, events)
        await settle()
        for number in range(7):
            manager.broadcast_to_room("r", number)
        await trio.sleep(10)
        assert sorted(got) == list(range(7))
        nursery.cancel_scope.cancel()


async def test_within_a_handler(autojump_clock: MockClock) -> None:
    """A handler may follow a room, and hears what another one publishes."""
    manager = Manager()

    @manager.on("next", concurrent=True)
    async def next_event(conn: Connection) -> Any:
        async with manager.subscribe("r") as events:
            return (await anext(events)).data

    @manager.on("say")
    def say(conn: Connection, text: str) -> None:
        manager.broadcast_to_room("r", text)

    async with hall(manager) as served:
        guest, other = await served.enter(), await served.enter()
        await guest.client.send_action("next", id=1)
        await settle()
        await other.client.request("say", "hi")
        assert await guest.client.receive_json() == {"id": 1, "data": "hi"}


# A task that is slow


@pytest.mark.parametrize(
    ("overflow", "got", "counts"),
    [("drop_newest", [0, 1, 2], (7, 0)), ("drop_oldest", [7, 8, 9], (0, 7)), ("conflate", [7, 8, 9], (0, 7))],
)
async def test_policies_that_drop(
    overflow: Any, got: list[int], counts: tuple[int, int], autojump_clock: MockClock
) -> None:
    """At the bound the policy decides what is lost, which is counted; publishers and members notice nothing."""
    manager = Manager()
    async with hall(manager) as served:
        guest = await served.enter()
        await guest.conn.join("r")
        async with manager.subscribe("r", overflow=overflow, max_messages=3) as events:
            for number in range(10):
                assert manager.broadcast_to_room("r", number) == Report(True, 1)
            assert await take(events, 3) == got
            assert (events.dropped, events.displaced) == counts
            assert served.server.statistics().limited == {"subscription_messages": 7}
            manager.broadcast_to_room("r", "then")
            assert await take(events, 1) == ["then"]
        assert [await guest.client.receive_json() for _ in range(10)] == list(range(10))


async def test_conflate_by_key(autojump_clock: MockClock) -> None:
    """A newer event takes the place of an unread one with the same key, and stands at the end."""
    manager = Manager()
    async with hall(manager) as served, manager.subscribe("r", overflow="conflate", max_messages=3) as events:
        for number in range(9):
            manager.broadcast_to_room("r", number, key="abc"[number % 3])
        manager.broadcast_to_room("r", 9, key="b")
        assert await take(events, 3) == [6, 8, 9]
        assert (events.dropped, events.displaced) == (0, 7)
        assert served.server.statistics().limited == {}
        for number in range(3):
            manager.broadcast_to_room("r", number)
        manager.broadcast_to_room("r", "keyed", key="a")
        assert await take(events, 3) == [1, 2, "keyed"]


async def test_keys_mean_nothing_elsewhere(autojump_clock: MockClock) -> None:
    """With another policy, events with the same key all come."""
    manager = Manager()
    async with hall(manager), manager.subscribe("r", overflow="drop_oldest") as events:
        for number in range(3):
            manager.broadcast_to_room("r", number, key="k")
        assert await take(events, 3) == [0, 1, 2]


async def test_close_is_the_default(autojump_clock: MockClock) -> None:
    """By default what stands before the loss is given, then the iteration fails, and goes on failing."""
    manager = Manager()
    async with hall(manager) as served, manager.subscribe("r", max_messages=3) as events:
        for number in range(5):
            manager.broadcast_to_room("r", number)
        assert await take(events, 3) == [0, 1, 2]
        with pytest.raises(SubscriptionLost, match="too slow"):
            await anext(events)
        manager.broadcast_to_room("r", "after")
        with pytest.raises(SubscriptionLost):
            await anext(events)
        assert served.server.statistics().limited == {"subscription_messages": 1}


async def test_who_waits_is_told_of_the_loss(autojump_clock: MockClock) -> None:
    """An event that could never be held ends a task that waits, too."""
    manager = Manager(config=Config(limits=Limits(subscription_bytes=100)))
    async with hall(manager), trio.open_nursery() as nursery, manager.subscribe("r") as events:
        waiting = attempt(nursery, partial(anext, events))
        await settle()
        manager.broadcast_to_room("r", "x" * 100)
        await waiting.over.wait()
        assert isinstance(waiting.error, SubscriptionLost)


@pytest.mark.parametrize(
    ("overflow", "got", "counts"),
    [("drop_newest", "012", (2, 0)), ("drop_oldest", "", (1, 4)), ("conflate", "", (1, 4))],
)
async def test_bound_in_bytes(overflow: Any, got: str, counts: tuple[int, int], autojump_clock: MockClock) -> None:
    """Each event is charged its JSON and 64 bytes more; one that is larger than all of it is dropped in any case."""
    cost = 10 + 64
    manager = Manager(config=Config(limits=Limits(subscription_bytes=3 * cost)))
    async with hall(manager) as served, manager.subscribe("r", overflow=overflow) as events:
        for number in "0123":
            manager.broadcast_to_room("r", number * 8)
        assert served.server.statistics().limited == {"subscription_bytes": 1}
        manager.broadcast_to_room("r", "x" * 1000)
        assert (events.dropped, events.displaced) == counts
        assert await take(events, len(got)) == [number * 8 for number in got]
        manager.broadcast_to_room("r", "then")
        assert await take(events, 1) == ["then"]


async def test_bound_of_the_limits(autojump_clock: MockClock) -> None:
    """Without a number of its own, ``limits.subscription_messages`` bounds it."""
    manager = Manager(config=Config(limits=Limits(subscription_messages=2)))
    async with hall(manager), manager.subscribe("r", overflow="drop_newest") as events:
        for number in range(4):
            manager.broadcast_to_room("r", number)
        assert await take(events, 2) == [0, 1]
        assert events.dropped == 2


# The end, and wrong calls


async def test_the_server_ends(autojump_clock: MockClock) -> None:
    """What is queued is still given, then the iteration ends; leaving the block then touches no other server."""
    broker = LaggingBroker()
    manager = Manager(broker=broker)
    async with serve_in_memory(manager):
        context = manager.subscribe("r")
        events = await context.__aenter__()
        await manager.publish("r", 1)
    async with hall(manager) as served:
        assert [event.data async for event in events] == [1]
        with pytest.raises(StopAsyncIteration):
            await anext(events)
        guest = await served.enter()
        await guest.conn.join("r")
        await context.__aexit__(None, None, None)
        assert broker.subscribed == {"r"}


async def test_the_server_ends_while_a_task_waits(autojump_clock: MockClock) -> None:
    """A task that waits goes on behind its loop."""
    manager = Manager()
    over = trio.Event()

    async def follow(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with manager.subscribe("r") as events:
            task_status.started()
            async for _ in events:
                pass
        over.set()

    async with trio.open_nursery() as nursery:
        async with serve_rooms(manager, listeners=[]) as server:
            await nursery.start(follow)
            await settle()
            assert not over.is_set()
        await over.wait()
    server.assert_quiescent()


async def test_the_server_ends_while_it_is_entered(autojump_clock: MockClock) -> None:
    """Whoever is about to follow a room is told that nothing is served."""
    manager = Manager(broker=LaggingBroker(delay=5.0))
    async with trio.open_nursery() as nursery:
        async with serve_rooms(manager, listeners=[]):
            entering = attempt(nursery, manager.subscribe("r").__aenter__)
            await settle()
        await entering.over.wait()
    assert isinstance(entering.error, NotServing)


async def test_wrong_calls(autojump_clock: MockClock) -> None:
    """Without a server, with a name that no room can have, a policy that there is not, or no room for anything."""
    manager = Manager(config=Config(rooms="declared"))
    manager.room("r")
    with pytest.raises(NotServing):
        manager.subscribe("r")
    async with hall(manager):
        wrong: list[tuple[type[Exception], Any]] = [
            (BadRoom, manager.subscribe("$r")),
            (RoomNotFound, manager.subscribe("other")),
            (UsageError, manager.subscribe("r", overflow="wait")),  # type: ignore[arg-type]
            (UsageError, manager.subscribe("r", max_messages=0)),
        ]
        for error, context in wrong:
            with pytest.raises(error):
                await context.__aenter__()


async def test_repr(autojump_clock: MockClock) -> None:
    """It says what it follows, and how much waits."""
    manager = Manager()
    async with hall(manager), manager.subscribe("r") as events:
        manager.broadcast_to_room("r", 1)
        assert repr(events) == "<Subscription 'r': 1 waiting>"


# A room with history


def with_history(broker: Any = None, *, limits: Limits | None = None, **options: Any) -> Manager:
    manager = Manager(broker=broker, config=Config(limits=limits or Limits(), position_check_interval=30.0))
    manager.room("r", history_size=options.pop("history_size", 5), **options)
    return manager


BROKERS = [pytest.param(lambda: None, id="memory"), pytest.param(LaggingBroker, id="lagging")]


@pytest.mark.parametrize("broker", BROKERS)
async def test_since(broker: Any, autojump_clock: MockClock) -> None:
    """It gets exactly what it has missed, then what is live, each once and with its offset."""
    manager = with_history(broker())
    async with hall(manager):
        async with manager.subscribe("r") as events:
            start = events.position
            assert start is not None
            assert events.recovered is None
            for number in range(3):
                await manager.publish("r", number)
            assert await take(events, 1) == [0]
            position = events.position
        assert position is not None
        assert position.offset > start.offset
        async with manager.subscribe("r", since=position) as events:
            assert events.recovered is True
            assert events.position == position
            await manager.publish("r", 3)
            got = [await anext(events) for _ in range(3)]
            assert [event.data for event in got] == [1, 2, 3]
            offsets = [event.offset for event in got]
            assert offsets == sorted(set(offsets))
            assert events.position == got[-1].position
            await nothing_more(events)
        async with manager.subscribe("r", since=events.position) as events:
            assert events.recovered is True
            await nothing_more(events)


@pytest.mark.parametrize("broker", BROKERS)
async def test_not_recovered(broker: Any, autojump_clock: MockClock) -> None:
    """Where something is missing nothing of it is given: too old, another epoch, too much, or no history at all."""
    manager = with_history(broker(), limits=Limits(max_recovery=3))
    async with hall(manager) as served:
        async with manager.subscribe("r") as events:
            old = events.position
        assert old is not None
        first = (await manager.publish("r", 0)).position
        for number in range(1, 6):
            position = (await manager.publish("r", number)).position
        assert position is not None
        for since in (old, first, Position(position.offset, "another"), Position(position.offset + 9, position.epoch)):
            async with manager.subscribe("r", since=since) as events:
                assert events.recovered is False
                assert events.position == position
                await manager.publish("r", "live", skip_history=True)
                assert await take(events, 1) == ["live"]
                assert events.position == position
        assert served.server.statistics().limited == {"max_recovery": 1}
        async with manager.subscribe("plain", since=old) as events:
            assert events.recovered is False
            assert events.position is None


@pytest.mark.parametrize("confirm", ["before", "with", "after"])
async def test_no_gap_while_it_catches_up(confirm: Confirm, autojump_clock: MockClock) -> None:
    """What is published while the history is read comes once, whether the history was ahead of it or behind."""
    manager = with_history(LaggingBroker(delay=1.0, confirm=confirm), history_size=100)
    got: list[int] = []

    async def publish() -> None:
        for number in range(60):
            manager.broadcast_to_room("r", number)
            await trio.sleep(0.7)

    async with hall(manager), trio.open_nursery() as nursery:
        async with manager.subscribe("r") as events:
            since = events.position
        nursery.start_soon(publish)
        while len(got) < 60:
            async with manager.subscribe("r", since=since) as events:
                assert events.recovered is True
                with trio.move_on_after(3.3):
                    while True:
                        got += await take(events, 1)
                since = events.position
        assert got == list(range(60))


async def test_too_slow_and_back_again(autojump_clock: MockClock) -> None:
    """Who was too slow subscribes again where it has come to, and has missed nothing."""
    manager = with_history(history_size=100)
    got: list[int] = []
    async with hall(manager):
        async with manager.subscribe("r") as events:
            since = events.position
        for number in range(20):
            manager.broadcast_to_room("r", number)
        losses = 0
        while len(got) < 40:
            try:
                async with manager.subscribe("r", since=since, max_messages=3) as events:
                    assert events.recovered is True
                    if len(got) == 0:
                        for number in range(20, 40):
                            manager.broadcast_to_room("r", number)
                    async for event in events:
                        got.append(event.data)
                        if len(got) == 40:
                            break
            except SubscriptionLost:
                losses += 1
            since = events.position
        assert losses == 1
        assert got == list(range(40))


@pytest.mark.parametrize("broker", BROKERS)
async def test_a_new_epoch(broker: Any, autojump_clock: MockClock) -> None:
    """A stream that begins anew ends the iteration, behind what was before."""
    manager = with_history(broker())
    async with hall(manager), manager.subscribe("r") as events:
        await manager.publish("r", 1)
        node_broker: Any = manager._broker
        (node_broker.store if isinstance(node_broker, LaggingBroker) else node_broker).forget("r")
        await manager.publish("r", 2)
        assert await take(events, 1) == [1]
        with pytest.raises(SubscriptionLost, match="anew"):
            await anext(events)
        async with manager.subscribe("r", since=events.position) as again:
            assert again.recovered is False


async def test_what_the_broker_has_lost(autojump_clock: MockClock) -> None:
    """A lag behind the broker that does not close ends the iteration, though nothing more is published."""
    broker = LaggingBroker()
    manager = with_history(broker)
    async with hall(manager), manager.subscribe("r") as events:
        await manager.publish("r", 1)
        assert await take(events, 1) == [1]
        await trio.sleep(100)
        await nothing_more(events)
        broker.losing = 1
        manager.broadcast_to_room("r", 2)
        with trio.fail_after(100), pytest.raises(SubscriptionLost, match="hole"):
            await anext(events)
        async with manager.subscribe("r", since=events.position) as again:
            assert again.recovered is True
            assert await take(again, 1) == [2]


async def test_what_comes_twice(autojump_clock: MockClock) -> None:
    """A publication that the broker delivers again is passed over."""
    manager = with_history()
    async with hall(manager) as served, manager.subscribe("r") as events:
        node = served.server._node
        publication = node.publications.make(("r",), 1)
        position = (await node.carrier.publish(publication, "queued")).position
        node.deliver(publication, position)
        await manager.publish("r", 2)
        assert await take(events, 2) == [1, 2]
        await nothing_more(events)


async def test_cache(autojump_clock: MockClock) -> None:
    """Where the room's recovery is the latest event, that is what comes first; nothing if it is known or none is."""
    manager = with_history(recovery="cache")
    async with hall(manager):
        async with manager.subscribe("r") as events:
            await nothing_more(events)
            assert events.position is not None
        for number in range(3):
            await manager.publish("r", number)
        async with manager.subscribe("r") as events:
            assert events.recovered is None
            assert events.position is None
            assert await take(events, 1) == [2]
            position = events.position
        async with manager.subscribe("r", since=position) as events:
            assert events.recovered is True
            await nothing_more(events)
            await manager.publish("r", 3)
            await manager.publish("r", 4)
        async with manager.subscribe("r", since=position) as events:
            assert events.recovered is True
            assert await take(events, 1) == [4]


async def test_a_history_that_cannot_be_read(autojump_clock: MockClock) -> None:
    """What the broker raises comes out where the block is entered, and nothing is left."""

    class Broken(LaggingBroker):
        async def history(self, *args: object, **options: object) -> Any:
            await trio.lowlevel.checkpoint()
            raise OSError("the disk is gone")

    broker = Broken()
    manager = with_history(broker)
    async with hall(manager):
        with pytest.raises(OSError, match="disk"):
            await manager.subscribe("r").__aenter__()
        assert not broker.subscribed
