"""aiohttp on uvloop: a loop over the members, with the frame's bytes encoded once."""

from __future__ import annotations

import asyncio

import uvloop
from _common import BACKLOG, HOST, Publish, Rooms, Subscribe, announce, decode, echoed, event, subscribed
from aiohttp import ClientConnectionResetError, WSMsgType, web

rooms: Rooms[web.WebSocketResponse] = Rooms()

TEXT = WSMsgType.TEXT


async def publish(message: Publish) -> None:
    data = event(message)
    for member in tuple(rooms.members(message.data.room_id)):
        try:
            await member.send_frame(data, TEXT)
        except ClientConnectionResetError:
            rooms.leave(member)


async def handle(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse(compress=False, decode_text=False)
    await ws.prepare(request)
    try:
        async for received in ws:
            message = decode(received.data)
            if isinstance(message, Publish):
                await publish(message)
            elif isinstance(message, Subscribe):
                rooms.join(message.data.room_id, ws)
                await ws.send_frame(subscribed(message), TEXT)
            else:
                await ws.send_frame(echoed(message), TEXT)
    finally:
        rooms.leave(ws)
    return ws


async def main() -> None:
    app = web.Application()
    app.router.add_get("/ws", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0, backlog=BACKLOG).start()
    announce(runner.addresses[0][1], "aiohttp", "uvloop")
    await asyncio.Event().wait()


uvloop.run(main())
