"""The smallest server of use: ``python examples/minimal.py --port 8080``, then talk to it with any WebSocket client.

    > {"action": "subscribe", "data": {"room_id": "kitchen"}, "id": 1}
    < {"id": 1, "data": {"status": "subscribed", "room": "kitchen"}}
    > {"action": "say", "data": "hello"}
    < {"from": "8ZFc…", "text": "hello"}

A message with an ``id`` is a request and gets a reply. What is said is heard by everybody in the room. Ctrl-C stops it.
"""

from __future__ import annotations

import argparse

import attrs

from trio_rooms import Connection, Manager

manager = Manager()


@attrs.frozen
class Subscribe:
    room_id: str


@manager.on("subscribe")  # data is decoded and validated against the annotation
async def subscribe(conn: Connection, data: Subscribe) -> dict[str, str]:
    await conn.join(data.room_id)
    return {"status": "subscribed", "room": data.room_id}  # the reply, if the message carried an id


@manager.on("say")
def say(conn: Connection, text: str) -> None:
    for room in conn.rooms:
        manager.broadcast_to_room(room, {"from": conn.id, "text": text})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080)
    manager.run(port=parser.parse_args().port, on_listening=lambda server: print(server.url, flush=True))
