"""Users come online and go offline: tabs, grace, hooks, and whatever ends a membership.

Scenario E2, a node that freezes and is killed, needs presence that nodes share, which no broker has yet.
"""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from hall import Gate, attempt, settle
from messages import V1
from presences import Club, club, make_manager, note_users, serve
from trio_rooms import (
    ActionError,
    Connection,
    Limits,
    Manager,
    PresenceOptions,
    Room,
)
from trio_rooms.testing import LaggingBroker, ReplyError, serve_in_memory

# Users and their grace


async def test_e1_three_tabs(autojump_clock: MockClock) -> None:
    """E1: one user with three tabs that close, two and then one, comes online once and goes offline once."""
    manager = make_manager(PresenceOptions(grace=3))
    log = note_users(manager)
    async with serve(manager) as served:
        watcher = await served.enter("bob")
        tabs = [await served.enter("ada") for _ in range(3)]
        await trio.sleep(2)
        await watcher.read()
        assert len(watcher.known["ada"]) == 3
        for tab in tabs[:2]:
            await tab.client.close()
        await trio.sleep(10)
        await watcher.read()
        assert len(watcher.known["ada"]) == 1
        assert [event for event, _, user in log if user == "ada"] == ["online"]
        await tabs[2].client.close()
        await trio.sleep(2)
        await watcher.read()
        assert watcher.users == ["bob", "ada"]
        await trio.sleep(3)
        await watcher.read()
        assert watcher.users == ["bob"]
        assert [event for event, _, user in log if user == "ada"] == ["online", "offline"]
    assert log[-1] == ("offline", "r", "bob")


async def test_who_comes_back_was_never_away(autojump_clock: MockClock) -> None:
    """Within the grace a reconnect is one change in which the entry is replaced, and no event."""
    manager = make_manager(PresenceOptions(grace=10))
    log = note_users(manager)
    async with serve(manager) as served:
        watcher = await served.enter("bob")
        for _ in range(3):
            ada = await served.enter("ada")
            await trio.sleep(2)
            await watcher.read()
            await ada.stream.cut()
            await trio.sleep(9)
            assert "ada" in served.room.presence
        back = await served.enter("ada")
        await trio.sleep(60)
        pushes = await watcher.read()
        assert [set(push["joins"]) for push in pushes] == [{"ada"}]
        assert [set(push["leaves"]) for push in pushes] == [{"ada"}]
        assert len(watcher.known["ada"]) == 1
        assert [event for event, _, user in log if user == "ada"] == ["online"]
        await back.client.close()
        await trio.sleep(9.9)
        assert [event for event, _, user in log if user == "ada"] == ["online"]
        await trio.sleep(0.2)
        assert [event for event, _, user in log if user == "ada"] == ["online", "offline"]


async def test_a_room_lives_on_for_a_grace(autojump_clock: MockClock) -> None:
    """The only user of a room comes back to the same room; who does not ends it when the grace is over."""
    manager = make_manager(PresenceOptions(grace=10))
    log = note_users(manager)
    async with serve(manager) as served:
        ada = await served.enter("ada")
        room = served.room
        await ada.client.close()
        await trio.sleep(9)
        ada = await served.enter("ada")
        assert served.room is room
        assert list(room.presence) == ["ada"]
        await ada.client.close()
        await trio.sleep(9.9)
        assert not room.closed
        await trio.sleep(0.2)
        assert room.closed
        assert log == [("online", "r", "ada"), ("offline", "r", "ada")]


async def test_a_room_lives_no_longer_than_it_must(autojump_clock: MockClock) -> None:
    """It is the last grace that a room waits for, not one more behind it; without one it ends with its last member."""
    async with club(PresenceOptions(grace=10)) as served:
        ada, bob = await served.enter("ada"), await served.enter("bob")
        room = served.room
        await ada.client.close()
        await trio.sleep(6)
        bob.conn.leave("r")
        await trio.sleep(3.9)
        assert not room.closed
        await trio.sleep(0.2)
        assert room.closed
        carol = await served.enter("carol")
        room = served.room
        carol.conn.leave("r")
        assert room.closed


async def test_linger_goes_on_beside_the_grace(autojump_clock: MockClock) -> None:
    """A room with both lives until the later of the two has passed since its last member."""
    async with club(PresenceOptions(grace=10), linger=20.0) as served:
        ada = await served.enter("ada")
        room = served.room
        await ada.client.close()
        await trio.sleep(15)
        assert not room.closed
        assert room.presence == {}
        await trio.sleep(5.1)
        assert room.closed


@pytest.mark.parametrize("how", ["leave", "$leave", "kick"])
async def test_who_leaves_has_no_grace(how: str, autojump_clock: MockClock) -> None:
    """Whoever leaves the room, or is removed from it, is offline at once."""
    manager = make_manager(PresenceOptions(grace=10))
    log = note_users(manager)
    async with serve(manager) as served:
        await served.enter("bob")
        ada = await served.enter("ada")
        await settle()
        if how == "kick":
            served.room.kick(ada.conn)
        else:
            await ada.client.request(how, "r" if how == "leave" else {"room": "r"})
        await settle()
        assert list(served.room.presence) == ["bob"]
        assert log[-1] == ("offline", "r", "ada")
        pushes = await ada.read()
        await trio.sleep(5)
        assert await ada.read() == [], pushes


async def test_no_grace(autojump_clock: MockClock) -> None:
    """With 0 the user is offline when its last connection ends."""
    manager = make_manager(PresenceOptions(grace=0))
    log = note_users(manager)
    async with serve(manager) as served:
        ada = await served.enter("ada")
        await settle()
        await ada.stream.cut()
        await settle()
        assert log == [("online", "r", "ada"), ("offline", "r", "ada")]
        assert not manager.rooms()


async def test_a_closed_room_has_nobody(autojump_clock: MockClock) -> None:
    """All users of a closed room go offline, those in their grace too, before on_room_close; the next room is new."""
    manager = make_manager(PresenceOptions(grace=10))
    log = note_users(manager)
    manager.on_room_close(lambda room: log.append(("closed", room.name, "")))
    async with serve(manager) as served:
        ada, bob = await served.enter("ada"), await served.enter("bob")
        await bob.client.close()
        room = served.room
        room.close()
        assert room.presence == {}
        await settle()
        assert log[2:] == [("offline", "r", "ada"), ("offline", "r", "bob"), ("closed", "r", "")]
        await ada.client.request("$join", {"room": "r"})
        await ada.read()
        assert ada.users == ["ada"]
        assert served.room is not room
        assert log[5:] == [("online", "r", "ada")]


async def test_events_are_balanced_while_a_hook_takes_its_time(autojump_clock: MockClock) -> None:
    """Whoever comes and goes while another hook runs is not mentioned; each online has one offline."""
    manager = make_manager(PresenceOptions(grace=0))
    gate = Gate()
    log = note_users(manager, gate)
    async with serve(manager) as served:
        ada = await served.enter("ada")
        await gate.reached.wait()
        bob = await served.enter("bob")
        bob.conn.leave("r")
        await served.enter("carol")
        ada.conn.leave("r")
        await ada.client.request("$join", {"room": "r"})
        gate.open.set()
        await settle()
        assert log == [("online", "r", "ada"), ("online", "r", "carol")]
    assert sorted(log) == sorted([(event, "r", user) for event in ("online", "offline") for user in ("ada", "carol")])


async def test_hooks_that_raise_and_hang(autojump_clock: MockClock) -> None:
    """What a hook raises, or that it takes too long, is reported; the others still run, and the room lives."""
    manager = make_manager(PresenceOptions(grace=0))
    errors: list[str] = []
    log: list[str] = []

    @manager.on_user_online
    def raises(room: Room, user: str) -> None:
        raise ZeroDivisionError

    @manager.on_user_online
    async def hangs(room: Room, user: str) -> None:
        await trio.sleep_forever()

    manager.on_user_online(lambda room, user: log.append(user))
    manager.on_error(lambda conn, error: errors.append(type(error).__name__))
    async with serve(manager) as served:
        await served.enter("ada")
        await trio.sleep(20)
        assert errors == ["ZeroDivisionError", "HookTimeout"]
        assert log == ["ada"]
        assert not served.room.closed


@pytest.mark.parametrize("end", ["drain", "drain in vain", "cancel"])
async def test_everybody_is_offline_when_serve_is_over(end: str, autojump_clock: MockClock) -> None:
    """A grace does not hold up the end of serve, and each online has had its offline by then."""
    manager = make_manager(PresenceOptions(grace=1000))
    log = note_users(manager)
    with trio.CancelScope() as scope:
        async with serve_in_memory(manager) as memory:
            served = Club(manager, memory)
            members = [await served.enter(f"u{number}", room=f"r{number % 2}") for number in range(4)]
            await members[0].stream.cut()
            await settle()
            started = trio.current_time()
            if end == "cancel":
                scope.cancel()
            elif end == "drain in vain":
                for member in members[1:]:
                    member.stream.stall_sending()
    config = manager.config
    assert trio.current_time() - started < config.shutdown_timeout + config.close_timeout + 1
    memory.server.assert_quiescent()
    assert [event for event, _, _ in log].count("online") == 4
    assert sorted(log[:4]) == sorted(("online", room, user) for _, room, user in log[4:])


# Ways of leaving


@pytest.mark.parametrize("how", ["close", "peer", "cut", "handler", "overflow", "kick", "room"])
async def test_whatever_ends_it(how: str, autojump_clock: MockClock) -> None:
    """Invariant 2: a connection that has ended is in no presence, but for the grace of its user."""
    manager = make_manager(PresenceOptions(grace=5), limits=Limits(outbox_bytes=300_000))
    log = note_users(manager)

    @manager.on("crash")
    def crash(conn: Connection) -> None:
        raise ZeroDivisionError

    async with serve(manager) as served:
        bob, ada = await served.enter("bob"), await served.enter("ada")
        await trio.sleep(2)
        if how == "close":
            ada.conn.close()
        elif how == "peer":
            await ada.client.close()
        elif how == "cut":
            await ada.stream.cut()
        elif how == "handler":
            await ada.client.send_action("crash")
        elif how == "overflow":
            ada.stream.stall_sending()
            for _ in range(8):
                served.room.publish_nowait("x" * 50_000)
                await bob.read()
        elif how == "kick":
            served.room.kick(ada.conn)
        else:
            served.room.close()
            await bob.client.request("$join", {"room": "r"})
        await trio.sleep(20)
        assert list(served.room.presence) == ["bob"]
        await bob.read()
        assert bob.users == ["bob"]
        assert served.server.statistics().presence_entries == 1
    assert log.count(("online", "r", "ada")) == log.count(("offline", "r", "ada")) == 1


@pytest.mark.parametrize("cancel", ["scope", "leave", "kick", "connection"])
async def test_a_join_that_is_given_up_leaves_no_entry(cancel: str, autojump_clock: MockClock) -> None:
    """Between the function of entries and membership the join may end: then nobody was ever there."""
    manager = Manager(broker=LaggingBroker(delay=1.0))
    made = trio.Event()
    manager.room("r", presence=PresenceOptions(entry=lambda conn, room: made.set() or {}))
    log = note_users(manager)
    async with serve(manager) as served, trio.open_nursery() as nursery:
        client = await served.memory.connect(subprotocol=V1)
        await settle()
        (conn,) = manager.connections.values()
        join = attempt(nursery, conn.join, "r")
        await made.wait()
        if cancel == "scope":
            join.scope.cancel()
        elif cancel == "leave":
            conn.leave("r")
        elif cancel == "kick":
            served.room.kick(conn)
        else:
            await client.aclose()
        await join.over.wait()
        assert not conn.rooms
        assert served.server.statistics().presence_entries == 0
    assert log == []


async def test_a_veto_leaves_no_entry(autojump_clock: MockClock) -> None:
    """A hook that vetoes the join comes before the entry is made."""
    made: list[Connection] = []
    manager = make_manager(PresenceOptions(entry=lambda conn, room: made.append(conn) or {}))

    @manager.on_join_room
    def veto(conn: Connection, room: Room) -> None:
        raise ActionError("NO")

    async with serve(manager) as served:
        with pytest.raises(ReplyError):
            await served.enter("ada")
    assert made == []
