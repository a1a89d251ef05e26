"""Presence: what members are told, and when; what entries hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from hall import Gate, settle
from messages import FORMATS, MSGPACK, V1
from presences import Member, club, make_manager, serve
from trio_rooms import (
    ActionError,
    Connection,
    Denied,
    EncodingError,
    Limits,
    Position,
    PresenceOptions,
    Room,
    UsageError,
)
from trio_rooms.testing import ReplyError

V1_FORMATS = [V1, MSGPACK]


# What members are told


@pytest.mark.parametrize("subprotocol", V1_FORMATS)
async def test_state_then_changes(subprotocol: str, autojump_clock: MockClock) -> None:
    """A member gets the state right behind the reply of its join, and from then on what changes."""
    async with club(PresenceOptions(grace=0)) as served:
        ada = await served.enter("ada", subprotocol=subprotocol)
        assert await ada.read() == [
            {"users": {}},
            {"joins": {"ada": [{"id": next(iter(ada.known["ada"]))}]}, "leaves": {}},
        ]
        await trio.sleep(2)
        bob = await served.enter("bob", subprotocol=subprotocol)
        assert (await bob.read())[0] == {"users": {"ada": [*ada.known["ada"].values()]}}
        assert (await ada.read()) == [bob.pushes[1]]
        assert ada.known == bob.known
        assert list(bob.pushes[1]["joins"]) == ["bob"]
        left = next(iter(ada.known["bob"]))
        await trio.sleep(2)
        await bob.client.close()
        assert await ada.read() == [{"joins": {}, "leaves": {"bob": [{"id": left}]}}]
        assert ada.users == ["ada"]


async def test_state_is_right_behind_the_reply(autojump_clock: MockClock) -> None:
    """Nothing stands between the reply and the state, and no change before it, whoever joins at the same time."""
    async with club(PresenceOptions(interval=0)) as served:
        await served.enter("ada")
        client = await served.memory.connect(path="/ws?user=bob", subprotocol=V1)
        await settle()
        await client.send_action("$join", {"room": "r"}, id=1)
        served.room.publish_nowait("before")
        await settle()
        served.room.publish_nowait("after")
        await settle()
        got = [await client.receive_json() for _ in range(5)]
        assert [message.get("action", message.get("id", message.get("data"))) for message in got] == [
            "$welcome",
            1,
            "$presence",
            "$presence",
            "after",
        ]
        assert "users" in got[2]["data"]
        assert "joins" in got[3]["data"]


@pytest.mark.parametrize("by", ["$join", "handler"])
async def test_state_and_what_is_recovered(by: str, autojump_clock: MockClock) -> None:
    """In a room with history the state stands behind what a join recovers, and ahead of what is live."""
    manager = make_manager(PresenceOptions(), history_size=10)

    @manager.on("enter")
    async def enter(conn: Connection, since: dict[str, Any]) -> None:
        await conn.join("r", since=Position(since["offset"], since["epoch"]))
        served.room.publish_nowait("live")

    async with serve(manager) as served:
        ada = await served.enter("ada")
        await ada.client.request("$leave", {"room": "r"})
        joined = await ada.client.request("$join", {"room": "r"})
        since = {"epoch": joined["epoch"], "offset": joined["offset"]}
        served.room.publish_nowait("missed")
        client = await served.memory.connect(path="/ws?user=bob", subprotocol=V1)
        assert (await client.receive_json())["action"] == "$welcome"
        if by == "$join":
            reply = await client.request("$join", {"room": "r", "since": since})
            assert reply["recovered"] is True
            assert [item["data"] for item in reply["publications"]] == ["missed"]
            served.room.publish_nowait("live")
        else:
            await client.send_action("enter", since)
            assert (await client.receive_json())["data"] == "missed"
        assert list((await client.receive_json())["data"]["users"]) == ["ada"]
        messages = [await client.receive_json() for _ in range(2)]
        assert {"live" if message["data"] == "live" else message["action"] for message in messages} == {
            "live",
            "$presence",
        }


async def test_a_handlers_join_is_followed_by_the_state(autojump_clock: MockClock) -> None:
    """Where there is no reply of a $join, the state comes in the step in which the membership begins."""
    manager = make_manager(PresenceOptions())

    @manager.on("enter")
    async def enter(conn: Connection) -> str:
        await conn.join("r")
        return "in"

    async with serve(manager) as served:
        client = await served.memory.connect(path="/ws?user=ada", subprotocol=V1)
        assert (await client.receive_json())["action"] == "$welcome"
        await client.send_action("enter", id=1)
        assert (await client.receive_json())["data"] == {"users": {}}
        assert await client.receive_json() == {"id": 1, "data": "in"}


async def test_plain_clients_are_told_nothing(autojump_clock: MockClock) -> None:
    """A plain client is present for the others, and gets nothing that it has not asked for; it cannot ask either."""
    async with club(PresenceOptions()) as served:
        plain = await served.enter("plain", subprotocol=None)
        ada = await served.enter("ada")
        await ada.read()
        assert ada.users == ["plain"]
        await trio.sleep(5)
        await ada.read()
        assert ada.users == ["plain", "ada"]
        await plain.client.receive_nothing(5)
        with pytest.raises(ReplyError) as caught:
            await plain.client.request("$presence", {"room": "r"})
        assert caught.value.code == "NEEDS_V1"


@pytest.mark.parametrize("subprotocol", FORMATS)
async def test_rooms_without_presence(subprotocol: str | None, autojump_clock: MockClock) -> None:
    """Off by default: nobody is told, nobody is counted, and who asks is refused."""
    async with club(None) as served:
        ada = await served.enter("ada", subprotocol=subprotocol)
        await trio.sleep(5)
        await ada.read()
        assert ada.pushes == []
        assert served.server.statistics().presence_entries == 0
        with pytest.raises(ReplyError) as caught:
            await ada.client.request("$presence", {"room": "r"})
        assert caught.value.code == ("NEEDS_V1" if subprotocol is None else "DENIED")
        with pytest.raises(Denied):
            ada.conn.set_presence("r", {})
        with pytest.raises(UsageError):
            _ = served.room.presence


async def test_an_anonymous_connection_is_a_user_of_its_own(autojump_clock: MockClock) -> None:
    """Without a user it is the connection's id that stands for it."""
    async with club(PresenceOptions()) as served:
        one, other = await served.enter(None), await served.enter(None)
        await trio.sleep(2)
        await one.read()
        assert one.users == [one.conn.id, other.conn.id]


async def test_ids_of_entries_are_not_those_of_connections(autojump_clock: MockClock) -> None:
    """An entry's id tells nothing of its connection, and is another one with each join."""
    async with club(PresenceOptions(grace=0)) as served:
        ada = await served.enter("ada")
        await ada.read()
        (first,) = ada.known["ada"]
        await ada.client.request("leave", "r")
        await ada.client.request("$join", {"room": "r"})
        await trio.sleep(2)
        await ada.read()
        (second,) = ada.known["ada"]
        assert first != second
        assert ada.conn.id not in (first, second)


# $presence


@pytest.mark.parametrize("subprotocol", V1_FORMATS)
async def test_a_member_may_ask(subprotocol: str, autojump_clock: MockClock) -> None:
    """The answer is what the members have been told, so that later changes fit to it."""
    async with club(PresenceOptions()) as served:
        ada = await served.enter("ada", subprotocol=subprotocol)
        await ada.read()
        await served.enter("bob")
        assert await ada.client.request("$presence", {"room": "r"}) == ada.pushes[0] | {
            "users": {"ada": [*ada.known["ada"].values()]}
        }
        await trio.sleep(2)
        answer = await ada.client.request("$presence", {"room": "r"})
        await ada.read()
        assert answer == {"users": {user: [*entries.values()] for user, entries in ada.known.items()}}


@pytest.mark.parametrize(("data", "code"), [({"room": "other"}, "DENIED"), ({"room": 1}, "BAD_MESSAGE")])
async def test_who_is_no_member_may_not_ask(data: object, code: str, autojump_clock: MockClock) -> None:
    """Of a room that it is not in, a client learns nothing, not even whether there is one."""
    async with club(PresenceOptions()) as served:
        await served.enter("bob", room="rother")
        ada = await served.enter("ada")
        for asked in (data, {"room": "rother"} if code == "DENIED" else data):
            with pytest.raises(ReplyError) as caught:
                await ada.client.request("$presence", asked)
            assert caught.value.code == code


# Merged changes


async def test_many_joins_cost_a_few_messages(autojump_clock: MockClock) -> None:
    """N joins within an interval are one push for each member, not one for each join: O(N) messages, not N squared."""
    count = 60
    async with club(PresenceOptions(interval=1.0)) as served:
        members = [await served.enter(f"u{number}") for number in range(count)]
        await trio.sleep(3)
        pushes = [await member.read() for member in members]
        assert sum(map(len, pushes)) <= 4 * count
        assert served.server.statistics().presence_pushes <= 3
        assert all(member.known == members[0].known for member in members)
        assert len(members[0].users) == count


async def test_interval(autojump_clock: MockClock) -> None:
    """After a quiet time a change is pushed at once; then the interval passes until the next push."""
    async with club(PresenceOptions(interval=5.0)) as served:
        ada = await served.enter("ada")
        assert len(await ada.read()) == 2
        await trio.sleep(1)
        bob = await served.enter("bob")
        assert not await ada.read()
        await trio.sleep(3.9)
        assert not await ada.read()
        await trio.sleep(0.2)
        assert len(await ada.read()) == 1
        await trio.sleep(6)
        await bob.client.request("set", {"n": 1})
        assert len(await ada.read()) == 1


async def test_no_interval(autojump_clock: MockClock) -> None:
    """With 0 each change is pushed when the task has its turn; no time passes."""
    async with club(PresenceOptions(interval=0)) as served:
        ada = await served.enter("ada")
        now = trio.current_time()
        for number in range(3):
            await served.enter(f"u{number}")
            assert len(await ada.read()) >= 1
        assert trio.current_time() - now < 0.1
        assert ada.users == ["ada", "u0", "u1", "u2"]


async def test_what_comes_and_goes_is_not_told(autojump_clock: MockClock) -> None:
    """Join and leave of the same entry within one interval cancel each other out; so do an update and its undoing."""
    async with club(PresenceOptions(grace=0)) as served:
        ada = await served.enter("ada")
        await ada.read()
        bob = await served.enter("bob")
        await bob.client.close()
        ada.conn.set_presence("r", {"typing": True})
        ada.conn.set_presence("r", {})
        await trio.sleep(3)
        assert await ada.read() == []
        assert served.server.statistics().presence_pushes == 1


async def test_nothing_runs_when_there_is_nothing_to_send(autojump_clock: MockClock) -> None:
    """A room at rest has no timer: an hour passes in one step."""
    async with club(PresenceOptions()) as served:
        await served.enter("ada")
        await trio.sleep(2)
        await settle()
        deadline = trio.lowlevel.current_statistics().seconds_to_next_deadline
        assert deadline > 1000


# Entries


@pytest.mark.parametrize("subprotocol", V1_FORMATS)
async def test_entry(subprotocol: str, autojump_clock: MockClock) -> None:
    """An entry begins with what the option's function returns, and is replaced by set_presence."""

    async def entry(conn: Connection, room: Room) -> dict[str, object]:
        await trio.lowlevel.checkpoint()
        return {"name": conn.identity.user, "in": room.name, "id": "mine"}

    async with club(PresenceOptions(entry=entry), linger=0.0) as served:
        ada = await served.enter("ada", subprotocol=subprotocol)
        await ada.read()
        assert ada.data("ada") == [{"name": "ada", "in": "r"}]
        (ident,) = ada.known["ada"]
        assert ident != "mine"
        await ada.client.request("set", {"status": "away"})
        await trio.sleep(2)
        await ada.read()
        assert ada.data("ada") == [{"status": "away"}]
        assert list(ada.known["ada"]) == [ident]


async def test_an_update_is_one_change(autojump_clock: MockClock) -> None:
    """An entry that changed is among the joins with the id that it had; many updates in an interval are one."""
    async with club(PresenceOptions()) as served:
        ada, bob = await served.enter("ada"), await served.enter("bob")
        await trio.sleep(2)
        await ada.read()
        for number in range(10):
            await bob.client.request("set", {"n": number})
        await trio.sleep(2)
        pushes = await ada.read()
        assert len(pushes) == 2
        assert all(push["leaves"] == {} for push in pushes)
        assert ada.data("bob") == [{"n": 9}]


async def test_an_entry_is_a_copy(autojump_clock: MockClock) -> None:
    """What the program does with its object afterwards, or with what it was given, changes nobody's entry."""
    data = {"list": [1]}
    async with club(PresenceOptions(entry=lambda conn, room: data)) as served:
        ada = await served.enter("ada")
        data["list"].append(2)
        seen = served.room.presence
        await ada.read()
        assert ada.data("ada") == [{"list": [1]}]
        assert [dict(entry) for entry in seen["ada"]] == [*ada.known["ada"].values()]


async def test_presence_of_a_room_is_of_now(autojump_clock: MockClock) -> None:
    """Handlers see who is there now, before the members are told."""
    async with club(PresenceOptions(interval=5)) as served:
        ada = await served.enter("ada")
        await ada.read()
        bob = await served.enter("bob")
        second = await served.enter("bob")
        assert {user: len(entries) for user, entries in served.room.presence.items()} == {"ada": 1, "bob": 2}
        await second.client.request("leave", "r")
        await bob.client.request("leave", "r")
        assert list(served.room.presence) == ["ada"]
        assert served.server.statistics().presence_entries == 1


@pytest.mark.parametrize(
    ("data", "error"), [([1], UsageError), ("text", UsageError), (None, UsageError), ({"a": object()}, EncodingError)]
)
async def test_what_is_no_entry(data: object, error: type[Exception], autojump_clock: MockClock) -> None:
    """An entry is a mapping that can be encoded."""
    async with club(PresenceOptions()) as served:
        ada = await served.enter("ada")
        with pytest.raises(error):
            ada.conn.set_presence("r", data)


async def test_only_members_have_an_entry(autojump_clock: MockClock) -> None:
    """Who has left, or was never there, cannot set one; a client whose handler tries is told DENIED."""
    async with club(PresenceOptions()) as served:
        ada = await served.enter("ada")
        with pytest.raises(Denied):
            ada.conn.set_presence("elsewhere", {})
        ada.conn.leave("r")
        with pytest.raises(ReplyError) as caught:
            await ada.client.request("set", {})
        assert caught.value.code == "DENIED"


@pytest.mark.parametrize("error", [ActionError("BANNED"), ZeroDivisionError("secret")])
async def test_a_function_of_entries_that_raises(error: Exception, autojump_clock: MockClock) -> None:
    """The join fails as by a hook: with the code, or INTERNAL without detail; the leave hooks run, nothing is left."""

    def entry(conn: Connection, room: Room) -> dict[str, object]:
        raise error

    manager = make_manager(PresenceOptions(entry=entry))
    reasons = []
    errors = []
    manager.on_leave_room(lambda conn, room, reason: reasons.append(reason))
    manager.on_error(lambda conn, error: errors.append(error))
    async with serve(manager) as served:
        with pytest.raises(ReplyError) as caught:
            await served.enter("ada")
        expected = error if isinstance(error, ActionError) else ActionError("INTERNAL")
        assert caught.value.code == expected.code
        assert "secret" not in str(caught.value)
        assert not manager.rooms()
    assert reasons == ["vetoed"]
    assert errors == ([] if isinstance(error, ActionError) else [error])


async def test_a_function_of_entries_that_hangs(autojump_clock: MockClock) -> None:
    """It may take hook_timeout; then the join fails."""

    async def entry(conn: Connection, room: Room) -> dict[str, object]:
        await trio.sleep_forever()
        raise AssertionError

    async with club(PresenceOptions(entry=entry)) as served:
        with pytest.raises(ReplyError) as caught:
            await served.enter("ada")
        assert caught.value.code == "INTERNAL"
        assert trio.current_time() == pytest.approx(served.manager.config.hook_timeout, abs=1)


# What is fetched


async def test_fetch_in_batches(autojump_clock: MockClock) -> None:
    """Users are fetched once for all their entries, those of one push together, and shown beneath their own data."""
    asked: list[tuple[str, ...]] = []

    async def fetch(room: Room, users: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        assert room.name == "r"
        asked.append(tuple(users))
        await trio.sleep(0.5)
        return {user: {"name": user.title(), "color": "red"} for user in users if user != "nobody"}

    presence = PresenceOptions(
        fetch=fetch, entry=lambda conn, room: {"color": "blue"} if conn.identity.user == "bob" else {}
    )
    async with club(presence) as served:
        ada = await served.enter("ada")
        await trio.sleep(3)
        for user in ("bob", "bob", "carol", "nobody", "ada"):
            await served.enter(user)
        await trio.sleep(5)
        late = await served.enter("bob")
        await trio.sleep(3)
        for member in (ada, late):
            await member.read()
            assert member.data("ada") == [{"name": "Ada", "color": "red"}] * 2
            assert member.data("bob") == [{"name": "Bob", "color": "blue"}] * 3
            assert member.data("nobody") == [{}]
    assert sorted(user for users in asked for user in users) == ["ada", "bob", "carol", "nobody"]
    assert asked[0] == ("ada",)
    assert len(asked) <= 3


@pytest.mark.parametrize("how", ["raises", "hangs", "no mapping", "too large"])
async def test_fetch_that_fails(how: str, autojump_clock: MockClock) -> None:
    """The error is reported, and the users are shown without; nobody is asked for twice."""
    calls = []

    async def fetch(room: Room, users: Sequence[str]) -> Any:
        calls.append(users)
        if how == "raises":
            raise ZeroDivisionError
        if how == "hangs":
            await trio.sleep_forever()
        return None if how == "no mapping" else {user: {"x": "x" * 2000} for user in users}

    manager = make_manager(PresenceOptions(fetch=fetch))
    errors: list[str] = []
    manager.on_error(lambda conn, error: errors.append(type(error).__name__))
    async with serve(manager) as served:
        ada = await served.enter("ada")
        await trio.sleep(30)
        ada.conn.set_presence("r", {"n": 1})
        await trio.sleep(30)
        await ada.read()
        assert ada.data("ada") == [{"n": 1}]
        counted = served.server.statistics().limited.get("presence_entry_bytes", 0)
        assert counted == (how == "too large")
    expected = {"raises": "ZeroDivisionError", "hangs": "HookTimeout", "no mapping": "TypeError"}
    assert errors == [expected.get(how, "EntryTooLarge")]
    assert len(calls) == 1


async def test_who_leaves_while_fetched(autojump_clock: MockClock) -> None:
    """Users who have gone when the answer comes are not told, and who came meanwhile waits for the next push."""
    gate = Gate()

    async def fetch(room: Room, users: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        await gate()
        return {user: {"name": user} for user in users}

    async with club(PresenceOptions(fetch=fetch, grace=0, interval=0)) as served:
        bob, ada = await served.enter("bob"), await served.enter("ada")
        await gate.reached.wait()
        await bob.client.request("leave", "r")
        gate.open.set()
        await ada.read()
        assert ada.users == ["ada"]
        assert ada.data("ada") == [{"name": "ada"}]


# Members that do not read


async def test_a_member_without_room_gets_the_state_later(autojump_clock: MockClock) -> None:
    """A push that does not fit is not lost silently: the member gets all of it anew, counted, and knows what is."""
    async with club(PresenceOptions(grace=0), limits=Limits(outbox_messages=4), overflow="drop_newest") as served:
        ada, bob = await served.enter("ada"), await served.enter("bob")
        await trio.sleep(2)
        await ada.read()
        ada.stream.stall_sending()
        for number in range(8):
            bob.conn.set_presence("r", {"n": number})
            await trio.sleep(1.1)
        carol = await served.enter("carol")
        await trio.sleep(1)
        ada.stream.resume_sending()
        pushes = await ada.read()
        await trio.sleep(2)
        pushes += await ada.read()
        assert [push for push in pushes if "users" in push] == [pushes[-1]]
        await carol.read()
        assert ada.known == carol.known
        assert served.server.statistics().presence_resyncs == 1
        bob.conn.set_presence("r", {"n": 100})
        await trio.sleep(2)
        assert ["joins" in push for push in await ada.read()] == [True]


async def test_a_state_that_does_not_fit_comes_later(autojump_clock: MockClock) -> None:
    """A joining client without room for the state gets it when there is, and no change before."""
    async with club(PresenceOptions(), limits=Limits(outbox_messages=2)) as served:
        await served.enter("bob")
        client = await served.memory.connect(path="/ws?user=ada", subprotocol=V1)
        await settle()
        conn = list(served.manager.connections.values())[-1]
        assert (await client.receive_json())["action"] == "$welcome"
        conn.send_nowait(1)
        conn.send_nowait(2)
        await conn.outbox.wait_fits(10)
        await settle()
        with trio.fail_after(30):
            joined = await conn.join("r")
            assert joined.new
            got: list[Any] = []
            while len(got) < 4:
                got.append(await client.receive_json())
        states = [message["data"] for message in got if message.get("action") == "$presence"]
        assert "users" in states[0]


async def test_a_change_larger_than_a_state_is_one(autojump_clock: MockClock) -> None:
    """Where everybody has left and as many have come, members get the state in the place of what has changed."""
    presence = PresenceOptions(max_bytes=500, grace=0, interval=5)
    async with club(presence) as served:
        watcher = await served.enter("w")
        for letter in "ab":
            members: list[Member] = [await served.enter(letter * 30) for _ in range(4)]
            for member in members:
                member.conn.set_presence("r", {"x": letter})
            await trio.sleep(6)
            await watcher.read()
            for member in members:
                member.conn.leave("r")
        members = [await served.enter("c" * 30) for _ in range(4)]
        await trio.sleep(6)
        await watcher.read()
        assert watcher.users == ["w", "c" * 30]
