"""Joins and leaves: every phase of a join against everything that can happen to it, and every way to leave."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, assert_checkpoints

from hall import Gate, Guest, Hall, attempt, hall, of, pause, record, settle
from trio_rooms import (
    ActionError,
    BadRoom,
    Config,
    Connection,
    ConnectionGone,
    InternalError,
    Joined,
    JoinError,
    Limits,
    Manager,
    Room,
    RoomClosed,
    RoomFailed,
    RoomFull,
    RoomNotFound,
    TooManyRooms,
)
from trio_rooms.brokers import MemoryBroker
from trio_rooms.testing import LaggingBroker, ReplyError

LONG = 1e6


class GatedBroker(MemoryBroker):
    """The broker of one process, but its subscriptions wait where a test says so, and are written down."""

    def __init__(self) -> None:
        super().__init__()
        self.before_subscribing: Callable[[str], Awaitable[None]] | None = None
        self.asked: list[str] = []
        self.subscribed: set[str] = set()

    async def subscribe(self, room: str) -> None:
        self.asked.append(room)
        await super().subscribe(room)
        if self.before_subscribing is not None:
            await self.before_subscribing(room)
        self.subscribed.add(room)

    def unsubscribe(self, room: str) -> None:
        self.subscribed.discard(room)


async def allow(conn: Connection, room: str, data: Any) -> bool:
    await trio.lowlevel.checkpoint()
    return True


# The simple cases


async def test_join_and_leave(autojump_clock: MockClock) -> None:
    """A join makes the connection a member, a leave ends that; hooks run once for each, indexes agree."""
    manager = Manager()
    log = record(manager)
    async with hall(manager) as served:
        conn = (await served.enter()).conn
        with assert_checkpoints():
            joined = await conn.join("r")
        room = manager.get_room("r")
        assert room is not None
        assert joined == Joined(room, new=True)
        assert room.members == (conn,)
        assert conn in room
        assert dict(conn.rooms) == {"r": room}
        assert conn.is_subscribed("r")
        assert conn.get_subscriptions() == ["r"]
        assert manager.rooms() == [room]
        assert served.server.statistics().rooms == 1
        assert conn.leave("r")
        assert not conn.leave("r")
        assert conn not in room
        assert manager.rooms() == []
        assert not conn.rooms
        await settle()
        assert of(log, "join") == [("r",)]
        assert of(log, "leave") == [("r", "left")]


async def test_the_managers_verbs(autojump_clock: MockClock) -> None:
    """join_room and leave_room of the manager are the connection's own."""
    manager = Manager()
    async with hall(manager) as served:
        conn = (await served.enter()).conn
        assert (await manager.join_room(conn, "r")).new
        assert not (await manager.join_room(conn, "r")).new
        assert manager.leave_room(conn, "r")
        assert not manager.leave_room(conn, "r")


async def test_rooms_are_in_the_order_of_joining(autojump_clock: MockClock) -> None:
    """conn.rooms and room.members keep the order of the joins, and rejoining goes to the end."""
    manager = Manager()
    async with hall(manager) as served:
        a, b = (await served.enter()).conn, (await served.enter()).conn
        for conn in (a, b):
            for name in ("z", "a", "m"):
                await conn.join(name)
        a.leave("z")
        await a.join("z")
        assert list(a.rooms) == ["a", "m", "z"]
        room = manager.get_room("z")
        assert room is not None
        assert room.members == (b, a)
        with pytest.raises(TypeError):
            a.rooms["x"] = room  # type: ignore[index]


async def test_joining_a_joined_room(autojump_clock: MockClock) -> None:
    """Joining a room that one is in changes nothing, runs no hook, asks nobody, and is a checkpoint."""
    manager = Manager()
    asked: list[str] = []

    async def authorize(conn: Connection, room: str, data: Any) -> bool:
        asked.append(room)
        return await allow(conn, room, data)

    manager.room("r", authorize=authorize, capacity=1)
    log = record(manager)
    async with hall(manager) as served:
        guest = await served.enter()
        first = await guest.conn.join("r")
        with assert_checkpoints():
            again = await guest.conn.join("r")
        assert again.room is first.room
        assert not again.new
        assert await guest.client.request("$join", {"room": "r"}) == {"room": "r"}
        assert len(of(log, "join")) == 1
        assert not asked
        assert guest.conn.leave("r")
        assert not guest.conn.rooms


async def test_concurrent_joins_of_one_room(autojump_clock: MockClock) -> None:
    """Of two joins of one room by one connection the first joins, and the second waits and finds it joined."""
    manager = Manager()
    log = record(manager)
    gate = Gate()
    manager.on_join_room(lambda conn, room: gate())
    async with hall(manager) as served, trio.open_nursery() as nursery:
        conn = (await served.enter()).conn
        outcomes = [attempt(nursery, conn.join, "r") for _ in range(5)]
        await gate.reached.wait()
        gate.open.set()
        for outcome in outcomes:
            await outcome.over.wait()
        assert sorted(outcome.result.new for outcome in outcomes) == [False] * 4 + [True]
        assert len(of(log, "join")) == 1


async def test_the_second_tries_where_the_first_failed(autojump_clock: MockClock) -> None:
    """A join that waited for one that fails does not inherit the failure."""
    manager = Manager()
    log = record(manager)

    @manager.on_join_room
    async def veto_once(conn: Connection, room: Room) -> None:
        await trio.sleep(1)
        if len(of(log, "join")) == 1:
            raise ActionError("NOT_YET")

    async with hall(manager) as served, trio.open_nursery() as nursery:
        conn = (await served.enter()).conn
        outcomes = [attempt(nursery, conn.join, "r") for _ in range(2)]
        for outcome in outcomes:
            await outcome.over.wait()
        (failed,) = [outcome.error for outcome in outcomes if outcome.error is not None]
        assert isinstance(failed, ActionError)
        assert failed.code == "NOT_YET"
        assert list(conn.rooms) == ["r"]
        await settle()
        assert of(log, "leave") == [("r", "vetoed")]


# Names and limits, before any room exists


BAD_NAMES = ["", "x" * 256, "$room", "a b", "a*", "a..b", "a\nb", "a\u2028b", "a\u202eb"]


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
async def test_bad_names(name: str, autojump_clock: MockClock) -> None:
    """M5: a name that is not allowed is refused before any room exists, and nothing is asked or logged for it."""
    asked: list[str] = []

    async def authorize(conn: Connection, room: str, data: Any) -> bool:
        asked.append(room)
        return await allow(conn, room, data)

    manager = Manager()
    manager.room("*", authorize=authorize)
    log = record(manager)
    async with hall(manager) as served:
        guest = await served.enter()
        with pytest.raises(BadRoom):
            await guest.conn.join(name)
        with pytest.raises(ReplyError) as caught:
            await guest.client.request("$join", {"room": name})
        assert caught.value.code == "BAD_ROOM"
        assert "\n" not in caught.value.message
        assert not asked
        assert manager.rooms() == []
        assert not of(log, "join")
        assert not of(log, "error")


async def test_odd_names_in_the_log(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """M5: whatever a room is called, a failure in it makes log messages of one line."""
    manager = Manager()

    @manager.on_room_open
    def fail(room: Room) -> None:
        raise ValueError("no")

    async with hall(manager) as served:
        with pytest.raises(RoomFailed):
            await (await served.enter()).conn.join("a'\"{}%s部屋")
    assert caplog.records
    assert all(len(record.getMessage().splitlines()) == 1 for record in caplog.records)


async def test_max_room_name_bytes(autojump_clock: MockClock) -> None:
    """limits.max_room_name_bytes counts bytes."""
    manager = Manager(config=Config(limits=Limits(max_room_name_bytes=4)))
    async with hall(manager) as served:
        conn = (await served.enter()).conn
        await conn.join("éé")
        with pytest.raises(BadRoom):
            await conn.join("ééa")


async def test_declared_rooms(autojump_clock: MockClock) -> None:
    """With rooms="declared" only names that match a pattern are rooms."""
    manager = Manager(config=Config(rooms="declared"))
    manager.room("chat:*", authorize=allow)
    async with hall(manager) as served:
        guest = await served.enter()
        await guest.conn.join("chat:1")
        with pytest.raises(RoomNotFound):
            await guest.conn.join("game:1")
        with pytest.raises(ReplyError) as caught:
            await guest.client.request("$join", {"room": "game:1"})
        assert caught.value.code == "ROOM_NOT_FOUND"
        assert [room.name for room in manager.rooms()] == ["chat:1"]


async def test_max_rooms_per_connection(autojump_clock: MockClock) -> None:
    """limits.max_rooms_per_connection counts rooms joined and rooms being joined; leaving makes room."""
    manager = Manager(config=Config(limits=Limits(max_rooms_per_connection=2)))
    gate = Gate()
    manager.on_room_open(lambda room: gate() if room.name == "slow" else None)
    async with hall(manager) as served, trio.open_nursery() as nursery:
        conn, other = (await served.enter()).conn, (await served.enter()).conn
        await conn.join("a")
        slow = attempt(nursery, conn.join, "slow")
        await gate.reached.wait()
        with pytest.raises(TooManyRooms):
            await conn.join("b")
        assert not (await conn.join("a")).new
        await other.join("b")
        gate.open.set()
        await slow.over.wait()
        conn.leave("a")
        await conn.join("b")
        assert list(conn.rooms) == ["slow", "b"]


async def test_max_rooms(autojump_clock: MockClock) -> None:
    """limits.max_rooms counts the rooms of the node, and those that are still closing."""
    manager = Manager(config=Config(limits=Limits(max_rooms=2)))
    gate = Gate()
    manager.on_room_close(lambda room: gate())
    async with hall(manager) as served:
        conn, other = (await served.enter()).conn, (await served.enter()).conn
        await conn.join("a")
        await conn.join("b")
        await other.join("a")
        with pytest.raises(TooManyRooms):
            await other.join("c")
        conn.leave("b")
        with pytest.raises(TooManyRooms):
            await other.join("c")
        await gate.reached.wait()
        gate.open.set()
        await settle()
        await other.join("c")


@pytest.mark.parametrize("by", ["options", "config", "options over config"])
@pytest.mark.parametrize("phase", ["at once", "in the hook", "subscribing"])
async def test_capacity(by: str, phase: str, autojump_clock: MockClock) -> None:
    """M1: of fifty tasks that want the one place of a room one gets in, wherever joins take their time."""
    manager = Manager(
        config=Config(max_connections_per_room={"options": None, "config": 1, "options over config": 7}[by]),
        broker=LaggingBroker() if phase == "subscribing" else None,
    )
    if by != "config":
        manager.room("r", capacity=1)
    log = record(manager)
    if phase == "in the hook":
        manager.on_join_room(pause(lambda: 1))
    async with hall(manager) as served, trio.open_nursery() as nursery:
        conns = [(await served.enter()).conn for _ in range(50)]
        outcomes = [attempt(nursery, conn.join, "r") for conn in conns]
        for outcome in outcomes:
            await outcome.over.wait()
        errors = [outcome.error for outcome in outcomes if outcome.error is not None]
        assert len(errors) == 49
        assert all(isinstance(error, RoomFull) for error in errors)
        room = manager.get_room("r")
        assert room is not None
        assert len(room.members) == 1
        assert len(of(log, "join")) == 1
        # The place is free again once, when its holder has left.
        (member,) = room.members
        member.leave("r")
        again = [attempt(nursery, conn.join, "r") for conn in conns[:10]]
        for outcome in again:
            await outcome.over.wait()
        assert sum(outcome.error is None for outcome in again) == 1


async def test_no_capacity_by_default(autojump_clock: MockClock) -> None:
    """Without a capacity a room takes everybody."""
    manager = Manager()
    async with hall(manager) as served:
        for _ in range(20):
            await (await served.enter()).conn.join("r")
        room = manager.get_room("r")
        assert room is not None
        assert len(room.members) == 20


# Authorize


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (True, {"room": "r"}),
        ({"role": "admin"}, {"room": "r", "data": {"role": "admin"}}),
        ({}, {"room": "r", "data": {}}),
        (False, "DENIED"),
        (None, "DENIED"),
        (1, "DENIED"),
        ("yes", "DENIED"),
        (ActionError("BANNED"), "BANNED"),
        (ValueError("secret"), "INTERNAL"),
    ],
    ids=repr,
)
async def test_authorize(verdict: Any, expected: Any, autojump_clock: MockClock) -> None:
    """A client's join is decided by authorize: True, False or a mapping; anything else but an ActionError denies."""
    calls: list[tuple[Connection, str, Any]] = []

    async def authorize(conn: Connection, room: str, data: Any) -> bool | Mapping[str, Any]:
        calls.append((conn, room, data))
        await trio.lowlevel.checkpoint()
        if isinstance(verdict, Exception):
            raise verdict
        answer: bool | Mapping[str, Any] = verdict
        return answer

    manager = Manager()
    manager.room("r", authorize=authorize)
    log = record(manager)
    async with hall(manager) as served:
        guest = await served.enter()
        if isinstance(expected, str):
            with pytest.raises(ReplyError) as caught:
                await guest.client.request("$join", {"room": "r", "data": [1]})
            assert caught.value.code == expected
            assert "secret" not in caught.value.message
            assert manager.rooms() == []
            assert not of(log, "join")
            assert of(log, "error") == ([("ValueError",)] if expected == "INTERNAL" else [])
        else:
            assert await guest.client.request("$join", {"room": "r", "data": [1]}) == expected
        assert calls == [(guest.conn, "r", [1])]
        assert guest.conn.closed is None


async def test_authorize_that_raises_a_stray_cancelled(autojump_clock: MockClock) -> None:
    """I1: a Cancelled out of place in authorize fails that join, and the connection stays."""

    async def authorize(conn: Connection, room: str, data: Any) -> bool:
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as exc:
                kept = exc
                raise
        raise kept

    manager = Manager()
    manager.room("r", authorize=authorize)
    log = record(manager)
    async with hall(manager) as served:
        guest = await served.enter()
        with pytest.raises(ReplyError) as caught:
            await guest.client.request("$join", {"room": "r"})
        assert caught.value.code == "INTERNAL"
        assert of(log, "error") == [("RuntimeError",)]
        assert guest.conn.closed is None


async def test_without_authorize(autojump_clock: MockClock) -> None:
    """Clients may not join a room by themselves that has no authorize; handlers decide for the program."""
    manager = Manager()
    manager.room("r", capacity=9)

    @manager.on("enter")
    async def enter(conn: Connection) -> bool:
        return (await conn.join("r")).new

    async with hall(manager) as served:
        client = (await served.enter()).client
        with pytest.raises(ReplyError) as caught:
            await client.request("$join", {"room": "r"})
        assert caught.value.code == "DENIED"
        assert manager.rooms() == []
        assert await client.request("enter") is True


async def test_a_full_room_asks_first(autojump_clock: MockClock) -> None:
    """A client that may not join learns nothing of how full the room is."""
    manager = Manager()

    async def deny(conn: Connection, room: str, data: Any) -> bool:
        await trio.lowlevel.checkpoint()
        return False

    manager.room("r", capacity=1, authorize=deny)
    async with hall(manager) as served:
        await (await served.enter()).conn.join("r")
        with pytest.raises(ReplyError) as caught:
            await (await served.enter()).client.request("$join", {"room": "r"})
        assert caught.value.code == "DENIED"


async def test_events_stand_behind_the_reply(autojump_clock: MockClock) -> None:
    """The reply of $join is queued in the step that begins membership: every event is behind it, none is missed."""
    manager = Manager()
    manager.room("r", authorize=allow)

    async with hall(manager) as served, trio.open_nursery() as nursery:
        guest = await served.enter(v1=True)

        async def publish_for_ever() -> None:
            number = 0
            while True:
                manager.broadcast_to_room("r", number)
                number += 1
                await trio.lowlevel.checkpoint()

        nursery.start_soon(publish_for_ever)
        await guest.client.send_action("$join", {"room": "r"}, id=1)
        assert await guest.client.receive_json() == {"id": 1, "data": {"room": "r"}}
        events = [(await guest.client.receive_json())["data"] for _ in range(20)]
        assert events == list(range(events[0], events[0] + 20))
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("cause", ["leave", "kick", "room close", "none"])
async def test_interrupted_while_the_reply_does_not_fit(cause: str, autojump_clock: MockClock) -> None:
    """M2: a join whose reply waits for room in the outbox is not a member before, and can still be given up."""
    manager = Manager(
        config=Config(
            limits=Limits(outbox_messages=2),
            write_buffer_size=1,
            write_timeout=LONG,
            ping_interval=LONG,
            hook_timeout=50,
        )
    )
    manager.room("r", authorize=allow)
    log = record(manager)
    async with hall(manager) as served:
        guest, stream = await served.enter_faulty(v1=True)
        stream.stall_sending()
        for number in range(3):
            guest.conn.send_nowait(number)
            await settle()
        await guest.client.send_action("$join", {"room": "r"}, id=1)
        await settle()
        room = manager.get_room("r")
        assert room is not None
        assert room.members == ()
        if cause == "leave":
            guest.conn.leave("r")
        elif cause == "kick":
            assert room.kick(guest.conn)
        elif cause == "room close":
            room.close()
        stream.resume_sending()
        for number in range(3):
            assert await guest.client.receive_json() == {"data": number}
        reply = await guest.client.receive_json()
        assert (reply.get("error") or {}).get("code") == (None if cause == "none" else "CLOSED")
        assert list(guest.conn.rooms) == (["r"] if cause == "none" else [])
        assert joins_are_balanced(log, guest.conn, "r") is (cause != "none")
        assert guest.conn.closed is None


# M2: every phase of a join, everything that can happen meanwhile

PHASES = ["authorize", "room open", "turn", "on_join", "subscription", "member"]
CAUSES = ["cancel", "cut", "close", "leave", "kick", "room close", "failure", "drain", "serve is cancelled"]
#: Nothing can fail in these phases, and a join that is over cannot be cancelled; the program asks nobody.
CASES = [
    pytest.param(phase, cause, by_client, id=f"{phase}-{cause}-{'by client' if by_client else 'by program'}")
    for phase in PHASES
    for cause in CAUSES
    for by_client in (True, False)
    if (cause, phase) not in {("failure", "turn"), ("failure", "member"), ("cancel", "member")}
    and (by_client or phase != "authorize")
]


@attrs.define(eq=False)
class Scene:
    """A room "r" with two places, an innocent member, and a victim whose join has stopped in a given phase."""

    manager: Manager
    broker: GatedBroker
    phase: str
    gate: Gate = attrs.field(factory=Gate)
    victim: Connection | None = None
    failing: bool = False

    async def stop(self, phase: str, conn: Connection | None) -> None:
        """Called in each phase of each join."""
        if phase == self.phase and self.victim is not None and conn in (None, self.victim):
            await self.gate()
            if self.failing:
                raise ActionError("FAILED_HERE") if phase == "authorize" else OSError("failed here")

    def furnish(self) -> None:
        self.broker.before_subscribing = self.subscribing
        self.manager.room("r", authorize=self.authorize, capacity=2)
        self.manager.room("earlier", authorize=self.authorize)
        self.manager.on_room_open(self.opening)
        self.manager.on_join_room(self.joining)
        self.manager.on_leave_room(self.leaving)

    async def authorize(self, conn: Connection, room: str, data: Any) -> bool:
        await self.stop("authorize", conn)
        return True

    async def opening(self, room: Room) -> None:
        if room.name == "r":
            await self.stop("room open", None)

    async def joining(self, conn: Connection, room: Room) -> None:
        if room.name == "r":
            await self.stop("on_join", conn)

    async def leaving(self, conn: Connection, room: Room, reason: str) -> None:
        if room.name == "earlier":
            await self.stop("turn", conn)

    async def subscribing(self, room: str) -> None:
        if self.victim is not None and self.phase == "subscription" and room == "r" and not self.gate.reached.is_set():
            await self.stop("subscription", None)


@pytest.mark.parametrize(("phase", "cause", "by_client"), CASES)
async def test_join_interrupted(phase: str, cause: str, by_client: bool, autojump_clock: MockClock) -> None:
    """M2, Invariant 2: whatever interrupts a join in whatever phase: place free, hooks balanced, nothing left."""
    broker = GatedBroker()
    manager = Manager(
        broker=broker, config=Config(hook_timeout=50, shutdown_timeout=20, close_timeout=10, ping_interval=LONG)
    )
    log = record(manager)
    scene = Scene(manager, broker, phase)
    scene.furnish()
    ends_server = cause in ("drain", "serve is cancelled")
    async with trio.open_nursery() as nursery:
        # What serves is cancelled without what holds the clients.
        with trio.CancelScope() as serving:
            async with hall(manager) as served:
                ok = await served.enter()
                if phase != "room open":
                    await ok.conn.join("r")
                victim = await served.enter()
                if phase == "turn":
                    await victim.conn.join("earlier")
                    scene.victim = victim.conn
                    victim.conn.leave("earlier")
                    await scene.gate.reached.wait()
                scene.victim = victim.conn
                join = await begin_join(nursery, victim, by_client)
                if phase == "member":
                    await settle()
                    assert list(victim.conn.rooms) == ["r"]
                else:
                    await scene.gate.reached.wait()
                    await settle()
                    assert not victim.conn.rooms
                scene.failing = cause == "failure"
                await strike(cause, served, victim, join, serving)
                if not ends_server:
                    await see_that_it_is_over(served, scene, ok, victim, cause, nursery)
                    assert joins_are_balanced(log, victim.conn, "r")
                    assert len(of(log, "disconnect", victim.conn)) == (cause in ("cut", "close"))
    for conn in (ok.conn, victim.conn):
        assert conn.rooms == {}
        assert joins_are_balanced(log, conn, "r")
        assert len(of(log, "connect", conn)) == len(of(log, "disconnect", conn)) == 1
        assert log[-1][0] == "disconnect"
    assert broker.subscribed == set()
    served.server.assert_quiescent()


async def begin_join(nursery: trio.Nursery, victim: Guest, by_client: bool) -> Any:
    if by_client:
        await victim.client.send_action("$join", {"room": "r"}, id=1)
        return None
    join = attempt(nursery, victim.conn.join, "r")
    await settle()
    return join


async def strike(cause: str, served: Hall, victim: Guest, join: Any, serving: trio.CancelScope) -> None:
    """Let the cause happen."""
    room = served.manager.get_room("r")
    if cause == "cancel" and join is not None:
        join.scope.cancel()
    elif cause == "cancel":
        await victim.client.send_action("$cancel", {"id": 1})
    elif cause == "cut":
        await victim.client.aclose()
    elif cause == "close":
        victim.conn.close()
    elif cause == "leave":
        assert victim.conn.leave("r")
    elif cause == "kick":
        assert room is not None
        assert room.kick(victim.conn)
    elif cause == "room close":
        assert room is not None
        room.close()
    elif cause == "drain":
        served.server.begin_shutdown()
    elif cause == "serve is cancelled":
        serving.cancel()


async def see_that_it_is_over(
    served: Hall, scene: Scene, ok: Guest, victim: Guest, cause: str, nursery: trio.Nursery
) -> None:
    """The victim is not in the room and will not be; its place is free; the innocent member notices nothing."""
    third = await served.enter()
    if cause == "failure" or (scene.phase == "authorize" and cause == "room close"):
        scene.gate.open.set()  # here the cause is what comes next
        await settle()
        scene.failing = False
    if scene.phase == "authorize" and cause == "room close":
        # It was on its way into whatever room has the name, and is in the next one.
        assert list(victim.conn.rooms) == ["r"]
        victim.conn.leave("r")
    else:
        # The place is free before anybody knows how the join will end.
        outcome = attempt(nursery, third.conn.join, "r")
        await settle()
        scene.gate.open.set()
        with trio.fail_after(5):
            await outcome.over.wait()
        assert outcome.error is None
        assert third.conn.leave("r")
    await settle()
    await trio.sleep(1)
    assert not victim.conn.rooms
    assert (victim.conn.closed is not None) is (cause in ("cut", "close"))
    room = served.manager.get_room("r")
    if cause == "room close" or scene.phase == "room open":
        assert room is None
    else:
        assert room is not None
        assert room.members == (ok.conn,)
        assert served.manager.broadcast_to_room("r", "still here").enqueued == 1
        assert await ok.client.receive_json() == "still here"
    assert scene.broker.subscribed == ({"r"} if room is not None else set())


def joins_are_balanced(log: list[tuple[object, ...]], conn: Connection, room: str) -> bool:
    """Each on_join_room is followed by one on_leave_room before the next, and nothing is behind on_disconnect."""
    events = [entry for entry in log if entry[-1] == conn.id and entry[0] != "error"]
    inside = 0
    for entry in events:
        if entry[:2] == ("join", room):
            inside += 1
        elif entry[:2] == ("leave", room):
            inside -= 1
        assert inside in (0, 1), events
    return inside == 0 and all(entry[0] != "disconnect" for entry in events[:-1])


@pytest.mark.parametrize(
    ("cause", "reason", "error"),
    [
        ("veto", "vetoed", ActionError),
        ("cancel", "cancelled", None),
        ("leave", "left", RoomClosed),
        ("kick", "kicked", RoomClosed),
        ("close the room", "closed", RoomClosed),
        ("end the connection", "disconnected", ConnectionGone),
    ],
)
async def test_reasons(cause: str, reason: str, error: type[Exception] | None, autojump_clock: MockClock) -> None:
    """A join whose hooks had begun is followed by on_leave_room with the reason for which it failed."""
    manager = Manager()
    log = record(manager)
    gate = Gate()

    @manager.on_join_room
    async def joining(conn: Connection, room: Room) -> None:
        await gate()
        if cause == "veto":
            raise ActionError("NO")

    async with hall(manager) as served, trio.open_nursery() as nursery:
        conn = (await served.enter()).conn
        outcome = attempt(nursery, conn.join, "r")
        await gate.reached.wait()
        room = manager.get_room("r")
        assert room is not None
        {
            "veto": lambda: None,
            "cancel": outcome.scope.cancel,
            "leave": lambda: conn.leave("r"),
            "kick": lambda: room.kick(conn),
            "close the room": room.close,
            "end the connection": conn.close,
        }[cause]()
        gate.open.set()
        await outcome.over.wait()
        await settle()
        assert of(log, "leave") == [("r", reason)]
        assert type(outcome.error) is (error or type(None))


async def test_the_end_of_the_connection_ends_its_joins(autojump_clock: MockClock) -> None:
    """A join by another task does not outlast the connection: what it waits for is cancelled, also in a hook."""
    manager = Manager()
    log = record(manager)
    gate = Gate()
    cancelled: list[str] = []

    @manager.on_join_room
    async def joining(conn: Connection, room: Room) -> None:
        try:
            await gate()
        except trio.Cancelled:
            cancelled.append(room.name)
            raise

    async with hall(manager) as served, trio.open_nursery() as nursery:
        guest = await served.enter()
        outcome = attempt(nursery, guest.conn.join, "r")
        await gate.reached.wait()
        before = trio.current_time()
        await guest.client.aclose()
        await outcome.over.wait()
        assert isinstance(outcome.error, ConnectionGone)
        assert cancelled == ["r"]
        await guest.conn.wait_closed()
        assert trio.current_time() == before
        assert [entry[0] for entry in log] == ["connect", "join", "leave", "disconnect"]


async def test_joining_when_it_is_over(autojump_clock: MockClock) -> None:
    """A connection that has ended joins nothing, also if the end came while the join waited for another."""
    manager = Manager()
    gate = Gate()
    manager.on_room_open(lambda room: gate())
    async with hall(manager) as served, trio.open_nursery() as nursery:
        guest = await served.enter()
        outcomes = [attempt(nursery, guest.conn.join, "r") for _ in range(2)]
        await gate.reached.wait()
        guest.conn.close()
        for outcome in outcomes:
            await outcome.over.wait()
            assert isinstance(outcome.error, ConnectionGone)
        with pytest.raises(ConnectionGone):
            await guest.conn.join("r")
        with pytest.raises(ConnectionGone):
            await guest.conn.join("s")
        gate.open.set()
        assert manager.rooms() == []


# Leaving in all ways


async def many_rooms(served: Hall, number: int = 128) -> tuple[Guest, list[str]]:
    guest = await served.enter()
    names = [f"room{index}" for index in random.Random(7).sample(range(1000), number)]
    for name in names:
        await guest.conn.join(name)
    return guest, names


async def cut(served: Hall, guest: Guest) -> None:
    await guest.client.aclose()


async def close_by_client(served: Hall, guest: Guest) -> None:
    await guest.client.close()


async def close_by_program(served: Hall, guest: Guest) -> None:
    guest.conn.close(4001, "bye")


async def violate(served: Hall, guest: Guest) -> None:
    await guest.client.send_raw(b"\xff\xff\xff\xff")


async def crash(served: Hall, guest: Guest) -> None:
    await guest.client.send_action("crash")


async def fall_silent(served: Hall, guest: Guest) -> None:
    await trio.sleep(100)


async def overflow(served: Hall, guest: Guest) -> None:
    name = next(iter(guest.conn.rooms))
    while not served.manager.broadcast_to_room(name, "more").closed:
        pass


async def drain(served: Hall, guest: Guest) -> None:
    served.server.begin_shutdown()


DEATHS = [cut, close_by_client, close_by_program, violate, crash, fall_silent, overflow, drain]


@pytest.mark.parametrize("death", DEATHS, ids=lambda death: death.__name__)
async def test_leaves_all_its_rooms(death: Callable[[Hall, Guest], Awaitable[None]], autojump_clock: MockClock) -> None:
    """M3: however a member of 128 rooms ends, it leaves each once, in the order of joining, before on_disconnect."""
    manager = Manager()
    log = record(manager)

    @manager.on("crash")
    def crash(conn: Connection) -> None:
        raise ValueError("crash")

    async with hall(manager) as served:
        guest, names = await many_rooms(served)
        await death(served, guest)
        await guest.conn.wait_closed()
        await settle()
        assert of(log, "leave", guest.conn) == [(name, "disconnected") for name in names]
        events = [entry[0] for entry in log if entry[-1] == guest.conn.id and entry[0] != "error"]
        assert events == ["connect", *["join"] * 128, *["leave"] * 128, "disconnect"]
        assert manager.rooms() == []
        assert not guest.conn.rooms


async def test_leave_in_a_cancelled_finally(autojump_clock: MockClock) -> None:
    """leave is synchronous, so it works where every checkpoint raises."""
    manager = Manager()
    async with hall(manager) as served:
        conn = (await served.enter()).conn
        with trio.CancelScope() as scope:
            await conn.join("r")
            try:
                scope.cancel()
                await trio.lowlevel.checkpoint()
            finally:
                assert conn.leave("r")
        assert not conn.rooms


async def test_leave_hooks_run_in_order_and_a_join_waits_for_them(autojump_clock: MockClock) -> None:
    """A join of a room that was just left begins after the leave hooks of the former membership."""
    manager = Manager()
    log = record(manager)

    @manager.on_leave_room
    async def slow(conn: Connection, room: Room, reason: str) -> None:
        await trio.sleep(1)
        log.append(("has left", room.name, conn.id))

    async with hall(manager) as served:
        conn = (await served.enter()).conn
        await conn.join("r")
        await conn.join("s")
        conn.leave("r")
        conn.leave("s")
        await conn.join("r")
        events = [entry[:2] for entry in log[3:]]
        assert events == [("leave", "r"), ("has left", "r"), ("leave", "s"), ("has left", "s"), ("join", "r")]


# Membership as a scope


async def test_joined(autojump_clock: MockClock) -> None:
    """``async with conn.joined(...)`` is a member for the length of the block, also if that raises."""
    manager = Manager()
    async with hall(manager) as served:
        conn = (await served.enter()).conn
        async with conn.joined("r") as joined:
            assert joined.new
            assert list(conn.rooms) == ["r"]
        assert not conn.rooms
        with pytest.raises(KeyError):
            async with conn.joined("r"):
                raise KeyError
        assert not conn.rooms
        with trio.CancelScope() as scope:
            async with conn.joined("r"):
                scope.cancel()
                await trio.lowlevel.checkpoint()
        assert not conn.rooms


async def test_joined_leaves_only_what_it_joined(autojump_clock: MockClock) -> None:
    """A block in a room that had been joined before leaves it joined."""
    manager = Manager()
    async with hall(manager) as served:
        conn = (await served.enter()).conn
        async with conn.joined("r"):
            async with conn.joined("r") as inner:
                assert not inner.new
            assert list(conn.rooms) == ["r"]
        assert not conn.rooms
        await conn.join("s")
        async with conn.joined("s"):
            pass
        assert list(conn.rooms) == ["s"]


@pytest.mark.parametrize("alone", [True, False], ids=["room ends", "room goes on"])
async def test_joined_leaves_only_its_own_membership(alone: bool, autojump_clock: MockClock) -> None:
    """A block whose membership has ended meanwhile does not end another one that began in its place."""
    manager = Manager()
    async with hall(manager) as served:
        conn = (await served.enter()).conn
        if not alone:
            await (await served.enter()).conn.join("r")
        async with conn.joined("r") as joined:
            assert joined.room.kick(conn)
            await conn.join("r")
        assert list(conn.rooms) == ["r"]
        assert conn.leave("r")


# Hooks that meddle


async def test_leaving_in_the_join_hook(autojump_clock: MockClock) -> None:
    """I4: a hook that leaves the room that is being joined makes the join fail, and goes on itself."""
    broker = GatedBroker()
    manager = Manager(broker=broker)
    log = record(manager)

    @manager.on_join_room
    async def leave(conn: Connection, room: Room) -> None:
        assert conn.leave(room.name)
        assert not conn.leave(room.name)
        await trio.sleep(1)
        log.append(("went on", conn.id))

    async with hall(manager) as served:
        conn = (await served.enter()).conn
        with pytest.raises(RoomClosed):
            await conn.join("r")
        await settle()
        assert [entry[0] for entry in log[1:]] == ["join", "went on", "leave"]
        assert broker.asked == []
        assert of(log, "leave") == [("r", "left")]
        assert manager.rooms() == []


@pytest.mark.parametrize("asynchronous", [True, False], ids=["async", "def"])
async def test_closing_the_connection_in_the_join_hook(asynchronous: bool, autojump_clock: MockClock) -> None:
    """I4: a hook that closes the connection whose join waits for it makes the join fail, and nothing hangs."""
    manager = Manager()
    log = record(manager)

    def close(conn: Connection, room: Room) -> None:
        conn.close(4000)

    async def close_and_wait(conn: Connection, room: Room) -> None:
        conn.close(4000)
        await trio.sleep_forever()

    manager.on_join_room(close_and_wait if asynchronous else close)
    async with hall(manager) as served:
        guest = await served.enter()
        with pytest.raises(ConnectionGone):
            await guest.conn.join("r")
        await guest.client.expect_close(4000)
        await guest.client.aclose()
        await guest.conn.wait_closed()
        assert [entry[0] for entry in log] == ["connect", "join", "leave", "disconnect"]
        assert trio.current_time() == 0


async def test_closing_the_room_in_the_join_hook(autojump_clock: MockClock) -> None:
    """I4: a hook may close the room, or kick everybody, without entering any index that is being walked."""
    manager = Manager()

    @manager.on_leave_room
    async def close(conn: Connection, room: Room, reason: str) -> None:
        for member in room.members:
            room.kick(member)
        room.close()
        await trio.lowlevel.checkpoint()

    async with hall(manager) as served:
        guests = [await served.enter() for _ in range(5)]
        for guest in guests:
            await guest.conn.join("r")
        guests[2].conn.leave("r")
        await settle()
        assert manager.rooms() == []
        assert not any(guest.conn.rooms for guest in guests)
        assert all(guest.conn.closed is None for guest in guests)


async def test_joining_other_rooms_in_a_hook(autojump_clock: MockClock) -> None:
    """I4: a hook of a connection may join it to other rooms, deeper and deeper, and does not wait for itself."""
    manager = Manager()
    log = record(manager)

    @manager.on_join_room
    async def join_next(conn: Connection, room: Room) -> None:
        if len(room.name) < 5:
            await conn.join(room.name + "x")

    @manager.on_leave_room
    async def join_back(conn: Connection, room: Room, reason: str) -> None:
        if room.name == "xxxxx":
            await conn.join("back")

    async with hall(manager) as served:
        conn = (await served.enter()).conn
        before = trio.current_time()
        await conn.join("x")
        assert list(conn.rooms) == ["xxxxx", "xxxx", "xxx", "xx", "x"]
        conn.leave("xxxxx")
        await settle()
        assert "back" in conn.rooms
        assert trio.current_time() == before
        assert not of(log, "error")


@pytest.mark.parametrize("where", ["on_connect", "on_message", "handler", "session", "task"])
async def test_joining_everywhere(where: str, autojump_clock: MockClock) -> None:
    """A join works in every place in which code of a connection runs."""
    manager = Manager()

    async def join(conn: Connection, *_: object) -> None:
        if not conn.rooms:
            await conn.join("r")

    if where == "on_connect":
        manager.on_connect(join)
    elif where == "on_message":
        manager.on_message(join)
    elif where == "session":

        @manager.session
        async def session(conn: Connection) -> None:
            await join(conn)
            await trio.sleep_forever()

    @manager.on("go")
    async def go(conn: Connection) -> None:
        if where == "handler":
            await join(conn)
        elif where == "task":
            conn.start_soon(join, conn)

    async with hall(manager) as served:
        guest = await served.enter()
        before = trio.current_time()
        await guest.client.request("go")
        await settle()
        assert list(guest.conn.rooms) == ["r"]
        assert trio.current_time() == before


async def test_joining_the_room_within_its_own_join(autojump_clock: MockClock) -> None:
    """I4: a hook that joins the room whose join waits for it is told so at once, instead of waiting for itself."""
    manager = Manager()
    errors: list[Exception] = []

    @manager.on_join_room
    async def again(conn: Connection, room: Room) -> None:
        try:
            await conn.join(room.name)
        except JoinError as exc:
            errors.append(exc)

    async with hall(manager) as served:
        conn = (await served.enter()).conn
        before = trio.current_time()
        assert (await conn.join("r")).new
        assert [type(error) for error in errors] == [JoinError]
        assert trio.current_time() == before


async def test_joining_a_room_whose_join_waits_for_this_hook(autojump_clock: MockClock) -> None:
    """I4: the same where the other join belongs to another task and stands in line behind the hook."""
    manager = Manager()
    gate = Gate()
    codes: list[str] = []

    @manager.on_message
    async def check(conn: Connection, message: Any) -> None:
        await gate()
        try:
            await conn.join("r")
        except JoinError as exc:
            codes.append(exc.code)

    manager.handle_message("go", lambda conn: None)
    async with hall(manager) as served, trio.open_nursery() as nursery:
        guest = await served.enter()
        await guest.client.send_action("go")
        await gate.reached.wait()
        join = attempt(nursery, guest.conn.join, "r")
        await settle()
        before = trio.current_time()
        gate.open.set()
        await join.over.wait()
        assert join.error is None
        assert codes == ["JOIN_FAILED"]
        assert trio.current_time() == before


async def test_a_hook_that_joins_what_is_past_its_hooks(autojump_clock: MockClock) -> None:
    """A hook may wait for a join of another task that waits for the broker only."""
    manager = Manager(broker=LaggingBroker(delay=2.0))
    joined: list[Joined] = []

    @manager.on_message
    async def check(conn: Connection, message: Any) -> None:
        joined.append(await conn.join("r"))

    manager.handle_message("go", lambda conn: None)
    async with hall(manager) as served, trio.open_nursery() as nursery:
        guest = await served.enter()
        nursery.start_soon(guest.conn.join, "r")
        await settle()
        await guest.client.request("go")
        assert [one.new for one in joined] == [False]


async def test_a_handler_that_ends_everything(autojump_clock: MockClock) -> None:
    """I4: a handler of A cancels its own scope, closes B, and leaves; nothing deadlocks, nobody else notices."""
    manager = Manager()
    log = record(manager)
    guests: list[Guest] = []

    @manager.on("go")
    async def go(conn: Connection) -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            guests[1].conn.close()
            conn.leave("r")
            manager.broadcast_to_room("r", "bye")
            await conn.join("s")
        await conn.join("t")
        conn.close()
        await trio.sleep_forever()

    async with hall(manager) as served:
        guests += [await served.enter() for _ in range(3)]
        for guest in guests:
            await guest.conn.join("r")
        await guests[0].client.send_action("go")
        await guests[0].client.expect_close(1000)
        await guests[1].client.expect_close(1000)
        assert await guests[2].client.receive_json() == "bye"
        room = manager.get_room("r")
        assert room is not None
        assert room.members == (guests[2].conn,)
        assert manager.get_room("s") is None
        assert manager.get_room("t") is None
        for guest in guests[:2]:
            for name in ("r", "s", "t"):
                assert joins_are_balanced(log, guest.conn, name)


async def test_hooks_of_two_connections_that_join_each_other(autojump_clock: MockClock) -> None:
    """I4: a hook of A that joins B, whose hook joins A again, is one line of calls and waits for nobody."""
    manager = Manager()
    log = record(manager)
    conns: list[Connection] = []

    @manager.on_join_room
    async def pull(conn: Connection, room: Room) -> None:
        if room.name == "r":
            await conns[1].join("s")
        elif room.name == "s":
            await conns[0].join("t")

    async with hall(manager) as served:
        conns += [(await served.enter()).conn for _ in range(2)]
        before = trio.current_time()
        await conns[0].join("r")
        assert list(conns[0].rooms) == ["t", "r"]
        assert list(conns[1].rooms) == ["s"]
        assert trio.current_time() == before
        assert not of(log, "error")


async def test_crossed_joins_end_by_the_timeout(autojump_clock: MockClock) -> None:
    """I4: hooks of two connections that wait for each other, in two tasks, hold nobody longer than hook_timeout."""
    manager = Manager(config=Config(hook_timeout=3))
    log = record(manager)
    conns: list[Connection] = []

    @manager.on_join_room
    async def pull(conn: Connection, room: Room) -> None:
        if room.name == "first":
            await trio.sleep(1)
            other = conns[1] if conn is conns[0] else conns[0]
            await other.join("second")

    async with hall(manager) as served, trio.open_nursery() as nursery:
        conns += [(await served.enter()).conn for _ in range(2)]
        outcomes = [attempt(nursery, conn.join, "first") for conn in conns]
        for outcome in outcomes:
            await outcome.over.wait()
        assert trio.current_time() <= 4
        assert all(isinstance(outcome.error, InternalError) for outcome in outcomes if outcome.error is not None)
        await settle()
        for conn in conns:
            for name in ("first", "second"):
                conn.leave(name)
        await settle()
        for conn in conns:
            for name in ("first", "second"):
                assert joins_are_balanced(log, conn, name)


# The broker's part


@pytest.mark.parametrize(
    ("error", "code"), [(OSError("no link"), "INTERNAL"), (ActionError("BROKER_DOWN"), "BROKER_DOWN")]
)
async def test_a_subscription_that_fails(error: Exception, code: str, autojump_clock: MockClock) -> None:
    """X4: when the broker cannot subscribe, that join fails, and the next one tries again."""
    broker = GatedBroker()
    manager = Manager(broker=broker)
    log = record(manager)

    async def fail(room: str) -> None:
        raise error

    async with hall(manager) as served:
        conn = (await served.enter()).conn
        broker.before_subscribing = fail
        with pytest.raises(ActionError) as caught:
            await conn.join("r")
        assert caught.value.code == code
        assert of(log, "error") == ([("OSError",)] if code == "INTERNAL" else [])
        await settle()
        assert of(log, "leave") == [("r", "vetoed")]
        assert manager.rooms() == []
        broker.before_subscribing = None
        await conn.join("r")


async def test_membership_begins_with_the_subscription(autojump_clock: MockClock) -> None:
    """Before the subscription is active nobody is a member."""
    manager = Manager(broker=LaggingBroker(delay=2.0))
    async with hall(manager) as served, trio.open_nursery() as nursery:
        conn = (await served.enter()).conn
        nursery.start_soon(conn.join, "r")
        await trio.sleep(1.9)
        assert not conn.rooms
        await trio.sleep(0.2)
        assert list(conn.rooms) == ["r"]


@pytest.mark.parametrize("seed", range(30))
async def test_random_joins_and_leaves(seed: int, autojump_clock: MockClock) -> None:
    """Invariant 2: after any storm of joins, leaves, kicks, closes and ends: capacities kept, hooks balanced."""
    rng = random.Random(seed)
    manager = Manager(broker=rng.choice([None, LaggingBroker(delay=0.1)]), config=Config(ping_interval=LONG))
    manager.room("linger*", linger=0.5, capacity=3)
    manager.room("small*", capacity=2)
    log = record(manager)
    if rng.random() < 0.5:
        manager.on_room_open(pause(lambda: rng.choice([0, 0.1])))
    if rng.random() < 0.5:
        manager.on_leave_room(pause(lambda: rng.choice([0, 0.05])))

    @manager.on_join_room
    async def sometimes(conn: Connection, room: Room) -> None:
        await trio.sleep(rng.choice([0, 0, 0.05]))
        if rng.random() < 0.2:
            raise ActionError("VETO")

    names = ["linger1", "small1", "small2", "any"]
    async with hall(manager) as served:
        guests = [await served.enter() for _ in range(6)]

        async def live(guest: Guest) -> None:
            for _ in range(25):
                for _ in range(rng.randrange(4)):
                    await trio.lowlevel.checkpoint()
                name = rng.choice(names)
                what = rng.random()
                with trio.move_on_after(rng.choice([0.0, 0.03, 1])):
                    if what < 0.6:
                        try:
                            await guest.conn.join(name)
                        except (ActionError, ConnectionGone):
                            await trio.lowlevel.checkpoint()
                if what >= 0.6:
                    guest.conn.leave(name)
                room = manager.get_room(name)
                if room is not None:
                    assert room.options.capacity is None or len(room.members) <= room.options.capacity
                    if what > 0.95:
                        room.close()
                    elif what > 0.9 and room.members:
                        room.kick(rng.choice(room.members))
            if rng.random() < 0.5:
                await guest.client.aclose()

        async with trio.open_nursery() as nursery:
            for guest in guests:
                nursery.start_soon(live, guest)
        for room in manager.rooms():
            for member in room.members:
                assert member.rooms[room.name] is room
        for guest in guests:
            for room in guest.conn.rooms.values():
                assert guest.conn in room
                assert manager.get_room(room.name) is room
    for guest in guests:
        assert guest.conn.rooms == {}
        for name in names:
            assert joins_are_balanced(log, guest.conn, name)
    assert not of(log, "error")
