"""websockets on trio. The argument says how a publication goes out: by its ``broadcast``, or by a loop of our own.

``broadcast`` starts a task for each member and waits for all of them; the loop awaits one send after the other.
"""

from __future__ import annotations

import sys
from functools import partial

import trio
from _common import BACKLOG, HOST, Publish, Rooms, Subscribe, announce, decode, echoed, event, subscribed
from websockets.exceptions import ConnectionClosed
from websockets.trio.server import ServerConnection, broadcast, serve

rooms: Rooms[ServerConnection] = Rooms()


async def publish_by_broadcast(message: Publish) -> None:
    await broadcast(rooms.members(message.data.room_id), event(message), text=True)


async def publish_by_loop(message: Publish) -> None:
    frame = event(message)
    for member in tuple(rooms.members(message.data.room_id)):
        try:
            await member.send(frame, text=True)
        except ConnectionClosed:
            rooms.leave(member)


publish = {"broadcast": publish_by_broadcast, "loop": publish_by_loop}[sys.argv[1]]


async def handle(ws: ServerConnection) -> None:
    try:
        while True:
            message = decode(await ws.recv(decode=False))
            if isinstance(message, Publish):
                await publish(message)
            elif isinstance(message, Subscribe):
                rooms.join(message.data.room_id, ws)
                await ws.send(subscribed(message), text=True)
            else:
                await ws.send(echoed(message), text=True)
    except ConnectionClosed:
        pass
    finally:
        rooms.leave(ws)


async def main() -> None:
    listeners = await trio.open_tcp_listeners(0, host=HOST, backlog=BACKLOG)
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve, handle, listeners=listeners, compression=None, ping_interval=None))
        announce(port, "websockets", "trio")


trio.run(main)
