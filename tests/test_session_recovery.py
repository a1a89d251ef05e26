"""The rooms of a session that is restored, with their histories: each recovers by its position, or says that not."""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from returning import FORMATS, V1, WINDOW, Visit, allow, make_manager, visit
from trio_rooms import Connection, HandshakeRequest, Identity, Limits, Manager, PresenceOptions, Publication
from trio_rooms.brokers import Keep, MemoryBroker
from trio_rooms.testing import LaggingBroker, MemoryServer, serve_in_memory


def make(broker: Any = None, **options: Any) -> Manager:
    """A manager with sessions and rooms that keep their last 100 publications."""
    manager = Manager(config=make_manager(**options).config, broker=broker)
    manager.room("news-*", authorize=allow, history_size=100, history_ttl=600)
    return manager


async def join(found: Visit, *rooms: str) -> dict[str, dict[str, Any]]:
    """Join; the positions that the client is told."""
    positions = {}
    for room in rooms:
        reply = await found.client.request("$join", {"room": room})
        positions[room] = {"epoch": reply["epoch"], "offset": reply["offset"]}
    return positions


async def publish(memory: MemoryServer, room: str, *events: object, **options: Any) -> None:
    for event in events:
        memory.manager.broadcast_to_room(room, event, **options)
    await trio.lowlevel.checkpoint()


async def back(memory: MemoryServer, before: Visit, positions: Any, **options: Any) -> dict[str, Any]:
    """The client comes back with its positions; for each room what it is told."""
    await before.client.aclose()
    found = await visit(memory, before.token, positions=positions, **options)
    await found.client.aclose()
    return dict(found.welcome["rooms"])


@pytest.mark.parametrize("subprotocol", FORMATS)
async def test_each_room_recovers(subprotocol: str, autojump_clock: MockClock) -> None:
    """Each by its own position; what is published from then on stands behind ``$welcome``."""
    async with serve_in_memory(make()) as memory:
        first = await visit(memory, subprotocol=subprotocol)
        positions = await join(first, "news-1", "news-2", "news-3")
        await first.client.aclose()
        await publish(memory, "news-1", "a", "b")
        await publish(memory, "news-3", {"c": 1.5})
        second = await visit(memory, first.token, positions=positions, subprotocol=subprotocol)
        await publish(memory, "news-2", "live")
        epoch = {name: position["epoch"] for name, position in positions.items()}
        assert second.welcome["rooms"] == {
            "news-1": {
                "room": "news-1",
                "epoch": epoch["news-1"],
                "offset": 2,
                "recovered": True,
                "publications": [{"offset": 1, "data": "a"}, {"offset": 2, "data": "b"}],
            },
            "news-2": {"room": "news-2", "epoch": epoch["news-2"], "offset": 0, "recovered": True},
            "news-3": {
                "room": "news-3",
                "epoch": epoch["news-3"],
                "offset": 1,
                "recovered": True,
                "publications": [{"offset": 1, "data": {"c": 1.5}}],
            },
        }
        assert await second.client.receive_json() == {"room": "news-2", "offset": 1, "data": "live"}
        await second.client.aclose()


@pytest.mark.parametrize(
    ("position", "recovered", "publications"),
    [
        (None, None, None),
        ({"epoch": "of another time", "offset": 0}, False, None),
        ({"offset": 3}, False, None),
        ({"offset": -1}, False, None),
        ({"offset": 2**63}, False, None),
        ({"offset": 2}, True, None),
        ({"offset": 1}, True, ["b"]),
    ],
)
async def test_positions(
    position: dict[str, Any] | None, recovered: bool | None, publications: list[str] | None, autojump_clock: MockClock
) -> None:
    """R1: what is recovered is whole; else nothing is sent, and the client is told. Without a position it is a join."""
    async with serve_in_memory(make()) as memory:
        first = await visit(memory)
        positions = await join(first, "news-1")
        await publish(memory, "news-1", "a", "b")
        asked = {} if position is None else {"news-1": positions["news-1"] | position, "never joined": position}
        if position is not None and "epoch" not in position:
            asked["never joined"] = positions["news-1"]
        else:
            asked.pop("never joined", None)
        told = await back(memory, first, asked)
        assert list(told) == ["news-1"]
        assert told["news-1"].get("recovered") is recovered
        found = told["news-1"].get("publications")
        assert (found and [item["data"] for item in found]) == publications
        assert told["news-1"]["offset"] == 2


async def test_who_has_lost_the_right_recovers_nothing(autojump_clock: MockClock) -> None:
    """R3: an old position is no way in."""
    manager = make()
    allowed = True

    async def authorize(conn: Connection, room: str, data: object) -> bool:
        return allowed

    manager.room("club", authorize=authorize, history_size=10, history_ttl=600)
    async with serve_in_memory(manager) as memory:
        first = await visit(memory)
        positions = await join(first, "club", "news-1")
        await publish(memory, "club", "secret")
        await publish(memory, "news-1", "public")
        allowed = False
        told = await back(memory, first, positions)
        assert told["club"].keys() == {"error"}
        assert told["news-1"]["recovered"] is True
        assert "secret" not in str(told)


@pytest.mark.parametrize("limit", ["items", "bytes"])
@pytest.mark.parametrize("subprotocol", FORMATS)
async def test_one_budget_for_all_rooms(limit: str, subprotocol: str, autojump_clock: MockClock) -> None:
    """What one ``$join`` may recover is shared, in the order of joining; a room either recovers whole or not at all."""
    limits = Limits(max_recovery=5) if limit == "items" else Limits(outbox_bytes=4 * 1_800)
    async with serve_in_memory(make(limits=limits)) as memory:
        first = await visit(memory, subprotocol=subprotocol)
        positions = await join(first, "news-1", "news-2", "news-3", "news-4")
        for room in ("news-1", "news-2"):
            await publish(memory, room, *["x" * 300] * 3)
        await publish(memory, "news-4", "y", "z")
        told = await back(memory, first, positions, subprotocol=subprotocol)
        assert {room: (reply["recovered"], len(reply.get("publications", ()))) for room, reply in told.items()} == {
            "news-1": (True, 3),
            "news-2": (False, 0),
            "news-3": (True, 0),
            "news-4": (True, 2),
        }
        assert memory.server.statistics().limited == {"max_recovery": 1}


async def test_the_latest_is_there_whatever_others_recovered(autojump_clock: MockClock) -> None:
    """A room of which only the latest is kept has that, also if others have used up the budget."""
    manager = make(limits=Limits(max_recovery=2))
    manager.room("latest", authorize=allow, history_size=1, recovery="cache")
    async with serve_in_memory(manager) as memory:
        first, other = await visit(memory), await visit(memory)
        positions = await join(first, "news-1", "latest")
        await join(other, "latest")
        await publish(memory, "news-1", 1, 2)
        await publish(memory, "latest", "old", "new")
        told = await back(memory, first, positions)
        assert [item["data"] for item in told["news-1"]["publications"]] == [1, 2]
        assert [item["data"] for item in told["latest"]["publications"]] == ["new"]
        room = manager.get_room("latest")
        assert room is not None
        assert room._stream is not None
        with room._stream.catching_up(0) as held:  # published while the last room is joined
            await publish(memory, "latest", "newest")
        assert [item.data for item in held.items] == ["newest"]
        await other.client.aclose()


async def test_presence_stands_behind_welcome(autojump_clock: MockClock) -> None:
    """The state of a room with presence comes once, behind ``$welcome``; others see a user that has not been away."""
    manager = make()
    manager.room("lobby", authorize=allow, presence=PresenceOptions(grace=10))

    @manager.authenticate
    async def authenticate(request: HandshakeRequest) -> Identity:
        return Identity(user=request.query["user"])

    async with serve_in_memory(manager) as memory:
        other = await visit(memory, user="bob")
        first = await visit(memory, user="ada")
        for one in (other, first):
            await one.client.request("$join", {"room": "lobby"})
        await trio.sleep(1)
        await first.client.aclose()
        await trio.sleep(1)
        second = await visit(memory, first.token, user="ada")
        assert "error" not in second.welcome["rooms"]["lobby"]
        state = await second.client.receive_json()
        assert (state["action"], sorted(state["data"]["users"])) == ("$presence", ["ada", "bob"])
        assert [entry["id"] for entry in state["data"]["users"]["ada"]] != []
        await second.client.aclose()
        await other.client.aclose()


@pytest.mark.parametrize("by_id", [False, True])
async def test_what_the_connection_before_was_excluded_from(by_id: bool, autojump_clock: MockClock) -> None:
    """It is not brought to the one that recovers, whose position has come past it all the same."""
    async with serve_in_memory(make()) as memory:
        first = await visit(memory)
        positions = await join(first, "news-1")
        who = first.conn.id if by_id else first.conn
        await publish(memory, "news-1", "mine", exclude=[who])
        await publish(memory, "news-1", "theirs")
        second = await visit(memory, first.token, positions=positions)
        told = second.welcome["rooms"]["news-1"]
        assert (told["recovered"], told["offset"]) == (True, 2)
        assert told["publications"] == [{"offset": 2, "data": "theirs"}]
        await second.client.aclose()
        await first.client.aclose()


async def test_an_exclusion_that_is_on_its_way(autojump_clock: MockClock) -> None:
    """It is of the connection that has the session when the publication is delivered."""
    manager = Manager(config=make_manager().config, broker=LaggingBroker(delay=2.0))
    manager.room("*", authorize=allow)
    async with serve_in_memory(manager) as memory:
        first = await visit(memory)
        await first.join("r")
        for one in range(10):  # one after the other, so that the last are delivered when it is back
            manager.broadcast_to_room("r", one, exclude=[first.conn])
        manager.broadcast_to_room("r", "for all")
        await first.client.aclose()
        second = await visit(memory, first.token)
        assert await second.client.receive_json() == {"room": "r", "data": "for all"}
        await second.client.aclose()


@pytest.mark.parametrize("returns", [1, 6])
@pytest.mark.parametrize("published", ["while it is away", "when it is back", "by another node"])
async def test_an_exclusion_by_an_id_that_has_gone(published: str, returns: int, autojump_clock: MockClock) -> None:
    """Whose it was is known: the connection that has the session now is not brought the event, in any way."""
    manager = make()
    async with serve_in_memory(manager) as memory:
        first = found = await visit(memory)
        positions = await join(first, "news-1", "news-2")
        for _ in range(returns):
            await found.lose()
            if published == "while it is away":
                await publish(memory, "news-1", "mine", exclude=[first.conn.id])
            found = await visit(memory, found.token, positions=positions)
            told = found.welcome["rooms"]["news-1"]
            assert (told["recovered"], "publications" in told) == (True, False)
            positions["news-1"] = {"epoch": told["epoch"], "offset": told["offset"]}
        if published == "by another node":
            memory.server._node.broker.submit(foreign("news-1", exclude=first.conn.id))
            memory.server._node.broker.submit(foreign("news-2", exclude=first.conn.id, kept=False))
        else:
            await publish(memory, "news-1", "mine", exclude=[first.conn.id])
            await publish(memory, "news-2", "mine", exclude=[first.conn.id], skip_history=True)
        assert await found.client.receive_json() == {"room": "news-1", "offset": positions["news-1"]["offset"] + 1}
        await publish(memory, "news-2", "for all")
        assert await found.client.receive_json() == {"room": "news-2", "offset": 1, "data": "for all"}
        told = await back(memory, found, positions)
        assert "publications" not in told["news-1"]
        assert [item["data"] for item in told["news-2"]["publications"]] == ["for all"]


def foreign(room: str, *, exclude: str, kept: bool = True) -> Publication:
    """As a node makes it that knows nothing of the connection."""
    keep = Keep(size=100, bytes=1 << 20, ttl=600.0, meta_ttl=3600.0) if kept else None
    return Publication((room,), b'"mine"', frozenset([exclude]), packed=b"\xa4mine", keep=keep)


async def test_ids_that_have_gone_are_not_kept_for_ever(autojump_clock: MockClock) -> None:
    """A session knows the last eight of its connections, and when it has expired nothing of them is left."""
    async with serve_in_memory(make()) as memory:
        sessions = memory.server._node.sessions
        visits = [await visit(memory)]
        for _ in range(9):
            await visits[-1].lose()
            visits.append(await visit(memory, visits[-1].token))
        found = [sessions.find(one.conn.id) for one in visits]
        assert found == [None] * 2 + [visits[-1].conn._session] * 8
        assert len(sessions._of_connection) == 8
        await visits[-1].lose()
        await trio.sleep(WINDOW + 1)
        assert not sessions._of_connection


async def test_another_client_is_brought_it(autojump_clock: MockClock) -> None:
    """The exclusion is of one session, and of nobody else."""
    async with serve_in_memory(make()) as memory:
        first, other = await visit(memory), await visit(memory)
        positions = await join(other, "news-1")
        await publish(memory, "news-1", "hi", exclude=[first.conn])
        told = await back(memory, other, positions)
        assert told["news-1"]["publications"] == [{"offset": 1, "data": "hi"}]
        await first.client.aclose()


async def test_a_failure_is_told_once(autojump_clock: MockClock) -> None:
    """A room whose join failed is no longer the session's, though the welcome that said so has never arrived."""
    refuse = False

    async def authorize(conn: Connection, room: str, data: Any) -> bool:
        return not refuse

    manager = make()
    manager.room("moody", authorize=authorize)
    async with serve_in_memory(manager) as memory:
        first = await visit(memory)
        positions = await join(first, "news-1")
        await first.join("moody")
        await first.lose()
        refuse = True
        unheard = await memory.connect(subprotocol=V1)
        await unheard.send_action("$session", {"session": first.token, "positions": positions})
        await wait_all_tasks_blocked()
        await unheard.aclose()
        refuse = False
        second = await visit(memory, first.token, positions=positions)
        assert second.conn.restored
        assert list(second.welcome["rooms"]) == ["news-1"]
        assert await second.client.request("$join", {"room": "moody"}) == {"room": "moody"}
        await second.client.aclose()


async def test_a_room_that_on_connect_joins_is_not_recovered(autojump_clock: MockClock) -> None:
    """The program was first, and began without a position: the client is told that it may have missed something."""
    manager = make()

    @manager.on_connect
    async def connected(conn: Connection) -> None:
        if conn.restored:
            await conn.join("news-1")

    async with serve_in_memory(manager) as memory:
        first = await visit(memory)
        positions = await join(first, "news-1")
        await publish(memory, "news-1", "a")
        told = await back(memory, first, positions)
        assert told == {"news-1": {"room": "news-1", "recovered": False}}


@pytest.mark.parametrize("lagging", [False, True])
@pytest.mark.parametrize("seed", range(5))
async def test_cut_at_random(seed: int, lagging: bool, autojump_clock: MockClock) -> None:
    """R2: cut again and again, also before ``$welcome`` is read and unnoticed by the server: each exactly once."""
    rng = random.Random(seed)
    manager = make(LaggingBroker(delay=0.01, bound=1000) if lagging else MemoryBroker())
    manager.room("*", authorize=allow, history_size=1000, history_ttl=600)
    rooms = ["a", "b"]
    got: dict[str, list[int]] = {room: [] for room in rooms}
    total = 150

    async def publish_all(room: str) -> None:
        for number in range(total):
            await trio.sleep(rng.random() * 0.02)
            report = manager.broadcast_to_room(room, number)
            assert report.dropped == 0

    def take(room: str, offset: int, data: int) -> None:
        positions[room]["offset"] = offset
        got[room].append(data)

    async with serve_in_memory(manager) as memory, trio.open_nursery() as nursery:
        found = await visit(memory)
        positions = await join(found, *rooms)
        token, client, unnoticed = found.token, found.client, []
        for room in rooms:
            nursery.start_soon(publish_all, room)
        while any(len(got[room]) < total for room in rooms):
            with trio.move_on_after(rng.random() * 0.2):
                while True:
                    message = await client.receive_json()
                    if message.get("action") == "$welcome":
                        assert message["data"]["restored"]
                        token = message["data"]["session"]
                        for room, told in message["data"]["rooms"].items():
                            assert told["recovered"]
                            for item in told.get("publications", ()):
                                take(room, item["offset"], item["data"])
                            positions[room]["offset"] = told["offset"]
                    elif "room" in message:
                        take(message["room"], message["offset"], message["data"])
            if rng.random() < 0.5:
                await client.aclose()
            else:
                unnoticed.append(client)
            client = await memory.connect(subprotocol=V1)
            await client.send_action("$session", {"session": token, "positions": positions})
        assert got == {room: list(range(total)) for room in rooms}
        for one in (client, *unnoticed):
            await one.aclose()
