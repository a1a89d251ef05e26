"""picows on uvloop, its API like that of websockets: what changes for users of websockets is the import.

Its ``broadcast`` makes a text frame of ``str`` only.
"""

from __future__ import annotations

import uvloop
from _common import BACKLOG, HOST, Publish, Rooms, Subscribe, announce, decode, echoed, event, subscribed
from picows.websockets.asyncio.server import ServerConnection, broadcast, serve
from picows.websockets.exceptions import ConnectionClosed

rooms: Rooms[ServerConnection] = Rooms()


async def handle(ws: ServerConnection) -> None:
    try:
        while True:
            message = decode(await ws.recv(decode=False))
            if isinstance(message, Publish):
                broadcast(rooms.members(message.data.room_id), event(message).decode())
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
    async with serve(handle, HOST, 0, backlog=BACKLOG, compression=None, ping_interval=None) as server:
        announce(server.sockets[0].getsockname()[1], "picows", "aiofastnet", "uvloop")
        await server.serve_forever()


uvloop.run(main())
