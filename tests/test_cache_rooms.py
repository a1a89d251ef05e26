"""Rooms with ``recovery="cache"``: who joins gets the latest publication, which the program may provide."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from hall import Gate, attempt, hall, record
from histories import CONFIRM, Confirm, history_manager, publish
from messages import receive_all
from trio_rooms import ActionError, Config, HistoryItem, Limits, Manager, Position, Publication, Slice
from trio_rooms._room_stream import CatchUp
from trio_rooms.brokers import MemoryBroker
from trio_rooms.testing import LaggingBroker, ReplyError

MAKES = [MemoryBroker, partial(LaggingBroker, delay=0.5, step=3)]


def cache_manager(broker: Any = None, **options: Any) -> Manager:
    return history_manager(broker, recovery="cache", **options)


@pytest.mark.parametrize("make", MAKES)
async def test_the_latest_on_joining(make: Any, autojump_clock: MockClock) -> None:
    """A first join brings the latest publication; who comes back gets it only if it is another one."""
    manager = cache_manager(make())
    async with hall(manager) as served:
        first = await served.enter(v1=True)
        empty = await first.client.request("$join", {"room": "r"})
        assert "publications" not in empty
        assert "recovered" not in empty
        for one in range(3):
            await publish(served, "r", one)
        second = await served.enter(v1=True)
        reply = await second.client.request("$join", {"room": "r"})
        assert [item["data"] for item in reply["publications"]] == [2]
        assert reply["publications"][0]["offset"] == reply["offset"]
        assert "recovered" not in reply
        position = {"epoch": reply["epoch"], "offset": reply["offset"]}
        third = await served.enter(v1=True)
        again = await third.client.request("$join", {"room": "r", "since": position})
        assert again == {"room": "r", **position, "recovered": True}
        await publish(served, "r", 3)
        fourth = await served.enter(v1=True)
        missed = await fourth.client.request("$join", {"room": "r", "since": position})
        assert (missed["recovered"], [item["data"] for item in missed["publications"]]) == (True, [3])
        other = {"epoch": "other", "offset": 5}
        fifth = await served.enter(v1=True)
        anew = await fifth.client.request("$join", {"room": "r", "since": other})
        assert (anew["recovered"], [item["data"] for item in anew["publications"]]) == (True, [3])


async def test_nothing_is_kept(autojump_clock: MockClock) -> None:
    """Who comes back to a room whose latest has gone is told that it is not recovered."""
    manager = cache_manager(history_ttl=5.0)
    async with hall(manager) as served:
        guest = await served.enter(v1=True)
        before = await guest.client.request("$join", {"room": "r"})
        manager.broadcast_to_room("r", 1)
        await trio.sleep(6)
        again = await served.enter(v1=True)
        since = {"epoch": before["epoch"], "offset": before["offset"]}
        reply = await again.client.request("$join", {"room": "r", "since": since})
        assert reply == {"room": "r", "epoch": before["epoch"], "offset": 1, "recovered": False}


async def test_a_handlers_join_sends_the_latest(autojump_clock: MockClock) -> None:
    """`conn.join` sends it as a publication, without `since`, too, plain clients included."""
    manager = cache_manager()
    async with hall(manager) as served:
        manager.broadcast_to_room("r", "latest")
        for v1 in (True, False):
            guest = await served.enter(v1=v1)
            joined = await guest.conn.join("r")
            assert (joined.recovered, [item.data for item in joined.publications]) == (None, ["latest"])
            expected: Any = {"room": "r", "offset": 1, "data": "latest"} if v1 else "latest"
            assert await receive_all(guest.client) == [expected]


async def test_a_handlers_join_without_room_for_the_latest(autojump_clock: MockClock) -> None:
    """What does not fit into the outbox now is not sent, and counted; a join without `since` claims nothing."""
    manager = cache_manager(limits=Limits(outbox_messages=2))
    async with hall(manager) as served:
        manager.broadcast_to_room("r", "latest")
        guest, stream = await served.enter_faulty(v1=True)
        stream.stall_sending()
        while True:
            try:
                guest.conn.send_nowait("in the way")
            except trio.WouldBlock:
                break
            await wait_all_tasks_blocked()
        joined = await guest.conn.join("r")
        assert (joined.recovered, joined.publications) == (None, ())
        assert served.server.statistics().limited["max_recovery"] == 1
        stream.resume_sending()


@pytest.mark.parametrize("confirm", CONFIRM)
@pytest.mark.parametrize("phase", [0.0, 0.5, 1.0, 1.5, 2.0])
async def test_publications_while_joining(confirm: Confirm, phase: float, autojump_clock: MockClock) -> None:
    """However many come while it joins: the member has the latest of them in the end, each at most once."""
    manager = cache_manager(LaggingBroker(delay=1.0, confirm=confirm), limits=Limits(max_recovery=2))
    async with hall(manager) as served:
        await (await served.enter()).conn.join("r")
        guest = await served.enter(v1=True)
        async with trio.open_nursery() as nursery:
            joining = attempt(nursery, guest.client.request, "$join", {"room": "r"})
            await trio.sleep(phase)
            for one in range(8):
                manager.broadcast_to_room("r", one)
            await joining.over.wait()
        seen = [item["data"] for item in joining.result.get("publications", [])]
        seen += [message["data"] for message in await receive_all(guest.client, 20)]
        assert seen == sorted(set(seen))
        assert seen[-1] == 7


async def test_conflation(autojump_clock: MockClock) -> None:
    """With overflow="conflate" a slow member is not ended: it skips to the latest, with its offset."""
    manager = cache_manager(overflow="conflate", limits=Limits(outbox_messages=8))
    async with hall(manager) as served:
        guest, stream = await served.enter_faulty(v1=True)
        await guest.conn.join("r")
        stream.stall_sending()
        for one in range(1, 101):
            manager.broadcast_to_room("r", one, key="state")
            await wait_all_tasks_blocked()
        stream.resume_sending()
        got = await receive_all(guest.client)
        assert got[-1] == {"room": "r", "offset": 100, "data": 100}
        assert len(got) < 10
        offsets = [message["offset"] for message in got]
        assert offsets == sorted(offsets)
        assert served.server.statistics().displaced > 80


# fill


@pytest.mark.parametrize("make", MAKES)
async def test_fill(make: Any, autojump_clock: MockClock) -> None:
    """A join of a room without a publication has the program provide one, which is published and kept."""
    asked: list[str] = []

    async def fill(room: str) -> dict[str, Any]:
        asked.append(room)
        return {"state": room}

    manager = cache_manager(make(), fill=fill)
    async with hall(manager) as served:
        for _ in range(3):
            guest = await served.enter(v1=True)
            reply = await guest.client.request("$join", {"room": "r"})
            assert [item["data"] for item in reply["publications"]] == [{"state": "r"}]
            assert await receive_all(guest.client, 5) == []
        assert asked == ["r"]


@pytest.mark.parametrize("make", MAKES)
async def test_fill_is_asked_once_for_all(make: Any, autojump_clock: MockClock) -> None:
    """Of joins that come together one asks, and all get what it is told."""
    gate = Gate()
    asked: list[str] = []

    async def fill(room: str) -> str:
        asked.append(room)
        await gate()
        return "state"

    manager = cache_manager(make(), fill=fill)
    async with hall(manager) as served, trio.open_nursery() as nursery:
        guests = [await served.enter(v1=True) for _ in range(10)]
        joins = [attempt(nursery, guest.client.request, "$join", {"room": "r"}) for guest in guests]
        await gate.reached.wait()
        await trio.sleep(2)
        gate.open.set()
        for join in joins:
            await join.over.wait()
            assert [item["data"] for item in join.result["publications"]] == ["state"]
        assert asked == ["r"]


async def test_fill_of_none(autojump_clock: MockClock) -> None:
    """None is no publication: the join goes on without, and the next one asks again."""
    asked: list[str] = []

    async def fill(room: str) -> None:
        asked.append(room)

    manager = cache_manager(fill=fill)
    async with hall(manager) as served:
        for number in (1, 2):
            guest = await served.enter(v1=True)
            reply = await guest.client.request("$join", {"room": "r"})
            assert (reply["offset"], "publications" in reply) == (0, False)
            assert len(asked) == number


@pytest.mark.parametrize("how", ["raises", "hangs", "refuses"])
async def test_fill_that_fails(how: str, autojump_clock: MockClock) -> None:
    """The joins that wait for it fail, with the code of an ActionError, or reported; it is asked once for all."""
    asked: list[str] = []

    async def fill(room: str) -> str:
        asked.append(room)
        await trio.sleep(1)
        if how == "refuses":
            raise ActionError("NO_STATE", "not today")
        if how == "hangs":
            await trio.sleep_forever()
        raise OSError("secret")

    manager = cache_manager(fill=fill)
    log = record(manager)
    async with hall(manager) as served, trio.open_nursery() as nursery:
        guests = [await served.enter(v1=True) for _ in range(5)]
        joins = [attempt(nursery, guest.client.request, "$join", {"room": "r"}) for guest in guests]
        with trio.fail_after(Config().hook_timeout + 1):
            for join in joins:
                await join.over.wait()
                assert isinstance(join.error, ReplyError)
                assert join.error.code == ("NO_STATE" if how == "refuses" else "INTERNAL")
        await wait_all_tasks_blocked()
        assert asked == ["r"]
        reported = [entry[1] for entry in log if entry[0] == "error"]
        assert reported == {"raises": ["OSError"], "hangs": ["HookTimeout"], "refuses": []}[how]
        assert manager.get_room("r") is None
        assert all(not guest.conn.rooms for guest in guests)


async def test_who_fills_is_cut(autojump_clock: MockClock) -> None:
    """Then another join that waits asks in its place."""
    asked: list[str] = []

    async def fill(room: str) -> str:
        asked.append(room)
        await trio.sleep(3)
        return "state"

    manager = cache_manager(fill=fill)
    async with hall(manager) as served, trio.open_nursery() as nursery:
        first, second = await served.enter(v1=True), await served.enter(v1=True)
        attempt(nursery, first.conn.join, "r")
        await wait_all_tasks_blocked()
        joining = attempt(nursery, second.client.request, "$join", {"room": "r"})
        await trio.sleep(1)
        await first.client.aclose()
        await joining.over.wait()
        assert [item["data"] for item in joining.result["publications"]] == ["state"]
        assert asked == ["r", "r"]


async def test_somebody_publishes_while_it_is_filled(autojump_clock: MockClock) -> None:
    """What the program publishes meanwhile counts, too: the join gets the latest of both, and nothing twice."""
    manager = cache_manager()

    async def fill(room: str) -> str:
        manager.broadcast_to_room(room, "from elsewhere")
        await trio.sleep(1)
        return "filled"

    manager = cache_manager(fill=fill)
    async with hall(manager) as served:
        guest = await served.enter(v1=True)
        reply = await guest.client.request("$join", {"room": "r"})
        assert [item["data"] for item in reply["publications"]] == ["filled"]
        assert reply["offset"] == 2
        assert await receive_all(guest.client) == []


async def test_excluded_from_the_latest(autojump_clock: MockClock) -> None:
    """Who the latest is not for gets nothing, and its position."""
    manager = cache_manager()
    async with hall(manager) as served:
        guest = await served.enter(v1=True)
        manager.broadcast_to_room("r", 1, exclude=[guest.conn])
        reply = await guest.client.request("$join", {"room": "r"})
        assert (reply["offset"], "publications" in reply) == (1, False)


def test_the_latest_is_known_whatever_was_lost_before_it() -> None:
    """What a join holds of a room whose publications are each the whole state needs nothing of what came before."""
    held = CatchUp(1, latest_only=True)
    held.add(Publication(("r",), b"3", packed=b"\x03", after=2), Position(3, "e"))
    _, items = held.merged(Slice(Position(1, "e"), (HistoryItem(1, b"1", b"\x01"),)))
    assert items is not None
    assert [item.data for item in items] == [3]
