"""Joins with a position: everything that was missed, or the word that it was not."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from followers import Follower
from hall import V1, hall
from histories import allow, history_manager, missed
from messages import MSGPACK, receive_all
from trio_rooms import Connection, Limits, Manager, Position
from trio_rooms.brokers import MemoryBroker
from trio_rooms.testing import LaggingBroker, ReplyError

# R1


@pytest.mark.parametrize(("number", "recovered"), [(0, True), (1, True), (10, True), (11, False), (100, False)])
async def test_what_was_missed(number: int, recovered: bool, autojump_clock: MockClock) -> None:
    """R1: as many as are kept come in the reply, in order; of more than that none does, and the client is told."""
    async with hall(history_manager(size=10)) as served:
        follower = Follower()
        await missed(served, follower, number)
        before = follower.since
        guest = await served.enter(v1=True)
        reply = await guest.client.request("$join", {"room": "r", "since": before})
        assert before is not None
        assert (reply["recovered"], reply["epoch"], reply["offset"]) == (recovered, before["epoch"], number)
        expected = [{"offset": one, "data": one} for one in range(1, number + 1)]
        assert reply.get("publications", []) == (expected if recovered else [])
        assert served.server.statistics().limited == {}


@pytest.mark.parametrize(
    "since",
    [
        {"epoch": "another", "offset": 3},
        {"epoch": "", "offset": 3},
        {"epoch": None, "offset": 6},
        {"epoch": None, "offset": 2**63 - 1},
        {"epoch": None, "offset": 2**63},
        {"epoch": None, "offset": 2**64 - 1},
        {"epoch": None, "offset": -1},
        {"epoch": None, "offset": -(2**63)},
    ],
    ids=str,
)
@pytest.mark.parametrize("make", [MemoryBroker, LaggingBroker, partial(LaggingBroker, step=3)])
async def test_positions_that_never_were(since: dict[str, Any], make: Any, autojump_clock: MockClock) -> None:
    """R1: another epoch, an offset above the top or below nothing: not recovered, and nothing old is sent."""
    async with hall(history_manager(make())) as served:
        guest = await served.enter(v1=True)
        await guest.client.request("$join", {"room": "r"})
        room = served.manager.get_room("r")
        assert room is not None
        top = None
        for one in range(5):
            top = (await room.publish(one)).position
        assert top is not None
        asked = {"epoch": since["epoch"] if since["epoch"] is not None else top.epoch, "offset": since["offset"]}
        if asked["offset"] == 6:
            asked["offset"] = top.offset + 1
        other = await served.enter(v1=True)
        reply = await other.client.request("$join", {"room": "r", "since": asked})
        assert reply == {"room": "r", "epoch": top.epoch, "offset": top.offset, "recovered": False}
        asked_for = Position(asked["offset"], asked["epoch"])
        conn = (await served.enter(v1=True)).conn
        assert (await conn.join("r", since=asked_for)).recovered is False


@pytest.mark.parametrize(
    "since", ["3", 4, {"epoch": "e"}, {"offset": 3}, {"epoch": 1, "offset": 3}, {"epoch": "e", "offset": "3"}]
)
async def test_positions_that_are_none(since: object, autojump_clock: MockClock) -> None:
    """R1: what is not a position is BAD_MESSAGE, and nobody has joined."""
    async with hall(history_manager()) as served:
        guest = await served.enter(v1=True)
        with pytest.raises(ReplyError) as caught:
            await guest.client.request("$join", {"room": "r", "since": since})
        assert caught.value.code == "BAD_MESSAGE"
        assert not guest.conn.rooms


async def test_since_in_a_room_without_history(autojump_clock: MockClock) -> None:
    """There is nothing to recover from, and that is told."""
    manager = Manager()
    manager.room("*", authorize=allow)
    async with hall(manager) as served:
        guest = await served.enter(v1=True)
        reply = await guest.client.request("$join", {"room": "r", "since": {"epoch": "e", "offset": 1}})
        assert reply == {"room": "r", "recovered": False}
        again = await guest.client.request("$join", {"room": "r", "since": {"epoch": "e", "offset": 1}})
        assert again == {"room": "r", "recovered": False}
        joined = await guest.conn.join("other")
        assert (joined.position, joined.recovered, joined.publications) == (None, None, ())
        since = Position(1, "e")
        assert [(await guest.conn.join(room, since=since)).recovered for room in ("other", "new")] == [False, False]
        second = await served.enter()
        assert (await second.conn.join("new", since=since)).recovered is False


async def test_plain_clients_have_no_positions(autojump_clock: MockClock) -> None:
    """A plain client joins a room with history, and gets what is published; `since` needs a v1 format."""
    async with hall(history_manager()) as served:
        guest = await served.enter()
        with pytest.raises(ReplyError) as caught:
            await guest.client.request("$join", {"room": "r", "since": {"epoch": "e", "offset": 1}})
        assert caught.value.code == "NEEDS_V1"
        await guest.client.request("$join", {"room": "r"})
        served.manager.broadcast_to_room("r", {"n": 1})
        assert await guest.client.receive_json() == {"n": 1}


@pytest.mark.parametrize("subprotocol", [V1, MSGPACK])
async def test_replies_in_each_format(subprotocol: str, autojump_clock: MockClock) -> None:
    """What is recovered is the event as its format would have brought it: bytes and NaN are whole in MessagePack."""
    async with hall(history_manager()) as served:
        guest = await served.enter(v1=True)
        since = await guest.client.request("$join", {"room": "r"})
        event = {"bytes": b"\x00\xff", "nan": float("nan"), "text": "\u00e4"}
        served.manager.broadcast_to_room("r", event)
        client = await served.memory.connect(subprotocol=subprotocol)
        await client.receive_json()
        reply = await client.request("$join", {"room": "r", "since": {"epoch": since["epoch"], "offset": 0}})
        assert (reply["recovered"], reply["offset"]) == (True, 1)
        (item,) = reply["publications"]
        assert item["offset"] == 1
        served.manager.broadcast_to_room("r", event)
        live = await client.receive_json()
        assert (live["room"], live["offset"]) == ("r", 2)
        for data in (item["data"], live["data"]):
            assert data["text"] == "\u00e4"
            if subprotocol == MSGPACK:
                assert data["bytes"] == b"\x00\xff"
                assert data["nan"] != data["nan"]
            else:
                assert (data["bytes"], data["nan"]) == ("AP8=", None)


async def test_what_authorize_says_stands_beside(autojump_clock: MockClock) -> None:
    """R3: a position is no credential; who may not join is refused with it, too. The reply's data stands beside."""
    manager = Manager()
    allowed: list[Any] = [{"topic": "news"}]

    async def authorize(conn: Connection, room: str, data: Any) -> Any:
        return allowed[0]

    manager.room("*", authorize=authorize, history_size=10)
    async with hall(manager) as served:
        first = await served.enter(v1=True)
        since = await first.client.request("$join", {"room": "r"})
        assert since == {"room": "r", "epoch": since["epoch"], "offset": 0, "data": {"topic": "news"}}
        manager.broadcast_to_room("r", 1)
        position = {"epoch": since["epoch"], "offset": 0}
        second = await served.enter(v1=True)
        reply = await second.client.request("$join", {"room": "r", "since": position})
        assert reply["data"] == {"topic": "news"}
        assert reply["publications"] == [{"offset": 1, "data": 1}]
        allowed[0] = False
        third = await served.enter(v1=True)
        with pytest.raises(ReplyError) as caught:
            await third.client.request("$join", {"room": "r", "since": position})
        assert caught.value.code == "DENIED"


# Bounds of one recovery


async def test_more_than_one_join_may_recover(autojump_clock: MockClock) -> None:
    """Beyond limits.max_recovery it is not recovered, which is counted; exactly at it, it is."""
    async with hall(history_manager(size=100, limits=Limits(max_recovery=5))) as served:
        follower = Follower()
        await missed(served, follower, 6)
        guest = await served.enter(v1=True)
        assert follower.since is not None
        position = dict(follower.since)
        assert not (await guest.client.request("$join", {"room": "r", "since": position}))["recovered"]
        assert served.server.statistics().limited["max_recovery"] == 1
        other = await served.enter(v1=True)
        reply = await other.client.request("$join", {"room": "r", "since": {**position, "offset": 1}})
        assert [item["offset"] for item in reply["publications"]] == [2, 3, 4, 5, 6]


@pytest.mark.parametrize(("size", "recovered"), [(400, True), (600, False)])
async def test_more_bytes_than_one_join_may_recover(size: int, recovered: bool, autojump_clock: MockClock) -> None:
    """A recovery is at most a quarter of an outbox: it is one message."""
    async with hall(history_manager(size=100, limits=Limits(outbox_bytes=20_000))) as served:
        follower = Follower()
        await missed(served, follower, 0)
        for _ in range(10):
            served.manager.broadcast_to_room("r", "x" * size)
        guest = await served.enter(v1=True)
        reply = await follower.join(guest.client)
        assert reply["recovered"] == recovered
        assert follower.seen == ["x" * size] * (10 if recovered else 0)
        assert served.server.statistics().limited == ({} if recovered else {"max_recovery": 1})


# conn.join(since=)


@pytest.mark.parametrize("v1", [False, True])
async def test_a_handlers_join_pushes(v1: bool, autojump_clock: MockClock) -> None:
    """What `conn.join(since=)` recovers is sent as publications, in order and ahead of everything live."""
    manager = history_manager()

    @manager.on("resume")
    async def resume(conn: Connection, data: dict[str, Any]) -> dict[str, Any]:
        joined = await conn.join("r", since=Position(data["offset"], data["epoch"]))
        manager.broadcast_to_room("r", "live")
        assert joined.position is not None
        return {
            "recovered": joined.recovered,
            "offset": joined.position.offset,
            "offsets": [item.offset for item in joined.publications],
            "data": [item.data for item in joined.publications],
        }

    async with hall(manager) as served:
        follower = Follower()
        await missed(served, follower, 3)
        assert follower.since is not None
        guest = await served.enter(v1=v1)
        reply = await guest.client.request("resume", follower.since)
        assert reply == {"recovered": True, "offset": 3, "offsets": [1, 2, 3], "data": [1, 2, 3]}
        got = await receive_all(guest.client)
        expected = [{"room": "r", "offset": n + 1, "data": d} for n, d in enumerate([1, 2, 3, "live"])]
        assert got == (expected if v1 else [1, 2, 3, "live"])


async def test_a_handlers_join_that_does_not_fit(autojump_clock: MockClock) -> None:
    """What the outbox has no room for now is not recovered, which is counted; nothing of it is sent."""
    async with hall(history_manager(size=100, limits=Limits(outbox_messages=5))) as served:
        follower = Follower()
        await missed(served, follower, 6)
        assert follower.since is not None
        guest = await served.enter(v1=True)
        joined = await guest.conn.join("r", since=Position(0, follower.since["epoch"]))
        assert (joined.recovered, joined.publications) == (False, ())
        assert joined.position == Position(6, follower.since["epoch"])
        assert served.server.statistics().limited["max_recovery"] == 1
        served.manager.broadcast_to_room("r", 7)
        assert await receive_all(guest.client) == [{"room": "r", "offset": 7, "data": 7}]


async def test_a_handlers_join_without_since(autojump_clock: MockClock) -> None:
    """It begins at the top, sends nothing old, and says where it begins, however full the outbox is."""
    async with hall(history_manager(limits=Limits(outbox_messages=4))) as served:
        for one in range(3):
            served.manager.broadcast_to_room("r", one)
        guest, stream = await served.enter_faulty(v1=True)
        stream.stall_sending()
        for one in range(5):
            guest.conn.send_nowait(one)
            await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(guest.conn.send, "waits")
            await wait_all_tasks_blocked()
            joined = await guest.conn.join("r")
            assert (joined.recovered, joined.publications) == (None, ())
            assert joined.position is not None
            assert joined.position.offset == 3
            assert served.server.statistics().limited == {}
            stream.resume_sending()
