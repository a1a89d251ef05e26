"""Rooms: joined, joined anew, recovered or not, left; and who is in them."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from fake_server import FakeServer, Started, connected, join
from trio_rooms import Connection, EncodingError, Manager, Position, UsageError
from trio_rooms.client import (
    ClientConfig,
    ClientEnded,
    Event,
    Gap,
    NotConfirmed,
    RequestFailed,
    RoomEnded,
    open_rooms,
)
from trio_rooms.testing import serve_in_memory


def at(offset: int, epoch: str = "e") -> Position:
    """A position."""
    return Position(offset, epoch)


async def test_join(autojump_clock: MockClock) -> None:
    """The room has the reply's data, and the events behind it; what comes before is of nobody's membership."""
    async with connected() as (client, _, conn, nursery):
        asked = Started(nursery, client.join, "a", {"ticket": 1})
        question = await conn.expect("$join", {"room": "a", "data": {"ticket": 1}})
        await conn.send({"room": "a", "data": "early"})
        await conn.reply(question, {"room": "a", "data": {"topic": "cats"}})
        room = await asked.result()
        assert (room.name, room.data, room.recovered, room.position, room.joined) == (
            "a",
            {"topic": "cats"},
            None,
            None,
            True,
        )
        await conn.send({"room": "a", "data": 1})
        await conn.send({"room": "a", "data": None})
        assert await room.receive() == Event("a", 1)
        assert await room.receive() == Event("a", None)


async def test_history_of_a_join(autojump_clock: MockClock) -> None:
    """A join from a position that the program has kept is recovered, or there is a gap first."""
    async with connected() as (client, _, conn, nursery):
        asked = Started(nursery, client.join, "a", since=at(3))
        question = await conn.expect("$join", {"room": "a", "since": {"epoch": "e", "offset": 3}})
        publications = [{"offset": 5, "data": 5}, {"offset": 7, "data": 7}]
        reply = {"room": "a", "epoch": "e", "offset": 9, "recovered": True, "publications": publications}
        await conn.reply(question, reply)
        room = await asked.result()
        assert room.recovered is True
        assert room.position == at(3)
        assert await room.receive() == Event("a", 5, at(5))
        assert room.position == at(5)
        assert await room.receive() == Event("a", 7, at(7))
        assert room.position == at(9)

        async def answer() -> None:
            question = await conn.expect("$join", {"room": "b", "since": {"epoch": "e", "offset": 3}})
            await conn.reply(question, {"room": "b", "epoch": "f", "offset": 1, "recovered": False})

        nursery.start_soon(answer)
        async with client.room("b", since=at(3)) as room:
            assert room.recovered is False
            assert await room.receive() == Gap("b", "not recovered")
            assert room.position == at(1, "f")


async def test_recovered(autojump_clock: MockClock) -> None:
    """After a loss the room goes on where it stopped; what had come before, and comes again, is dropped."""
    async with connected() as (client, server, conn, nursery):
        room = await join(client, conn, nursery, epoch="e", offset=1)
        await conn.send({"room": "a", "offset": 2, "data": 2})
        await wait_all_tasks_blocked()
        await conn.cut()
        conn = await server.accept()
        question = await conn.expect("$join", {"room": "a", "since": {"epoch": "e", "offset": 2}})
        assert not room.joined
        publications = [{"offset": n, "data": n} for n in (2, 3)]
        await conn.reply(
            question, {"room": "a", "epoch": "e", "offset": 3, "recovered": True, "publications": publications}
        )
        for n in (3, 4):
            await conn.send({"room": "a", "offset": n, "data": n})
        assert [await room.receive() for _ in range(3)] == [Event("a", n, at(n)) for n in (2, 3, 4)]
        assert room.recovered is True
        assert client.statistics().duplicates == 2


async def test_not_recovered(autojump_clock: MockClock) -> None:
    """A gap stands in its place, and offsets of the new epoch are not held against those of the old one."""
    async with connected() as (client, server, conn, nursery):
        room = await join(client, conn, nursery, epoch="e", offset=100)
        await conn.send({"room": "a", "offset": 101, "data": 101})
        await wait_all_tasks_blocked()
        await conn.cut()
        conn = await server.accept()
        question = await conn.expect("$join")
        await conn.reply(question, {"room": "a", "epoch": "f", "offset": 0, "recovered": False})
        await conn.send({"room": "a", "offset": 1, "data": 1})
        expected = [Event("a", 101, at(101)), Gap("a", "not recovered"), Event("a", 1, at(1, "f"))]
        assert [await room.receive() for _ in range(3)] == expected
        assert room.position == at(1, "f")


async def test_without_history(autojump_clock: MockClock) -> None:
    """Where nothing can be recovered, the program learns of every loss of the connection."""
    async with connected() as (client, server, conn, nursery):
        room = await join(client, conn, nursery)
        await conn.cut()
        conn = await server.accept()
        await conn.reply(await conn.expect("$join", {"room": "a"}), {"room": "a"})
        await conn.send({"room": "a", "data": 1})
        assert [await room.receive(), await room.receive()] == [Gap("a", "no history"), Event("a", 1)]


async def test_markers(autojump_clock: MockClock) -> None:
    """What this client was excluded from moves its position, and is no event."""
    async with connected() as (client, _, conn, nursery):
        room = await join(client, conn, nursery, epoch="e", offset=1)
        await conn.send({"room": "a", "offset": 2})
        await conn.send({"room": "a", "offset": 3, "data": 3})
        assert await room.receive() == Event("a", 3, at(3))
        await conn.send({"room": "a", "offset": 4})
        await wait_all_tasks_blocked()
        assert room.position == at(4)


async def test_position_beside_what_is_not_kept(autojump_clock: MockClock) -> None:
    """An event that the room does not keep has no place, and does not take the room's position away."""
    async with connected() as (client, _, conn, nursery):
        room = await join(client, conn, nursery, epoch="e", offset=0)
        for message in ({"data": 1, "offset": 1}, {"data": "not kept"}, {"data": 2, "offset": 2}):
            await conn.send({"room": "a", **message})
        await wait_all_tasks_blocked()
        assert [await room.receive() for _ in range(2)] == [Event("a", 1, at(1)), Event("a", "not kept", None)]
        assert room.position == at(1)


async def test_refused(autojump_clock: MockClock) -> None:
    """Whoever asks for the room learns why not, and may ask again."""
    async with connected() as (client, _, conn, nursery):
        for code in ("DENIED", "ROOM_FULL"):
            asked = Started(nursery, client.join, "a")
            await conn.fail(await conn.expect("$join"), code, temporary=code == "ROOM_FULL")
            with pytest.raises(RequestFailed) as raised:
                await asked.result()
            assert raised.value.code == code
        await join(client, conn, nursery)


async def test_refused_later(autojump_clock: MockClock) -> None:
    """Who is not let in again is told; where it may pass, the client goes on trying."""
    async with connected() as (client, server, conn, nursery):
        room = await join(client, conn, nursery)
        await conn.cut()
        conn = await server.accept()
        for _ in range(3):
            await conn.fail(await conn.expect("$join"), "ROOM_FULL", temporary=True)
        await conn.reply(await conn.expect("$join"), {"room": "a"})
        assert await room.receive() == Gap("a", "no history")
        await conn.cut()
        conn = await server.accept()
        await conn.fail(await conn.expect("$join"), "DENIED")
        with pytest.raises(RoomEnded) as raised:
            await room.receive()
        assert raised.value.code == "DENIED"
        with pytest.raises(RoomEnded):
            await anext(room)


async def test_closed(autojump_clock: MockClock) -> None:
    """``$closed`` ends a room behind the events that came, with its code, and the connection stays."""
    async with connected() as (client, _, conn, nursery):
        room = await join(client, conn, nursery)
        await conn.send({"room": "a", "data": 1})
        await conn.send({"action": "$closed", "data": {"room": "a", "code": "KICKED", "message": "out"}})
        await conn.send({"action": "$closed", "data": {"room": "b", "code": "KICKED", "message": "out"}})
        assert await room.receive() == Event("a", 1)
        with pytest.raises(RoomEnded) as raised:
            await room.receive()
        assert (raised.value.code, raised.value.message) == ("KICKED", "out")
        assert not room.joined
        again = await join(client, conn, nursery)
        assert again is not room


async def test_leave(autojump_clock: MockClock) -> None:
    """Leaving ends the iteration; what is still under way is nobody's, also for who joins anew at once."""
    async with connected() as (client, _, conn, nursery):
        room = await join(client, conn, nursery)
        room.leave()
        room.leave()
        assert [item async for item in room] == []
        asked = Started(nursery, client.join, "a")
        left = await conn.expect("$leave", {"room": "a"})
        await conn.send({"room": "a", "data": "late"})
        await conn.send({"action": "$closed", "data": {"room": "a", "code": "KICKED", "message": ""}})
        await conn.reply(left, {"room": "a"})
        await conn.reply(await conn.expect("$join"), {"room": "a"})
        await conn.send({"room": "a", "data": "new"})
        assert await (await asked.result()).receive() == Event("a", "new")
        with pytest.raises(ClientEnded):
            await room.receive()


async def test_left_rooms_are_no_strangers(autojump_clock: MockClock) -> None:
    """Events of a room that was left are dropped, until the server has confirmed it."""
    async with connected() as (client, _, conn, nursery):
        room = await join(client, conn, nursery)
        room.leave()
        left = await conn.expect("$leave")
        await conn.send({"room": "a", "data": 1})
        await conn.reply(left, {"room": "a"})
        await conn.send({"room": "a", "data": 2})
        assert await client.receive() == Event("a", 2)


async def test_room_block(autojump_clock: MockClock) -> None:
    """Leaving the block leaves the room; a cancelled join does, too."""
    async with connected() as (client, _, conn, nursery):

        async def stay() -> object:
            async with client.room("a", {"b": 1}) as room:
                async for item in room:
                    return item
            return None

        staying = Started(nursery, stay)
        await conn.reply(await conn.expect("$join", {"room": "a", "data": {"b": 1}}), {"room": "a"})
        await conn.send({"room": "a", "data": 1})
        assert await staying.result() == Event("a", 1)
        await conn.reply(await conn.expect("$leave", {"room": "a"}), {"room": "a"})
        with trio.move_on_after(1):
            await client.join("a")
        await conn.expect("$join")
        await conn.expect("$leave")


async def test_twice(autojump_clock: MockClock) -> None:
    """One connection is in a room once."""
    async with connected() as (client, _, conn, nursery):
        await join(client, conn, nursery)
        with pytest.raises(UsageError, match="'a'"):
            await client.join("a")


async def test_left_while_away(autojump_clock: MockClock) -> None:
    """A room that was left without a connection is not joined with the next one."""
    async with connected() as (client, server, conn, nursery):
        room = await join(client, conn, nursery)
        await conn.cut()
        await wait_all_tasks_blocked()
        room.leave()
        conn = await server.accept()
        await client.send("next")
        await conn.expect("next")


async def test_join_survives_a_loss(autojump_clock: MockClock) -> None:
    """A first join that is cut off is asked again; nothing was missed, so there is no gap."""
    async with connected() as (client, server, conn, nursery):
        asked = Started(nursery, client.join, "a")
        await conn.expect("$join")
        await conn.cut()
        conn = await server.accept()
        await conn.reply(await conn.expect("$join"), {"room": "a"})
        room = await asked.result()
        await conn.send({"room": "a", "data": 1})
        assert await room.receive() == Event("a", 1)


async def test_many_rooms(autojump_clock: MockClock) -> None:
    """All are joined anew, also more of them than messages may wait."""
    config = ClientConfig(send_messages=2, ping_interval=1_000)
    async with connected(config=config) as (client, server, conn, nursery):
        for number in range(10):
            asked = Started(nursery, client.join, f"room {number}")
            await conn.reply(await conn.expect("$join"), {"room": f"room {number}"})
            await asked.result()
        await conn.cut()
        conn = await server.accept()
        for number in range(10):
            await conn.expect("$join", {"room": f"room {number}"})


@pytest.mark.parametrize("action", ["$join", "enter"])
async def test_data_that_cannot_be_encoded(autojump_clock: MockClock, action: str) -> None:
    """Whoever joins with it is told, with a connection and without, and nobody else suffers."""
    server = FakeServer()
    async with open_rooms("ws://test/ws", connect=server.connect) as client, trio.open_nursery() as nursery:
        with pytest.raises(EncodingError):
            await client.join("a", object(), action=action)
        conn = await server.accept()
        with pytest.raises(EncodingError):
            await client.join("a", object(), action=action)
        with pytest.raises(EncodingError):
            await client.join("\ud800", action=action)
        await join(client, conn, nursery)


@pytest.mark.parametrize("form", ["json", "msgpack"])
async def test_data_that_changes(autojump_clock: MockClock, form: Any) -> None:
    """A room is asked for with the data that there were when the program did so, however late that is said."""
    seen: list[Any] = []

    async def authorize(conn: Connection, room: str, data: Any) -> bool:
        seen.append(data)
        return True

    manager = Manager()
    manager.room("*", authorize=authorize)
    data = {"ticket": [1]}
    async with serve_in_memory(manager) as memory, trio.open_nursery() as nursery:

        async def connect() -> trio.abc.Stream:
            await up.wait()
            return memory.open_stream()

        up = trio.Event()
        async with open_rooms("ws://test/ws", connect=connect, format=form) as client:
            asked = Started(nursery, client.join, "a", data)
            await wait_all_tasks_blocked()
            data["ticket"].append(2)
            up.set()
            await asked.result()
    assert seen == [{"ticket": [1]}]


async def test_ended(autojump_clock: MockClock) -> None:
    """The end of the client is the end of its rooms, and of joins that wait."""
    async with connected() as (client, _, conn, nursery):
        room = await join(client, conn, nursery)
        asked = Started(nursery, client.join, "b")
        await conn.expect("$join")
        await conn.close(4500, "BANNED")
        for call in (asked.result(), room.receive()):
            with pytest.raises(ClientEnded, match="BANNED"):
                await call


async def test_overflow_with_history(autojump_clock: MockClock) -> None:
    """What is not received in time is fetched later: the room is left, and goes on where it stopped."""
    async with connected(config=ClientConfig(buffer_messages=2)) as (client, _, conn, nursery):
        room = await join(client, conn, nursery, epoch="e", offset=0)
        for n in range(1, 5):
            await conn.send({"room": "a", "offset": n, "data": n})
        left = await conn.expect("$leave", {"room": "a"})
        await conn.reply(left)
        assert client.statistics().overflows == 1
        assert not room.joined
        assert [await room.receive(), await room.receive()] == [Event("a", 1, at(1)), Event("a", 2, at(2))]
        received = Started(nursery, room.receive)
        question = await conn.expect("$join", {"room": "a", "since": {"epoch": "e", "offset": 2}})
        publications = [{"offset": n, "data": n} for n in (3, 4, 5)]
        await conn.reply(
            question, {"room": "a", "epoch": "e", "offset": 5, "recovered": True, "publications": publications}
        )
        assert await received.result() == Event("a", 3, at(3))
        assert [await room.receive(), await room.receive()] == [Event("a", 4, at(4)), Event("a", 5, at(5))]


async def test_overflow_without_history(autojump_clock: MockClock) -> None:
    """There the program is told that something is missing. A new connection in between does not join it early."""
    async with connected(config=ClientConfig(buffer_messages=1)) as (client, server, conn, nursery):
        room = await join(client, conn, nursery)
        for n in range(3):
            await conn.send({"room": "a", "data": n})
        await conn.expect("$leave")
        await conn.cut()
        conn = await server.accept()
        await client.wait_open()
        await client.send("next")
        await conn.expect("next")
        assert await room.receive() == Event("a", 0)
        received = Started(nursery, room.receive)
        await conn.reply(await conn.expect("$join"), {"room": "a"})
        assert await received.result() == Gap("a", "no history")


async def test_joined_by_an_action(autojump_clock: MockClock) -> None:
    """A handler of the server's may be who joins; events may come before its reply, and it is asked again."""
    async with connected() as (client, server, conn, nursery):
        asked = Started(nursery, client.join, "kitchen", {"room_id": "kitchen"}, action="subscribe")
        question = await conn.expect("subscribe", {"room_id": "kitchen"})
        await conn.send({"room": "kitchen", "data": 1})
        await conn.reply(question, {"status": "subscribed"})
        room = await asked.result()
        assert room.data == {"status": "subscribed"}
        assert await room.receive() == Event("kitchen", 1)
        await conn.cut()
        conn = await server.accept()
        await conn.reply(await conn.expect("subscribe", {"room_id": "kitchen"}), {"status": "again"})
        assert await room.receive() == Gap("kitchen", "no history")
        assert room.data == {"status": "again"}


async def test_ended_while_an_action_joins(autojump_clock: MockClock) -> None:
    """What came before the reply does not stand for it: who joins is told of the end."""
    async with connected() as (client, _, conn, nursery):
        asked = Started(nursery, client.join, "a", action="enter")
        await conn.expect("enter")
        await conn.send({"room": "a", "data": 1})
        await conn.close(4500, "enough")
        with pytest.raises(ClientEnded, match="enough"):
            await asked.result()


async def test_offsets_of_an_unknown_stream(autojump_clock: MockClock) -> None:
    """Who was not told the epoch has no position that it could go on from, or keep."""
    async with connected() as (client, _, conn, nursery):
        asked = Started(nursery, client.join, "a", action="enter")
        await conn.reply(await conn.expect("enter"))
        room = await asked.result()
        await conn.send({"room": "a", "data": 1, "offset": 7})
        assert await room.receive() == Event("a", 1, None)
        assert room.position is None


async def test_action_with_more_than_there_is_room_for(autojump_clock: MockClock) -> None:
    """What comes before the reply may be too much, too: the room is there, is left, and joined anew behind a gap."""
    async with connected(config=ClientConfig(buffer_messages=2)) as (client, _, conn, nursery):
        asked = Started(nursery, client.join, "a", action="enter")
        question = await conn.expect("enter")
        for number in range(3):
            await conn.send({"room": "a", "data": number})
        await conn.expect("$cancel", {"id": question["id"]})
        leave = await conn.expect("$leave")
        room = await asked.result()
        assert [(await room.receive()).data for _ in range(2)] == [0, 1]
        received = Started(nursery, room.receive)
        again = await conn.expect("enter")
        await conn.fail(question, "CANCELLED")  # which is about the first time
        await conn.reply(leave)
        await conn.reply(again, "welcome")
        await conn.send({"room": "a", "data": 9})
        assert await received.result() == Gap("a", "no history")
        assert await room.receive() == Event("a", 9)
        assert room.joined
        assert room.data == "welcome"


async def test_cancelling_an_action(autojump_clock: MockClock) -> None:
    """A handler that has not joined yet does not do so when nobody waits for it any more."""
    manager = Manager()
    left, go_on = trio.Event(), trio.Event()

    @manager.on("enter", concurrent=True)
    async def enter(conn: Connection, data: str) -> None:
        try:
            await go_on.wait()
        finally:
            left.set()
        await conn.join(data)

    async with serve_in_memory(manager) as memory, trio.open_nursery() as nursery:

        async def connect() -> trio.abc.Stream:
            await trio.lowlevel.checkpoint()
            return memory.open_stream()

        async with open_rooms("ws://test/ws", connect=connect) as client:
            asked = Started(nursery, client.join, "a", "a", action="enter")
            await wait_all_tasks_blocked()
            asked.scope.cancel()
            await left.wait()
            go_on.set()
            await wait_all_tasks_blocked()
            assert manager.rooms() == []


async def test_publish(autojump_clock: MockClock) -> None:
    """With a key it is sent until it is confirmed; without one a loss is told."""
    async with connected() as (client, server, conn, nursery):
        room = await join(client, conn, nursery, epoch="e", offset=0)
        published = Started(nursery, room.publish, {"x": 1}, key="k", idempotency_key="i")
        await conn.expect("$publish", {"room": "a", "data": {"x": 1}, "key": "k", "idempotency_key": "i"})
        await conn.cut()
        conn = await server.accept()
        question = await conn.expect("$join")
        await conn.reply(question, {"room": "a", "epoch": "e", "offset": 1, "recovered": True, "publications": []})
        await conn.reply(await conn.expect("$publish"), {"epoch": "e", "offset": 1})
        assert await published.result() == at(1)
        published = Started(nursery, room.publish, 2)
        await conn.reply(await conn.expect("$publish", {"room": "a", "data": 2}), {})
        assert await published.result() is None
        published = Started(nursery, room.publish, 3)
        await conn.expect("$publish")
        await conn.cut()
        with pytest.raises(NotConfirmed):
            await published.result()


# Sessions


async def test_session(autojump_clock: MockClock) -> None:
    """Token and positions are the first message of the next connection; what is not restored is asked for."""
    async with connected() as (client, server, conn, nursery):
        assert conn.session == {}
        await conn.welcome(session="t1", restored=False)
        a = await join(client, conn, nursery, epoch="e", offset=3)
        asked = Started(nursery, client.join, "b")
        await conn.reply(await conn.expect("$join"), {"room": "b"})
        b = await asked.result()
        await conn.cut()
        conn = await server.next()
        await conn.accept()
        assert conn.session == {"session": "t1", "positions": {"a": {"epoch": "e", "offset": 3}}}
        publications = [{"offset": 4, "data": 4}]
        reply = {"room": "a", "epoch": "e", "offset": 4, "recovered": True, "publications": publications}
        await conn.welcome(session="t2", restored=True, rooms={"a": reply, "c": {"room": "c"}})
        await conn.expect("$leave", {"room": "c"})
        await conn.reply(await conn.expect("$join", {"room": "b"}), {"room": "b"})
        assert await a.receive() == Event("a", 4, at(4))
        assert await b.receive() == Gap("b", "no history")
        assert client.restored
        await conn.cut()
        conn = await server.next()
        await conn.accept()
        assert conn.session["session"] == "t2"
        await conn.welcome(session="t3", restored=False)
        assert (await conn.expect("$join"))["data"]["since"] == {"epoch": "e", "offset": 4}
        await conn.expect("$join", {"room": "b"})
        assert not client.restored


async def test_session_without_a_room(autojump_clock: MockClock) -> None:
    """What the server does not restore ends with its code, or is tried again."""
    async with connected() as (client, server, conn, nursery):
        await conn.welcome(session="t1", restored=False)
        room = await join(client, conn, nursery)
        await conn.cut()
        conn = await server.next()
        await conn.accept()
        assert conn.session == {"session": "t1", "positions": {}}
        error = {"code": "DENIED", "message": "", "temporary": False}
        await conn.welcome(session="t2", restored=True, rooms={"a": {"error": error}})
        with pytest.raises(RoomEnded, match="DENIED"):
            await room.receive()


async def test_session_with_a_room_that_is_busy(autojump_clock: MockClock) -> None:
    """What may be restored later is asked for later, as after any join that was refused so."""
    async with connected() as (client, server, conn, nursery):
        await conn.welcome(session="t1", restored=False)
        await join(client, conn, nursery)
        await conn.cut()
        conn = await server.next()
        await conn.accept()
        error = {"code": "BUSY", "message": "", "temporary": True}
        before = trio.current_time()
        await conn.welcome(session="t2", restored=True, rooms={"a": {"error": error}})
        await conn.expect("$join")
        assert trio.current_time() > before


async def test_session_with_a_room_that_was_left_and_joined(autojump_clock: MockClock) -> None:
    """A room that was joined by itself waits for its own reply, whatever the session says of the one before."""
    async with connected() as (client, server, conn, nursery):
        await conn.welcome(session="t1", restored=False)
        before = await join(client, conn, nursery)
        await conn.cut()
        conn = await server.next()
        await conn.accept()
        before.leave()
        asked = Started(nursery, client.join, "a", "ticket")
        question = await conn.receive()
        while question["action"] != "$join":
            question = await conn.receive()
        error = {"code": "DENIED", "message": "", "temporary": False}
        await conn.welcome(session="t2", restored=True, rooms={"a": {"error": error}})
        await wait_all_tasks_blocked()
        assert not asked.done
        await conn.reply(question, {"room": "a"})
        assert (await asked.result()).joined


@pytest.mark.parametrize("lost", [0, 2])
async def test_a_room_that_the_welcome_does_not_name(lost: int, autojump_clock: MockClock) -> None:
    """It is not joined, though the client was in it and the session is restored: it is joined anew, from its position.

    The welcome that said that its join failed may have been lost, and so often.
    """
    async with connected() as (client, server, conn, nursery):
        await conn.welcome(session="t1", restored=False)
        room = await join(client, conn, nursery, epoch="e", offset=7)
        await conn.cut()
        for _ in range(lost):
            conn = await server.next()
            await conn.accept()
            await conn.cut()
        conn = await server.next()
        await conn.accept()
        await conn.welcome(session="t2", restored=True, rooms={})
        asked = await conn.expect("$join", {"room": "a", "since": {"epoch": "e", "offset": 7}})
        assert (client.restored, room.joined) == (True, False)
        await conn.send({"room": "a", "offset": 8, "data": "of an earlier membership"})
        publications = [{"offset": 8, "data": "missed"}]
        await conn.reply(
            asked, {"room": "a", "epoch": "e", "offset": 8, "recovered": True, "publications": publications}
        )
        assert await room.receive() == Event("a", "missed", at(8))
        assert room.joined


# Presence


async def test_presence(autojump_clock: MockClock) -> None:
    """The state, then differences; a user is there as long as one of its connections is."""
    async with connected() as (client, _, conn, nursery):
        room = await join(client, conn, nursery)
        assert dict(room.presence) == {}
        one, two = {"id": "1", "name": "Ada"}, {"id": "2", "name": "Ada"}

        async def tell(**data: object) -> None:
            await conn.send({"action": "$presence", "room": "a", "data": data})
            await wait_all_tasks_blocked()

        changed = Started(nursery, room.presence.wait_change)
        await tell(users={"ada": [one]})
        await changed.result()
        assert dict(room.presence) == {"ada": (one,)}
        await tell(joins={"ada": [two], "bob": [{"id": "3"}]}, leaves={})
        assert dict(room.presence) == {"ada": (one, two), "bob": ({"id": "3"},)}
        await tell(joins={"ada": [{"id": "1", "name": "Ada L."}]}, leaves={})
        assert room.presence["ada"] == (two, {"id": "1", "name": "Ada L."})
        await tell(joins={"ada": [{"id": "2", "busy": True}]}, leaves={"ada": [two], "bob": [{"id": "3"}]})
        assert dict(room.presence) == {"ada": ({"id": "1", "name": "Ada L."}, {"id": "2", "busy": True})}
        await tell(joins={}, leaves={"ada": [one, two]})
        assert len(room.presence) == 0
        await tell(users={"eve": [{"id": "4"}]})
        assert "eve" in room.presence
        room.leave()
        assert dict(room.presence) == {}


@pytest.mark.parametrize(
    "data", [None, {"users": []}, {"joins": {"a": 1}}, {"leaves": {"a": [{}]}}, {"joins": {"a": [{"id": []}]}}]
)
async def test_presence_of_another_shape(autojump_clock: MockClock, data: object) -> None:
    """It is a violation."""
    async with connected() as (client, _, conn, nursery):
        await join(client, conn, nursery)
        await conn.send({"action": "$presence", "room": "a", "data": data})
        assert await conn.expect_close() == 1002


@pytest.mark.parametrize(
    "reply",
    [
        {"epoch": 1, "offset": 1},
        {"epoch": "e", "offset": "1"},
        {"epoch": "e", "offset": True},
        {"epoch": "e", "offset": 1, "publications": [1]},
        {"epoch": "e", "offset": 1, "publications": 1},
        {"epoch": "e", "offset": 1, "publications": [{"offset": 1.5, "data": 1}]},
    ],
)
async def test_positions_of_another_shape(autojump_clock: MockClock, reply: dict[str, object]) -> None:
    """So are they."""
    async with connected() as (client, _, conn, nursery):
        Started(nursery, client.join, "a")
        await conn.reply(await conn.expect("$join"), reply)
        assert await conn.expect_close() == 1002
