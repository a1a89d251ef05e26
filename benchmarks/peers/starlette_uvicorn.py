"""Starlette on uvicorn: a loop over the members, as the documentation of the frameworks on top of it has it."""

from __future__ import annotations

from _common import Publish, Rooms, Subscribe, decode, echoed, event, subscribed
from _uvicorn import serve
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

rooms: Rooms[WebSocket] = Rooms()


async def publish(message: Publish) -> None:
    text = event(message).decode()
    for member in tuple(rooms.members(message.data.room_id)):
        try:
            await member.send_text(text)
        except (WebSocketDisconnect, RuntimeError):  # the latter where the close has been sent
            rooms.leave(member)


async def handle(ws: WebSocket) -> None:
    await ws.accept()
    try:
        async for text in ws.iter_text():
            message = decode(text)
            if isinstance(message, Publish):
                await publish(message)
            elif isinstance(message, Subscribe):
                rooms.join(message.data.room_id, ws)
                await ws.send_text(subscribed(message).decode())
            else:
                await ws.send_text(echoed(message).decode())
    except WebSocketDisconnect:
        pass
    finally:
        rooms.leave(ws)


serve(Starlette(routes=[WebSocketRoute("/ws", handle)]), "starlette")
