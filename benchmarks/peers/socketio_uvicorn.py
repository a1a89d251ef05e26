"""python-socketio on uvicorn, in its own protocol: Engine.IO 4 over WebSocket only, Socket.IO 5 within it.

All frames are text. A client connects to ``/socket.io/?EIO=4&transport=websocket`` and then, in this order:

=====================================================  ============================================================
server: ``0{"sid":"...","upgrades":[],...}``           Engine.IO opens; sent at once
client: ``40``                                         connects to the namespace ``/``
server: ``40{"sid":"..."}``                            connected
client: ``421["subscribe",{"room_id":"R"}]``           an event that asks for acknowledgement number 1
server: ``431[{"room":"R"}]``                          the acknowledgement, which is the reply
client: ``42["publish",{"room_id":"R","payload":".."}]``  an event without acknowledgement
server: ``42["message",{"payload":".."}]``             the publication, for every member of the room
client: ``427["echo",".."]``                           an event that asks for acknowledgement number 7
server: ``437[".."]``                                  its reply
=====================================================  ============================================================

The client need not wait for any of them before it sends the next. Engine.IO's ping (server: ``2``, client: ``3``)
is an hour away.
"""

from __future__ import annotations

from typing import Any

import msgspec
import socketio
from _common import Content, RoomId
from _uvicorn import serve


class Json:
    """msgspec, with the two functions that python-socketio asks of a JSON module."""

    @staticmethod
    def dumps(value: object, **options: object) -> str:
        return msgspec.json.encode(value).decode()

    @staticmethod
    def loads(text: str) -> Any:
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            raise ValueError(*error.args) from None  # which it expects of every text that is no JSON


sio = socketio.AsyncServer(
    async_mode="asgi",
    json=Json,
    transports=["websocket"],
    ping_interval=3600,
    http_compression=False,
    async_handlers=False,  # a connection's events in order, and no task for each
)


@sio.event
async def subscribe(sid: str, data: object) -> dict[str, str]:
    room_id = msgspec.convert(data, RoomId).room_id
    await sio.enter_room(sid, room_id)
    return {"room": room_id}


@sio.event
async def publish(sid: str, data: object) -> None:
    content = msgspec.convert(data, Content)
    await sio.emit("message", {"payload": content.payload}, room=content.room_id)


@sio.event
async def echo(sid: str, data: str) -> str:
    return data


serve(socketio.ASGIApp(sio), "python-socketio", "python-engineio")
