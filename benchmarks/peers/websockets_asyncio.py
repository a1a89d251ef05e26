"""websockets on asyncio, with its ``broadcast``. The argument names the event loop: asyncio or uvloop."""

from __future__ import annotations

import asyncio
import sys

from _common import BACKLOG, HOST, Publish, Rooms, Subscribe, announce, decode, echoed, event, subscribed
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed

rooms: Rooms[ServerConnection] = Rooms()


async def handle(ws: ServerConnection) -> None:
    try:
        while True:
            message = decode(await ws.recv(decode=False))
            if isinstance(message, Publish):
                broadcast(rooms.members(message.data.room_id), event(message), text=True)
            elif isinstance(message, Subscribe):
                rooms.join(message.data.room_id, ws)
                await ws.send(subscribed(message), text=True)
            else:
                await ws.send(echoed(message), text=True)
    except ConnectionClosed:
        pass
    finally:
        rooms.leave(ws)


async def main(*packages: str) -> None:
    async with serve(handle, HOST, 0, backlog=BACKLOG, compression=None, ping_interval=None) as server:
        announce(server.sockets[0].getsockname()[1], "websockets", *packages)
        await server.serve_forever()


if sys.argv[1] == "uvloop":
    import uvloop

    uvloop.run(main("uvloop"))
else:
    asyncio.run(main())
