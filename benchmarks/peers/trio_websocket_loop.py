"""trio-websocket, as the first attempt looks: the publisher's task sends to one member after the other."""

from __future__ import annotations

import trio
from _common import HOST, Publish, Rooms, Subscribe, announce, decode, echoed, event, subscribed
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

rooms: Rooms[WebSocketConnection] = Rooms()


async def publish(message: Publish) -> None:
    text = event(message).decode()
    for member in tuple(rooms.members(message.data.room_id)):
        try:
            await member.send_message(text)
        except ConnectionClosed:
            rooms.leave(member)


async def handle(request: WebSocketRequest) -> None:
    ws = await request.accept()
    try:
        while True:
            message = decode(await ws.get_message())
            if isinstance(message, Publish):
                await publish(message)
            elif isinstance(message, Subscribe):
                rooms.join(message.data.room_id, ws)
                await ws.send_message(subscribed(message).decode())
            else:
                await ws.send_message(echoed(message).decode())
    except ConnectionClosed:
        pass
    finally:
        rooms.leave(ws)


async def main() -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, handle, HOST, 0, None)
        announce(server.port, "trio", "trio-websocket", "wsproto")


trio.run(main)
