"""trio-websocket with a channel and a writer task per connection: how a trio user keeps members apart today.

A publication is put into every member's channel without waiting; only where one is full does the publisher wait.
"""

from __future__ import annotations

import trio
from _common import HOST, Publish, Rooms, Subscribe, announce, decode, echoed, event, subscribed
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

CAPACITY = 256

Outbox = trio.MemorySendChannel[str]

rooms: Rooms[Outbox] = Rooms()


async def put(outbox: Outbox, text: str) -> None:
    try:
        try:
            outbox.send_nowait(text)
        except trio.WouldBlock:
            await outbox.send(text)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        rooms.leave(outbox)


async def publish(message: Publish) -> None:
    text = event(message).decode()
    for outbox in tuple(rooms.members(message.data.room_id)):
        await put(outbox, text)


async def write(ws: WebSocketConnection, outgoing: trio.MemoryReceiveChannel[str]) -> None:
    with outgoing:
        try:
            async for text in outgoing:
                await ws.send_message(text)
        except ConnectionClosed:
            pass


async def read(ws: WebSocketConnection, outbox: Outbox) -> None:
    try:
        while True:
            message = decode(await ws.get_message())
            if isinstance(message, Publish):
                await publish(message)
            elif isinstance(message, Subscribe):
                rooms.join(message.data.room_id, outbox)
                await put(outbox, subscribed(message).decode())
            else:
                await put(outbox, echoed(message).decode())
    except ConnectionClosed:
        pass
    finally:
        rooms.leave(outbox)


async def handle(request: WebSocketRequest) -> None:
    ws = await request.accept()
    outbox, outgoing = trio.open_memory_channel[str](CAPACITY)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, ws, outgoing)
        with outbox:
            await read(ws, outbox)


async def main() -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, handle, HOST, 0, None)
        announce(server.port, "trio", "trio-websocket", "wsproto")


trio.run(main)
