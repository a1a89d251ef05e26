"""picows on uvloop, its callback API: no task and no await between a frame and its handler."""

from __future__ import annotations

import logging

import uvloop
from _common import BACKLOG, HOST, Publish, Rooms, Subscribe, announce, decode, echoed, event, subscribed
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_create_server

rooms: Rooms[WSTransport] = Rooms()

TEXT = WSMsgType.TEXT


class Member(WSListener):
    """One connection. As usual with picows, a message is expected in one frame."""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type is TEXT:
            message = decode(frame.get_payload_as_memoryview())
            if isinstance(message, Publish):
                data = event(message)
                for member in rooms.members(message.data.room_id):
                    member.send(TEXT, data)
            elif isinstance(message, Subscribe):
                rooms.join(message.data.room_id, transport)
                transport.send(TEXT, subscribed(message))
            else:
                transport.send(TEXT, echoed(message))
        elif frame.msg_type is WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        rooms.leave(transport)


async def main() -> None:
    # It warns of each write to a member whose end it has not told yet.
    logging.getLogger("aiofastnet").setLevel(logging.ERROR)
    server = await ws_create_server(lambda request: Member(), HOST, 0, backlog=BACKLOG)
    announce(server.sockets[0].getsockname()[1], "picows", "aiofastnet", "uvloop")
    await server.serve_forever()


uvloop.run(main())
