"""Sessions: what a client has again that comes back, who may have it, and what becomes of the connection before."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import trio
from trio.testing import MockClock

from hall import Gate, record, settle
from returning import FORMATS, V1, WINDOW, Visit, allow, gated, make_manager, visit
from trio_rooms import ActionError, Close, Config, Connection, Limits, Manager, Room
from trio_rooms.testing import MemoryServer, ReplyError, serve_in_memory


def rooms_of(found: Visit) -> dict[str, str]:
    """For each room of a ``$welcome`` the code of its error, or nothing."""
    return {name: told.get("error", {}).get("code", "") for name, told in found.welcome["rooms"].items()}


async def comes_back(memory: MemoryServer, before: Visit, **options: Any) -> Visit:
    """A client whose connection is lost, by another one."""
    await before.lose()
    return await visit(memory, before.token, **options)


# What is restored


@pytest.mark.parametrize("transport", ["native", "trio-websocket"])
@pytest.mark.parametrize("subprotocol", FORMATS)
async def test_restored(
    subprotocol: str, transport: Literal["native", "trio-websocket"], autojump_clock: MockClock
) -> None:
    """The session's id, what was kept of the metadata, and the rooms; the connection is another one."""
    async with serve_in_memory(make_manager(), transport=transport) as memory:
        first = await visit(memory, subprotocol=subprotocol)
        assert not first.conn.restored
        assert first.welcome == {"connection": first.conn.id, "session": first.token, "restored": False}
        await first.join("open-1", "open-2")
        await first.client.request("keep", {"name": "Ada"})
        second = await comes_back(memory, first, subprotocol=subprotocol)
        assert second.conn.restored
        assert second.conn.session_id == first.conn.session_id
        assert second.conn.id != first.conn.id
        assert second.conn.metadata == {"name": "Ada"}
        assert list(second.conn.rooms) == ["open-1", "open-2"]
        assert second.welcome == {
            "connection": second.conn.id,
            "session": second.token,
            "restored": True,
            "rooms": {"open-1": {"room": "open-1"}, "open-2": {"room": "open-2"}},
        }
        memory.manager.broadcast_to_room("open-2", "hi")
        assert await second.client.receive_json() == {"room": "open-2", "data": "hi"}
        await second.client.aclose()


async def test_metadata_that_is_not_marked_is_not_kept(autojump_clock: MockClock) -> None:
    """Only what ``keep`` names; values are those after ``on_disconnect``, and marks last for all restores."""
    manager = make_manager()
    times = [object()]

    @manager.on_connect
    def connected(conn: Connection) -> None:
        conn.metadata["connection"] = conn.id
        if not conn.restored:
            conn.keep("times", "never there")

    @manager.on_disconnect
    async def disconnected(conn: Connection, close: Close) -> None:
        await trio.sleep(1)
        conn.metadata["times"] = times

    async with serve_in_memory(manager) as memory:
        found = await visit(memory)
        for _ in range(3):
            found = await comes_back(memory, found)
            assert found.conn.metadata == {"times": times, "connection": found.conn.id}
            assert found.conn.metadata["times"] is times
        await found.client.aclose()


async def test_rooms_are_authorised_again(autojump_clock: MockClock) -> None:
    """R3: who has lost the right to a room is refused as at a join, and is told; other rooms are joined."""
    manager = make_manager()
    allowed = {"club-1", "club-2"}
    asked: list[tuple[str, str, object]] = []

    async def authorize(conn: Connection, room: str, data: object) -> bool | dict[str, str]:
        asked.append((conn.id, room, data))
        return {"topic": room} if room in allowed else False

    manager.room("club-*", authorize=authorize)
    async with serve_in_memory(manager) as memory:
        first = await visit(memory)
        for room in ("club-1", "club-2"):
            await first.client.request("$join", {"room": room, "data": "please"})
        allowed.remove("club-1")
        asked.clear()
        second = await comes_back(memory, first)
        assert asked == [(second.conn.id, "club-1", None), (second.conn.id, "club-2", None)]
        assert second.welcome["rooms"] == {
            "club-1": {"error": {"code": "DENIED", "message": "not allowed", "temporary": False}},
            "club-2": {"room": "club-2", "data": {"topic": "club-2"}},
        }
        assert list(second.conn.rooms) == ["club-2"]
        assert memory.server.statistics().errors_told["DENIED"] == 1
        allowed.add("club-1")
        third = await comes_back(memory, second)
        assert list(third.conn.rooms) == ["club-2"]
        await third.client.aclose()


async def test_middleware_runs_again(autojump_clock: MockClock) -> None:
    """Each connection of a session passes it, and may be refused by it, before any room is joined."""
    manager = make_manager()
    passed: list[tuple[bool, list[str]]] = []
    welcome = True

    async def middleware(conn: Connection, call_next: Any) -> None:
        passed.append((conn.restored, list(conn.rooms)))
        if welcome:
            await call_next(conn)

    manager.use_connection(middleware)
    async with serve_in_memory(manager) as memory:
        first = await visit(memory)
        await first.join("open-1")
        second = await comes_back(memory, first)
        assert list(second.conn.rooms) == ["open-1"]
        assert passed == [(False, []), (True, [])]
        await second.lose()
        welcome = False
        client = await memory.connect(subprotocol=V1)
        await client.send_action("$session", {"session": second.token})
        await client.expect_close(1008, skip_messages=True)
        assert passed[2:] == [(True, [])]
        assert memory.server.statistics().rooms == 0


async def test_rooms_that_a_handler_had_joined(autojump_clock: MockClock) -> None:
    """They are asked for by the client, too: joined where ``authorize`` says so, else denied, as ``$join`` is."""
    async with serve_in_memory(make_manager()) as memory:
        first = await visit(memory)
        await first.client.request("join", "open-1")
        await first.client.request("join", "staff")
        second = await comes_back(memory, first)
        assert rooms_of(second) == {"open-1": "", "staff": "DENIED"}
        await second.client.aclose()


async def test_hooks_of_joins_run_again(autojump_clock: MockClock) -> None:
    """``on_join_room`` runs for each, and may veto; what it lets out is told in the place of the reply."""
    manager = make_manager()
    log = record(manager)
    vetoes: dict[str, Exception] = {}

    @manager.on_join_room
    def join(conn: Connection, room: Room) -> None:
        if room.name in vetoes:
            raise vetoes[room.name]

    async with serve_in_memory(manager) as memory:
        first = await visit(memory)
        await first.join("open-1", "open-2", "open-3")
        vetoes.update({"open-1": ActionError("BANNED", "go away"), "open-2": ValueError("secret")})
        second = await comes_back(memory, first)
        assert rooms_of(second) == {"open-1": "BANNED", "open-2": "INTERNAL", "open-3": ""}
        assert "secret" not in str(second.welcome)
        assert [entry for entry in log if entry[-1] == second.conn.id] == [
            ("connect", second.conn.id),
            ("join", "open-1", second.conn.id),
            ("leave", "open-1", "vetoed", second.conn.id),
            ("join", "open-2", second.conn.id),
            ("error", "ValueError", second.conn.id),
            ("leave", "open-2", "vetoed", second.conn.id),
            ("join", "open-3", second.conn.id),
        ]
        await second.client.aclose()


async def test_rooms_that_are_not_restored(autojump_clock: MockClock) -> None:
    """What it had left, was kicked from, was in for the length of a block, or ``on_connect`` leaves, is not joined."""
    manager = make_manager()

    @manager.on("block", concurrent=True)
    async def block(conn: Connection) -> None:
        async with conn.joined("open-block"):
            await trio.sleep_forever()

    @manager.on_connect
    def connected(conn: Connection) -> None:
        if conn.restored:
            assert conn.leave("open-unwanted")
            assert not conn.leave("open-unwanted")

    async with serve_in_memory(manager) as memory:
        first = await visit(memory)
        await first.join("open-left", "open-kicked", "open-unwanted", "open-1")
        await first.client.request("$leave", {"room": "open-left"})
        room = manager.get_room("open-kicked")
        assert room is not None
        room.kick(first.conn)
        await first.client.send_action("block")
        await settle()
        assert "open-block" in first.conn.rooms
        second = await comes_back(memory, first)
        assert list(second.conn.rooms) == ["open-1"]
        await second.client.aclose()


async def test_a_room_that_on_connect_joins(autojump_clock: MockClock) -> None:
    """The program's own decision comes first; the client is told of the room as of one that it was in already."""
    manager = make_manager()

    @manager.on_connect
    async def connected(conn: Connection) -> None:
        await conn.join("staff")

    async with serve_in_memory(manager) as memory:
        second = await comes_back(memory, await visit(memory))
        assert second.welcome["rooms"] == {"staff": {"room": "staff"}}
        await second.client.aclose()


async def test_one_reply_that_fails_harms_no_other(autojump_clock: MockClock) -> None:
    """A reply that cannot be encoded, is too large, or does not come in time, is an error of that room alone."""
    manager = make_manager(limits=Limits(outbox_bytes=10_000))
    returning = False

    async def authorize(conn: Connection, room: str, data: object) -> bool | dict[str, object]:
        if returning and room == "slow":
            await trio.sleep_forever()
        return {"object": {"odd": object(), "huge": "x" * 6_000}.get(room)} if returning else True

    for room in ("odd", "huge", "slow"):
        manager.room(room, authorize=authorize)
    log = record(manager)
    async with serve_in_memory(manager) as memory:
        first = await visit(memory)
        await first.join("odd", "huge", "slow", "open-1")
        returning = True
        begin = trio.current_time()
        second = await comes_back(memory, first)
        assert rooms_of(second) == {"odd": "INTERNAL", "huge": "INTERNAL", "slow": "DEADLINE_EXCEEDED", "open-1": ""}
        assert trio.current_time() - begin == 2 * manager.config.hook_timeout
        assert list(second.conn.rooms) == ["open-1"]
        assert [entry[1] for entry in log if entry[0] == "error"] == ["EncodingError", "MessageTooLarge"]
        await second.client.aclose()


async def test_a_room_is_left_while_others_are_joined_again(autojump_clock: MockClock) -> None:
    """``$leave`` acts when it is read, on a room that is being joined again and on one whose turn has not come."""
    manager = make_manager()
    gate = gated(manager)
    async with serve_in_memory(manager) as memory:
        first = await visit(memory)
        await first.join("gate", "open-1", "open-2")
        await first.lose()
        client = await memory.connect(subprotocol=V1)
        await client.send_action("$session", {"session": first.token})
        await gate.reached.wait()
        await client.send_action("$leave", {"room": "gate"}, id=1)
        await client.send_action("$leave", {"room": "open-1"}, id=2)
        await settle()
        gate.open.set()
        welcome = await client.receive_json()
        assert {name: "error" in told for name, told in welcome["data"]["rooms"].items()} == {
            "gate": True,
            "open-2": False,
        }
        assert [(await client.receive_json())["id"] for _ in range(2)] == [1, 2]
        assert list(memory.manager.connections[welcome["data"]["connection"]].rooms) == ["open-2"]
        await client.aclose()


# Who may have it


async def test_a_token_works_until_the_next_one_has_been_used(autojump_clock: MockClock) -> None:
    """The client may have lost its connection before it was told the new one; then the old one is good."""
    async with serve_in_memory(make_manager()) as memory:
        first = await visit(memory)
        second = await comes_back(memory, first)
        await second.lose()
        third = await visit(memory, first.token)  # it never had the second token
        assert third.conn.session_id == first.conn.session_id
        await third.lose()
        assert not (await visit(memory, second.token)).conn.restored
        fourth = await visit(memory, third.token)
        assert fourth.conn.restored
        assert not (await visit(memory, first.token)).conn.restored
        assert fourth.conn.closed is None
        assert len({one.token for one in (first, second, third, fourth)}) == 4
        assert memory.server.statistics().sessions_restored == 3
        assert memory.server.statistics().sessions_refused == 2


@pytest.mark.parametrize("token", ["", "x", "é\u2028", "x" * 60_000])
async def test_no_such_token(token: str, autojump_clock: MockClock) -> None:
    """Whatever a client sends for a token: it gets a fresh session, and the refusal is counted."""
    async with serve_in_memory(make_manager()) as memory:
        found = await visit(memory, token)
        assert (found.welcome["restored"], "rooms" in found.welcome) == (False, False)
        assert memory.server.statistics().sessions_refused == 1
        assert (await comes_back(memory, found)).conn.restored


@pytest.mark.parametrize(("owner", "thief"), [("ada", "eve"), ("ada", None), (None, "eve")])
async def test_another_users_token(owner: str | None, thief: str | None, autojump_clock: MockClock) -> None:
    """It is refused, whoever has it, and the session's own user notices nothing."""
    async with serve_in_memory(make_manager()) as memory:
        found = await visit(memory, user=owner)
        await found.join("open-1")
        robbed = await visit(memory, found.token, user=thief)
        assert not robbed.conn.restored
        assert robbed.conn.session_id != found.conn.session_id
        assert found.conn.closed is None
        assert memory.server.statistics().sessions_refused == 1
        again = await comes_back(memory, found, user=owner)
        assert list(again.conn.rooms) == ["open-1"]


async def test_tokens_are_not_kept(autojump_clock: MockClock) -> None:
    """Where sessions are held, there are hashes and no tokens."""
    async with serve_in_memory(make_manager()) as memory:
        found = await visit(memory)
        session = found.conn._session
        assert session is not None
        assert len(found.token) >= 43  # 256 bits
        assert found.token not in repr(session)
        assert all(found.token.encode() not in digest for digest in session.digests)


async def test_nothing_received_yet(autojump_clock: MockClock) -> None:
    """A client that was told its token and nothing else comes back to its session."""
    async with serve_in_memory(make_manager()) as memory:
        client = await memory.connect(subprotocol=V1)
        welcome = await client.receive_json()
        await client.aclose()
        assert (await visit(memory, welcome["data"]["session"])).conn.restored


async def test_another_run_of_the_server(autojump_clock: MockClock) -> None:
    """Sessions end with serve: the client is told that nothing was restored, and has a session again."""
    manager = make_manager()
    async with serve_in_memory(manager) as memory:
        first = await visit(memory)
        await first.join("open-1")
    async with serve_in_memory(manager) as memory:
        second = await visit(memory, first.token)
        assert not second.conn.restored
        assert second.conn.session_id != first.conn.session_id
        assert not second.conn.rooms


# The connection before


async def test_sooner_than_the_loss_was_noticed(autojump_clock: MockClock) -> None:
    """The connection before is ended with 4501; its hooks have run to their end before ``on_connect`` begins."""
    manager = make_manager()
    log: list[tuple[str, str, float]] = []

    @manager.on_connect
    def connected(conn: Connection) -> None:
        log.append(("connect", conn.id, trio.current_time()))

    @manager.on_leave_room
    async def left(conn: Connection, room: Room, reason: str) -> None:
        await trio.sleep(1)
        log.append((reason, conn.id, trio.current_time()))

    @manager.on_disconnect
    async def disconnected(conn: Connection, close: Close) -> None:
        await trio.sleep(2)
        log.append((f"{close.by}:{close.code}", conn.id, trio.current_time()))

    async with serve_in_memory(manager) as memory:
        first = await visit(memory)
        await first.join("open-1")
        second = await visit(memory, first.token)
        assert log == [
            ("connect", first.conn.id, 0),
            ("disconnected", first.conn.id, 1),
            ("server:4501", first.conn.id, 3),
            ("connect", second.conn.id, 3),
        ]
        assert list(second.conn.rooms) == ["open-1"]
        assert (await first.client.expect_close()).code == 4501
        await first.client.aclose()
        await first.conn.wait_closed()
        assert memory.server.statistics().closes == {"server:4501": 1}


async def test_the_wait_for_the_hooks_before_is_bounded(autojump_clock: MockClock) -> None:
    """Hooks have ``hook_timeout``; code that does not end when it is cancelled is not waited for much longer."""
    manager = make_manager()
    end = trio.Event()

    @manager.on("stay", concurrent=True)
    async def stay(conn: Connection) -> None:
        conn.metadata["staying"] = True
        conn.keep("staying")
        with trio.CancelScope(shield=True):
            await end.wait()

    async with serve_in_memory(manager) as memory:
        first = await visit(memory)
        await first.client.send_action("stay")
        await settle()
        second = await visit(memory, first.token)
        assert trio.current_time() == manager.config.hook_timeout + 1
        assert second.conn.metadata == {"staying": True}
        end.set()
        await first.conn.wait_closed()
        await second.lose()
        third = await visit(memory, second.token)
        assert third.conn.metadata == {"staying": True}
        await third.client.aclose()


async def test_a_second_outage_while_it_waits(autojump_clock: MockClock) -> None:
    """A client that is lost again before it was restored has everything at the next attempt, of which one lives on."""
    manager = make_manager()

    @manager.on_disconnect
    async def disconnected(conn: Connection, close: Close) -> None:
        await trio.sleep(3)

    async with serve_in_memory(manager) as memory:
        first = await visit(memory)
        await first.join("open-1", "open-2")
        await first.client.request("keep", {"name": "Ada"})
        clients = []
        for _ in range(3):
            clients.append(await memory.connect(subprotocol=V1))
            await clients[-1].send_action("$session", {"session": first.token})
            await settle()
        await trio.sleep(10)
        assert [(await client.expect_close()).code for client in clients[:2]] == [4501, 4501]
        welcome = (await clients[2].receive_json())["data"]
        assert list(welcome["rooms"]) == ["open-1", "open-2"]
        (conn,) = manager.connections.values()
        assert conn.metadata == {"name": "Ada"}
        assert conn.session_id == first.conn.session_id
        for client in clients:
            await client.aclose()


async def test_a_second_outage_while_rooms_are_joined_again(autojump_clock: MockClock) -> None:
    """Rooms whose turn had not come, or whose join was under way, are joined at the next attempt."""
    manager = make_manager()
    gate = Gate()
    waits = False

    async def authorize(conn: Connection, room: str, data: object) -> bool:
        if waits:
            await gate()
        return True

    manager.room("gate", authorize=authorize)
    async with serve_in_memory(manager) as memory:
        first = await visit(memory)
        await first.join("open-1", "gate", "open-2")
        waits = True
        await first.lose()
        client = await memory.connect(subprotocol=V1)
        await client.send_action("$session", {"session": first.token})
        await gate.reached.wait()
        await client.aclose()
        await settle()
        waits = False
        third = await visit(memory, first.token)
        assert rooms_of(third) == {"open-1": "", "gate": "", "open-2": ""}
        await third.client.aclose()


# Who has none


async def test_plain_clients_have_none(autojump_clock: MockClock) -> None:
    """They wait for nothing, are told nothing, and what is kept is kept nowhere."""
    manager = make_manager()
    log = record(manager)
    async with serve_in_memory(manager) as memory:
        client = await memory.connect()
        await settle()
        assert [entry[0] for entry in log] == ["connect"]
        assert trio.current_time() == 0
        (conn,) = manager.connections.values()
        assert (conn.session_id, conn.restored) == (None, False)
        await client.request("keep", {"name": "Ada"})
        with pytest.raises(ReplyError) as caught:
            await client.request("$session", {"session": "x"})
        assert caught.value.code == "NEEDS_V1"
        await client.aclose()
        await conn.wait_closed()
        statistics = memory.server.statistics()
        assert (statistics.sessions_kept, statistics.sessions_expired) == (0, 0)


async def test_off_by_default(autojump_clock: MockClock) -> None:
    """Then v1 clients are told what they always were, at once; one that asks for its session has none."""
    manager = Manager()
    assert Config().session_window is None
    async with serve_in_memory(manager) as memory:
        client = await memory.connect(subprotocol=V1)
        welcome = await client.receive_json()
        (conn,) = manager.connections.values()
        assert welcome == {"action": "$welcome", "data": {"connection": conn.id}}
        assert conn.session_id is None
        conn.keep("name")
        told = await client.request("$session", {"session": "x"})
        assert told == {"connection": conn.id, "restored": False}
        assert trio.current_time() == 0
        await client.aclose()


# Bounds


@pytest.mark.parametrize("users", [1, 100])
async def test_a_flood_of_clients(users: int, autojump_clock: MockClock) -> None:
    """Kept are ``max_sessions`` at the most, the newest; those that go are counted, and forgotten whole."""
    manager = make_manager(limits=Limits(max_sessions=10))
    gone: list[str] = []
    manager.on_session_expired(lambda session_id, user, metadata: gone.append(session_id))
    async with serve_in_memory(manager) as memory:
        visits = []
        for number in range(100):
            visits.append(await visit(memory, user=f"user{number % users}"))
            await visits[-1].join(f"open-{number}")
            await visits[-1].lose()
        statistics = memory.server.statistics()
        assert (statistics.sessions_kept, statistics.sessions_expired) == (10, 90)
        assert statistics.limited["max_sessions"] == 90
        assert gone == [one.conn.session_id for one in visits[:90]]
        sessions = memory.server._node.sessions
        assert sessions is not None
        assert (len(sessions.all), len(sessions._of_digest), len(sessions.due)) == (10, 10, 0)
        user = f"user{90 % users}"
        assert not (await visit(memory, visits[89].token, user=f"user{89 % users}")).conn.restored
        assert (await visit(memory, visits[90].token, user=user)).conn.restored


async def test_those_of_connections_are_not_counted(autojump_clock: MockClock) -> None:
    """``max_sessions`` is about clients that are away: sessions of connections are as bounded as those."""
    async with serve_in_memory(make_manager(limits=Limits(max_sessions=1))) as memory:
        visits = [await visit(memory) for _ in range(5)]
        assert memory.server.statistics().sessions_kept == 0
        for one in visits:
            assert (await visit(memory, one.token)).conn.restored


# Publishing


async def test_an_exclusion_is_of_the_session_too(autojump_clock: MockClock) -> None:
    """Who was excluded is excluded when it has come back: the publication knows its session, however it was named."""
    manager = make_manager()
    async with serve_in_memory(manager) as memory:
        found = await visit(memory)
        node = memory.server._node
        ids = {found.conn.id, found.conn.session_id}
        assert node.publications.make(("a",), 1, exclude=[found.conn]).exclude == ids
        assert node.publications.make(("a",), 1, exclude=[found.conn.id, "gone"]).exclude == {*ids, "gone"}
        assert node.publications.make(("a",), 1).exclude == frozenset()
        await found.client.aclose()


@pytest.mark.parametrize("subprotocol", FORMATS)
async def test_an_idempotency_key_is_of_the_session(subprotocol: str, autojump_clock: MockClock) -> None:
    """Who has no name repeats itself after an outage and publishes once; another session has keys of its own."""
    manager = make_manager()
    manager.room("wall", authorize=allow, allow_publish=True)
    data = {"room": "wall", "data": 1, "idempotency_key": "k"}
    async with serve_in_memory(manager) as memory:
        lost = await visit(memory, subprotocol=subprotocol)
        await lost.join("wall")
        await lost.client.request("$publish", data)
        await lost.lose()
        found = await visit(memory, lost.token, subprotocol=subprotocol)
        other = await visit(memory, subprotocol=subprotocol)
        await other.join("wall")
        await found.client.request("$publish", data)
        manager.broadcast_to_room("wall", 2)
        await other.client.request("$publish", data)
        assert [await receive_data(found) for _ in range(2)] == [2, 1]
        await found.client.aclose()
        await other.client.aclose()


async def receive_data(visit: Visit) -> Any:
    return (await visit.client.receive_json())["data"]


async def test_other_messages_wait_for_their_turn(autojump_clock: MockClock) -> None:
    """What a client sends behind ``$session``, without waiting, is handled in order when all is restored."""
    manager = make_manager()
    manager.room("club", authorize=allow)
    seen: list[tuple[str, list[str]]] = []

    @manager.on("note")
    def note(conn: Connection, text: str) -> None:
        seen.append((text, list(conn.rooms)))

    async with serve_in_memory(manager) as memory:
        first = await visit(memory)
        await first.join("club")
        await first.lose()
        client = await memory.connect(subprotocol=V1)
        await client.send_action("$session", {"session": first.token})
        for text in "abc":
            await client.send_action("note", text)
        await client.receive_json()
        await settle()
        assert seen == [("a", ["club"]), ("b", ["club"]), ("c", ["club"])]
        await client.aclose()


def test_window_is_checked() -> None:
    """As every setting, in the line that makes it."""
    with pytest.raises(ValueError, match="session_window"):
        Config(session_window=0)
    assert Config(session_window=WINDOW).session_window == WINDOW
