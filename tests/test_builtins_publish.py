"""``$publish``: who may, what members and the sender get, what the reply says, and what goes wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from hall import Guest, hall, record, settle
from trio_rooms import ActionError, Config, Connection, HandshakeRequest, Identity, Limits, Manager, UsageError
from trio_rooms.testing import LaggingBroker, ReplyError

FORMATS = [None, "trio-rooms.v1.json", "trio-rooms.v1.msgpack"]


async def allow(conn: Connection, room: str, data: Any) -> bool:
    return True


def make_manager(
    allow_publish: Any = allow, *, broker: Any = None, limits: Limits | None = None, **options: Any
) -> Manager:
    manager = Manager(broker=broker, config=Config(limits=limits or Limits()))
    manager.room("*", allow_publish=allow_publish, authorize=allow, **options)

    @manager.authenticate
    async def authenticate(request: HandshakeRequest) -> Identity:
        return Identity(user=request.query.get("user"))

    return manager


async def member(served: Any, subprotocol: str | None = None, *, user: str | None = None) -> Guest:
    """A client that has joined "r" by itself."""
    known = set(served.manager.connections)
    path = "/ws" if user is None else f"/ws?user={user}"
    client = await served.memory.connect(path=path, subprotocol=subprotocol)
    if subprotocol is not None:
        assert (await client.receive_json())["action"] == "$welcome"
    await client.request("$join", {"room": "r"})
    (ident,) = set(served.manager.connections) - known
    return Guest(client, served.manager.connections[ident])


async def refused(guest: Guest, data: object) -> str:
    """The code with which a ``$publish`` fails."""
    with pytest.raises(ReplyError) as caught:
        await guest.client.request("$publish", data)
    return caught.value.code


@pytest.mark.parametrize("subprotocol", FORMATS)
@pytest.mark.parametrize("allow_publish", [allow, True])
async def test_members_and_the_sender_get_it(
    subprotocol: str | None, allow_publish: Any, autojump_clock: MockClock
) -> None:
    """The event goes to all members and to the sender, whose reply stands behind it; all formats can."""
    manager = make_manager(allow_publish)
    async with hall(manager) as served:
        sender, other = await member(served, subprotocol), await member(served)
        await sender.client.send_action("$publish", {"room": "r", "data": {"n": [1, None, "x"]}}, id=7)
        event = {"n": [1, None, "x"]}
        assert await sender.client.receive_json() == ({"room": "r", "data": event} if subprotocol else event)
        assert await sender.client.receive_json() == {"id": 7, "data": {}}
        assert await other.client.receive_json() == event


async def test_denied_by_default(autojump_clock: MockClock) -> None:
    """A room whose options do not say so, and one without options, takes nothing from clients."""
    for options in ({}, {"allow_publish": False}):
        manager = Manager()
        manager.room("r", authorize=allow, **options)
        async with hall(manager) as served:
            sender, other = await member(served), await member(served)
            assert await refused(sender, {"room": "r", "data": 1}) == "DENIED"
            await sender.conn.join("plain")
            assert await refused(sender, {"room": "plain", "data": 1}) == "DENIED"
            await other.client.receive_nothing(1)


async def test_members_only(autojump_clock: MockClock) -> None:
    """Who is no member is denied, whatever the name, and the program is not asked."""
    asked: list[str] = []

    async def allow_publish(conn: Connection, room: str, data: Any) -> bool:
        asked.append(room)
        return True

    manager = make_manager(allow_publish)
    async with hall(manager) as served:
        guest, other = await member(served), await member(served)
        guest.conn.leave("r")
        for room in ("r", "nowhere", "$bad"):
            assert await refused(guest, {"room": room, "data": 1}) == "DENIED"
        assert not asked
        await other.client.receive_nothing(1)


@pytest.mark.parametrize("verdict", [False, None, 1, "yes", [True]])
async def test_only_true_and_mappings_allow(verdict: Any, autojump_clock: MockClock) -> None:
    """Whatever else ``allow_publish`` returns is DENIED."""

    async def allow_publish(conn: Connection, room: str, data: Any) -> Any:
        return verdict

    manager = make_manager(allow_publish)
    async with hall(manager) as served:
        guest = await member(served)
        assert await refused(guest, {"room": "r", "data": 1}) == "DENIED"
        await guest.client.receive_nothing(1)


@pytest.mark.parametrize("verdict", [{}, {"quota": 3}])
async def test_reply_data(verdict: Mapping[str, Any], autojump_clock: MockClock) -> None:
    """A mapping allows, and is the reply's data; the program sees who, where and what."""
    asked: list[tuple[Connection, str, Any]] = []

    async def allow_publish(conn: Connection, room: str, data: Any) -> Mapping[str, Any]:
        asked.append((conn, room, data))
        return verdict

    manager = make_manager(allow_publish)
    async with hall(manager) as served:
        guest = await member(served, "trio-rooms.v1.json")
        await guest.client.send_action("$publish", {"room": "r", "data": {"text": "hi"}}, id=1)
        assert await guest.client.receive_json() == {"room": "r", "data": {"text": "hi"}}
        assert await guest.client.receive_json() == {"id": 1, "data": {"data": verdict}}
        assert asked == [(guest.conn, "r", {"text": "hi"})]


async def test_allow_publish_may_say_why(autojump_clock: MockClock) -> None:
    """An ActionError of ``allow_publish`` is told; any other exception is INTERNAL, reported once; nothing is sent."""

    async def allow_publish(conn: Connection, room: str, data: Any) -> bool:
        raise ActionError("TOO_LOUD", "please") if data == "loud" else KeyError("secret")

    manager = make_manager(allow_publish)
    log = record(manager)
    async with hall(manager) as served:
        guest, other = await member(served), await member(served)
        assert await refused(guest, {"room": "r", "data": "loud"}) == "TOO_LOUD"
        assert await refused(guest, {"room": "r", "data": "x"}) == "INTERNAL"
        assert [entry for entry in log if entry[0] == "error"] == [("error", "KeyError", guest.conn.id)]
        assert guest.conn.closed is None
        await other.client.receive_nothing(1)


@pytest.mark.parametrize("how", ["leave", "kick", "close", "rejoined"])
async def test_no_member_any_more(how: str, autojump_clock: MockClock) -> None:
    """Who has left or was removed while the program was asked has published nothing."""
    answer = trio.Event()

    async def allow_publish(conn: Connection, room: str, data: Any) -> bool:
        await answer.wait()
        return True

    manager = make_manager(allow_publish)
    async with hall(manager) as served:
        guest, other = await member(served), await member(served)
        await guest.client.send_action("$publish", {"room": "r", "data": 1}, id=1)
        await settle()
        room = guest.conn.rooms["r"]
        if how == "leave":
            await guest.client.request("$leave", {"room": "r"})
        elif how == "kick":
            room.kick(guest.conn)
        else:
            room.close()
        if how == "rejoined":
            await guest.conn.join("r")
        answer.set()
        assert (await guest.client.receive_json())["error"]["code"] == "DENIED"
        await other.client.receive_nothing(1)


@pytest.mark.parametrize("subprotocol", FORMATS)
async def test_without_an_id(subprotocol: str | None, autojump_clock: MockClock) -> None:
    """Without an id there is no reply; a refusal is told without one."""
    manager = make_manager()
    async with hall(manager) as served:
        sender, other = await member(served, subprotocol), await member(served)
        await sender.client.send_action("$publish", {"room": "r", "data": 1, "echo": False})
        assert await other.client.receive_json() == 1
        await sender.client.receive_nothing(1)
        await sender.client.send_action("$publish", {"room": "other", "data": 1})
        assert (await sender.client.receive_json())["error"]["code"] == "DENIED"


async def test_echo(autojump_clock: MockClock) -> None:
    """With ``echo`` false the sender does not get its own event."""
    manager = make_manager()
    async with hall(manager) as served:
        sender, other = await member(served), await member(served)
        assert await sender.client.request("$publish", {"room": "r", "data": 1, "echo": False}) == {}
        assert await other.client.receive_json() == 1
        await sender.client.receive_nothing(1)


async def test_without_data(autojump_clock: MockClock) -> None:
    """Absent data is null."""
    manager = make_manager()
    async with hall(manager) as served:
        guest = await member(served)
        await guest.client.send_action("$publish", {"room": "r"}, id=1)
        assert await guest.client.receive_json() is None


async def test_in_turn(autojump_clock: MockClock) -> None:
    """It has its turn: behind what the same client has sent before, a ``$join`` too."""
    manager = make_manager(broker=LaggingBroker())
    async with hall(manager) as served:
        guest = await member(served)
        client = guest.client
        await client.send_action("$join", {"room": "s"}, id=1)
        await client.send_action("$publish", {"room": "s", "data": "a"}, id=2)
        await client.send_action("$publish", {"room": "s", "data": "b"}, id=3)
        got = [await client.receive_json() for _ in range(5)]
        assert got == [{"id": 1, "data": {"room": "s"}}, "a", {"id": 2, "data": {}}, "b", {"id": 3, "data": {}}]


async def test_neither_hooks_nor_middleware(autojump_clock: MockClock) -> None:
    """As all built-in actions, it passes no middleware and no ``on_message``."""
    manager = make_manager()
    seen: list[object] = []
    manager.on_message(lambda conn, message: seen.append(message))
    async with hall(manager) as served:
        guest = await member(served)
        await guest.client.send_action("$publish", {"room": "r", "data": 1})
        assert await guest.client.receive_json() == 1
        assert not seen


async def test_conflation_key(autojump_clock: MockClock) -> None:
    """``key`` is what a newer event replaces where the room conflates."""
    manager = make_manager(overflow="conflate")
    async with hall(manager) as served, manager.subscribe("r", overflow="conflate") as events:
        guest = await member(served)
        for number in range(3):
            await guest.client.send_action("$publish", {"room": "r", "data": number, "key": "k", "echo": False})
        await settle()
        assert (await anext(events)).data == 2
        assert events.displaced == 2


@pytest.mark.parametrize("broker", [pytest.param(lambda: None, id="memory"), LaggingBroker])
async def test_position(broker: Any, autojump_clock: MockClock) -> None:
    """In a room with history the reply says where the event stands, which the event says, too."""
    manager = make_manager(broker=broker(), history_size=10)
    async with hall(manager) as served:
        guest = await member(served, "trio-rooms.v1.json")
        await guest.client.send_action("$publish", {"room": "r", "data": 1}, id=1)
        event, reply = [await guest.client.receive_json() for _ in range(2)]
        assert reply["id"] == 1
        assert reply["data"].keys() == {"offset", "epoch"}
        assert event["offset"] == reply["data"]["offset"]
        (item,) = (await manager.history("r")).publications
        assert item.offset == event["offset"]


@pytest.mark.parametrize("history_size", [0, 10])
async def test_idempotency_key(history_size: int, autojump_clock: MockClock) -> None:
    """A repeat with the same key is answered as the first was, and not delivered, from another connection neither."""
    manager = make_manager(history_size=history_size)
    async with hall(manager) as served:
        member_of_it = await member(served)
        first = await member(served, user="ann")
        again = await member(served, user="ann")
        data = {"room": "r", "data": 1, "idempotency_key": "k", "echo": False}
        answers = [await guest.client.request("$publish", data) for guest in (first, first, again)]
        assert answers[0] == answers[1] == answers[2]
        assert ("offset" in answers[0]) is bool(history_size)
        assert await member_of_it.client.receive_json() == 1
        await member_of_it.client.receive_nothing(1)


async def test_whose_idempotency_key(autojump_clock: MockClock) -> None:
    """Nobody can use up the key of another user, of a connection without one, or of the program."""
    manager = make_manager()
    async with hall(manager) as served:
        listener = await member(served)
        guests = [await member(served, user="ann"), await member(served, user="bob"), await member(served), listener]
        guests.append(await member(served, user=guests[2].conn.id))
        data = {"room": "r", "data": 1, "idempotency_key": "k"}
        for guest in guests:
            await guest.client.send_action("$publish", data)
            await settle()
        assert not manager.broadcast_to_room("r", 1, idempotency_key="k").duplicate
        for _ in range(6):
            assert await listener.client.receive_json() == 1


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        {"room": 1},
        {"room": "r", "key": ""},
        {"room": "r", "key": "x" * 9},
        {"room": "r", "key": 1},
        {"room": "r", "idempotency_key": ""},
        {"room": "r", "idempotency_key": "x" * 9},
        {"room": "r", "echo": 1},
        {"room": "r", "data": [[[[]]]]},
        {"room": "r", "data": "x" * 400},
    ],
    ids=str,
)
async def test_bad_messages(data: Any, autojump_clock: MockClock) -> None:
    """What cannot be read, or not be published, is BAD_MESSAGE; the connection stays, and members get nothing."""
    manager = make_manager(limits=Limits(max_depth=4, max_id_chars=8, outbox_bytes=500))
    async with hall(manager) as served:
        guest, other = await member(served), await member(served)
        assert await refused(guest, data) == "BAD_MESSAGE"
        assert guest.conn.closed is None
        await other.client.receive_nothing(1)
        await guest.client.send_action("$publish", {"room": "r", "data": 1, "key": "x" * 8, "idempotency_key": "x" * 8})
        assert await other.client.receive_json() == 1


async def test_what_msgpack_alone_can_hold(autojump_clock: MockClock) -> None:
    """From MessagePack to MessagePack bytes stay bytes; JSON gets base64."""
    manager = make_manager()
    async with hall(manager) as served:
        sender, other = await member(served, "trio-rooms.v1.msgpack"), await member(served)
        await sender.client.send_action("$publish", {"room": "r", "data": b"\xff\xd8"})
        assert await sender.client.receive_json() == {"room": "r", "data": b"\xff\xd8"}
        assert await other.client.receive_json() == "/9g="


async def test_cancelled(autojump_clock: MockClock) -> None:
    """A ``$cancel`` or a deadline while the broker has it is told; whether it was published is not known by that."""
    manager = make_manager(broker=LaggingBroker(delay=2.0))
    async with hall(manager) as served:
        guest = await member(served)
        await guest.client.send_action("$publish", {"room": "r", "data": 1}, id=1)
        await settle()
        await guest.client.send_action("$cancel", {"id": 1})
        assert (await guest.client.receive_json())["error"]["code"] == "CANCELLED"
        assert await guest.client.receive_json() == 1
        with pytest.raises(ReplyError, match="DEADLINE_EXCEEDED"):
            await guest.client.request("$publish", {"room": "r", "data": 2}, timeout_ms=500)
        assert await guest.client.receive_json() == 2


@pytest.mark.parametrize("wrong", [None, 1, "yes"])
def test_wrong_options(wrong: Any) -> None:
    """What is neither a function nor a bool is refused where the room is registered."""
    with pytest.raises(UsageError):
        Manager().room("r", allow_publish=wrong)
