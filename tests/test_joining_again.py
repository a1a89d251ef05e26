"""Joins of a room that the client is in already: nothing changes, and it is told how far it has come."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from hall import V1, Guest, Hall, hall
from histories import history_manager
from messages import MSGPACK
from trio_rooms import Limits, Manager, Position
from trio_rooms.testing import LaggingBroker


@pytest.mark.parametrize("subprotocol", [V1, MSGPACK])
async def test_where_it_is(subprotocol: str, autojump_clock: MockClock) -> None:
    """Its position is up to where this connection was sent everything, and it is recovered if it comes from there."""
    async with hall(history_manager()) as served:
        client = await served.memory.connect(subprotocol=subprotocol)
        await client.receive_json()
        first = await client.request("$join", {"room": "r"})
        (conn,) = served.manager.connections.values()
        epoch = first["epoch"]
        assert await client.request("$join", {"room": "r"}) == {"room": "r", "epoch": epoch, "offset": 0}
        served.manager.broadcast_to_room("r", 1)
        served.manager.broadcast_to_room("r", 2, exclude=[conn])
        assert [(await client.receive_json())["offset"] for _ in range(2)] == [1, 2]
        for since, recovered in ((2, True), (1, False), (3, False)):
            reply = await client.request("$join", {"room": "r", "since": {"epoch": epoch, "offset": since}})
            assert reply == {"room": "r", "epoch": epoch, "offset": 2, "recovered": recovered}
            joined = await conn.join("r", since=Position(since, epoch))
            assert (joined.new, joined.position, joined.recovered) == (False, Position(2, epoch), recovered)
            assert joined.publications == ()
        assert (await conn.join("r")).recovered is None
        assert (await conn.join("r", since=Position(2, "another"))).recovered is False
        await client.receive_nothing(1)


async def test_without_history(autojump_clock: MockClock) -> None:
    """There is no position, and nothing is recovered, in a new membership as in an old one."""
    async with hall(Manager()) as served:
        for joined in [await (await served.enter(v1=True)).conn.join("r", since=Position(1, "e")) for _ in range(2)]:
            assert (joined.new, joined.position, joined.recovered) == (True, None, False)
        (conn, _) = served.manager.connections.values()
        joined = await conn.join("r", since=Position(1, "e"))
        assert (joined.new, joined.position, joined.recovered) == (False, None, False)


async def test_a_member_that_is_ahead(autojump_clock: MockClock) -> None:
    """One whose history was ahead of the deliveries is where it began, and another where those are."""
    broker = LaggingBroker(delay=2.0)
    manager = history_manager(broker)
    async with hall(manager) as served:
        early, late = await served.enter(v1=True), await served.enter(v1=True)
        await early.client.request("$join", {"room": "r"})
        manager.broadcast_to_room("r", 1)
        await trio.sleep(1.5)  # it is kept, and will be delivered half a second later
        broker.delay = 0.0
        begun = await late.client.request("$join", {"room": "r"})
        assert begun["offset"] == 1
        assert await late.client.request("$join", {"room": "r"}) == begun
        epoch = begun["epoch"]
        assert (await late.conn.join("r")).position == Position(1, epoch)
        assert (await early.conn.join("r")).position == Position(0, epoch)
        await trio.sleep(1)
        manager.broadcast_to_room("r", 2, exclude=[early.conn])
        await trio.sleep(1)
        assert [(await guest.conn.join("r")).position for guest in (early, late)] == [Position(2, epoch)] * 2
        assert await late.client.receive_json() == {"room": "r", "offset": 2, "data": 2}


async def test_the_reply_waits_for_room(autojump_clock: MockClock) -> None:
    """A reply that has to wait in a full outbox tells the position of the moment in which it is queued."""
    async with hall(history_manager(limits=Limits(outbox_messages=4))) as served:
        guest, stream = await served.enter_faulty(v1=True)
        epoch = (await guest.client.request("$join", {"room": "r"}))["epoch"]
        stream.stall_sending()
        await fill(served, guest)
        await guest.client.send_action("$join", {"room": "r"}, id=1)
        await wait_all_tasks_blocked()
        stream.resume_sending()
        seen: list[Any] = []
        while True:
            message = await guest.client.receive_json()
            if message.get("id") == 1:
                break
            seen.append(message["offset"])
        assert message["data"] == {"room": "r", "epoch": epoch, "offset": seen[-1]}


async def test_removed_while_the_reply_waits(autojump_clock: MockClock) -> None:
    """Whose reply waits, and who is removed meanwhile, is not told that it is a member."""
    async with hall(history_manager(limits=Limits(outbox_messages=4))) as served:
        guest, stream = await served.enter_faulty(v1=True)
        await guest.client.request("$join", {"room": "r"})
        stream.stall_sending()
        await fill(served, guest)
        await guest.client.send_action("$join", {"room": "r"}, id=1)
        await wait_all_tasks_blocked()
        guest.conn.leave("r")
        stream.resume_sending()
        while (message := await guest.client.receive_json()).get("id") != 1:
            pass
        assert message["error"]["code"] == "CLOSED"


async def fill(served: Hall, guest: Guest) -> None:
    """Publish until the outbox of a guest whose sending is stalled is full."""
    while guest.conn.statistics().messages < 4:
        served.manager.broadcast_to_room("r", 1)
        await wait_all_tasks_blocked()
