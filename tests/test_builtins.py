"""$join, $leave and $cancel: what they answer, when they act, and that each request is answered once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from messages import FORMATS, V1, Valve, code_of, receive_all, send_together
from trio_rooms import ActionError, Config, Connection, Limits, Manager, Room
from trio_rooms.middleware import recovery
from trio_rooms.testing import FaultyStream, LaggingBroker, ReplyError, TestClient, open_client, serve_in_memory


async def allow(conn: Connection, room: str, data: Any) -> bool:
    """Everybody may join."""
    return True


def open_manager(**options: Any) -> Manager:
    """A manager whose rooms anybody may join."""
    manager = Manager(**options)
    manager.room("*", authorize=allow)
    return manager


async def joined(client: TestClient, room: str = "r") -> None:
    assert await client.request("$join", {"room": room}) == {"room": room}


# $join


@pytest.mark.parametrize("subprotocol", FORMATS)
async def test_join_without_authorize_is_denied(subprotocol: str | None, autojump_clock: object) -> None:
    """A client joins by itself only where the room's options have an `authorize`; a denied join makes no room."""
    manager = Manager()
    opened = []
    manager.on_room_open(lambda room: opened.append(room.name))
    manager.room("options.*", capacity=5)
    async with serve_in_memory(manager) as memory:
        client = await memory.connect(subprotocol=subprotocol)
        for room in ("r", "options.r"):
            with pytest.raises(ReplyError) as caught:
                await client.request("$join", {"room": room})
            assert caught.value.code == "DENIED"
        assert memory.server.statistics().rooms == 0
    assert opened == []


@pytest.mark.parametrize(
    ("verdict", "data"),
    [
        (True, None),
        ({}, {}),
        ({"role": "admin"}, {"role": "admin"}),
        (MappingProxyType({"a": [1]}), {"a": [1]}),
    ],
)
async def test_what_authorize_returns(verdict: Any, data: object, autojump_clock: object) -> None:
    """True lets in; any mapping lets in and is the reply's data."""
    manager = Manager()
    asked = []

    async def authorize(conn: Connection, room: str, given: Any) -> Any:
        asked.append((conn.id, room, given))
        return verdict

    manager.room("*", authorize=authorize)
    async with open_client(manager) as client:
        (conn,) = manager.connections.values()
        reply = await client.request("$join", {"room": "r", "data": {"token": 1}})
        assert reply == {"room": "r"} | ({} if data is None else {"data": data})
        assert list(conn.rooms) == ["r"]
    assert asked == [(conn.id, "r", {"token": 1})]


@pytest.mark.parametrize("verdict", [False, None, 1, "yes", [("a", 1)]])
async def test_anything_else_is_a_no(verdict: object, autojump_clock: object) -> None:
    """Only True and mappings let in: whatever else `authorize` returns is DENIED."""
    manager = Manager()

    async def authorize(conn: Connection, room: str, data: Any) -> Any:
        return verdict

    manager.room("*", authorize=authorize)
    async with open_client(manager) as client:
        with pytest.raises(ReplyError) as caught:
            await client.request("$join", {"room": "r"})
        assert caught.value.code == "DENIED"
        assert manager.get_room("r") is None


async def test_authorize_may_say_why(autojump_clock: object) -> None:
    """An ActionError of `authorize` is told; any other exception is INTERNAL, reported once, and nothing else."""
    manager = Manager()
    errors = []
    manager.on_error(lambda conn, error: errors.append(repr(error)))

    async def authorize(conn: Connection, room: str, data: Any) -> bool:
        if room == "fails":
            raise ValueError("secret")
        raise ActionError("BANNED", "until tomorrow")

    manager.room("*", authorize=authorize)
    async with open_client(manager) as client:
        with pytest.raises(ReplyError, match="until tomorrow") as caught:
            await client.request("$join", {"room": "r"})
        assert caught.value.code == "BANNED"
        with pytest.raises(ReplyError) as caught:
            await client.request("$join", {"room": "fails"})
        assert (caught.value.code, caught.value.message) == ("INTERNAL", "internal error")
        await client.request("$leave", {"room": "r"})
    assert errors == ["ValueError('secret')"]


async def test_what_authorize_returns_may_be_unsendable(autojump_clock: object) -> None:
    """I1: reply data that cannot be encoded is INTERNAL and a close, and leaves no member and no room."""
    manager = Manager()
    log = []
    manager.on_join_room(lambda conn, room: log.append("join"))
    manager.on_leave_room(lambda conn, room, reason: log.append(reason))

    async def authorize(conn: Connection, room: str, data: Any) -> Mapping[str, object]:
        return {"bad": object()}

    manager.room("*", authorize=authorize)
    async with serve_in_memory(manager) as memory:
        client = await memory.connect()
        await client.send_action("$join", {"room": "r"}, id=1)
        answers = await receive_all(client)
        assert [code_of(answers[0]), *answers[1:]] == ["INTERNAL", 1011]
        assert memory.server.statistics().rooms == 0
    assert log == ["join", "vetoed"]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({}, "`room`"),
        (None, "null"),
        ("r", "got `str`"),
        ({"room": 5}, "at `..room`"),
        ({"room": "r", "since": 5}, "at `..since`"),
        ({"room": "r", "since": {"epoch": "e"}}, "`offset`"),
        ({"room": "r", "since": {"epoch": "e", "offset": "1"}}, "at `..since.offset`"),
        ({"room": "r", "data": [[[[1]]]]}, "deeper than 4"),
    ],
)
async def test_a_malformed_join(data: object, told: str, autojump_clock: object) -> None:
    """What `$join` cannot read is BAD_MESSAGE with the path; the depth of its data is bounded, too."""
    manager = open_manager(config=Config(limits=Limits(max_depth=4)))
    async with open_client(manager) as client:
        with pytest.raises(ReplyError, match=told) as caught:
            await client.request("$join", data)
        assert caught.value.code == "BAD_MESSAGE"


@pytest.mark.parametrize("name", ["", "$x", "a b", "a*", "a..b", "a\nb", "x" * 256, "a\u202eb"])
async def test_bad_names(name: str, autojump_clock: object) -> None:
    """M5: names that are not allowed are BAD_ROOM before anybody is asked and before any room exists."""
    manager = Manager()
    asked = []

    async def authorize(conn: Connection, room: str, data: Any) -> bool:
        asked.append(room)
        return True

    manager.room("*", authorize=authorize)
    async with open_client(manager) as client:
        with pytest.raises(ReplyError) as caught:
            await client.request("$join", {"room": name})
        assert caught.value.code == "BAD_ROOM"
        assert manager.rooms() == []
        assert await client.request("$leave", {"room": name}) == {"room": name}
    assert asked == []


@pytest.mark.parametrize("since", [{"epoch": "e", "offset": 0}, {"epoch": "", "offset": 2**63}])
async def test_since(since: object, autojump_clock: object) -> None:
    """`since` is refused in plain; in v1 no room has a history yet, so nothing is recovered."""
    manager = open_manager()
    async with serve_in_memory(manager) as memory:
        plain = await memory.connect()
        with pytest.raises(ReplyError) as caught:
            await plain.request("$join", {"room": "r", "since": since})
        assert caught.value.code == "NEEDS_V1"
        assert manager.get_room("r") is None
        v1 = await memory.connect(subprotocol=V1)
        assert await v1.request("$join", {"room": "r", "since": since}) == {"room": "r", "recovered": False}
        assert await v1.request("$join", {"room": "r", "since": None}) == {"room": "r"}


async def test_joining_twice(autojump_clock: object) -> None:
    """A second `$join` of the same room is answered, runs no hook and changes nothing."""
    manager = open_manager()
    hooks = []
    manager.on_join_room(lambda conn, room: hooks.append(room.name))
    async with open_client(manager) as client:
        await joined(client)
        await joined(client)
        await send_together(client, *({"action": "$join", "data": {"room": "s"}, "id": n} for n in (8, 9)))
        assert await receive_all(client) == [{"id": 8, "data": {"room": "s"}}, {"id": 9, "data": {"room": "s"}}]
    assert hooks == ["r", "s"]


async def test_join_without_an_id(autojump_clock: object) -> None:
    """Without an id `$join` joins and answers nothing; a refusal is told."""
    manager = open_manager()
    manager.room("*", authorize=allow)
    async with open_client(manager) as client:
        await client.send_action("$join", {"room": "r"})
        assert await receive_all(client) == []
        (conn,) = manager.connections.values()
        assert list(conn.rooms) == ["r"]
        await client.send_action("$join", {"room": ""})
        (answer,) = await receive_all(client)
        assert code_of(answer) == "BAD_ROOM"


class Stalling:
    """The server's end of one connection, which can be kept from writing."""

    def __init__(self) -> None:
        self.stream: FaultyStream

    def wrap(self, stream: trio.abc.Stream) -> FaultyStream:
        self.stream = FaultyStream(stream)
        return self.stream


def positions(messages: list[Any]) -> list[Any]:
    """Replies as "reply", events as they are."""
    return ["reply" if isinstance(message, dict) and message.get("id") == "join" else message for message in messages]


@pytest.mark.parametrize("lagging", [None, "before", "with", "after"])
async def test_the_reply_precedes_every_event(lagging: Any, autojump_clock: object) -> None:
    """Every event of the room stands behind the reply of `$join`, also on a broker that lags."""
    manager = open_manager(**({} if lagging is None else {"broker": LaggingBroker(delay=1.0, confirm=lagging)}))
    async with serve_in_memory(manager) as memory:
        client = await memory.connect()

        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                for number in range(40):
                    manager.broadcast_to_room("r", number)
                    await trio.sleep(0.1)

            await trio.sleep(0.25)
            await client.send_action("$join", {"room": "r"}, id="join")
        got = positions(await receive_all(client, 60))
        assert got[0] == "reply"
        assert got[1:] == list(range(got[1], 40))


async def test_the_reply_precedes_events_when_the_outbox_is_full(autojump_clock: object) -> None:
    """With a full and stalled outbox `$join` waits before it begins: no event overtakes the reply, none is lost."""
    manager = open_manager(
        config=Config(limits=Limits(outbox_messages=3), write_timeout=1000, ping_interval=10_000),
    )
    stalling = Stalling()
    async with open_client(manager, wrap=stalling.wrap) as client:
        (conn,) = manager.connections.values()
        stalling.stream.stall_sending()
        for number in range(4):
            await conn.send(f"direct {number}")
            await wait_all_tasks_blocked()
        assert conn.statistics().messages == 3
        await client.send_action("$join", {"room": "r"}, id="join")
        await trio.sleep(10)
        assert manager.broadcast_to_room("r", "too early").enqueued == 0
        assert not conn.rooms
        assert manager.get_room("r") is not None
        stalling.stream.resume_sending()
        await wait_all_tasks_blocked()
        assert manager.broadcast_to_room("r", "event").enqueued == 1
        got = positions(await receive_all(client))
        assert got == [*(f"direct {number}" for number in range(4)), "reply", "event"]


@pytest.mark.parametrize("what", ["$leave", "close", "kick", "drop"])
async def test_a_join_that_waits_for_the_outbox_may_be_given_up(what: str, autojump_clock: object) -> None:
    """M2: a `$join` that waits for room in the outbox holds nothing once it is given up, from whatever side."""
    manager = open_manager(
        config=Config(limits=Limits(outbox_messages=1), write_timeout=1000, ping_interval=10_000, close_timeout=1.0),
    )
    hooks = []
    manager.on_join_room(lambda conn, room: hooks.append("join"))
    manager.on_leave_room(lambda conn, room, reason: hooks.append(reason))
    stalling = Stalling()
    async with open_client(manager, wrap=stalling.wrap) as client:
        (conn,) = manager.connections.values()
        stalling.stream.stall_sending()
        for _ in range(2):
            await conn.send("direct")
            await wait_all_tasks_blocked()
        await client.send_action("$join", {"room": "r"}, id="join")
        await wait_all_tasks_blocked()
        room = manager.get_room("r")
        assert room is not None
        match what:
            case "$leave":
                await client.send_action("$leave", {"room": "r"})
            case "close":
                room.close()
            case "kick":
                assert room.kick(conn)
            case _:
                await client.aclose()
        await trio.sleep(1)
        stalling.stream.resume_sending()
        await trio.sleep(30)
        assert not conn.rooms
        assert manager.rooms() == []
    reasons = {"$leave": "left", "close": "closed", "kick": "kicked", "drop": "disconnected"}
    assert hooks == ["join", reasons[what]]


# $leave


@pytest.mark.parametrize("subprotocol", FORMATS)
async def test_leave(subprotocol: str | None, autojump_clock: object) -> None:
    """`$leave` leaves and answers with the room, also where there was nothing to leave."""
    manager = open_manager()
    reasons = []
    manager.on_leave_room(lambda conn, room, reason: reasons.append(reason))
    async with serve_in_memory(manager) as memory:
        client = await memory.connect(subprotocol=subprotocol)
        (conn,) = manager.connections.values()
        await joined(client)
        assert await client.request("$leave", {"room": "r"}) == {"room": "r"}
        assert not conn.rooms
        assert await client.request("$leave", {"room": "r"}) == {"room": "r"}
        assert manager.broadcast_to_room("r", 1).enqueued == 0
    assert reasons == ["left"]


@pytest.mark.parametrize("data", [None, {}, {"room": 1}, "r"])
async def test_a_malformed_leave(data: object, autojump_clock: object) -> None:
    """What `$leave` cannot read is BAD_MESSAGE, with the id if there was one; the id is free again."""
    manager = open_manager()
    async with open_client(manager) as client:
        await send_together(
            client,
            {"action": "$leave", "data": data, "id": 1},
            {"action": "$leave", "data": data, "id": 1},
            {"action": "$leave", "data": data},
        )
        answers = await receive_all(client)
        assert [(answer.get("id"), code_of(answer)) for answer in answers] == [
            (1, "BAD_MESSAGE"),
            (1, "BAD_MESSAGE"),
            (None, "BAD_MESSAGE"),
        ]


async def test_leave_does_not_wait_for_a_handler(autojump_clock: object) -> None:
    """`$leave` acts when it is read, while a handler runs and requests wait."""
    manager = open_manager()
    valve = Valve()
    manager.handle_message("wait", lambda conn: valve.wait())
    async with open_client(manager) as client:
        (conn,) = manager.connections.values()
        await joined(client)
        await send_together(client, {"action": "wait", "id": 1}, {"action": "$leave", "data": {"room": "r"}, "id": 2})
        assert await receive_all(client) == [{"id": 2, "data": {"room": "r"}}]
        assert not conn.rooms
        valve.opened.set()
        assert await receive_all(client) == [{"id": 1, "data": None}]


@pytest.mark.parametrize("ident", [{"id": "join"}, {}])
async def test_leave_cancels_a_queued_join(ident: dict[str, str], autojump_clock: object) -> None:
    """A `$join` that waits for its turn, with or without an id, is CANCELLED by `$leave`; another room's is not."""
    manager = open_manager()
    valve = Valve()
    manager.handle_message("wait", lambda conn: valve.wait())
    async with open_client(manager) as client:
        (conn,) = manager.connections.values()
        await send_together(
            client,
            {"action": "wait"},
            {"action": "$join", "data": {"room": "r"}, **ident},
            {"action": "$join", "data": {"room": "other"}},
            {"action": "$join", "data": {"bad": "r"}},
            {"action": "$leave", "data": {"room": "r"}, "id": "leave"},
        )
        answers = await receive_all(client)
        assert [(answer.get("id"), code_of(answer)) for answer in answers] == [
            (ident.get("id"), "CANCELLED"),
            ("leave", None),
        ]
        valve.opened.set()
        assert [code_of(answer) for answer in await receive_all(client)] == ["BAD_MESSAGE"]
        assert list(conn.rooms) == ["other"]


@pytest.mark.parametrize("ident", [{"id": "join"}, {}])
@pytest.mark.parametrize("attempt", range(10))
async def test_join_and_leave_in_one_read(ident: dict[str, str], attempt: int, autojump_clock: object) -> None:
    """M2: whichever task runs first, `$leave` behind `$join` in one packet leaves the client outside."""
    manager = open_manager()
    hooks: Counter[str] = Counter()
    manager.on_join_room(lambda conn, room: hooks.update(["join"]))
    manager.on_leave_room(lambda conn, room, reason: hooks.update(["leave"]))
    async with open_client(manager) as client:
        (conn,) = manager.connections.values()
        await send_together(
            client,
            {"action": "$join", "data": {"room": "r"}, **ident},
            {"action": "$leave", "data": {"room": "r"}, "id": "leave"},
        )
        answers = await receive_all(client)
        assert not conn.rooms
        assert manager.rooms() == []
        assert len([answer for answer in answers if answer.get("id") == "leave"]) == 1
        if ident:
            (answer,) = [answer for answer in answers if answer.get("id") == "join"]
            assert code_of(answer) in {None, "CANCELLED"}
    assert hooks["join"] == hooks["leave"]


async def test_leave_cancels_a_join_under_way(autojump_clock: object) -> None:
    """A `$join` whose authorize still runs is CANCELLED by `$leave`, at once, and the client may join anew."""
    manager = Manager()
    valve = Valve()

    async def authorize(conn: Connection, room: str, data: Any) -> bool:
        await valve.wait()
        return True

    manager.room("*", authorize=authorize)
    async with open_client(manager) as client:
        (conn,) = manager.connections.values()
        await client.send_action("$join", {"room": "r"}, id="join")
        await wait_all_tasks_blocked()
        assert await client.request("$leave", {"room": "r"}, id="leave") == {"room": "r"}
        assert [(answer["id"], code_of(answer)) for answer in await receive_all(client)] == [("join", "CANCELLED")]
        assert valve.cancelled == 1
        valve.opened.set()
        await joined(client)
        assert list(conn.rooms) == ["r"]


async def test_leave_gives_up_a_join_of_the_program(autojump_clock: object) -> None:
    """A handler's own join under way fails when the client leaves: CLOSED is told by the handler."""
    manager = Manager()
    valve = Valve()

    @manager.on_join_room
    async def hook(conn: Connection, room: Room) -> None:
        await valve.wait()

    @manager.on("enter", concurrent=True)
    async def enter(conn: Connection) -> None:
        await conn.join("r")

    async with open_client(manager) as client:
        await client.send_action("enter", id="enter")
        await wait_all_tasks_blocked()
        await client.request("$leave", {"room": "r"}, id="leave")
        valve.opened.set()
        assert [(answer["id"], code_of(answer)) for answer in await receive_all(client)] == [("enter", "CLOSED")]
        assert manager.rooms() == []


# $cancel


def waiting_manager(valve: Valve, **options: Any) -> Manager:
    """A manager with each kind of handler; all wait for the valve."""
    manager = open_manager(**options)
    manager.handle_message("wait", lambda conn: valve.wait())
    manager.handle_message("beside", lambda conn: valve.wait(), concurrent=True)
    manager.handle_message("echo", lambda conn, message: message.data)

    @manager.on("stream")
    async def stream(conn: Connection) -> AsyncIterator[int]:
        yield 1
        await valve.wait()
        yield 2

    return manager


@pytest.mark.parametrize("action", ["wait", "beside", "stream"])
@pytest.mark.parametrize("ident", [7, "seven"])
async def test_cancel_of_a_running_request(action: str, ident: int | str, autojump_clock: object) -> None:
    """`$cancel` cancels the handler; the request is answered CANCELLED once, `$cancel` itself is not."""
    valve = Valve()
    manager = waiting_manager(valve)
    async with open_client(manager) as client:
        await client.send_action(action, id=ident)
        await wait_all_tasks_blocked()
        for _ in range(3):
            await client.send_action("$cancel", {"id": ident})
        answers = [answer for answer in await receive_all(client) if "more" not in answer]
        assert [(answer["id"], code_of(answer)) for answer in answers] == [(ident, "CANCELLED")]
        assert valve.cancelled == 1
        assert await client.request("echo", 1, id=ident) == 1


async def test_cancel_of_a_queued_request(autojump_clock: object) -> None:
    """A request that waits for its turn is removed and answered at once; its handler never runs."""
    valve = Valve()
    manager = waiting_manager(valve)
    ran = []
    manager.handle_message("run", lambda conn: ran.append(1))
    async with open_client(manager) as client:
        await send_together(
            client,
            {"action": "wait", "id": 1},
            {"action": "run", "id": 2},
            {"action": "beside", "id": 3},
            {"action": "$join", "data": {"room": "r"}, "id": 4},
            *({"action": "$cancel", "data": {"id": n}} for n in (2, 3, 4, 2)),
        )
        answers = await receive_all(client)
        assert [(answer["id"], code_of(answer)) for answer in answers] == [(n, "CANCELLED") for n in (2, 3, 4)]
        valve.opened.set()
        assert await receive_all(client) == [{"id": 1, "data": None}]
        assert manager.rooms() == []
    assert ran == []
    assert valve.passed == 1


@pytest.mark.parametrize("action", ["beside", "stream", "wait"])
@pytest.mark.parametrize("attempt", range(10))
async def test_cancel_in_the_same_read(action: str, attempt: int, autojump_clock: object) -> None:
    """A request and its `$cancel` in one packet: one answer, whether its task had begun or not."""
    valve = Valve()
    manager = waiting_manager(valve)
    async with open_client(manager) as client:
        await send_together(client, {"action": action, "id": 1}, {"action": "$cancel", "data": {"id": 1}})
        answers = [answer for answer in await receive_all(client) if "more" not in answer]
        assert [code_of(answer) for answer in answers] == ["CANCELLED"]
        assert valve.waiting == 0


async def test_cancel_of_nothing(autojump_clock: object) -> None:
    """`$cancel` of an unknown or answered id does nothing and is not answered; 1 and "1" are two ids."""
    valve = Valve()
    manager = waiting_manager(valve)
    async with open_client(manager) as client:
        assert await client.request("echo", 1, id=1) == 1
        await client.send_action("beside", id="1")
        await wait_all_tasks_blocked()
        for ident in (1, 2, "x", ""):
            await client.send_action("$cancel", {"id": ident})
        assert await receive_all(client) == []
        assert valve.waiting == 1
        valve.opened.set()
        assert await receive_all(client) == [{"id": "1", "data": None}]


@pytest.mark.parametrize("data", [None, {}, {"id": None}, {"id": True}, {"id": 1.5}, {"id": {}}, [1]])
async def test_a_malformed_cancel(data: object, autojump_clock: object) -> None:
    """A `$cancel` that cannot be read is BAD_MESSAGE under its own id, or without one."""
    async with open_client(open_manager()) as client:
        await client.send_action("$cancel", data)
        await client.send_action("$cancel", data, id=5)
        answers = await receive_all(client)
        assert [(answer.get("id"), code_of(answer)) for answer in answers] == [
            (None, "BAD_MESSAGE"),
            (5, "BAD_MESSAGE"),
        ]


async def test_an_id_of_cancel_itself_means_nothing(autojump_clock: object) -> None:
    """Invariant 5: `$cancel` is never answered, so an id of its own holds nothing, not even that id."""
    manager = waiting_manager(Valve())
    async with open_client(manager) as client:
        (conn,) = manager.connections.values()
        for number in range(100):
            await client.send_action("$cancel", {"id": "x"}, id=number)
        assert await client.request("echo", 1, id=5) == 1
        await client.send_action("beside", id=5)
        await wait_all_tasks_blocked()
        await client.send_action("$cancel", {"id": 5}, id=5)
        assert [(answer["id"], code_of(answer)) for answer in await receive_all(client)] == [(5, "CANCELLED")]
        assert not list(conn._dispatcher.in_flight)


async def test_a_handler_may_finish_in_spite_of_cancel(autojump_clock: object) -> None:
    """A handler that turns its cancellation into an error of its own is answered with that, once."""
    manager = open_manager()

    @manager.on("stubborn")
    async def stubborn(conn: Connection) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ActionError("UNDONE")

    @manager.on("shielded", concurrent=True)
    async def shielded(conn: Connection) -> str:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
            await trio.sleep(3)
        return "done"

    async with open_client(manager) as client:
        for action in ("shielded", "stubborn"):
            await client.send_action(action, id=action)
        await wait_all_tasks_blocked()
        for action in ("shielded", "stubborn"):
            await client.send_action("$cancel", {"id": action})
        answers = {answer["id"]: answer for answer in await receive_all(client, 10)}
        assert code_of(answers["stubborn"]) == "UNDONE"
        assert answers["shielded"] == {"id": "shielded", "data": "done"}


async def test_one_cancel_after_the_other(autojump_clock: object) -> None:
    """However many requests are cancelled, those in between and after them are handled, in order, one at a time."""
    valve = Valve()
    manager = waiting_manager(valve)
    async with open_client(manager) as client:
        for n in range(10):
            await client.send_action("wait", id=n)
            await wait_all_tasks_blocked()
            await send_together(
                client, {"action": "echo", "data": n, "id": f"echo {n}"}, {"action": "$cancel", "data": {"id": n}}
            )
        answers = await receive_all(client)
        assert [(answer["id"], code_of(answer) or answer["data"]) for answer in answers] == [
            expected for n in range(10) for expected in ((n, "CANCELLED"), (f"echo {n}", n))
        ]
        assert valve.cancelled == 10


async def test_a_handler_that_fails_when_cancelled(autojump_clock: object) -> None:
    """A handler that fails because it was cancelled has failed: it is reported, to hooks that wait, too."""
    manager = Manager()
    reported: list[BaseException] = []

    @manager.on("fragile")
    async def fragile(conn: Connection) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise LookupError

    @manager.on_error
    async def report(conn: Connection | None, error: BaseException) -> None:
        await trio.sleep(1)
        reported.append(error)

    async with open_client(manager) as client:
        await client.send_action("fragile", id=1)
        await wait_all_tasks_blocked()
        await client.send_action("$cancel", {"id": 1})
        assert code_of(await client.receive_json()) == "INTERNAL"
        await client.expect_close(1011)
        assert [type(error) for error in reported] == [LookupError]


async def test_cancel_while_the_answer_waits(autojump_clock: object) -> None:
    """A `$cancel` that comes when the result waits for room in the outbox is too late: one answer, the result."""
    manager = open_manager(config=Config(limits=Limits(outbox_messages=1), write_timeout=1000, ping_interval=10_000))
    manager.handle_message("echo", lambda conn, message: message.data)
    stalling = Stalling()
    async with open_client(manager, wrap=stalling.wrap) as client:
        (conn,) = manager.connections.values()
        stalling.stream.stall_sending()
        for _ in range(2):
            await conn.send("direct")
            await wait_all_tasks_blocked()
        await client.send_action("echo", 5, id=1)
        await wait_all_tasks_blocked()
        await client.send_action("$cancel", {"id": 1})
        await wait_all_tasks_blocked()
        stalling.stream.resume_sending()
        assert await receive_all(client) == ["direct", "direct", {"id": 1, "data": 5}]


# What the library does not have


@pytest.mark.parametrize("action", ["$", "$presences", "$refresh", "$welcome", "$Join"])
@pytest.mark.parametrize("subprotocol", FORMATS)
@pytest.mark.parametrize("with_session", [False, True])
async def test_unknown_actions_of_the_library(
    action: str, subprotocol: str | None, with_session: bool, autojump_clock: object
) -> None:
    """Names with a leading $ are the library's: those that it does not have are UNKNOWN_ACTION, with a session, too."""
    manager = open_manager()
    if with_session:

        @manager.session
        async def session(conn: Connection) -> None:
            await conn.read_json()
            raise AssertionError("the session is not for these")

    async with open_client(manager, subprotocol=subprotocol) as client:
        await client.send_action(action, {"room": "r"}, id=1)
        await client.send_action(action, {"room": "r"})
        answers = [answer for answer in await receive_all(client) if "error" in answer]
        assert [(answer.get("id"), code_of(answer)) for answer in answers] == [
            (1, "UNKNOWN_ACTION"),
            (None, "UNKNOWN_ACTION"),
        ]


# Exactly one answer

operations = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(
                ["wait", "beside", "stream", "echo", "refuse", "boom", "$join", "$leave", "nothing", "bad"]
            ),
            st.sampled_from([None, 1500]),
        ),
        st.tuples(st.just("$cancel"), st.integers(0, 12)),
        st.tuples(st.just("pause"), st.sampled_from([0.0, 1.0])),
        st.tuples(st.just("stall"), st.booleans()),
        st.tuples(st.just("open"), st.none()),
    ),
    max_size=25,
)


async def answers_to(operations: list[tuple[str, Any]], *, together: bool) -> tuple[list[int], list[Any]]:
    """Carry out a list of operations; the ids of the requests, and all that came back."""
    valve = Valve()
    limits = Limits(inbox_messages=3, max_handlers=2, outbox_messages=2)
    manager = waiting_manager(
        valve, config=Config(limits=limits, write_timeout=1000, ping_interval=10_000), middleware=[recovery()]
    )

    @manager.on("refuse", concurrent=True)
    async def refuse(conn: Connection) -> None:
        raise ActionError("NO")

    @manager.on("boom")
    async def boom(conn: Connection) -> None:
        raise ValueError

    stalling = Stalling()
    ids: list[int] = []
    batch: list[object] = []
    async with open_client(manager, wrap=stalling.wrap) as client:

        async def flush() -> None:
            await send_together(client, *batch)
            batch.clear()

        for name, argument in operations:
            match name:
                case "pause":
                    await flush()
                    await trio.sleep(argument)
                case "stall":
                    (stalling.stream.stall_sending if argument else stalling.stream.resume_sending)()
                case "open":
                    await flush()
                    valve.opened.set()
                case "$cancel":
                    batch.append({"action": "$cancel", "data": {"id": argument}})
                case _:
                    ids.append(len(ids))
                    message = {"action": name, "data": {"room": "r"}, "id": ids[-1]}
                    batch.append(message if argument is None else {**message, "timeout_ms": argument})
                    if name == "bad":
                        batch[-1] = {**message, "room": 5}
            if not together:
                await flush()
        await flush()
        stalling.stream.resume_sending()
        await trio.sleep(2)
        valve.opened.set()
        got = await receive_all(client, 10)
        (conn,) = manager.connections.values()
        assert not list(conn._dispatcher.in_flight)
        assert conn._dispatcher.in_flight.concurrent == 0
    return ids, got


@given(operations, st.booleans())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_each_request_is_answered_once(operations: list[tuple[str, Any]], together: bool) -> None:
    """Whatever a client mixes (cancels, deadlines, stalls, failures), each request gets exactly one last answer."""
    results: list[Any] = []

    async def main() -> None:
        with trio.fail_after(3600):
            results.extend(await answers_to(operations, together=together))

    trio.run(main, clock=MockClock(autojump_threshold=0))
    ids, got = results
    last = Counter(answer["id"] for answer in got if answer.get("more") is not True)
    assert last == Counter(ids)
    assert all(math.isfinite(answer["id"]) for answer in got)
    for ident in ids:  # nothing of a stream comes behind its end
        of_id = [answer for answer in got if answer["id"] == ident]
        assert of_id[-1].get("more") is not True
