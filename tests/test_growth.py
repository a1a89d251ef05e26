"""L1: what clients make up grows nothing, however much of it there is."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable

from trio.testing import MockClock, wait_all_tasks_blocked

from hall import Hall, hall
from trio_rooms import Config, Connection, Manager
from trio_rooms.testing import Opcode, client_frame, handshake_bytes

#: A program without pings, which would come between.
QUIET = Config(ping_interval=10_000)


async def growth(place: Hall, messages: Callable[[list[str]], list[object]]) -> int:
    """Send messages about 100,000 names, a hundred at a time; by how many blocks of memory the process has grown."""
    stream = place.memory.open_stream()
    await stream.send_all(handshake_bytes())
    blocks = []
    for hundred in range(1001):
        texts = [json.dumps(message).encode() for message in messages([f"{hundred}-{n}" for n in range(100)])]
        await stream.send_all(b"".join(client_frame(Opcode.TEXT, text) for text in texts))
        await wait_all_tasks_blocked()
        await stream.receive_some()
        if hundred % 1000 == 0:
            gc.collect()
            blocks.append(sys.getallocatedblocks())
    await stream.aclose()
    return blocks[1] - blocks[0]


#: One string kept of each name would be 100,000.
NOTHING = 10_000


async def test_actions_and_ids_that_clients_make_up(autojump_clock: MockClock) -> None:
    """L1: 100,000 actions and ids, each another, leave labels and memory as they were."""
    async with hall(Manager(config=QUIET)) as place:
        grown = await growth(
            place, lambda names: [{"action": f"of-{name}", "id": f"id-{name}", "room": name} for name in names]
        )
        assert grown < NOTHING
        statistics = place.server.statistics()
        assert statistics.errors_told == {"UNKNOWN_ACTION": 100_100}
        assert statistics.written == 100_100


async def test_rooms_that_clients_make_up(autojump_clock: MockClock) -> None:
    """L1: 100,000 rooms, each another, joined and left again, leave maps and memory as they were."""
    manager = Manager(config=QUIET)

    @manager.on("visit")
    async def visit(conn: Connection, data: list[str]) -> int:
        for room in data:
            await conn.join(room)
            conn.leave(room)
        return len(manager.rooms())

    async with hall(manager) as place:
        grown = await growth(place, lambda names: [{"action": "visit", "data": names, "id": 1}])
        assert grown < NOTHING
        statistics = place.server.statistics()
        assert (statistics.messages_received, statistics.rooms) == (1001, 0)
        assert statistics.errors_told == {}
