"""socketify: uWebSockets (C++) under Python, rooms being its topics. The argument says which loop runs: run or native.

Its own ``run`` is asyncio's loop, which polls the native one without sleeping while there is traffic; that is part
of what it costs. Handlers that await nothing, as these, can do with the native loop alone, which sleeps.
"""

from __future__ import annotations

import sys

from _common import HOST, Publish, Subscribe, announce, decode, echoed, event, subscribed
from socketify import App, AppListenOptions, CompressOptions, OpCode, WebSocket

app = App(lifespan=False)


def on_message(ws: WebSocket, text: str, opcode: OpCode) -> None:
    message = decode(text)
    if isinstance(message, Publish):
        app.publish(message.data.room_id, event(message), OpCode.TEXT)
    elif isinstance(message, Subscribe):
        ws.subscribe(message.data.room_id)
        ws.send(subscribed(message), OpCode.TEXT)
    else:
        ws.send(echoed(message), OpCode.TEXT)


app.ws(
    "/ws",
    {
        "message": on_message,
        "compression": CompressOptions.DISABLED,
        "max_payload_length": 1024 * 1024,
        "idle_timeout": 0,  # which would end, or with pings disturb, an idle connection
        "max_backpressure": 0,  # no bound: with the default of 64 KiB a publication is dropped for who is behind
    },
)
# The backlog is fixed in uSockets (512).
app.listen(AppListenOptions(port=0, host=HOST), lambda listening: announce(listening.port, "socketify"))
if sys.argv[1] == "native":
    app.loop.uv_loop.run()
else:
    app.run()
