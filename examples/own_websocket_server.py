"""A trio-websocket server of your own that gives one of its paths to rooms: ``manager.handle_connection(request)``.

``python examples/own_websocket_server.py --port 8080``. What was there before stays as it is:

    old: /echo
    old> {"any": "thing"}
    old< {"any": "thing"}

and clients of the other path get handlers, rooms and replies:

    new: /ws
    new> {"action": "join", "data": "kitchen", "id": 1}
    new< {"id": 1, "data": ["kitchen"]}

Handshake and frames are then read by trio-websocket, so their limits are those of that server; the origin,
``authenticate``, and everything after the upgrade are the library's. SIGTERM and Ctrl-C stop it.
"""

from __future__ import annotations

import argparse
import signal
from contextlib import suppress
from functools import partial

import trio
from trio_websocket import ConnectionClosed, WebSocketRequest, serve_websocket

from trio_rooms import Connection, Manager, serve_rooms

manager = Manager()


@manager.on("join")
async def join(conn: Connection, room_id: str) -> list[str]:
    await conn.join(room_id)
    return list(conn.rooms)


async def route(request: WebSocketRequest) -> None:
    if request.path == "/ws":
        await manager.handle_connection(request)  # accepts or refuses it, and returns when the connection is over
        return
    with suppress(ConnectionClosed):  # which would end the whole server; handle_connection raises no such thing
        if request.path == "/echo":
            await echo(request)
        else:
            await request.reject(404)


async def echo(request: WebSocketRequest) -> None:
    """What this server did before it knew rooms."""
    ws = await request.accept()
    while True:
        await ws.send_message(await ws.get_message())


async def main(port: int) -> None:
    async with serve_rooms(manager, listeners=[]) as server, trio.open_nursery() as nursery:
        serve = partial(serve_websocket, route, "127.0.0.1", port, ssl_context=None)
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            theirs = await nursery.start(serve)
            print(f"ws://127.0.0.1:{theirs.port}/ws", flush=True)
            await anext(signals)  # from here on the next one ends the program at once
        server.begin_shutdown()
        await server.wait_closed()  # the rooms' clients first: drained, and told 1012
        nursery.cancel_scope.cancel()  # then the server that they came through, and its other clients


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080)
    trio.run(main, parser.parse_args().port)
