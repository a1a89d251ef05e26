"""However many come and go, a room's presence stays within its bounds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from hall import settle
from messages import MSGPACK, V1
from presences import club, make_manager, note_users, serve
from trio_rooms import (
    EntryTooLarge,
    Limits,
    Manager,
    PresenceOptions,
    Room,
    RoomFull,
    UsageError,
)
from trio_rooms.testing import ReplyError


async def test_max_entry_bytes(autojump_clock: MockClock) -> None:
    """An entry is at most so large: a join fails, an update is refused and changes nothing; each is counted."""
    presence = PresenceOptions(max_entry_bytes=50, entry=lambda conn, room: {"n": "x" * int(conn.query["n"])})
    async with club(presence) as served:
        with pytest.raises(ReplyError) as caught:
            await served.enter("eve&n=100")
        assert caught.value.code == "ENTRY_TOO_LARGE"
        ada = await served.enter("ada&n=1")
        await ada.read()
        with pytest.raises(ReplyError) as caught:
            await ada.client.request("set", {"x": "x" * 60})
        assert caught.value.code == "ENTRY_TOO_LARGE"
        with pytest.raises(EntryTooLarge):  # what MessagePack makes longer counts as it is there
            ada.conn.set_presence("r", {"x": [0.0] * 10})
        assert served.room.presence["ada"][0]["n"] == "x"
        assert served.server.statistics().limited == {"presence_entry_bytes": 3}


async def test_max_bytes(autojump_clock: MockClock) -> None:
    """All entries of a room are at most so large: then joins are ROOM_FULL, and updates refused; each is counted."""
    async with club(PresenceOptions(max_bytes=400)) as served:
        members = [await served.enter(f"u{number}") for number in range(5)]
        with pytest.raises(ReplyError) as caught:
            await served.enter("eve")
        assert caught.value.code == "ROOM_FULL"
        with pytest.raises(EntryTooLarge):
            members[0].conn.set_presence("r", {"x": "x" * 100})
        assert served.server.statistics().limited == {"presence_bytes": 2}
        members[4].conn.leave("r")
        members[0].conn.set_presence("r", {"x": "x" * 20})
        members[0].conn.set_presence("r", {})
        await served.enter("eve")
        assert list(served.room.presence) == ["u0", "u1", "u2", "u3", "eve"]


async def test_a_full_room_raises_in_the_program(autojump_clock: MockClock) -> None:
    """A handler's own join is told so by RoomFull."""
    async with club(PresenceOptions(max_bytes=70)) as served:
        await served.enter("a")
        client = await served.memory.connect(path="/ws?user=bob")
        await settle()
        conn = list(served.manager.connections.values())[-1]
        with pytest.raises(RoomFull):
            await conn.join("r")
        await client.aclose()


async def test_graces_make_room(autojump_clock: MockClock) -> None:
    """Those in their grace keep nobody out: the oldest go when there is no room; who comes back needs none."""
    manager = make_manager(PresenceOptions(max_bytes=300, grace=100))
    log = note_users(manager)
    async with serve(manager) as served:
        members = [await served.enter(f"u{number}") for number in range(4)]
        for member in members[1:]:
            await member.client.close()
        await served.enter("u1")
        assert list(served.room.presence) == ["u0", "u1", "u2", "u3"]
        await served.enter("eve")
        assert list(served.room.presence) == ["u0", "u1", "u3", "eve"]
        await settle()
        assert [entry for entry in log if entry[0] == "offline"] == [("offline", "r", "u2")]
        await served.enter("u3")
        assert list(served.room.presence) == ["u0", "u1", "u3", "eve"]
        with pytest.raises(ReplyError):
            await served.enter("mallory")


async def test_what_is_fetched_is_bounded(autojump_clock: MockClock) -> None:
    """For what is fetched there has to be room, too; without it the user is shown without, and it is counted."""

    async def fetch(room: Room, users: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        return {user: {"x": "x" * 100} for user in users}

    async with club(PresenceOptions(max_bytes=300, fetch=fetch)) as served:
        ada, bob = await served.enter("ada"), await served.enter("bob")
        await trio.sleep(2)
        await ada.read()
        assert ada.data("ada") == [{"x": "x" * 100}]
        assert ada.data("bob") == [{}]
        assert served.server.statistics().limited == {"presence_bytes": 1}
        await bob.read()


async def test_a_presence_larger_than_an_outbox_is_refused(autojump_clock: MockClock) -> None:
    """It could never be sent, so the manager is not served."""
    manager = make_manager(PresenceOptions(max_bytes=100_000), limits=Limits(outbox_bytes=100_000))
    with pytest.raises(UsageError, match="max_bytes"):
        await manager.serve(listeners=[])
    assert manager.server is None


@pytest.mark.parametrize("subprotocol", [V1, MSGPACK])
@pytest.mark.parametrize("data", [{}, {"x": [0.0] * 20}, {"\0": '\0"' * 5}, {str(n): n for n in range(20)}])
async def test_the_largest_state_fits(subprotocol: str, data: dict[str, Any], autojump_clock: MockClock) -> None:
    """What is charged for entries is at least what they take, in both formats, whatever is in them."""
    largest, name_bytes = 3000, 20
    limits = Limits(outbox_bytes=largest + 6 * name_bytes + 256, max_room_name_bytes=name_bytes)
    room = "r" + "é" * 9
    async with club(PresenceOptions(max_bytes=largest, entry=lambda conn, room: data), limits=limits) as served:
        while not served.server.statistics().limited:
            with suppress(ReplyError):
                await served.enter("%00%22", room=room)
        assert served.server.statistics().limited == {"presence_bytes": 1}
        await trio.sleep(2)
        (first, *_) = served.manager.connections.values()
        first.leave(room)
        last = await served.enter("last", room=room, subprotocol=subprotocol)
        await last.read()
        assert len(last.pushes[0]["users"]['\0"']) == served.server.statistics().presence_entries - 1 > 5


@pytest.mark.parametrize(
    "fields",
    [
        {"interval": -1},
        {"grace": math.nan},
        {"max_entry_bytes": 0},
        {"max_bytes": 1.5},
        {"entry": "name"},
        {"fetch": 1},
    ],
)
def test_options_are_checked(fields: dict[str, Any]) -> None:
    """A mistake shows in the line that makes it."""
    with pytest.raises((ValueError, TypeError)):
        PresenceOptions(**fields)
    with pytest.raises(UsageError):
        Manager().room("r", presence=True)


async def test_a_flood_of_users_and_rooms(autojump_clock: MockClock) -> None:
    """However many users and rooms come and go, entries never exceed the bounds, and nothing is left in the end."""
    presence = PresenceOptions(max_bytes=2000, grace=30, interval=0.5)
    manager = make_manager(presence, limits=Limits(max_rooms=5))
    note_users(manager)
    async with serve(manager) as served:
        watcher = await served.enter("watcher")
        refused: Counter[str] = Counter()
        for number in range(300):
            try:
                member = await served.enter(f"u{number}", room=f"r{number % 10 or ''}")
                await member.client.aclose()
            except ReplyError as exc:
                refused[exc.code] += 1
            await settle()
            assert served.server.statistics().presence_entries <= 5 * (2000 // 64)
            for room in manager.rooms():
                tracked = room._presence
                assert tracked is not None
                assert tracked._attendance.cost <= 2000
                assert len(tracked._events._online) + len(tracked._events._due) <= 2 * 2000 // 64
            if number % 50 == 0:
                await trio.sleep(1)
                await watcher.read()
        assert refused.keys() <= {"ROOM_FULL", "TOO_MANY_ROOMS"}
        await trio.sleep(40)
        await watcher.read()
        assert watcher.users == ["watcher"]
        assert served.server.statistics().presence_entries == 1
        tracked = served.room._presence
        assert tracked is not None
        attendance = tracked._attendance
        assert (len(attendance.people), len(attendance.told), len(attendance._changed)) == (1, 1, 0)
