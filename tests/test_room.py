"""Rooms as the program sees them: how long they live, kicks, closing, options by pattern."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from hall import Gate, attempt, hall, of, record, settle
from trio_rooms import (
    ActionError,
    AlreadyServing,
    Config,
    Connection,
    Limits,
    Manager,
    Room,
    RoomClosed,
    RoomOptions,
    UsageError,
)


def room_of(manager: Manager, name: str = "r") -> Room:
    room = manager.get_room(name)
    assert room is not None
    return room


def lifetimes(manager: Manager) -> list[tuple[str, Room]]:
    """What the room hooks are called with."""
    log: list[tuple[str, Room]] = []
    manager.on_room_open(lambda room: log.append(("open", room)))
    manager.on_room_close(lambda room: log.append(("close", room)))
    return log


def never_two_at_once(log: list[tuple[str, Room]]) -> bool:
    """Whether each room was closed before the next of the same name opened."""
    return all(
        event == ("open" if index % 2 == 0 else "close") and (index % 2 == 0 or room is log[index - 1][1])
        for index, (event, room) in enumerate(log)
    )


# How long a room lives


@pytest.mark.parametrize("hooks", [True, False], ids=["with hooks", "without"])
async def test_without_linger(hooks: bool, autojump_clock: MockClock) -> None:
    """A room ends with its last member; a later room of the name is another, with metadata of its own."""
    manager = Manager()
    log = lifetimes(manager) if hooks else []
    async with hall(manager) as served:
        a, b = (await served.enter()).conn, (await served.enter()).conn
        first = (await a.join("r")).room
        first.metadata["topic"] = "trio"
        assert (await b.join("r")).room is first
        a.leave("r")
        assert not first.closed
        b.leave("r")
        assert first.closed
        assert manager.get_room("r") is None
        second = (await a.join("r")).room
        assert second is not first
        assert second.metadata == {}
        assert "closed" in repr(first)
        assert repr(second) == "<Room 'r': 1 members>"
    assert len(log) == (4 if hooks else 0)
    assert never_two_at_once(log)


async def test_linger(autojump_clock: MockClock) -> None:
    """With linger a room, its metadata and its tasks wait that long for somebody to come back."""
    manager = Manager(config=Config(ping_interval=1e6))
    manager.room("r", linger=10.0)
    log = lifetimes(manager)
    async with hall(manager) as served:
        conn = (await served.enter()).conn
        room = (await conn.join("r")).room
        room.metadata["topic"] = "trio"
        conn.leave("r")
        await trio.sleep(9.9)
        assert (await conn.join("r")).room is room
        assert room.metadata == {"topic": "trio"}
        await trio.sleep(100)
        assert room_of(manager) is room
        conn.leave("r")
        await trio.sleep(9.9)
        assert room_of(manager) is room
        assert room.members == ()
        await trio.sleep(0.2)
        assert manager.get_room("r") is None
        assert room.closed
        await settle()
        assert log == [("open", room), ("close", room)]


@pytest.mark.parametrize("end", ["leave", "veto"])
async def test_linger_is_counted_from_the_last_one(end: str, autojump_clock: MockClock) -> None:
    """A visit during the linger time begins it anew, however short the visit was."""
    manager = Manager()
    manager.room("r", linger=10.0)
    vetoing = False

    @manager.on_join_room
    def veto(conn: Connection, room: Room) -> None:
        if vetoing:
            raise ActionError("NO")

    async with hall(manager) as served:
        conn = (await served.enter()).conn
        room = (await conn.join("r")).room
        conn.leave("r")
        await trio.sleep(6)
        vetoing = end == "veto"
        if vetoing:
            with pytest.raises(ActionError):
                await conn.join("r")
        else:
            await conn.join("r")
            conn.leave("r")
        await trio.sleep(9)
        assert room_of(manager) is room
        await trio.sleep(2)
        assert manager.get_room("r") is None


async def test_the_shortest_visit_begins_linger_anew(autojump_clock: MockClock) -> None:
    """A room's task may see nothing of a place that was taken and given up between two of its turns."""
    manager = Manager()
    manager.room("r*", linger=10.0)
    names = [f"r{number}" for number in range(30)]  # as the scheduler decides in each whether it sees the visit
    vetoing = False

    @manager.on_join_room
    def veto(conn: Connection, room: Room) -> None:
        if vetoing:
            raise ActionError("NO")

    async with hall(manager) as served:
        conn = (await served.enter()).conn
        for name in names:
            await conn.join(name)
            conn.leave(name)
        await trio.sleep(6)
        vetoing = True
        for name in names:
            with pytest.raises(ActionError):
                await conn.join(name)
        await trio.sleep(9)
        assert [room.name for room in manager.rooms()] == names
        await trio.sleep(2)
        assert manager.rooms() == []


async def test_closed_at_the_end_of_linger(autojump_clock: MockClock) -> None:
    """A room that is closed in the moment in which its linger time is over ends once."""
    manager = Manager()
    manager.room("r*", linger=10.0)
    log = lifetimes(manager)
    async with hall(manager) as served:
        conn = (await served.enter()).conn
        rooms = [(await conn.join(f"r{number}")).room for number in range(30)]
        for room in rooms:
            conn.leave(room.name)
        async with trio.open_nursery() as nursery:
            for room in rooms:
                nursery.start_soon(close_at, room, 10.0)
        await settle()
        assert manager.rooms() == []
        assert len(log) == 60


async def close_at(room: Room, time: float) -> None:
    await trio.sleep_until(time)
    room.close()


async def test_linger_ends_with_the_server(autojump_clock: MockClock) -> None:
    """A room that waits for somebody to come back does not hold the server."""
    manager = Manager()
    manager.room("r", linger=1e9)
    log = lifetimes(manager)
    async with hall(manager) as served:
        guest = await served.enter()
        await guest.conn.join("r")
        await guest.client.aclose()
        await guest.conn.wait_closed()
        assert room_of(manager).members == ()
        before = trio.current_time()
    assert trio.current_time() == before
    assert [event for event, _ in log] == ["open", "close"]


async def test_linger_races(autojump_clock: MockClock) -> None:
    """M4: last leaves, first joins around the end of linger, 200 schedules: one room at a time, tasks once."""
    for seed in range(200):
        await race(random.Random(seed), seed)


async def race(rng: random.Random, seed: int) -> None:
    manager = Manager()
    manager.room("r", linger=1.0)
    log = lifetimes(manager)
    running: list[Room] = []

    @manager.on_room_open
    async def start(room: Room) -> None:
        for _ in range(rng.randrange(3)):
            await trio.lowlevel.checkpoint()
        room.metadata["opened"] = room.metadata.get("opened", 0) + 1
        room.start_soon(tick, room)

    async def tick(room: Room) -> None:
        assert room not in running
        running.append(room)
        assert len(running) == 1
        try:
            await trio.sleep_forever()
        finally:
            running.remove(room)

    @manager.on_room_close
    async def close(room: Room) -> None:
        for _ in range(rng.randrange(3)):
            await trio.lowlevel.checkpoint()

    async with hall(manager) as served:
        conns = [(await served.enter()).conn for _ in range(3)]
        first = (await conns[0].join("r")).room

        async def come_and_go(conn: Connection) -> None:
            await trio.sleep_until(start_time + rng.choice([0.5, 1.0, 1.0, 1.0, 1.5]))
            for _ in range(3):
                for _ in range(rng.randrange(5)):
                    await trio.lowlevel.checkpoint()
                joined = await conn.join("r")
                assert joined.room is manager.get_room("r"), f"seed {seed}"
                assert joined.room.metadata["opened"] == 1, f"seed {seed}"
                for _ in range(rng.randrange(5)):
                    await trio.lowlevel.checkpoint()
                conn.leave("r")
                await trio.sleep(rng.choice([0, 0, 0.5, 1.0, 1.0, 2.0]))

        start_time = trio.current_time()
        conns[0].leave("r")
        async with trio.open_nursery() as nursery:
            for conn in conns:
                nursery.start_soon(come_and_go, conn)
        await trio.sleep(5)
        assert manager.get_room("r") is None, f"seed {seed}"
        assert not running, f"seed {seed}"
        assert first.closed
        assert never_two_at_once(log), f"seed {seed}"
        assert len(log) % 2 == 0


async def test_back_within_linger(autojump_clock: MockClock) -> None:
    """M4: who is back before the linger time is over is always in the same room."""
    manager = Manager(config=Config(ping_interval=1e6))
    manager.room("r", linger=1.0)
    rng = random.Random(4)
    starts: list[Room] = []
    manager.on_room_open(starts.append)
    async with hall(manager) as served:
        conns = [(await served.enter()).conn for _ in range(3)]
        room = (await conns[0].join("r")).room
        for _ in range(200):
            conns[0].leave("r")
            await trio.sleep(rng.choice([0.0, 0.5, 0.99]))
            for _ in range(rng.randrange(4)):
                await trio.lowlevel.checkpoint()
            rng.shuffle(conns)
            assert (await conns[0].join("r")).room is room
        assert starts == [room]


# Kick


async def test_kick(autojump_clock: MockClock) -> None:
    """A member that is kicked is told so if it speaks v1; its connection stays, and it may come back."""
    manager = Manager()
    log = record(manager)
    async with hall(manager) as served:
        plain, v1, other = await served.enter(), await served.enter(v1=True), await served.enter()
        for guest in (plain, v1, other):
            await guest.conn.join("r")
        room = room_of(manager)
        assert room.kick(plain.conn)
        assert room.kick(v1.conn, "RUDE", "mind your language")
        assert not room.kick(v1.conn)
        assert room.members == (other.conn,)
        assert await v1.client.receive_json() == {
            "action": "$closed",
            "data": {"room": "r", "code": "RUDE", "message": "mind your language"},
        }
        await plain.client.receive_nothing(1)
        await v1.client.receive_nothing(1)
        assert of(log, "leave") == [("r", "kicked")] * 2
        await v1.conn.join("r")
        assert room.kick(v1.conn)
        assert (await v1.client.receive_json())["data"] == {"room": "r", "code": "KICKED", "message": ""}


async def test_kick_who_is_not_there(autojump_clock: MockClock) -> None:
    """Kicking somebody who is neither in the room nor about to be changes nothing, also in a closed room."""
    manager = Manager()
    async with hall(manager) as served:
        guest, other = await served.enter(v1=True), await served.enter()
        await other.conn.join("r")
        room = room_of(manager)
        assert not room.kick(guest.conn)
        room.close()
        await guest.conn.join("r")
        assert not room.kick(guest.conn)
        assert list(guest.conn.rooms) == ["r"]
        await guest.client.receive_nothing(1)


async def test_kick_from_a_former_room_spares_the_new_join(autojump_clock: MockClock) -> None:
    """A closed room has no say over who joins the next one of its name."""
    manager = Manager()
    gate = Gate()

    async def authorize(conn: Connection, room: str, data: Any) -> bool:
        await gate()
        return True

    manager.room("r", authorize=authorize)
    async with hall(manager) as served:
        guest, other = await served.enter(), await served.enter()
        await other.conn.join("r")
        former = room_of(manager)
        former.close()
        await guest.client.send_action("$join", {"room": "r"})
        await gate.reached.wait()
        assert not former.kick(guest.conn)
        gate.open.set()
        await settle()
        assert list(guest.conn.rooms) == ["r"]


async def test_closed_is_dropped_where_it_does_not_fit(autojump_clock: MockClock) -> None:
    """Invariant 6: a $closed for which an outbox has no room is dropped and counted; the kick works all the same."""
    manager = Manager(config=Config(limits=Limits(outbox_messages=1)))
    async with hall(manager) as served:
        guest = await served.enter(v1=True)
        await guest.conn.join("r")
        room = room_of(manager)
        guest.conn.send_nowait("full")
        assert room.kick(guest.conn)
        assert guest.conn.statistics().dropped == 1
        assert await guest.client.receive_json() == {"data": "full"}
        await guest.client.receive_nothing(1)


# Close


async def test_close(autojump_clock: MockClock) -> None:
    """Closing a room removes its members, tells those with v1, and leaves all connections open."""
    manager = Manager()
    log = record(manager)
    async with hall(manager) as served:
        plain, v1 = await served.enter(), await served.enter(v1=True)
        for guest in (plain, v1):
            await guest.conn.join("r")
        room = room_of(manager)
        room.close("MAINTENANCE", "back soon")
        room.close("TWICE")
        assert room.closed
        assert room.members == ()
        assert manager.rooms() == []
        assert not plain.conn.rooms
        assert not v1.conn.rooms
        assert await v1.client.receive_json() == {
            "action": "$closed",
            "data": {"room": "r", "code": "MAINTENANCE", "message": "back soon"},
        }
        await plain.client.receive_nothing(1)
        await v1.client.receive_nothing(1)
        assert of(log, "leave") == [("r", "closed")] * 2
        await plain.conn.join("r")
        assert room_of(manager) is not room


async def test_close_says_closed(autojump_clock: MockClock) -> None:
    """The default code of a closed room is CLOSED."""
    manager = Manager()
    async with hall(manager) as served:
        guest = await served.enter(v1=True)
        await guest.conn.join("r")
        room_of(manager).close()
        assert (await guest.client.receive_json())["data"] == {"room": "r", "code": "CLOSED", "message": ""}


async def test_events_before_closed(autojump_clock: MockClock) -> None:
    """What was published before the room closed stands before $closed, and nothing of the room behind it."""
    manager = Manager()
    async with hall(manager) as served:
        guest = await served.enter(v1=True)
        await guest.conn.join("r")
        room = room_of(manager)
        room.publish_nowait(1)
        room.close()
        assert room.publish_nowait(2).enqueued == 0
        assert await guest.client.receive_json() == {"room": "r", "data": 1}
        assert (await guest.client.receive_json())["action"] == "$closed"
        await guest.client.receive_nothing(1)


async def test_a_new_room_waits_for_the_close_hooks(autojump_clock: MockClock) -> None:
    """A room of the name of one that is closing opens when the close hooks of that one have ended."""
    manager = Manager()
    log = lifetimes(manager)
    gate = Gate()
    manager.on_room_close(lambda room: gate())
    async with hall(manager) as served, trio.open_nursery() as nursery:
        conn = (await served.enter()).conn
        first = (await conn.join("r")).room
        conn.leave("r")
        join = attempt(nursery, conn.join, "r")
        await gate.reached.wait()
        await settle()
        assert [event for event, _ in log] == ["open", "close"]
        assert not conn.rooms
        gate.open.set()
        await join.over.wait()
        second = join.result.room
        assert second is not first
        assert log == [("open", first), ("close", first), ("open", second)]


async def test_a_chain_of_rooms_of_one_name(autojump_clock: MockClock) -> None:
    """Rooms that were closed before they opened neither open nor close, and those behind them wait for the first."""
    manager = Manager()
    log = lifetimes(manager)
    gate = Gate()
    manager.on_room_close(lambda room: gate())
    async with hall(manager) as served, trio.open_nursery() as nursery:
        conn = (await served.enter()).conn
        others = [(await served.enter()).conn for _ in range(3)]
        first = (await conn.join("r")).room
        first.close()
        outcomes = []
        for other in others:
            outcomes.append(attempt(nursery, other.join, "r"))
            await settle()
            room_of(manager).close()
        gate.open.set()
        for outcome in outcomes:
            await outcome.over.wait()
            assert isinstance(outcome.error, RoomClosed)
        last = (await conn.join("r")).room
        assert log == [("open", first), ("close", first), ("open", last)]


async def test_a_closing_room_without_hooks(autojump_clock: MockClock) -> None:
    """A room whose task has still to end makes the next of its name wait, without any hook registered."""
    manager = Manager()
    running: list[Room] = []

    async def task(room: Room) -> None:
        assert not running
        running.append(room)
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 2):
                await trio.sleep(1)
            running.remove(room)

    async with hall(manager) as served:
        conn = (await served.enter()).conn
        for number in range(3):
            room = (await conn.join("r")).room
            assert trio.current_time() == number
            room.start_soon(task, room)
            await settle()
            conn.leave("r")
            await settle()


# Options


async def test_first_pattern_wins(autojump_clock: MockClock) -> None:
    """A room has the options of the first registered pattern that matches, whole; else the defaults."""
    manager = Manager(config=Config(max_connections_per_room=3))
    manager.room("chat:vip", capacity=1)
    manager.room("chat:*", RoomOptions(capacity=2, linger=5.0, overflow="drop_oldest"))
    async with hall(manager) as served:
        conn = (await served.enter()).conn
        vip = (await conn.join("chat:vip")).room
        chat = (await conn.join("chat:1")).room
        other = (await conn.join("game:1")).room
        assert vip.options == RoomOptions(capacity=1)
        assert chat.options == RoomOptions(capacity=2, linger=5.0, overflow="drop_oldest")
        assert other.options == RoomOptions()


@pytest.mark.parametrize(
    "fields",
    [
        {"capacity": 0},
        {"capacity": -1},
        {"capacity": 1.5},
        {"capacity": True},
        {"overflow": "wait"},
        {"linger": -1},
        {"linger": "1"},
        {"authorize": "everybody"},
        {"history": 7},
    ],
    ids=repr,
)
def test_bad_options(fields: dict[str, Any]) -> None:
    """Options that can never work are refused in the line that sets them."""
    with pytest.raises(UsageError, match="r"):
        Manager().room("r", **fields)


async def test_setting_options_in_two_ways_or_too_late(autojump_clock: MockClock) -> None:
    """Options are given as an object or as fields, and before the manager is served."""
    manager = Manager()
    with pytest.raises(UsageError):
        manager.room("r", RoomOptions(), capacity=1)
    async with hall(manager):
        with pytest.raises(AlreadyServing):
            manager.room("r", capacity=1)
    manager.room("r", capacity=1)


async def test_contains(autojump_clock: MockClock) -> None:
    """A room contains its members and nothing else."""
    manager = Manager()
    async with hall(manager) as served:
        a, b = (await served.enter()).conn, (await served.enter()).conn
        room = (await a.join("r")).room
        assert a in room
        assert b not in room
        assert a.id not in room
        assert SimpleNamespace(id=a.id) not in room
        assert None not in room


async def test_nothing_is_left_for_the_next_run(autojump_clock: MockClock) -> None:
    """A manager that is served again finds no room of the run before."""
    manager = Manager()
    manager.room("*", linger=100.0)
    for _ in range(2):
        async with hall(manager) as served:
            assert manager.rooms() == []
            await (await served.enter()).conn.join("r")
            assert [room.name for room in manager.rooms()] == ["r"]
        assert manager.rooms() == []
        assert manager.get_room("r") is None
