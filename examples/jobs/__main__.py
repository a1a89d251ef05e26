"""Progress of jobs: ``python examples/jobs --port 8080 --file jobs.json``, and open what it prints.

Stop it and start it again while a page is open: the page comes back by itself, and the jobs go on.
"""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

import trio

from jobs import Jobs, Store
from trio_rooms import serve_rooms


async def main(jobs: Jobs, port: int) -> None:
    async with serve_rooms(jobs.manager, port=port) as server, trio.open_nursery() as nursery:
        nursery.start_soon(jobs.run)
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            print(f"http://127.0.0.1:{server.port}/", flush=True)
            await anext(signals)  # from here on the next one ends the program at once
        nursery.cancel_scope.cancel()
    # Leaving serve_rooms drained the clients.


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--file", type=Path, help="where the jobs are kept; without it they end with the program")
    parser.add_argument("--speed", type=float, default=1.0, help="how many times faster jobs do their simulated work")
    options = parser.parse_args()
    trio.run(main, Jobs(Store(options.file), speed=options.speed), options.port)
