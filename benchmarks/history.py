"""What a history costs: ``python benchmarks/history.py``.

A million publications of 100 bytes over a thousand rooms, in one process without a member: the time of each, and the
memory that is held, without a history and with several; then joins that read what was kept. The histories are larger
than ``max_history_bytes`` in the end, so that it is seen to hold.
"""

# ruff: noqa: T201 - a script

from __future__ import annotations

import argparse
import gc
import sys
import time
from typing import Any

import trio

from trio_rooms import Manager, serve_rooms
from trio_rooms.brokers import MemoryBroker

#: Of each room, and the bytes of all together.
HISTORIES: tuple[tuple[int, int], ...] = (
    (0, 256 << 20),
    (1, 256 << 20),
    (100, 256 << 20),
    (1000, 256 << 20),
    (1000, 64 << 20),
)


def resident_mib() -> float:
    """Of this process, as Linux tells it; 0 elsewhere."""
    if not sys.platform.startswith("linux"):
        return 0.0
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096 / (1 << 20)


async def measure(size: int, max_bytes: int, *, publications: int, rooms: int) -> dict[str, Any]:
    """One history: numbers for people."""
    broker = MemoryBroker(max_history_bytes=max_bytes)
    manager = Manager(broker=broker)
    manager.room("*", history_size=size)
    names = [f"room{number}" for number in range(rooms)]
    async with serve_rooms(manager, listeners=[]):
        gc.collect()
        memory = resident_mib()
        began = time.perf_counter()
        for number in range(publications):
            manager.broadcast_to_room(names[number % rooms], {"number": number, "text": "x" * 80})
            if number % 1000 == 0:
                await trio.lowlevel.checkpoint()
        took = time.perf_counter() - began
        statistics = broker.statistics()
        told = {
            "us a publication": round(took / publications * 1e6, 2),
            "MiB more": round(resident_mib() - memory),
            "MiB counted": round(statistics.history_bytes / (1 << 20)),
            "evicted": statistics.evicted,
        }
        if size:
            began = time.perf_counter()
            for name in names:
                await manager.history(name, limit=10, reverse=True)
            told["us a read of 10"] = round((time.perf_counter() - began) / rooms * 1e6, 1)
        return told


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--publications", type=int, default=1_000_000)
    parser.add_argument("--rooms", type=int, default=1_000)
    options = parser.parse_args()
    for size, max_bytes in HISTORIES:
        told = trio.run(lambda: measure(size, max_bytes, publications=options.publications, rooms=options.rooms))  # noqa: B023
        numbers = ", ".join(f"{value:,} {name}" for name, value in told.items())
        print(f"history_size {size:5}, at most {max_bytes >> 20} MiB: {numbers}", flush=True)


if __name__ == "__main__":
    main()
