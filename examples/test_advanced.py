"""Tests of a program of yours, here of advanced.py and workflow_events.py: no socket, no port, and hardly any time.

``pip install pytest pytest-trio``, then ``python -m pytest examples``. Clients talk over memory streams. With
``autojump_clock`` time is virtual and jumps whenever everybody waits, so that a test about a minute takes a
millisecond; ``fail_after`` bounds a test in that time. Leaving ``open_client`` or ``serve_in_memory`` also asserts that
the server has left nothing behind.
"""

from __future__ import annotations

import pytest
import trio
from advanced import make_manager
from trio.testing import MockClock, wait_all_tasks_blocked
from workflow_events import manager as workflows

from trio_rooms import Connection, Manager, Report
from trio_rooms.testing import FaultyStream, MemoryServer, ReplyError, TestClient, open_client, serve_in_memory


async def connect_by_network(memory: MemoryServer) -> tuple[TestClient, FaultyStream]:
    """A client, and the network between it and the server, for faults."""
    networks: list[FaultyStream] = []

    def wrap(stream: trio.abc.Stream) -> FaultyStream:
        networks.append(FaultyStream(stream))
        return networks[0]

    return await memory.connect(wrap=wrap), networks[0]


async def test_subscribing(autojump_clock: MockClock) -> None:
    """A handler: what it answers, and what it has done."""
    manager = make_manager()
    with trio.fail_after(5):
        async with open_client(manager) as client:
            await client.send_action("subscribe", {"room_id": "workflow_123"})
            assert await client.receive_json() == {"status": "subscribed", "room": "workflow_123"}
            room = manager.get_room("workflow_123")
            assert room is not None
            assert len(room.members) == 1


async def test_errors(autojump_clock: MockClock) -> None:
    """A request that fails raises, with the code that the client was told."""
    with trio.fail_after(5):
        async with open_client(make_manager()) as client:
            with pytest.raises(ReplyError, match="NOT_SUBSCRIBED"):
                await client.request("unsubscribe", {"room_id": "workflow_123"})
            with pytest.raises(ReplyError, match="room_id"):
                await client.request("subscribe", {"room": "workflow_123"})


async def test_two_members(autojump_clock: MockClock) -> None:
    """Several clients of one server; an event reaches who is in the room, and nobody else."""
    manager = make_manager()
    with trio.fail_after(60):
        async with serve_in_memory(manager) as memory:
            member, other = await memory.connect(), await memory.connect()
            await member.request("subscribe", {"room_id": "workflow_123"})
            assert await member.receive_json() == {"status": "subscribed", "room": "workflow_123"}
            manager.broadcast_to_room("workflow_123", {"type": "node.started"})
            assert await member.receive_json() == {"type": "node.started"}
            await other.receive_nothing(10)


async def test_a_whole_workflow(autojump_clock: MockClock) -> None:
    """A task of a room, from its first event to the last; its sleeps take no time."""
    with trio.fail_after(100):
        async with open_client(workflows) as client:
            await client.send_action("watch", "exec_123")
            events = [await client.receive_json() for _ in range(6)]
            assert [event["node_id"] for event in events[::2]] == ["fetch", "transform", "store"]
            await client.receive_nothing(60)


async def test_a_workflow_that_nobody_watches(autojump_clock: MockClock) -> None:
    """The room's task is cancelled when the last watcher has gone: ``open_client`` would find it otherwise."""
    with trio.fail_after(5):
        async with open_client(workflows) as client:
            await client.send_action("watch", "exec_123")
            await client.receive_json()


async def test_a_dead_peer(autojump_clock: MockClock) -> None:
    """The network goes away without a word; 60 and 10 seconds later so does the connection."""
    manager = make_manager()
    with trio.fail_after(100):
        async with serve_in_memory(manager) as memory:
            client, network = await connect_by_network(memory)
            await client.send_action("subscribe", {"room_id": "workflow_123"})
            await client.receive_json()
            network.silence()
            await trio.sleep(71)
            assert not manager.connections
            assert manager.get_room("workflow_123") is None
            assert memory.server.statistics().dead_peers == 1


async def test_a_member_that_does_not_read(autojump_clock: MockClock) -> None:
    """More than its outbox holds: it is closed with a code that asks it to come back, and the report says so."""
    manager = make_manager()
    with trio.fail_after(100):
        async with serve_in_memory(manager) as memory:
            slow, network = await connect_by_network(memory)
            await slow.send_action("subscribe", {"room_id": "workflow_123"})
            await slow.receive_json()
            network.stall_sending()
            report = Report(final=True)
            for number in range(manager.config.limits.outbox_messages + 1):
                report = manager.broadcast_to_room("workflow_123", {"number": number})
            assert report.closed == 1
            await wait_all_tasks_blocked()
            assert manager.get_room("workflow_123") is None


async def test_a_drain(autojump_clock: MockClock) -> None:
    """A handler in flight finishes, its answer arrives, and then the client is told 1012."""
    manager = Manager()

    @manager.on("save")
    async def save(conn: Connection) -> str:
        await trio.sleep(20)
        return "saved"

    with trio.fail_after(100):
        async with serve_in_memory(manager) as memory:
            client = await memory.connect()
            await client.send_action("save", id=1)
            await wait_all_tasks_blocked()
            memory.server.begin_shutdown()
            assert await client.receive_json() == {"id": 1, "data": "saved"}
            await client.expect_close(1012)
