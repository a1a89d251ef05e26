"""Connections that your own server accepts: ``manager.handle_connection(stream)``.

``python examples/own_listener.py --port 8080``. The program listens by itself and decides what becomes of each stream;
here it numbers them, and knows which are open. From the first byte that it hands over, everything is the library's:

    > {"action": "open", "id": 1}
    < {"id": 1, "data": [1]}
    | 1 accepted
    | 1 over

A stream may come from anywhere: a TLS listener, a Unix socket, a tunnel, a pair of memory streams. SIGTERM and Ctrl-C
stop it.
"""

from __future__ import annotations

import argparse
import itertools
import signal
from functools import partial

import trio

from trio_rooms import Connection, Manager, serve_rooms

manager = Manager()
numbers = itertools.count(1)
open_ones: set[int] = set()


@manager.on("open")
def list_open(conn: Connection) -> list[int]:
    return sorted(open_ones)


async def accept(stream: trio.SocketStream) -> None:
    """What the program's listener calls for each connection. Cancelling it would close that connection with 1001."""
    number = next(numbers)
    print(number, "accepted", flush=True)
    open_ones.add(number)
    try:
        await manager.handle_connection(stream)  # handshake, messages, and the end; it closes the stream
    finally:
        open_ones.remove(number)
        print(number, "over", flush=True)


async def main(port: int) -> None:
    async with serve_rooms(manager, listeners=[]) as server, trio.open_nursery() as connections:
        async with trio.open_nursery() as listening:
            listen = partial(trio.serve_tcp, accept, port, host="127.0.0.1", handler_nursery=connections)
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                (listener,) = await listening.start(listen)
                print(f"ws://127.0.0.1:{listener.socket.getsockname()[1]}/ws", flush=True)
                await anext(signals)  # from here on the next one ends the program at once
            listening.cancel_scope.cancel()  # stops accepting; who is connected lives on, in the outer nursery
        server.begin_shutdown()  # now they are drained, and the outer nursery waits for them


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080)
    trio.run(main, parser.parse_args().port)
