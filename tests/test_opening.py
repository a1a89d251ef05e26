"""How a connection begins where there are sessions: the wait for the first message, and ``$welcome`` ahead of all."""

from __future__ import annotations

import socket
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from hall import Gate, attempt, record, settle
from returning import FORMATS, V1, gated, make_manager, visit
from trio_rooms import ActionError, Connection, HandshakeRequest, Identity, Manager, UsageError
from trio_rooms._wire.plain import PlainStream
from trio_rooms.testing import FaultyStream, MemoryServer, TestClient, serve_in_memory


def greeting(manager: Manager) -> None:
    """Have ``on_connect`` say hello."""

    @manager.on_connect
    async def connected(conn: Connection) -> None:
        await conn.send("hello")


async def returns(memory: MemoryServer, token: str) -> TestClient:
    """A client that has asked for its session, and has read nothing yet."""
    client = await memory.connect(subprotocol=V1)
    await client.send_action("$session", {"session": token}, id=1)
    return client


# The first message


async def test_on_connect_waits_a_second(autojump_clock: MockClock) -> None:
    """A client that sends nothing is told that it has a new session, and then is a connection like any other."""
    manager = make_manager()
    log = record(manager)
    greeting(manager)
    async with serve_in_memory(manager) as memory:
        client = await memory.connect(subprotocol=V1)
        await client.receive_nothing(0.99)
        assert log == []
        welcome = await client.receive_json()
        assert trio.current_time() == 1
        assert welcome["action"] == "$welcome"
        assert await client.receive_json() == {"data": "hello"}
        assert [entry[0] for entry in log] == ["connect"]
        await client.aclose()


@pytest.mark.parametrize("subprotocol", FORMATS)
@pytest.mark.parametrize(
    ("first", "answer"),
    [
        ({"action": "keep", "data": {"a": 1}, "id": 1}, {"id": 1, "data": None}),
        ({"action": "$join", "data": {"room": "open-1"}, "id": 1}, {"id": 1, "data": {"room": "open-1"}}),
        ({"action": "$session", "data": {}, "id": 1}, {"id": 1, "data": {"restored": False}}),
        ({"action": "nobody", "id": 1}, {"id": 1, "error": {"code": "UNKNOWN_ACTION"}}),
        ({"action": "$session", "data": {"session": 5}, "id": 1}, {"id": 1, "error": {"code": "BAD_MESSAGE"}}),
        ({"action": "$session", "data": [], "id": 1}, {"id": 1, "error": {"code": "BAD_MESSAGE"}}),
        ({"action": 7}, {"error": {"code": "BAD_MESSAGE"}}),
    ],
)
async def test_any_message_ends_the_wait(
    first: dict[str, Any], answer: dict[str, Any], subprotocol: str, autojump_clock: MockClock
) -> None:
    """``$welcome`` tells of a new session, ``on_connect`` runs, and the message is answered behind both."""
    manager = make_manager()
    greeting(manager)
    async with serve_in_memory(manager) as memory:
        client = await memory.connect(subprotocol=subprotocol)
        await client.send_json(first)
        welcome = await client.receive_json()
        assert (welcome["action"], welcome["data"]["restored"]) == ("$welcome", False)
        told = [await client.receive_json() for _ in range(2)]
        told.remove({"data": "hello"})
        (found,) = told
        assert found.get("id") == answer.get("id")
        for key in ("data", "error"):
            if isinstance(answer.get(key), dict):
                assert answer[key].items() <= found[key].items()
        assert trio.current_time() == 0
        await client.aclose()


async def test_only_as_the_first_message(autojump_clock: MockClock) -> None:
    """Later it is an error, and changes nothing; so is a second one."""
    async with serve_in_memory(make_manager()) as memory:
        away = await visit(memory)
        await away.lose()
        client = await memory.connect(subprotocol=V1)
        await client.send_action("keep", {"a": 1})
        await client.send_action("$session", {"session": away.token}, id=1)
        assert (await client.receive_json())["data"]["restored"] is False
        told = await client.receive_json()
        assert (told["id"], told["error"]["code"]) == (1, "BAD_MESSAGE")
        assert "first message" in told["error"]["message"]
        again = await visit(memory, away.token)
        assert again.conn.restored
        await again.client.send_action("$session", {"session": again.token})
        assert (await again.client.receive_json())["error"]["code"] == "BAD_MESSAGE"
        await client.aclose()


async def test_a_connection_that_ends_in_the_wait(autojump_clock: MockClock) -> None:
    """Of a client that is lost before anything of the program ran, nothing is left, and no hook runs."""
    manager = make_manager()
    log = record(manager)
    ended: list[str] = []
    manager.on_session_expired(lambda *args: ended.append(args[0]))
    async with serve_in_memory(manager) as memory:
        client = await memory.connect(subprotocol=V1)
        await settle()
        await client.aclose()
        await settle()
        assert trio.current_time() == 0
        assert (log, dict(manager.connections)) == ([], {})
        assert memory.server.statistics().sessions_kept == 0
    assert ended == []


async def test_a_drain_does_not_wait_for_a_first_message(autojump_clock: MockClock) -> None:
    """A client that has sent nothing yet is closed as any other."""
    async with serve_in_memory(make_manager()) as memory:
        client = await memory.connect(subprotocol=V1)
        await settle()
        memory.server.begin_shutdown()
        await client.expect_close(1012, skip_messages=True)
        assert trio.current_time() < 0.1
        await client.aclose()


# $welcome is the first frame


async def test_whatever_is_sent_in_the_wait_stands_behind(autojump_clock: MockClock) -> None:
    """To everybody, to the user, to the connection, and the replies to what acts when it is read."""
    manager = make_manager()
    async with serve_in_memory(manager) as memory:
        client = await memory.connect(subprotocol=V1, path="/ws?user=ada")
        await client.send_action("$leave", {"room": "a"}, id=1)
        await settle()
        (conn,) = manager.connections.values()
        manager.broadcast_to_all("all")
        manager.send_to_user("ada", "user")
        conn.send_nowait("conn")
        assert (await client.receive_json())["action"] == "$welcome"
        assert [await client.receive_json() for _ in range(4)] == [
            {"id": 1, "data": {"room": "a"}},
            {"data": "all"},
            {"data": "user"},
            {"data": "conn"},
        ]
        await client.aclose()


async def test_what_on_connect_sends_and_what_is_published_stands_behind(autojump_clock: MockClock) -> None:
    """Of a restored session, too, though ``$welcome`` tells how the joins went that come after ``on_connect``."""
    manager = make_manager()
    greeting(manager)
    gate = gated(manager)
    async with serve_in_memory(manager) as memory:
        away = await visit(memory)
        await away.join("open-1", "gate")
        await away.lose()
        client = await returns(memory, away.token)
        await gate.reached.wait()
        manager.broadcast_to_room("open-1", "published")
        gate.open.set()
        welcome = await client.receive_json()
        assert list(welcome["data"]["rooms"]) == ["open-1", "gate"]
        assert [await client.receive_json() for _ in range(3)] == [
            {"data": "hello"},
            {"room": "open-1", "data": "published"},
            {"id": 1, "data": {"connection": welcome["data"]["connection"], "restored": True}},
        ]
        await client.aclose()


@pytest.mark.parametrize("restored", [False, True])
async def test_a_refusal_stands_behind(restored: bool, autojump_clock: MockClock) -> None:
    """Where ``on_connect`` refuses the client, ``$welcome`` and what was sent go ahead of the close."""
    manager = make_manager()
    greeting(manager)
    refuses = False

    @manager.on_connect
    def refuse(conn: Connection) -> None:
        if refuses:
            raise ActionError("FULL")

    async with serve_in_memory(manager) as memory:
        away = await visit(memory)
        await away.lose()
        refuses = True
        client = await returns(memory, away.token if restored else "")
        welcome = await client.receive_json()
        assert welcome["data"]["restored"] is restored
        rest = [await client.receive_json() for _ in range(1 if restored else 2)]
        assert {"data": "hello"} in rest
        assert (await client.expect_close()).code == 4500
        await client.aclose()


async def test_connection_middleware_refuses(autojump_clock: MockClock) -> None:
    """It runs again for each connection; who is not let in any more loses the session, too."""
    manager = make_manager()
    blocked: set[str | None] = set()
    ended: list[str] = []
    manager.on_session_expired(lambda *args: ended.append(args[0]))

    @manager.use_connection
    async def block(conn: Connection, call_next: Any) -> None:
        if conn.identity.user not in blocked:
            await call_next(conn)

    async with serve_in_memory(manager) as memory:
        away = await visit(memory, user="eve")
        blocked.add("eve")
        await away.lose()
        back = await visit(memory, away.token, user="eve")
        assert back.welcome["restored"]
        assert (await back.client.expect_close()).code == 1008
        await back.client.aclose()
        await settle()
        assert ended == [away.conn.session_id]
        assert memory.server.statistics().sessions_kept == 0


async def test_nobody_is_there_for_welcome(autojump_clock: MockClock) -> None:
    """The client is lost while its rooms are joined again: what waits is thrown away, and counted."""
    manager = make_manager()
    greeting(manager)
    gate = gated(manager)
    async with serve_in_memory(manager) as memory:
        away = await visit(memory)
        await away.join("gate")
        await away.lose()
        before = memory.server.statistics()
        client = await returns(memory, away.token)
        await gate.reached.wait()
        await client.aclose()
        await settle()
        after = memory.server.statistics()
        assert (after.discarded - before.discarded, after.dropped - before.dropped) == (2, 0)


async def test_who_makes_welcome_cannot_ask_the_client(autojump_clock: MockClock) -> None:
    """Nor wait until something is written: both are held back. An error at once; a task of the connection may wait."""
    manager = make_manager()
    errors: list[UsageError] = []
    answers: list[object] = []

    async def ask(conn: Connection) -> None:
        answers.append(await conn.request("name"))

    @manager.on_connect
    async def connected(conn: Connection) -> None:
        if conn.restored:
            for wait in (partial(conn.request, "name"), partial(manager.publish, "open-1", 1, until="written")):
                with pytest.raises(UsageError, match="start_soon") as caught:
                    await wait()
                errors.append(caught.value)
            conn.start_soon(ask, conn)

    async with serve_in_memory(manager) as memory:
        away = await visit(memory)
        await away.join("open-1")
        await away.lose()
        client = await returns(memory, away.token)
        client.answers["name"] = lambda data: "Ada"
        assert (await client.receive_json())["action"] == "$welcome"
        assert (await client.receive_json())["id"] == 1
        await client.receive_nothing(1)
        assert (answers, len(errors)) == (["Ada"], 2)
        await client.aclose()


async def test_written_is_written(autojump_clock: MockClock) -> None:
    """Who waits until an event is written waits for what is held back, the frame in front of it included."""
    manager = make_manager()
    gate = gated(manager)
    async with serve_in_memory(manager) as memory, trio.open_nursery() as nursery:
        away = await visit(memory)
        await away.join("open-1", "gate")
        await away.lose()
        client = await returns(memory, away.token)
        await gate.reached.wait()
        room = manager.get_room("open-1")
        assert room is not None
        publishing = attempt(nursery, partial(room.publish, "event", until="written"))
        await settle()
        assert not publishing.over.is_set()
        gate.open.set()
        assert (await client.receive_json())["action"] == "$welcome"
        assert await client.receive_json() == {"room": "open-1", "data": "event"}
        await publishing.over.wait()
        assert publishing.result.enqueued == 1
        await client.aclose()


# Control frames


async def test_control_frames_do_not_wait(autojump_clock: MockClock) -> None:
    """Pings are answered in the wait, over a stream where the writer does all; data follows when it may."""
    manager = make_manager()
    async with serve_in_memory(manager) as memory:
        client = await memory.connect(subprotocol=V1, wrap=FaultyStream)
        await settle()
        (conn,) = manager.connections.values()
        conn.send_nowait("early")
        for payload in (b"1", b"2"):
            await client.ping(payload)
            assert await client.receive_pong() == payload
        assert trio.current_time() == 0
        assert (await client.receive_json())["action"] == "$welcome"
        assert await client.receive_json() == {"data": "early"}
        await client.ping(b"3")
        assert await client.receive_pong() == b"3"
        assert await client.request("$leave", {"room": "a"}) == {"room": "a"}
        await client.aclose()


@pytest.mark.parametrize("pings", [0, 1])
async def test_over_a_plain_socket(pings: int) -> None:
    """As over any stream; when all that was held back is written there is no writer, and the flusher takes over."""
    manager = make_manager()
    async with serve_in_memory(manager, transport="native") as memory, trio.open_nursery() as nursery:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        nursery.start_soon(manager.handle_connection, PlainStream(ours, None))
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
        async with await TestClient.connect(stream, subprotocol=V1) as client:
            await settle()
            (conn,) = manager.connections.values()
            conn.send_nowait("early")
            for _ in range(pings):
                await client.ping(b"here?")
                assert await client.receive_pong() == b"here?"
            assert client.pending == ()
            await client.send_action("$session")
            assert (await client.receive_json())["action"] == "$welcome"
            assert await client.receive_json() == {"data": "early"}
            await settle()
            assert conn.outbox.backlog is None  # left to the flusher
            assert not conn._writing
            manager.broadcast_to_all("late")
            assert await client.receive_json() == {"data": "late"}
        assert memory.server.statistics().discarded == 0


async def test_a_ping_of_ours_in_the_wait(autojump_clock: MockClock) -> None:
    """The server pings while it waits; a peer that is dead is noticed."""
    manager = make_manager(ping_interval=0.2, pong_timeout=0.3)
    async with serve_in_memory(manager) as memory:
        client = await memory.connect(subprotocol=V1)
        client.auto_pong = False
        await client.expect_close(1006)
        assert trio.current_time() <= 0.5
        assert memory.server.statistics().dead_peers == 1
        await client.aclose()


async def test_the_client_closes_in_the_wait(autojump_clock: MockClock) -> None:
    """A close frame is answered at once."""
    async with serve_in_memory(make_manager()) as memory:
        client = await memory.connect(subprotocol=V1)
        await settle()
        await client.close(1000)
        assert trio.current_time() == 0
        await client.aclose()
        await settle()
        assert memory.server.statistics().sessions_kept == 0


async def test_cancelled_before_it_is_answered(autojump_clock: MockClock) -> None:
    """``$cancel`` of ``$session`` is answered as of any request, once; the session is restored all the same."""
    manager = make_manager()
    gate = Gate()

    @manager.on_connect
    async def connected(conn: Connection) -> None:
        if conn.restored:
            await gate()

    async with serve_in_memory(manager) as memory:
        away = await visit(memory)
        await away.lose()
        client = await returns(memory, away.token)
        await gate.reached.wait()
        await client.send_action("$cancel", {"id": 1})
        await settle()
        gate.open.set()
        assert (await client.receive_json())["data"]["restored"] is True
        told = await client.receive_json()
        assert (told["id"], told["error"]["code"]) == (1, "CANCELLED")
        await client.receive_nothing(1)
        await client.aclose()


async def test_a_new_identity(autojump_clock: MockClock) -> None:
    """Who a restored connection is says the new handshake, down to the claims."""
    manager = Manager(config=make_manager().config)
    rank = iter(["admin", "guest"])

    @manager.authenticate
    async def authenticate(request: HandshakeRequest) -> Identity:
        return Identity(user="ada", claims={"rank": next(rank)})

    async with serve_in_memory(manager) as memory:
        first = await visit(memory)
        second = await visit(memory, first.token)
        assert second.conn.restored
        assert second.conn.identity.claims["rank"] == "guest"
        await second.client.aclose()
        await first.client.aclose()
