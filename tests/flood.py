"""Must hold 5 of what is kept: for an hour of virtual time clients make up rooms, users, sessions and keys.

::

    python tests/flood.py --minutes 60

Each virtual minute brings rooms that nobody has named before, with history and idempotency keys, and users that nobody
knows, who join a room with presence, are lost, and never come back for their sessions. Nothing of it may grow beyond
its bound: after each minute the counts of objects are looked at, and from when the bounds are reached to the end the
memory that Python has allocated must not rise by more than ``--rise``. Exit status: 0, or 1 after a violation.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tracemalloc
from collections import Counter
from itertools import count

import trio
from trio.testing import MockClock

from trio_rooms import Config, Connection, HandshakeRequest, Identity, Limits, Manager, PresenceOptions
from trio_rooms.brokers import MemoryBroker
from trio_rooms.testing import MemoryServer, serve_in_memory

STREAMS = RESULTS = 400
SESSIONS = 50
HISTORY_BYTES = 256 * 1024
MAX_PRESENCE = 4 * 1024
WINDOW = 600.0

#: Virtual minutes until everything that is bounded by time or number has reached its bound.
WARM_UP = 15

#: What is kept for a client or a name that has gone, and how many there may be. Half as much again of each stands for
#: what is under way at the moment of the look.
BOUNDS = {
    "Stream": STREAMS,
    "Session": SESSIONS,
    "Room": 3,
    "Connection": 20,
}


def make_manager() -> Manager:
    """Small bounds, so that an hour reaches each of them many times."""
    limits = Limits(max_sessions=SESSIONS)
    config = Config(session_window=WINDOW, shutdown_timeout=1, limits=limits)
    broker = MemoryBroker(max_streams=STREAMS, max_history_bytes=HISTORY_BYTES, max_results=RESULTS)
    manager = Manager(config=config, broker=broker)
    manager.room("made-up-*", history_size=100, history_ttl=1200.0)
    manager.room("hall", presence=PresenceOptions(grace=300.0, max_bytes=MAX_PRESENCE))

    @manager.authenticate
    async def authenticate(request: HandshakeRequest) -> Identity:
        return Identity(user=request.query["user"])

    @manager.on("come in")
    async def come_in(conn: Connection) -> None:
        await conn.join("hall")

    return manager


class Flood:
    """What comes in a minute, and what is left of it."""

    def __init__(self, memory: MemoryServer, *, rooms: int, users: int) -> None:
        self.memory, self.rooms, self.users = memory, rooms, users
        self.numbers = count()

    async def minute(self) -> None:
        """Rooms and keys that nobody has named before; users who come, are lost and stay away."""
        manager = self.memory.manager
        for _ in range(self.rooms):
            number = next(self.numbers)
            manager.broadcast_to_room(f"made-up-{number}", "x" * 100, idempotency_key=f"{number}")
        for _ in range(self.users):
            client = await self.memory.connect(path=f"/ws?user={next(self.numbers)}", subprotocol="trio-rooms.v1.json")
            await client.send_action("$session", {}, id=0)
            await client.request("come in")
            await client.aclose()
        await trio.sleep(60)


def counts() -> Counter[str]:
    """How many objects there are of each class of the library that the collector knows."""
    gc.collect()
    return Counter(type(one).__name__ for one in gc.get_objects() if type(one).__module__.startswith("trio_rooms."))


async def flood(minutes: int, *, rooms: int = 100, users: int = 10, rise: float = 0.1) -> list[str]:
    """Run it; what was found to be beyond its bound."""
    before = counts()  # of others in this process
    manager = make_manager()
    problems: list[str] = []
    base = 0
    async with serve_in_memory(manager) as memory:
        flood = Flood(memory, rooms=rooms, users=users)
        for minute in range(1, minutes + 1):
            await flood.minute()
            problems += beyond(manager, memory, before)
            now = tracemalloc.get_traced_memory()[0]
            if minute == min(WARM_UP, minutes):
                base = now
            if minute % 10 == 0 or minute == minutes:
                statistics = memory.server.statistics()
                kept = f"{statistics.sessions_kept} sessions, {statistics.presence_entries} entries"
                print(f"minute {minute}: {now / 1024:.0f} KiB, {manager_of(manager)}, {kept}")
        now = tracemalloc.get_traced_memory()[0]
        if now > base * (1 + rise):
            problems.append(f"memory rose from {base} to {now} bytes")
    memory.server.assert_quiescent()
    return problems


def manager_of(manager: Manager) -> str:
    """What its broker holds, in words."""
    held = broker_of(manager).statistics()
    return f"{held.streams} streams, {held.history_bytes // 1024} KiB of history, {held.results} keys"


def broker_of(manager: Manager) -> MemoryBroker:
    """Its broker."""
    assert isinstance(manager._broker, MemoryBroker)
    return manager._broker


def beyond(manager: Manager, memory: MemoryServer, before: Counter[str]) -> list[str]:
    """What is more than its bound now."""
    held, statistics, there = broker_of(manager).statistics(), memory.server.statistics(), counts()
    found = {
        "streams": (held.streams, STREAMS),
        "bytes of history": (held.history_bytes, HISTORY_BYTES),
        "keys": (held.results, RESULTS),
        "sessions": (statistics.sessions_kept, SESSIONS),
        "entries of presence": (statistics.presence_entries, MAX_PRESENCE // 64),
        **{name: (there[name] - before[name], bound * 3 // 2) for name, bound in BOUNDS.items()},
    }
    return [f"{name}: {number}, the bound is {bound}" for name, (number, bound) in found.items() if number > bound]


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=60, help="of virtual time (default: 60)")
    parser.add_argument("--rise", type=float, default=0.1, help="of the memory, as a part of it (default: 0.1)")
    options = parser.parse_args()
    tracemalloc.start()

    async def run() -> list[str]:
        return await flood(options.minutes, rise=options.rise)

    problems = trio.run(run, clock=MockClock(autojump_threshold=0))
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
