"""Reading what is kept: by the program and by clients; what is not kept; and what cannot be configured."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from hall import V1, hall
from histories import allow, history_manager
from messages import MSGPACK, receive_all
from trio_rooms import BadRoom, Limits, Manager, NotServing, Position, RoomOptions, UnrecoverablePosition, UsageError
from trio_rooms.brokers import Deliver, MemoryBroker
from trio_rooms.testing import LaggingBroker, ReplyError

# The program


@pytest.mark.parametrize("make", [MemoryBroker, partial(LaggingBroker, delay=0.1, step=10)])
async def test_history(make: Any, autojump_clock: MockClock) -> None:
    """`room.history` and `manager.history` read forwards and backwards, from a position, as many as wanted."""
    manager = history_manager(make(), size=5)
    async with hall(manager) as served:
        room = (await (await served.enter()).conn.join("r")).room
        positions = [(await room.publish({"n": one})).position for one in range(8)]
        for history in (room.history, partial(manager.history, "r")):
            part = await history()
            assert [item.data["n"] for item in part.publications] == [3, 4, 5, 6, 7]
            assert [item.offset for item in part.publications] == [one.offset for one in positions[3:] if one]
            assert (part.position, part.complete) == (positions[-1], True)
            assert [item.data["n"] for item in (await history(limit=2)).publications] == [3, 4]
            assert [item.data["n"] for item in (await history(limit=2, reverse=True)).publications] == [7, 6]
            assert [item.data["n"] for item in (await history(since=positions[5])).publications] == [6, 7]
            back = await history(since=positions[5], reverse=True, limit=2)
            assert [item.data["n"] for item in back.publications] == [4, 3]
            assert (await history(limit=0)).publications == ()
            assert not (await history(since=positions[1])).complete
            assert (await history(since=positions[2])).complete


async def test_items_decode(autojump_clock: MockClock) -> None:
    """An item's data is what was published, as builtins or as a type."""

    class Point(msgspec.Struct):
        x: int

    manager = history_manager()
    async with hall(manager):
        manager.broadcast_to_room("r", Point(3))
        (item,) = (await manager.history("r")).publications
        assert item.data == {"x": 3}
        assert item.decode(Point) == Point(3)
        with pytest.raises(msgspec.ValidationError):
            item.decode(list[int])


async def test_positions_that_cannot_be_read_from(autojump_clock: MockClock) -> None:
    """Of another epoch, above the top or below nothing: UNRECOVERABLE_POSITION."""
    manager = history_manager()
    async with hall(manager):
        top = manager.broadcast_to_room("r", 1).position
        assert top is not None
        for since in (Position(1, "other"), *(Position(offset, top.epoch) for offset in (2, 2**63, 2**70, -1))):
            with pytest.raises(UnrecoverablePosition):
                await manager.history("r", since=since)
        assert (await manager.history("r", since=Position(0, top.epoch))).complete


async def test_rooms_without_history(autojump_clock: MockClock) -> None:
    """Asking for it is a mistake; so is a bad name; and without a server there is nothing to read."""
    manager = Manager()
    manager.room("kept.*", history_size=3)
    with pytest.raises(NotServing):
        await manager.history("kept.r")
    async with hall(manager) as served:
        with pytest.raises(UsageError):
            await manager.history("r")
        room = (await (await served.enter()).conn.join("r")).room
        with pytest.raises(UsageError):
            await room.history()
        with pytest.raises(BadRoom):
            await manager.history("")
        assert (await manager.history("kept.r")).position.offset == 0


async def test_skip_history(autojump_clock: MockClock) -> None:
    """What is not to be kept is delivered without an offset, and is missed by who is away; positions go on."""
    manager = history_manager()
    async with hall(manager) as served:
        guest = await served.enter(v1=True)
        since = await guest.client.request("$join", {"room": "r"})
        room = manager.get_room("r")
        assert room is not None
        assert manager.broadcast_to_room("r", 1).position is not None
        assert manager.broadcast_to_room("r", 2, skip_history=True).position is None
        assert room.publish_nowait(3, skip_history=True).position is None
        assert (await room.publish(4, skip_history=True)).position is None
        manager.broadcast_to_room("r", 5)
        assert await receive_all(guest.client) == [
            {"room": "r", "offset": 1, "data": 1},
            *({"room": "r", "data": data} for data in (2, 3, 4)),
            {"room": "r", "offset": 2, "data": 5},
        ]
        again = await served.enter(v1=True)
        reply = await again.client.request("$join", {"room": "r", "since": {"epoch": since["epoch"], "offset": 0}})
        assert [item["data"] for item in reply["publications"]] == [1, 5]


async def test_exclusions_hold_in_recovery_and_move_the_position(autojump_clock: MockClock) -> None:
    """Who is excluded gets a marker in its place, neither the event then nor later; plain clients get nothing."""
    manager = history_manager()
    async with hall(manager) as served:
        v1, plain, other = await served.enter(v1=True), await served.enter(), await served.enter(v1=True)
        for guest in (v1, plain, other):
            await guest.conn.join("r")
        report = manager.broadcast_to_room("r", "secret", exclude=[v1.conn, plain.conn, "nobody"])
        assert (report.enqueued, report.dropped) == (1, 0)
        assert await receive_all(v1.client) == [{"room": "r", "offset": 1}]
        assert await receive_all(plain.client) == []
        assert await receive_all(other.client) == [{"room": "r", "offset": 1, "data": "secret"}]
        manager.broadcast_to_room("r", "open")
        v1.conn.leave("r")
        assert report.position is not None
        joined = await v1.conn.join("r", since=Position(0, report.position.epoch))
        assert [item.data for item in joined.publications] == ["open"]
        assert joined.position == Position(2, report.position.epoch)


async def test_several_rooms_are_never_kept(autojump_clock: MockClock) -> None:
    """One publication to several rooms has no place in their streams: a room with history among them is a mistake."""
    manager = Manager()
    manager.room("kept.*", history_size=3)
    async with hall(manager) as served:
        guest = await served.enter()
        await guest.conn.join("kept.r")
        await guest.conn.join("a")
        with pytest.raises(UsageError):
            manager.broadcast_to_rooms(["a", "kept.r"], 1)
        with pytest.raises(UsageError):
            manager.broadcast_to_rooms(["a", "kept.other"], 1)
        assert manager.broadcast_to_rooms(["a", "b"], 1).enqueued == 1
        assert manager.broadcast_to_all(2).enqueued == 1
        assert manager.broadcast_to_rooms(["kept.r"], 3).position is not None
        assert await receive_all(guest.client) == [1, 2, 3]


# What is kept, and for how long


class _Elsewhere(LaggingBroker):
    """Brings publications of a node where all rooms have a history."""

    async def run(self, deliver: Deliver, **options: Any) -> None:
        await super().run(lambda publication, _: deliver(publication, Position(1, "e")), **options)


async def test_a_history_that_only_other_nodes_have(autojump_clock: MockClock) -> None:
    """Their publications have positions, which mean nothing here; members are served."""
    manager = Manager(broker=_Elsewhere())
    async with hall(manager) as served:
        guest = await served.enter(v1=True)
        await guest.conn.join("r")
        report = await manager.publish("r", "x")
        assert (report.final, report.enqueued) == (True, 1)
        assert await guest.client.receive_json() == {"room": "r", "data": "x"}


async def test_ttl(autojump_clock: MockClock) -> None:
    """Each publication is kept for history_ttl; the epoch for history_meta_ttl after the last use."""
    manager = history_manager(history_ttl=10.0, history_meta_ttl=100.0)
    async with hall(manager):
        first = manager.broadcast_to_room("r", 1).position
        await trio.sleep(9)
        second = manager.broadcast_to_room("r", 2).position
        await trio.sleep(2)
        assert [item.data for item in (await manager.history("r")).publications] == [2]
        assert not (await manager.history("r", since=Position(0, first.epoch if first else ""))).complete
        await trio.sleep(95)
        assert (await manager.history("r")).position == second
        await trio.sleep(101)
        renewed = (await manager.history("r")).position
        assert second is not None
        assert (renewed.offset, renewed.epoch != second.epoch) == (0, True)


async def test_history_bytes(autojump_clock: MockClock) -> None:
    """More bytes than history_bytes are not kept."""
    manager = history_manager(history_bytes=10_000)
    async with hall(manager):
        for one in range(5):
            manager.broadcast_to_room("r", str(one) * 2000)
        assert [item.data[0] for item in (await manager.history("r")).publications] == ["3", "4"]


async def test_nothing_is_left_over(autojump_clock: MockClock) -> None:
    """History ends with serve; the next serve's positions are of other epochs."""
    broker = MemoryBroker()
    manager = history_manager(broker)
    epochs = set()
    for _ in range(2):
        async with hall(manager):
            position = manager.broadcast_to_room("r", 1).position
            assert position is not None
            assert position.offset == 1
            epochs.add(position.epoch)
        statistics = broker.statistics()
        assert (statistics.streams, statistics.history_bytes, statistics.results) == (0, 0, 0)
    assert len(epochs) == 2


@pytest.mark.time_limit(1e6)
async def test_a_flood_of_rooms(autojump_clock: MockClock) -> None:
    """Must hold 5: whatever names clients and programs invent, what is held is bounded, and goes with time."""
    broker = MemoryBroker(max_streams=100, max_history_bytes=100_000)
    manager = history_manager(broker)
    async with hall(manager, transport="native") as served:
        guest = await served.enter(v1=True)
        for number in range(2_000):
            name = f"room{number}"
            await guest.conn.join(name)
            manager.broadcast_to_room(name, "x" * 500)
            manager.broadcast_to_room(f"nobody{number}", "x" * 500)
            guest.conn.leave(name)
            if number % 50 == 0:
                await receive_all(guest.client, 0)
            assert broker.statistics().streams <= 100
            assert broker.statistics().history_bytes <= 100_000
        assert broker.statistics().evicted > 3_000
        assert served.server.statistics().rooms == 0
        await trio.sleep(301)
        assert broker.statistics().history_bytes == 0
        await trio.sleep(90_000)  # noqa: ASYNC116 - of virtual time, a day and more
        assert broker.statistics().streams == 0


@pytest.mark.time_limit(1e6)
async def test_an_hour_of_traffic_holds_no_more_than_minutes(autojump_clock: MockClock) -> None:
    """Must hold 5: over an hour of virtual time what is held stays at what history_ttl lets it be."""
    broker = MemoryBroker()
    manager = history_manager(broker, size=100, history_ttl=60.0, history_meta_ttl=120.0)
    most = 0
    async with hall(manager):
        for second in range(3600):
            for room in range(3):
                manager.broadcast_to_room(f"{second // 30}.{room}", second, idempotency_key=str(second))
            await trio.sleep(1)
            statistics = broker.statistics()
            most = max(most, statistics.streams)
            assert statistics.results <= 3 * 301
            assert statistics.history_bytes <= 3 * 62 * 300
    assert most <= 3 * (120 + 30) // 30 + 6


# $history


@pytest.mark.parametrize("subprotocol", [V1, MSGPACK])
async def test_clients_read(subprotocol: str, autojump_clock: MockClock) -> None:
    """A member pages through what is kept, forwards and backwards, in its format."""
    manager = history_manager(allow_history=True)
    async with hall(manager) as served:
        client = await served.memory.connect(subprotocol=subprotocol)
        await client.receive_json()
        epoch = (await client.request("$join", {"room": "r"}))["epoch"]
        for one in range(12):
            manager.broadcast_to_room("r", {"n": one, "b": b"\xff"})
        everything = await client.request("$history", {"room": "r"})
        assert {**everything, "publications": []} == {
            "epoch": epoch,
            "offset": 12,
            "complete": True,
            "publications": [],
        }
        byte = b"\xff" if subprotocol == MSGPACK else "/w=="
        assert everything["publications"] == [
            {"offset": one + 1, "data": {"n": one, "b": byte}} for one in range(2, 12)
        ]
        pages = []
        since = {"epoch": epoch, "offset": 4}
        while (page := await client.request("$history", {"room": "r", "since": since, "limit": 3}))["publications"]:
            pages.append([item["offset"] for item in page["publications"]])
            since = {"epoch": epoch, "offset": pages[-1][-1]}
        assert pages == [[5, 6, 7], [8, 9, 10], [11, 12]]
        newest = await client.request("$history", {"room": "r", "limit": 2, "reverse": True})
        assert [item["offset"] for item in newest["publications"]] == [12, 11]
        older = await client.request(
            "$history", {"room": "r", "limit": 2, "reverse": True, "since": {"epoch": epoch, "offset": 11}}
        )
        assert [item["offset"] for item in older["publications"]] == [10, 9]
        assert (await client.request("$history", {"room": "r", "limit": 0}))["publications"] == []
        assert (await client.request("$history", {"room": "r", "limit": -5}))["publications"] == []
        assert not (await client.request("$history", {"room": "r", "since": {"epoch": epoch, "offset": 0}}))["complete"]


async def test_clients_read_no_more_than_may_be(autojump_clock: MockClock) -> None:
    """A reply holds at most max_recovery publications and a quarter of an outbox; one at least."""
    manager = history_manager(allow_history=True, size=100, limits=Limits(max_recovery=20, outbox_bytes=20_000))
    async with hall(manager, transport="native") as served:
        guest = await served.enter(v1=True)
        await guest.client.request("$join", {"room": "r"})
        for size in [10] * 30 + [1000] * 10 + [8000, 8000]:
            manager.broadcast_to_room("r", "x" * size)
            await receive_all(guest.client, 0)

        async def read(**options: Any) -> int:
            asked = {"room": "r", **options}
            return len((await guest.client.request("$history", asked))["publications"])

        epoch = (await manager.history("r", limit=0)).position.epoch
        assert await read() == 20
        assert await read(limit=1000) == 20
        assert await read(since={"epoch": epoch, "offset": 30}) == 4
        assert await read(reverse=True) == 1


async def test_clients_see_that_something_was_not_for_them(autojump_clock: MockClock) -> None:
    """Of what a client was excluded from it reads the offset alone, so that no page is empty before the end."""
    manager = history_manager(allow_history=True)
    async with hall(manager) as served:
        guest = await served.enter(v1=True)
        await guest.client.request("$join", {"room": "r"})
        manager.broadcast_to_room("r", 1, exclude=[guest.conn])
        manager.broadcast_to_room("r", 2)
        reply = await guest.client.request("$history", {"room": "r"})
        assert reply["publications"] == [{"offset": 1}, {"offset": 2, "data": 2}]


async def test_who_may_not_read(autojump_clock: MockClock) -> None:
    """Only members, only where the room allows it, only with a v1 format; positions are checked."""
    manager = Manager()
    manager.room("closed.*", authorize=allow, history_size=3)
    manager.room("open.*", authorize=allow, history_size=3, allow_history=True)
    async with hall(manager) as served:
        guest, plain = await served.enter(v1=True), await served.enter()

        async def code(client: Any, **data: Any) -> str:
            with pytest.raises(ReplyError) as caught:
                await client.request("$history", data)
            return str(caught.value.code)

        assert await code(guest.client, room="open.r") == "DENIED"
        await guest.client.request("$join", {"room": "closed.r"})
        assert await code(guest.client, room="closed.r") == "DENIED"
        await guest.client.request("$join", {"room": "open.r"})
        await plain.client.request("$join", {"room": "open.r"})
        assert await code(plain.client, room="open.r") == "NEEDS_V1"
        since = {"epoch": "other", "offset": 0}
        assert await code(guest.client, room="open.r", since=since) == "UNRECOVERABLE_POSITION"
        assert await code(guest.client, room="open.r", since="0") == "BAD_MESSAGE"
        assert await code(guest.client, room="open.r", limit="all") == "BAD_MESSAGE"
        assert await code(guest.client) == "BAD_MESSAGE"


# What cannot be


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"history_size": 1, "overflow": "drop_newest"}, "loses nothing"),
        ({"history_size": 1, "overflow": "drop_oldest"}, "loses nothing"),
        ({"history_size": 1, "overflow": "conflate"}, "loses nothing"),
        ({"history_size": 1, "overflow": "drop_newest", "recovery": "cache"}, "loses nothing"),
        ({"history_size": 1, "history_ttl": 10.0, "history_meta_ttl": 5.0}, "history_meta_ttl"),
        ({"recovery": "cache"}, "history_size"),
        ({"allow_history": True}, "history_size"),
        ({"history_size": 1, "fill": print}, "fill"),
        ({"history_size": -1}, "history_size"),
        ({"history_size": 1.5}, "history_size"),
        ({"history_ttl": 0.0}, "history_ttl"),
        ({"history_ttl": math.nan}, "history_ttl"),
        ({"history_bytes": 0}, "history_bytes"),
        ({"history_size": 1, "recovery": "both"}, "recovery"),
        ({"history_size": 1, "recovery": "cache", "fill": 3}, "fill"),
        ({"history_size": 1, "allow_history": 1}, "allow_history"),
    ],
    ids=repr,
)
def test_options_that_do_not_go_together(options: dict[str, Any], says: str) -> None:
    """They are refused where the room's pattern is declared."""
    with pytest.raises(UsageError, match=says):
        Manager().room("*", **options)


def test_options_that_go_together() -> None:
    """Without a history its fields mean nothing; conflation goes with a cache."""
    assert RoomOptions().keep is None
    assert RoomOptions(history_ttl=10.0).keep is None
    keep = RoomOptions(history_size=1, history_bytes=2, history_ttl=3, history_meta_ttl=4).keep
    assert keep is not None
    assert (keep.size, keep.bytes, keep.ttl, keep.meta_ttl) == (1, 2, 3, 4)
    RoomOptions(history_size=1, recovery="cache", overflow="conflate")


async def test_a_broker_without_history(autojump_clock: MockClock) -> None:
    """Rooms with history and a broker that keeps none: serve fails, and says so."""

    class Forgetful(MemoryBroker):
        supports = frozenset()

    manager = history_manager(Forgetful())
    with pytest.RaisesGroup(pytest.RaisesExc(UsageError, match="Forgetful"), flatten_subgroups=True):
        await manager.serve(listeners=[])
