"""Publishing from outside of handlers: from another task, and from a thread.

``python examples/publishing.py --port 8080``. A thread reads a sensor and publishes each reading; a task of the program
publishes their average so far. Who watches gets both, in one order:

    > {"action": "watch"}
    < {"reading": 3.5}
    < {"average": 1.75}

An average never stands before the last reading in it. SIGTERM and Ctrl-C stop it: first the sensor, then the server.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import time
from collections.abc import Iterator

import trio

from trio_rooms import Connection, Manager, serve_rooms

ROOM = "sensors"

manager = Manager()
# A member that does not keep up loses the oldest readings that it has not got yet; nobody is cut off for it.
manager.room(ROOM, overflow="drop_oldest")


@manager.on("watch")
async def watch(conn: Connection) -> None:
    await conn.join(ROOM)


def read_sensor() -> Iterator[float]:
    """Stands for code that blocks, such as a serial port or a database driver."""
    for number in itertools.count():
        time.sleep(0.02)
        yield number / 2


def run_sensor(readings: trio.MemorySendChannel[float]) -> None:
    """Runs in a thread, where each call of the library goes by way of trio's own thread."""
    for reading in read_sensor():
        trio.from_thread.check_cancelled()  # raises when the task that waits for this thread is cancelled
        # In a task it is just ``manager.broadcast_to_room(ROOM, ...)``.
        trio.from_thread.run_sync(manager.broadcast_to_room, ROOM, {"reading": reading})
        trio.from_thread.run(readings.send, reading)


async def publish_averages(readings: trio.MemoryReceiveChannel[float]) -> None:
    """Runs beside the server. Publishing to a room needs no connection and no handler, only a served manager."""
    total, count = 0.0, 0
    async for reading in readings:
        total, count = total + reading, count + 1
        room = manager.get_room(ROOM)
        if room is not None:  # while somebody watches
            await room.publish({"average": total / count})  # waits where the broker makes it wait


async def main(port: int) -> None:
    async with serve_rooms(manager, port=port) as server:
        send, receive = trio.open_memory_channel[float](0)  # the sensor waits until a reading is taken: none pile up
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish_averages, receive)
            nursery.start_soon(trio.to_thread.run_sync, run_sensor, send)
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                print(server.url, flush=True)
                await anext(signals)  # from here on the next one ends the program at once
            nursery.cancel_scope.cancel()
    # Leaving serve_rooms drained the clients.


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080)
    trio.run(main, parser.parse_args().port)
